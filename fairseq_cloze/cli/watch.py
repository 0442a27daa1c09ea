"""``fairseq-cloze watch``"""

import re
from typing import Any

import click

from .options import email_option, resource_options, split_option


def _seconds(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found:
        raise click.BadParameter(f"expected a time like 90s, 30m or 2h, found '{text}'")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


@click.command("watch")
@click.argument("save_dir", metavar="SAVE_DIR")
@click.argument("data_bin", metavar="DATA-BIN")
@split_option
@click.option("--all/--latest", "everything", default=True,
              help="Score every checkpoint, or the newest of those that wait.")  # fmt: skip
@click.option("--until-idle", metavar="T", callback=_seconds,
              help="End after 90s, 30m, 2h ... without a new checkpoint.")  # fmt: skip
@email_option
@resource_options("cpu while a run may train here")
def command(everything: bool, **chosen: Any) -> None:
    """Score the checkpoints of a training as they come, until it ends.

    SAVE_DIR is what fairseq-train writes to; validation.jsonl, a table and a picture appear there.
    """
    from ..watch.watcher import watch

    watch(latest=not everything, report=click.echo, **chosen)
