"""``fairseq-cloze prepare``"""

from typing import Any

import click

from ..passages.choices import LANGUAGES, TEXT_NORMS
from .options import blank_option, on_error_option


@click.command("prepare")
@click.option("--train", multiple=True, metavar="PATH", help="Passages to train on: a JSON or JSONL file, or a folder.")
@click.option("--valid", multiple=True, metavar="PATH", help="Passages to validate on.")
@click.option("--test", multiple=True, metavar="PATH", help="Passages to test on; may be unlabelled.")
@click.option("--pretrained", required=True, metavar="DIR", help="Folder of the weights, for their tokenizer.")
@click.option("--out", required=True, metavar="DATA-BIN", help="Folder to write.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that encode.  [default: one per core]")
@click.option("--text-norm", type=click.Choice(TEXT_NORMS), default="standard", show_default=True,
              help="Normalise white space and the space before punctuation, or keep the text as it is.")  # fmt: skip
@click.option("--sentence-case", is_flag=True, help="Capitalise the options of blanks that open a sentence.")
@click.option("--language", type=click.Choice(LANGUAGES), default="en", show_default=True,
              help="Whose spaces and ends of sentences the text has; en also for other languages that have those of "
              "English.")  # fmt: skip
@blank_option
@on_error_option
@click.option("--overwrite", is_flag=True, help="Replace DATA-BIN if it exists.")
def command(out: str, text_norm: str, sentence_case: bool, language: str, **chosen: Any) -> None:
    """Encode passages into a data-bin for fairseq.

    A command that was cut off goes on where it stopped when it is given again.
    """
    from ..data.encoding import EncodingOptions
    from ..data.prepare import prepare
    from ..errors import Exit, printable

    inputs = {split: paths for split in ("train", "valid", "test") if (paths := chosen.pop(split))}
    options = EncodingOptions(text_norm, sentence_case, language)
    try:
        reports = prepare(inputs, out=out, options=options, tell=click.echo, **chosen)
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted; what is done stays in {out}.partial, and the same command goes on from there", err=True
        )
        raise SystemExit(Exit.INTERRUPTED) from None
    lines = [*(line for report in reports for line in report.lines()), f"wrote {out}"]
    click.echo("\n".join(map(printable, lines)))
