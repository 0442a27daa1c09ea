"""``fairseq-cloze train``"""

from typing import Any

import click

from .options import preparing_options


class _Train(click.Command):
    """Shows the options that go through as well."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ..training.known_options import known_options

        formatter.write_paragraph()
        formatter.write_text("Options that go to fairseq-train, in place of what is decided here:")
        for title, options in known_options().items():
            with formatter.section(title):
                rows = []
                for option in options:
                    default = f"  [default: {option.default}]" if option.default else ""
                    rows.append((f"{option.name} {option.values}".strip(), option.text + default))
                formatter.write_dl(rows)
        formatter.write_paragraph()
        formatter.write_text(
            "fairseq-train has many more, such as --lr, --max-update, --max-tokens, --update-freq and --seed: "
            "docs/training-options.md says what each does here."
        )


@click.command("train", cls=_Train, context_settings={"ignore_unknown_options": True})
@click.argument("data", metavar="DATA-BIN|PASSAGES")
@click.argument("arguments", metavar="[OPTIONS OF FAIRSEQ-TRAIN]", nargs=-1, type=click.UNPROCESSED)
@click.option("--pretrained", required=True, metavar="WEIGHTS",
              help="Folder or file of weights, or a model of the Hugging Face hub.")  # fmt: skip
@click.option("--out", required=True, metavar="DIR", help="Folder for all that is made.")
@click.option("--valid", multiple=True, metavar="PATH", help="Passages to validate on.")
@click.option("--test", multiple=True, metavar="PATH", help="Passages to judge the result by.")
@click.option("--epochs", metavar="N", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True,
              help="How often to train on each passage.")  # fmt: skip
@click.option("--watch", metavar="DEVICE",
              help="Score every checkpoint beside the training, on this device, such as cpu or cuda:1.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Train with seeds 1 to N; mean and spread.")
@click.option("--against", metavar="RUN", help="Compare with another --out folder, or with a prediction file.")
@preparing_options
def command(data: str, arguments: tuple[str, ...], **chosen: Any) -> None:
    """Fine-tune weights with settings that suit data, model and device; table and report at the end.

    The fairseq-train line that is run is printed. The same command goes on where it was interrupted.
    """
    from ..training.train import train

    if data.startswith("-"):
        raise click.UsageError(f"expected DATA-BIN or PASSAGES first, found {data}; other options go behind it")
    train(data, options=arguments, tell=click.echo, **chosen)
