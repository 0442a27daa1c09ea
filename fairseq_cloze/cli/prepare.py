"""``fairseq-cloze prepare``"""

from typing import Any

import click

from .options import preparing_options


@click.command("prepare")
@click.option("--train", multiple=True, metavar="PATH", help="Passages to train on: a JSON or JSONL file, or a folder.")
@click.option("--valid", multiple=True, metavar="PATH", help="Passages to validate on.")
@click.option("--test", multiple=True, metavar="PATH", help="Passages to test on; may be unlabelled.")
@click.option("--pretrained", required=True, metavar="DIR", help="Folder of the weights, for their tokenizer.")
@click.option("--out", required=True, metavar="DATA-BIN", help="Folder to write.")
@preparing_options
@click.option("--overwrite", is_flag=True, help="Replace DATA-BIN if it exists.")
def command(out: str, preparing: dict[str, Any], **chosen: Any) -> None:
    """Encode passages into a data-bin for fairseq.

    A command that was cut off goes on where it stopped when it is given again.
    """
    from ..data.prepare import prepare
    from ..errors import Exit, printable

    inputs = {split: paths for split in ("train", "valid", "test") if (paths := chosen.pop(split))}
    try:
        reports = prepare(inputs, out=out, tell=click.echo, **preparing, **chosen)
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted; what is done stays in {out}.partial, and the same command goes on from there", err=True
        )
        raise SystemExit(Exit.INTERRUPTED) from None
    lines = [*(line for report in reports for line in report.lines()), f"wrote {out}"]
    click.echo("\n".join(map(printable, lines)))
