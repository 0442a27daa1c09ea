"""``fairseq-cloze compare``"""

import click

from .options import json_option, show


@click.command("compare")
@click.argument("a")
@click.argument("b")
@json_option
def command(a: str, b: str, json_path: str | None) -> None:
    """Compare two models: is B better than A, or may it be luck?

    A and B are prediction files for the same labelled passages, of predict --scores or evaluate --predictions.
    """
    from ..files import check_writable
    from ..ranking.compare import compare

    check_writable(json_path)
    show(compare(a, b), json_path)
