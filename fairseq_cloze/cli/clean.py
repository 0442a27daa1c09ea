"""``fairseq-cloze clean``"""

import click

from .options import echo_beside


@click.command("clean")
@click.argument("old")
@click.argument("new")
def command(old: str, new: str) -> None:
    """Turn a checkpoint that is refused, as it holds objects, into one of plain data.

    No code in OLD runs.  NEW holds the same weights and options, and nothing that could run code.
    """
    from ..weights.cleaning import clean_checkpoint

    echo = echo_beside(new)
    for line in clean_checkpoint(old, new):
        echo(line)
    echo(f"wrote {new}")
