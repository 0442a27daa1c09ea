"""``fairseq-cloze mail``"""

import click


@click.group("mail")
def command() -> None:
    """Check how mail and messages leave, and send what waits."""


@command.command("test")
def test() -> None:
    """Send a test message to the settings' own address and to the services of FAIRSEQ_CLOZE_NOTIFY; say what happened.

    Without settings for mail, only to the services.
    """
    from ..mail import mailer, services, settings

    told = services.send_test()
    if told:
        click.echo(told)
    if not told or settings.are_there():
        click.echo(mailer.send_test())


@command.command("flush")
def flush() -> None:
    """Send the mail and the messages that could not be sent before."""
    from ..errors import Exit
    from ..mail import mailer, services

    flushed = [each for each in (mailer.flush(), services.flush()) if each is not None]
    if not flushed:
        click.echo("nothing waits to be sent")
        return
    click.echo(f"sent {sum(each.sent for each in flushed)}, kept {sum(each.kept for each in flushed)}")
    problems = [problem for each in flushed for problem in each.problems]
    for problem in problems:
        click.echo(problem, err=True)
    if problems or any(each.kept for each in flushed):
        raise SystemExit(Exit.FAILED)
