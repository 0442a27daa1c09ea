"""``fairseq-cloze learn-bpe``"""

from typing import Any

import click

from ..passages.choices import LANGUAGES
from .options import blank_option, on_error_option


@click.command("learn-bpe")
@click.argument("passages", nargs=-1, required=True)
@click.option("--size", type=int, default=8000, show_default=True, help="Rows of the dictionary.")
@click.option("--out", required=True, metavar="DIR", help="Folder to write dict.txt and BPE files into.")
@click.option("--language", type=click.Choice(LANGUAGES), default="en", show_default=True, help="As for prepare.")
@blank_option
@on_error_option
def command(passages: tuple[str, ...], size: int, out: str, **chosen: Any) -> None:
    """Learn a byte-level BPE from passages, for training --from-scratch."""
    from ..data.prepare import passage_texts
    from ..data.vocabulary import Vocabulary
    from ..files import alone_in
    from ..passages.reading import Tally

    tally = Tally()
    vocabulary = Vocabulary.learn(passage_texts(passages, tally=tally, **chosen), size)
    for source, reason in tally.skipped:
        click.echo(f"skipped {source}: {reason}")
    tally.require_passages(passages)
    with alone_in(out):
        vocabulary.save(out, replace=False)
    click.echo(f"{tally.summary()}; wrote {out}, {len(vocabulary):,} rows")
