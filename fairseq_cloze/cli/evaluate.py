"""``fairseq-cloze evaluate``"""

from __future__ import annotations

import click

from ..ranking.resources import Resources
from ..views.settings import PartialSettings
from .options import echo_beside, scoring_options


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("data_bin", metavar="DATA-BIN")
@click.option("--split", default="valid", show_default=True, help="Split of the data-bin.")
@click.option("--fit-weights", "fit_on", metavar="SPLIT", help="Fit the weights of several checkpoints on this split.")
@click.option("--json", "json_path", metavar="OUT", help="File to write the result to as JSON; - for stdout.")
@click.option("--breakdown", is_flag=True, help="Add accuracy by groups of blanks.")
@click.option("--predictions", metavar="OUT", help="File to write answers, gold and probabilities to, for compare.")
@scoring_options
def command(
    checkpoint: str,
    data_bin: str,
    split: str,
    json_path: str | None,
    breakdown: bool,
    predictions: str | None,
    settings: PartialSettings,
    resources: Resources,
    weights: list[float] | None,
    fit_on: str | None,
) -> None:
    """Score a split of a data-bin: accuracy, MRR, chance, speed.

    Under torchrun or srun the processes share the work.
    """
    from ..files import check_writable, write_text
    from ..ranking import sharing
    from ..ranking.evaluate import evaluate

    with sharing.joined():
        for path in filter(None, (json_path, predictions)) if sharing.is_first() else ():
            check_writable(path)
        result = evaluate(checkpoint, data_bin, split, settings, resources, weights, fit_on, predictions, breakdown)
        if not sharing.is_first():
            return
        echo = echo_beside(json_path, predictions)
        for line in result.lines():
            echo(line)
        if json_path:
            write_text(json_path, result.to_json())
