"""``fairseq-cloze report``"""

from typing import Any

import click

from .options import blank_option, echo_beside


@click.command("report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--out", required=True, help="Page to write, one HTML file, or -.")
@click.option("--png", metavar="DIR", help="Folder to write curves and confusion to as PNG.")
@click.option("--passages", metavar="PATH", help="Data-bin or raw passages of the predictions; as the runs name them.")
@click.option("--human", type=float, metavar="PERCENT", help="Accuracy of people, drawn in.  [default: 85.9, on CLOTH]")
@blank_option
def command(out: str, png: str | None, **chosen: Any) -> None:
    """Show runs side by side on one page: table, curves, confusion, passages.

    RUN is a save-dir, a log, a validation.jsonl or a prediction file.
    """
    from ..files import check_writable
    from ..report.page import report, write_report

    check_writable(out)
    echo = echo_beside(out)
    made = report(**chosen)
    if png:
        from ..report.png import write_pngs

        for path in write_pngs(made.data, png):
            echo(f"wrote {path}")
    write_report(made, out)
    echo(f"wrote {out}: {made.summary}")
