"""Options that several sub-commands share, and how results are shown."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial, wraps
from typing import Any

import click

from ..passages.choices import LANGUAGES, TEXT_NORMS
from ..ranking.resources import Resources
from ..views.settings import OTHER_BLANKS, SCORERS, VIEWS, PartialSettings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def echo_beside(*paths: str | None) -> Callable[[str], None]:
    """What prints lines for people: to standard error where one of the files to write is standard output."""
    from ..files import is_stdout

    return partial(click.echo, err=any(map(is_stdout, paths)))


def show(result: Any, json_path: str | None, *paths: str | None) -> None:
    """Print the lines of a result beside the files to write, and write it as JSON where that is asked for."""
    echo_beside(json_path, *paths)("\n".join(result.lines()))
    if json_path:
        from ..files import write_text

        write_text(json_path, result.to_json())


class _Addresses(click.types.StringParamType):
    """A text with addresses in it; that of the environment is not cut at its blanks first, as click does."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [rv]


def _addresses(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    from ..mail.settings import split_addresses

    return [address for value in values for address in split_addresses(value)]


def _weights(context: click.Context, option: click.Parameter, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(weight) for weight in text.split(":")]
    except ValueError as error:
        raise click.BadParameter(f"expected numbers with colons between them, found '{text}'") from error


# fmt: off
on_error_option = click.option(
    "--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
    help="What to do with a passage that does not fit.")
blank_option = click.option(
    "--blank", metavar="REGEX",
    help=r"What stands for a blank, such as '\[MASK\]' or '_+\(\d+\)_+'.  [default: a run of underscores]")
_PREPARING = (
    click.option("--text-norm", type=click.Choice(TEXT_NORMS), default="standard", show_default=True,
                 help="Normalise white space and the space before punctuation, or keep the text as it is."),
    click.option("--sentence-case", is_flag=True, help="Capitalise the options of blanks that open a sentence."),
    click.option("--language", type=click.Choice(LANGUAGES), default="en", show_default=True,
                 help="Whose spaces and ends of sentences the text has; en also for other languages that have those of "
                 "English."),
    blank_option,
    on_error_option,
    click.option("--workers", type=click.IntRange(min=1), help="Processes that encode.  [default: one per core]"),
)
json_option = click.option(
    "--json", "json_path", metavar="OUT", help="File to write the result to as JSON; - for stdout.")
split_option = click.option("--split", default="valid", show_default=True, help="Split of the data-bin.")
email_option = click.option(
    "--email", "emails", metavar="ADDRESS", multiple=True, type=_Addresses(), envvar="FAIRSEQ_CLOZE_EMAIL",
    callback=_addresses, help="Whom to mail; repeatable.  [default: the addresses in FAIRSEQ_CLOZE_EMAIL]")
_LIMITS = (
    click.option("--batch-size", type=click.IntRange(min=1),
                 help="Most passages (full, neighbors: blanks) in a batch."),
    click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens in a batch.  [default: 4096]"),
    click.option("--fp16", is_flag=True, help="Compute in half precision."),
    click.option("--bf16", is_flag=True, help="Compute in bfloat16 where that is safe."),
    click.option("--int8", is_flag=True, help="Multiply weights as 8-bit integers, on CPUs with VNNI or AMX."),
)
_SETTINGS = (
    click.option("--view", type=click.Choice(VIEWS), help="How a passage becomes input.  [default: as in training]"),
    click.option("--scorer", type=click.Choice(SCORERS),
                 help="How a candidate is scored.  [default: as in training]"),
    click.option("--other-blanks", type=click.Choice(OTHER_BLANKS),
                 help="What stands in the other blanks of view full.  [default: as in training]"),
    click.option("--contrast", type=click.FloatRange(0, 1),
                 help="Share of a candidate's mean score at the other blanks to subtract.  [default: as in training]"),
)
_weights_option = click.option(
    "--weights", metavar="W:W...", callback=_weights,
    help="Weights of several checkpoints, with colons between them.  [default: equal]")
# fmt: on


def _gathered(name: str, kind: type[Any], options: Sequence[Decorator]) -> Decorator:
    """Options whose values the function gets as one object."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**chosen: Any) -> Any:
            chosen[name] = kind(**{entry.name: chosen.pop(entry.name) for entry in fields(kind)})
            return function(**chosen)

        decorated: Callable[..., Any] = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def preparing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How passages are encoded; the function gets ``preparing``, arguments of ``prepare`` by name."""

    @wraps(function)
    def command(*, text_norm: str, sentence_case: bool, language: str, **chosen: Any) -> Any:
        from ..data.encoding import EncodingOptions

        options = EncodingOptions(text_norm, sentence_case, language)
        others = {name: chosen.pop(name) for name in ("blank", "on_error", "workers")}
        return function(preparing={"options": options, **others}, **chosen)

    decorated: Callable[..., Any] = command
    for option in reversed(_PREPARING):
        decorated = option(decorated)
    return decorated


def resource_options(default_device: str) -> Decorator:
    """What scoring may use; the function gets ``resources``.  The default is given in words."""
    device = click.option("--device", metavar="NAME", help=f"cpu, cuda, cuda:1, ...  [default: {default_device}]")
    return _gathered("resources", Resources, (device, *_LIMITS))


def scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to score, and with what; the function gets ``settings``, ``resources`` and ``weights``."""
    scoring = _weights_option(resource_options("cuda where there is one")(function))
    return _gathered("settings", PartialSettings, _SETTINGS)(scoring)
