"""``fairseq-cloze learn-bpe``"""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import click


@click.command("learn-bpe")
@click.argument("passages", nargs=-1, required=True)
@click.option("--size", type=int, default=8000, show_default=True, help="Rows of the dictionary.")
@click.option("--out", required=True, metavar="DIR", help="Folder to write dict.txt and BPE files into.")
def command(passages: Tuple[str, ...], size: int, out: str) -> None:
    """Learn a byte-level BPE from passages, for training --from-scratch."""
    from ..prepare import passage_texts
    from ..vocabulary import Vocabulary

    vocabulary = Vocabulary.learn(passage_texts(passages), size)
    Path(out).mkdir(parents=True, exist_ok=True)
    vocabulary.save(out)
    click.echo(f"wrote {out}, {len(vocabulary):,} rows")
