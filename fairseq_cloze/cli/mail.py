"""``fairseq-cloze mail``"""

import click


@click.group("mail")
def command() -> None:
    """Check the mail settings, and send what waits."""


@command.command("test")
def test() -> None:
    """Send a test message to the settings' own address, and say what happened."""
    from ..mail.mailer import send_test

    click.echo(send_test())


@command.command("flush")
def flush() -> None:
    """Send the mail that could not be sent before."""
    from ..errors import Exit
    from ..mail.mailer import flush

    flushed = flush()
    if flushed is None:
        click.echo("nothing waits to be sent")
        return
    click.echo(f"sent {flushed.sent}, kept {flushed.kept}")
    for problem in flushed.problems:
        click.echo(problem, err=True)
    if flushed.problems or flushed.kept:
        raise SystemExit(Exit.FAILED)
