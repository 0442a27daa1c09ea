"""Options that several sub-commands share."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_VIEWS = ("joint", "full", "neighbors")
_SCORERS = ("lm", "head")
_OTHER_BLANKS = ("remove", "mask", "gold")


def scoring_options(function: F) -> F:
    """How to score: view, scorer, batches, device."""
    for option in reversed(
        [
            click.option(
                "--view", type=click.Choice(_VIEWS), help="How a passage becomes input.  [default: as in training]"
            ),
            click.option(
                "--scorer", type=click.Choice(_SCORERS), help="LM head or ranking head.  [default: as in training]"
            ),
            click.option(
                "--other-blanks",
                type=click.Choice(_OTHER_BLANKS),
                help="What stands in the other blanks of view full.  [default: as in training]",
            ),
            click.option(
                "--batch-size", type=click.IntRange(min=1), help="Most passages (full, neighbors: blanks) in a batch."
            ),
            click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens in a batch.  [default: 4096]"),
            click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...  [default: cuda where there is one]"),
            click.option("--fp16", is_flag=True, help="Compute in half precision."),
        ]
    ):
        function = option(function)
    return function
