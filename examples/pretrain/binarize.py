"""Prose → a vocabulary and the binary data of the task masked_words.

python binarize.py TEXT --out DIR [--size ROWS]

TEXT holds a paragraph per line.  Every 200th block of 20 paragraphs is kept apart as the validation split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from fairseq.data import Dictionary, indexed_dataset
from tqdm import tqdm

from fairseq_cloze.data.vocabulary import EOS, Vocabulary
from fairseq_cloze.passages.text import normalise

BLOCK = 20  # paragraphs


def paragraphs(path: Path) -> Iterator[str]:
    """The lines that are not empty, normalised as passages are."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            text = normalise(line)
            if text:
                yield text


def main() -> None:
    """Write ``DIR/{train,valid}.{bin,idx}`` and the vocabulary's files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=16000, help="rows of the dictionary")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    vocabulary = Vocabulary.learn(paragraphs(options.text), options.size)
    vocabulary.save(options.out)
    dictionary = Dictionary.load(str(options.out / "dict.txt"))
    builders = {
        split: indexed_dataset.make_builder(str(options.out / f"{split}.bin"), "mmap", len(dictionary))
        for split in ("train", "valid")
    }
    tokens = dict.fromkeys(builders, 0)
    source = paragraphs(options.text)
    with tqdm(desc="binarize", unit=" paragraphs") as progress:
        for number, block in enumerate(iter(lambda: list(islice(source, BLOCK)), [])):
            split = "valid" if number % 200 == 1 else "train"
            encoded = vocabulary.encode(block)
            for rows in encoded:
                builders[split].add_item(torch.tensor([*rows.tolist(), EOS]))
                tokens[split] += len(rows) + 1
            progress.update(len(block))
    if not tokens["valid"]:
        parser.error(f"{options.text}: expected more than {BLOCK} paragraphs, one per line, found {progress.n}")
    for split, builder in builders.items():
        builder.finalize(str(options.out / f"{split}.idx"))
    print(f"{tokens['train']:,} tokens to train on, {tokens['valid']:,} to validate, {len(vocabulary):,} rows")


if __name__ == "__main__":
    main()
