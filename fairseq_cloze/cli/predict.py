"""``fairseq-cloze predict``"""

from typing import Any

import click

from ..passages.choices import LANGUAGES, TEXT_NORMS
from .options import blank_option, echo_beside, on_error_option, scoring_options


@click.command("predict")
@click.argument("checkpoint")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--out", required=True, metavar="FILE", help="File to write: JSON, or JSONL where its name ends so; or -: JSONL."
)
@click.option("--scores", "with_probabilities", is_flag=True,
              help="Add gold, where there is any, and the probability of every candidate.")  # fmt: skip
@click.option("--text-norm", type=click.Choice(TEXT_NORMS), help="Text normalisation.  [default: as in training]")
@click.option("--language", type=click.Choice(LANGUAGES), help="Language of the text.  [default: as in training]")
@blank_option
@on_error_option
@scoring_options
def command(out: str, **chosen: Any) -> None:
    """Answer raw passages: JSON or JSONL files, folders of them, or - for standard input: JSONL.

    Answers to standard output or a pipe are written, a line each, while more passages come in.  Under torchrun or srun
    the processes share the work.
    """
    from ..files import check_writable
    from ..ranking import sharing
    from ..ranking.metrics import metrics_of
    from ..ranking.predict import predict

    with sharing.joined():
        if sharing.is_first():
            check_writable(out)
        result = predict(out=out, tell=lambda source, why: click.echo(f"skipped {source}: {why}", err=True), **chosen)
        if not sharing.is_first():
            return
        lines = [*result.notes, *(f"skipped {source}: {reason}" for source, reason in result.tally.skipped)]
        lines.append(f"{result.tally.summary()}; wrote {out}")
        if blanks := result.counts["n_blanks"]:
            metrics = metrics_of(result.counts)
            accuracy = f"accuracy {metrics['accuracy']:.2f}% of {blanks:,} labelled blanks"
            lines.append(f"{accuracy}, chance {metrics['chance']:.2f}%")
        echo_beside(out)("\n".join(lines))
