"""Options that several sub-commands share."""

from __future__ import annotations

from functools import wraps
from typing import Any, Callable, Optional

import click

from ..settings import OTHER_BLANKS, SCORERS, VIEWS, Settings

on_error_option = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do with a passage that does not fit.",
)


def scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to score.

    The function gets ``settings``, a :class:`Settings`, and by their names batch_size, max_tokens, device and fp16.
    """

    @wraps(function)
    def command(view: Optional[str], scorer: Optional[str], other_blanks: Optional[str], **arguments: Any) -> Any:
        return function(settings=Settings(view, scorer, other_blanks), **arguments)

    for option in reversed(
        [
            click.option(
                "--view", type=click.Choice(VIEWS), help="How a passage becomes input.  [default: as in training]"
            ),
            click.option(
                "--scorer", type=click.Choice(SCORERS), help="LM head or ranking head.  [default: as in training]"
            ),
            click.option(
                "--other-blanks",
                type=click.Choice(OTHER_BLANKS),
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
        command = option(command)
    return command
