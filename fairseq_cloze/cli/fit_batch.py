"""``fairseq-cloze fit-batch``"""

import click

from .options import json_option, show


@click.command("fit-batch", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar="DATA-BIN [OPTIONS OF FAIRSEQ-TRAIN]", nargs=-1, type=click.UNPROCESSED)
@click.option("--memory-limit", metavar="GIB", type=float, help="Most memory to use; default: all that is free.")
@click.option("--share", type=float, help="Share of the memory that may be filled.  [default: 0.92]")
@json_option
def command(arguments: tuple[str, ...], memory_limit: float | None, share: float | None, json_path: str | None) -> None:
    """Find the largest --max-tokens whose training steps fit into memory.

    Takes the options of the training, runs steps of it on the most expensive batches, at growing sizes, and prints what
    to pass. Nothing is trained or saved.
    """
    from ..files import check_writable
    from ..plugin.fitting import SHARE, fit_batch
    from ..plugin.requirements import require_installed

    require_installed()
    check_writable(json_path)
    share = SHARE if share is None else share
    limit = None if memory_limit is None else int(memory_limit * 2**30)
    show(fit_batch(arguments, limit, share, say=lambda line: click.echo(line, err=True)), json_path)
