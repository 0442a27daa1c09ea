"""Command line: one file per sub-command, none of which holds logic that Python callers cannot reach."""

import importlib
from typing import Any

import click

from ..errors import ClozeError
from ..version import __version__

#: Sub-commands, each of a module of that name, which is loaded when it is used, as torch alone takes seconds.
COMMANDS = (
    "prepare import-hf export-hf clean learn-bpe fit-batch evaluate predict generate doctor compare average run watch "
    "mail report"
).split()


class _Group(click.Group):
    """Sub-commands by name; a :class:`ClozeError` ends the process with its text and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name.replace('-', '_')}", __name__).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClozeError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fairseq-cloze")
def main() -> None:
    """Prepare cloze passages, move RoBERTa weights, score, compare and average checkpoints, look after runs.

    Training and validation are fairseq's own: fairseq-train --user-dir fairseq_cloze --task cloze_ranking.
    """
