"""``fairseq-cloze predict``"""

from __future__ import annotations

import click

from ..passages.text import TEXT_NORMS
from ..ranking.resources import Resources
from ..views.settings import PartialSettings
from .options import echo_beside, on_error_option, scoring_options


@click.command("predict")
@click.argument("checkpoint")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", required=True, metavar="FILE", help="JSON file to write, or -: the answers by passage id.")
@click.option("--scores", is_flag=True, help="Add gold, where there is any, and the probability of every candidate.")
@click.option("--text-norm", type=click.Choice(TEXT_NORMS), help="Text normalisation.  [default: as in training]")
@on_error_option
@scoring_options
def command(
    checkpoint: str,
    inputs: tuple[str, ...],
    out: str,
    scores: bool,
    text_norm: str | None,
    on_error: str,
    settings: PartialSettings,
    resources: Resources,
    weights: list[float] | None,
) -> None:
    """Answer raw passages: JSON or JSONL files, or folders of them.

    Under torchrun or srun the processes share the work.
    """
    from ..files import check_writable
    from ..ranking import sharing
    from ..ranking.metrics import metrics_of
    from ..ranking.predict import predict

    with sharing.joined():
        if sharing.is_first():
            check_writable(out)
        result = predict(checkpoint, inputs, scores, settings, resources, weights, text_norm, on_error, out)
        if not sharing.is_first():
            return
        echo = echo_beside(out)
        for note in result.notes:
            echo(note)
        for source, reason in result.tally.skipped:
            echo(f"skipped {source}: {reason}")
        echo(f"{result.tally.summary()}; wrote {out}")
        if result.counts["n_blanks"]:
            metrics = metrics_of(result.counts)
            blanks = result.counts["n_blanks"]
            echo(f"accuracy {metrics['accuracy']:.2f}% of {blanks:,} labelled blanks, chance {metrics['chance']:.2f}%")
