"""``fairseq-cloze doctor``"""

import click

from .options import echo_beside, json_option


@click.command("doctor")
@click.argument("checkpoint")
@click.argument("data_bin", metavar="[DATA-BIN]", required=False)
@json_option
@click.pass_context
def command(ctx: click.Context, checkpoint: str, data_bin: str | None, json_path: str | None) -> None:
    """Is this checkpoint what it says?  Names the part at fault; exit status 3 if unfit.

    Given a DATA-BIN alone, it is read whole and compared with its digests.
    """
    from ..data.databin import DataBin, is_data_bin
    from ..doctor.examination import examine
    from ..errors import Exit
    from ..files import check_writable, write_text
    from ..weights.finding import open_checkpoint

    check_writable(json_path)
    echo = echo_beside(json_path)
    if data_bin is None and is_data_bin(checkpoint):
        for line in DataBin(checkpoint).check():
            echo(line)
        echo(f"{checkpoint} is sound")
        return
    diagnosis = examine(open_checkpoint(checkpoint), data_bin, lambda check: echo(check.line()))
    echo(diagnosis.verdict_line())
    if json_path:
        write_text(json_path, diagnosis.to_json())
    ctx.exit(Exit.DONE if diagnosis.fit else Exit.UNFIT)
