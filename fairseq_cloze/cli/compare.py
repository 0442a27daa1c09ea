"""``fairseq-cloze compare``"""

from __future__ import annotations

import click


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--json", "json_path", metavar="OUT", help="File to write the result to as JSON.")
def command(a: str, b: str, json_path: str | None) -> None:
    """Compare two models: is B better than A, or may it be luck?

    A and B are prediction files for the same labelled passages, of predict --scores or evaluate --predictions.
    """
    from ..files import write_text
    from ..ranking.compare import compare

    result = compare(a, b)
    for line in result.lines():
        click.echo(line)
    if json_path:
        write_text(json_path, result.to_json())
