"""Options that several sub-commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import partial, wraps
from typing import Any

import click

from ..files import is_stdout
from ..ranking.resources import Resources
from ..views.settings import CARRIED, OTHER_BLANKS, SCORERS, VIEWS, PartialSettings


def echo_beside(*paths: str | None) -> Callable[[str], None]:
    """What prints lines for people: to standard error where one of the files to write is standard output."""
    return partial(click.echo, err=any(map(is_stdout, paths)))


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


_LIMITS = (
    click.option(
        "--batch-size", type=click.IntRange(min=1), help="Most passages (full, neighbors: blanks) in a batch."
    ),
    click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens in a batch.  [default: 4096]"),
    click.option("--fp16", is_flag=True, help="Compute in half precision."),
    click.option("--bf16", is_flag=True, help="Compute in bfloat16 where that is safe."),
)


def resource_options(default_device: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What scoring may use; the function gets ``resources``.

    Args:
        default_device: in words
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**arguments: Any) -> Any:
            resources = Resources(**{entry.name: arguments.pop(entry.name) for entry in fields(Resources)})
            return function(resources=resources, **arguments)

        device = click.option("--device", metavar="NAME", help=f"cpu, cuda, cuda:1, ...  [default: {default_device}]")
        for option in reversed([device, *_LIMITS]):
            command = option(command)
        return command

    return decorate


def scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to score, and with what; the function gets ``settings``, ``resources`` and ``weights``."""

    @wraps(function)
    def command(**arguments: Any) -> Any:
        settings = PartialSettings(**{name: arguments.pop(name) for name in CARRIED})
        return function(settings=settings, **arguments)

    scoring: Callable[..., Any] = resource_options("cuda where there is one")(command)
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
                "--weights",
                metavar="W:W...",
                callback=_weights,
                help="Weights of several checkpoints, with colons between them.  [default: equal]",
            ),
        ]
    ):
        scoring = option(scoring)
    return scoring
