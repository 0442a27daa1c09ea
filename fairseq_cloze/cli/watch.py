"""``fairseq-cloze watch``"""

from __future__ import annotations

import re

import click

from ..ranking.resources import Resources
from .options import email_option, resource_options


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
@click.option("--split", default="valid", show_default=True, help="Split of the data-bin.")
@click.option(
    "--all/--latest", "everything", default=True, help="Score every checkpoint, or the newest of those that wait."
)
@click.option(
    "--until-idle", metavar="T", callback=_seconds, help="End after 90s, 30m, 2h ... without a new checkpoint."
)
@email_option
@resource_options("cpu while a run may train here")
def command(
    save_dir: str,
    data_bin: str,
    split: str,
    everything: bool,
    until_idle: float | None,
    emails: list[str],
    resources: Resources,
) -> None:
    """Score the checkpoints of a training as they come, until it ends.

    SAVE_DIR is what fairseq-train writes to; validation.jsonl, a table and a picture appear there.
    """
    from ..watch.watcher import watch

    watch(save_dir, data_bin, split, not everything, until_idle, resources, emails, click.echo)
