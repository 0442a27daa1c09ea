"""``fairseq-cloze calibrate``"""

from typing import Any

import click

from .options import echo_beside, resource_options


@click.command("calibrate")
@click.argument("checkpoint")
@click.argument("data_bin", metavar="DATA-BIN")
@click.option("--out", required=True, metavar="FILE", help="Checkpoint to write.")
@click.option("--split", default="train", show_default=True, help="Split to fit to; not the one to test on.")
@click.option("--blanks", type=click.IntRange(min=1), default=1500, show_default=True, help="How many to fit to.")
@resource_options("cuda where there is one")
def command(checkpoint: str, out: str, **chosen: Any) -> None:
    """Fit the LM head of pretrained weights to choosing, on some blanks with answers, in seconds.

    Three numbers are fitted: how sure of itself the model is, and how much less a word counts that is likely anywhere.
    They become part of the weights.  train does so before it trains.
    """
    from ..ranking.calibration import calibrate
    from ..weights.finding import open_checkpoint

    echo = echo_beside(out)
    for line in calibrate(open_checkpoint(checkpoint), out=out, **chosen).lines():
        echo(line)
    echo(f"wrote {out}")
