"""``fairseq-cloze compare``"""

from __future__ import annotations

import click

from .options import echo_beside


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--json", "json_path", metavar="OUT", help="File to write the result to as JSON; - for stdout.")
def command(a: str, b: str, json_path: str | None) -> None:
    """Compare two models: is B better than A, or may it be luck?

    A and B are prediction files for the same labelled passages, of predict --scores or evaluate --predictions.
    """
    from ..files import check_writable, write_text
    from ..ranking.compare import compare

    if json_path:
        check_writable(json_path)
    result = compare(a, b)
    echo = echo_beside(json_path)
    for line in result.lines():
        echo(line)
    if json_path:
        write_text(json_path, result.to_json())
