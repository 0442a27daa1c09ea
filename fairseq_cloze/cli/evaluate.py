"""``fairseq-cloze evaluate``"""

from typing import Any

import click

from .options import json_option, scoring_options, show, split_option


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("data_bin", metavar="DATA-BIN")
@split_option
@click.option("--fit-weights", "fit_on", metavar="SPLIT", help="Fit the weights of several checkpoints on this split.")
@json_option
@click.option("--breakdown", "with_breakdown", is_flag=True, help="Add accuracy by groups of blanks.")
@click.option("--predictions", "predictions_path", metavar="OUT",
              help="File to write answers, gold and probabilities to, for compare.")  # fmt: skip
@scoring_options
def command(json_path: str | None, predictions_path: str | None, **chosen: Any) -> None:
    """Score a split of a data-bin: accuracy, MRR, chance, speed.

    Under torchrun or srun the processes share the work.
    """
    from ..files import check_writable
    from ..ranking import sharing
    from ..ranking.evaluate import evaluate

    with sharing.joined():
        if sharing.is_first():
            check_writable(json_path, predictions_path)
        result = evaluate(predictions_path=predictions_path, **chosen)
        if sharing.is_first():
            show(result, json_path, predictions_path)
