"""``fairseq-cloze try``"""

import sys
from contextlib import suppress
from typing import Any

import click

from ..passages.choices import LANGUAGES
from .options import blank_option, scoring_options


@click.command("try")
@click.argument("checkpoint")
@click.option("--serve", "port", type=click.IntRange(0, 65535), metavar="PORT",
              help="Answer over HTTP, with a page to try it; 0 takes a free port.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Where --serve listens; 0.0.0.0 lets others in, without a password.")  # fmt: skip
@click.option("--timeout", "seconds", type=click.FloatRange(1, 86400), default=60, show_default=True,
              metavar="SECONDS", help="Longest time that --serve takes to answer.")  # fmt: skip
@click.option("--language", type=click.Choice(LANGUAGES), help="Language of the text.  [default: as in training]")
@blank_option
@scoring_options
def command(
    checkpoint: str, port: int | None, host: str, seconds: float, blank: str | None, language: str | None, **chosen: Any
) -> None:
    """Type a text and options, and see which of them the model prefers.

    With --serve PORT the same as a page of this machine, and for programs as JSON over HTTP.
    """
    if port is not None:
        from ..serving.application import Limits
        from ..serving.server import serve
    from ..errors import Exit
    from ..files import split_paths
    from ..ranking.ranker import Ranker
    from ..weights.finding import open_checkpoint

    checkpoints = [open_checkpoint(path) for path in split_paths(checkpoint)]
    ranker = Ranker(checkpoints, language=language, blank=blank, **chosen)
    for note in ranker.notes:
        click.echo(note, err=True)
    if port is not None:
        try:
            serve(ranker, checkpoint, port, host, Limits(seconds=seconds), blank, click.echo)
        except KeyboardInterrupt:  # how a server ends; it has said so
            raise SystemExit(Exit.INTERRUPTED) from None
    from ..serving.terminal import converse

    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  # lines can be changed, and come back
    converse(ranker, input if sys.stdin.isatty() else _line, click.echo, blank)


def _line(question: str) -> str:
    """A line of standard input that is no terminal, where nobody reads questions."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
