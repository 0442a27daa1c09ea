"""``fairseq-cloze learn-bpe``"""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import click


@click.command("learn-bpe")
@click.argument("passages", nargs=-1, required=True)
@click.option("--size", type=int, default=8000, show_default=True, help="Rows of the dictionary.")
@click.option("--out", required=True, metavar="DIR", help="Folder to write dict.txt and BPE files into.")
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="What to do with a passage that does not fit.")  # fmt: skip
def command(passages: Tuple[str, ...], size: int, out: str, on_error: str) -> None:
    """Learn a byte-level BPE from passages, for training --from-scratch."""
    from ..errors import ClozeError
    from ..passages import Tally
    from ..prepare import passage_texts
    from ..vocabulary import Vocabulary

    tally = Tally()
    vocabulary = Vocabulary.learn(passage_texts(passages, on_error=on_error, tally=tally), size)
    for source, reason in tally.skipped:
        click.echo(f"skipped {source}: {reason}")
    if not tally.passages:
        raise ClozeError(f"{', '.join(passages)}: expected passages with blanks, found none ({tally.summary()})")
    Path(out).mkdir(parents=True, exist_ok=True)
    vocabulary.save(out)
    click.echo(f"{tally.summary()}; wrote {out}, {len(vocabulary):,} rows")
