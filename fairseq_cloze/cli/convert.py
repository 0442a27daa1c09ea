"""``fairseq-cloze convert``"""

from collections.abc import Sequence
from typing import Any

import click

from ..passages.choices import ANSWER_KINDS, FORMATS
from .options import blank_option, echo_beside, on_error_option


# fmt: off
@click.command("convert")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("--out", required=True, metavar="FILE", help="JSONL file to write, or -; with --to a .txt or .docx file.")
@click.option("--key", "keys", multiple=True, metavar="FILE",
              help="Answers to a sheet, where they are in a file of their own; one for each IN.")
@click.option("--from", "source_format", type=click.Choice(FORMATS),
              help="Format of IN.  [default: told from the content]")
@click.option("--column", "columns", multiple=True, metavar="ROLE=NAME",
              help="Column of a table: text=NAME, options=NAME,NAME,..., answer=NAME, id=NAME.")
@click.option("--encoding", metavar="NAME", help="Encoding of text.  [default: told from the content]")
@click.option("--uneven", is_flag=True, help="Blanks of a sheet may have different numbers of options.")
@click.option("--to", type=click.Choice(ANSWER_KINDS), help="Make a key or a filled sheet; IN is what predict wrote.")
@click.option("--passages", multiple=True, metavar="FILE", help="With --to: what was predicted.")
@blank_option
@on_error_option
# fmt: on
def command(
    inputs: Sequence[str],
    out: str,
    keys: Sequence[str],
    to: str | None,
    passages: Sequence[str],
    on_error: str,
    **chosen: Any,
) -> None:
    """Make passages from exam sheets (.txt, .docx), tables, quizzes of Moodle, benchmarks and data sets.

    With --to the other way: from answers to a key or a filled sheet.
    """
    from ..files import check_writable
    from ..passages.converting.answering import answer
    from ..passages.converting.convert import Choices, convert

    choices = Choices(**chosen)
    if (to is None) != (not passages):
        raise click.UsageError("--to and --passages go together")
    check_writable(out)
    if to is None:
        result = convert(inputs, out, keys, choices, on_error, say=lambda line: click.echo(line, err=True))
        echo_beside(out)("\n".join([*result.lines()[:-1], f"{result.lines()[-1]}; wrote {out}"]))
        return
    if len(inputs) > 1 or keys:
        raise click.UsageError("--to takes one IN, what predict wrote, and no --key")
    echo_beside(out)(answer(inputs[0], passages, to, out, choices))
