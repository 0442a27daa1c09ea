"""``fairseq-cloze run``"""

from __future__ import annotations

import click

from .options import email_option


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("words", metavar="[--] COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--log-dir", metavar="DIR", default="logs", show_default=True, help="Folder for the log.")
@click.option("--name", help="Name of the log; without, one is made from the command.")
@email_option
@click.option("--mail-start", is_flag=True, help="Mail when it starts, too.")
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    log_dir: str,
    name: str | None,
    emails: list[str],
    mail_start: bool,
) -> None:
    """Run any command under a log: what ran where on what, its output, how it ended.

    The log is DIR/MMDD_HHMMSS-NAME.log.  Exit status and signals are those of the command, and a terminal stays one.
    """
    from ..runlog.command import run

    ctx.exit(run(words, log_dir=log_dir, name=name, emails=emails, mail_start=mail_start))
