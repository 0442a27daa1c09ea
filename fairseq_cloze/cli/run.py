"""``fairseq-cloze run``"""

from typing import Any

import click

from .options import email_option


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("command", metavar="[--] COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--log-dir", metavar="DIR", default="logs", show_default=True, help="Folder for the log.")
@click.option("--name", help="Name of the log; without, one is made from the command.")
@email_option
@click.option("--mail-start", is_flag=True, help="Mail when it starts, too.")
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Run any command under a log: what ran where on what, its output, how it ended.

    The log is DIR/MMDD_HHMMSS-NAME.log.  Exit status and signals are those of the command, and a terminal stays one.
    """
    from ..runlog.command import run

    ctx.exit(run(**chosen))
