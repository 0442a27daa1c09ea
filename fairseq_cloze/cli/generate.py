"""``fairseq-cloze generate``"""

from typing import Any

import click

from .options import echo_beside


@click.command("generate")
@click.argument("paths", nargs=-1, required=True, metavar="TEXT...")
@click.option("--out", required=True, metavar="FILE", help="Passages to write: a .jsonl or .jsonl.gz file, or -.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed makes other blanks.")
@click.option("--workers", type=click.IntRange(min=1),
              help="Processes.  [default: one per core, with --lm on a GPU one]")  # fmt: skip
@click.option("--lm", metavar="CHECKPOINT", help="Masked LM that drops distractors which would be right, too.")
@click.option("--limit", type=click.IntRange(min=1), help="Most passages, spread evenly over the text.")
def command(out: str, **chosen: Any) -> None:
    """Make cloze passages from English prose: text files, folders of them, or - for standard input."""
    from ..generation.generate import generate

    tally = generate(out=out, **chosen)
    echo_beside(out)("\n".join([*tally.lines(), f"wrote {out}"]))
