"""``fairseq-cloze average``"""

import click

from .options import echo_beside


@click.command("average")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--out", required=True, metavar="FILE", help="Checkpoint to write.")
def command(checkpoints: tuple[str, ...], out: str) -> None:
    """Average the weights of several checkpoints of one run."""
    from ..weights.averaging import average_checkpoints

    echo_beside(out)(f"wrote {average_checkpoints(checkpoints, out)}, the mean of {len(checkpoints)} checkpoints")
