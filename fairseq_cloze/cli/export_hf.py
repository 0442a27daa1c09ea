"""``fairseq-cloze export-hf``"""

import click


@click.command("export-hf")
@click.argument("checkpoint")
@click.option("--out", required=True, metavar="DIR", help="Folder to write.")
@click.option("--figures", "results", multiple=True, metavar="JSON",
              help="What 'evaluate --json' wrote of CHECKPOINT, for the model card; repeatable.")  # fmt: skip
@click.option("--push", metavar="NAME", help="Then put DIR on the Hugging Face hub, under this name.")
@click.option("--public", is_flag=True, help="Make NAME public if it is new.  [default: private]")
def command(checkpoint: str, out: str, results: tuple[str, ...], push: str | None, public: bool) -> None:
    """Turn a fairseq checkpoint into a Hugging Face folder, with a model card.

    CHECKPOINT is a file, or a folder of weights or of a training.
    """
    from ..weights.finding import open_checkpoint
    from ..weights.hub_push import Hub
    from ..weights.hugging_face import export_hf
    from ..weights.model_card import read_figure

    if public and not push:
        raise click.UsageError("--public says who sees what --push puts on the hub; give --push NAME, too")
    hub = Hub(push) if push else None
    found = open_checkpoint(checkpoint)
    figures = [read_figure(path, found) for path in results]
    name = export_hf(found, out, figures, push, click.echo)
    click.echo(f"wrote {out}, load it with transformers.{name}.from_pretrained")
    if hub:
        click.echo(f"pushed to {hub.push(out, private=not public)}")
