"""Options that several sub-commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

import click

from ..views.settings import OTHER_BLANKS, SCORERS, VIEWS, PartialSettings

on_error_option = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do with a passage that does not fit.",
)


def _addresses(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return [address for value in values for address in re.split(r"[,:\s]+", value) if address]


email_option = click.option(
    "--email",
    "emails",
    metavar="ADDRESS",
    multiple=True,
    envvar="FAIRSEQ_CLOZE_EMAIL",
    callback=_addresses,
    help="Whom to mail; repeatable.  [default: the addresses in FAIRSEQ_CLOZE_EMAIL]",
)


def _weights(context: click.Context, option: click.Parameter, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(weight) for weight in text.split(":")]
    except ValueError as error:
        raise click.BadParameter(f"expected numbers with colons between them, found '{text}'") from error


def scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to score.

    The function gets ``settings``, a :class:`PartialSettings`, and by their names batch_size, max_tokens, device, fp16,
    bf16 and weights.
    """

    @wraps(function)
    def command(**arguments: Any) -> Any:
        settings = PartialSettings(**{entry.name: arguments.pop(entry.name) for entry in fields(PartialSettings)})
        return function(settings=settings, **arguments)

    for option in reversed(
        [
            click.option(
                "--view", type=click.Choice(VIEWS), help="How a passage becomes input.  [default: as in training]"
            ),
            click.option(
                "--scorer", type=click.Choice(SCORERS), help="How a candidate is scored.  [default: as in training]"
            ),
            click.option(
                "--other-blanks",
                type=click.Choice(OTHER_BLANKS),
                help="What stands in the other blanks of view full.  [default: as in training]",
            ),
            click.option(
                "--contrast",
                type=click.FloatRange(0, 1),
                help="Share of a candidate's mean score at the other blanks to subtract.  [default: as in training]",
            ),
            click.option(
                "--refine",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Rounds that fill in the most certain blanks and score the others again.",
            ),
            click.option(
                "--cascade",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Forwards per passage to compare the two best candidates of uncertain blanks in the filled text.",
            ),
            click.option(
                "--weights",
                metavar="W:W...",
                callback=_weights,
                help="Weights of several checkpoints, with colons between them.  [default: equal]",
            ),
            click.option(
                "--batch-size", type=click.IntRange(min=1), help="Most passages (full, neighbors: blanks) in a batch."
            ),
            click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens in a batch.  [default: 4096]"),
            click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...  [default: cuda where there is one]"),
            click.option("--fp16", is_flag=True, help="Compute in half precision."),
            click.option("--bf16", is_flag=True, help="Compute in bfloat16 where that is safe."),
        ]
    ):
        command = option(command)
    return command
