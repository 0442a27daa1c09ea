"""Belonging: whether data were encoded with the vocabulary that weights were trained with."""

from __future__ import annotations

from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError

_ADVICE = "prepare the data with --pretrained and the folder of this checkpoint"


class OtherVocabulary(CheckpointError):
    """A vocabulary that does not belong to a checkpoint.

    Args:
        part: what differs, ``dictionary`` or ``BPE``
        where: whose vocabulary it is
        checkpoint: name of the checkpoint
        expected, found: the checkpoint's and the other's
    """

    def __init__(self, part: str, where: str, checkpoint: str, expected: str, found: str) -> None:
        self.part = part
        super().__init__(
            f"the {part} of {where} does not belong to {checkpoint}: expected {expected}, found {found}; {_ADVICE}"
        )


def compare_rows(rows: int, vocabulary: Vocabulary, checkpoint: str, where: str) -> None:
    """Make sure that a dictionary has as many rows as a checkpoint's embedding.

    Raises:
        OtherVocabulary: it has not
    """
    if rows != len(vocabulary):
        expected, found = f"{rows:,} embedding rows", f"{len(vocabulary):,}"
        raise OtherVocabulary("dictionary", where, checkpoint, expected, found)


def compare_vocabularies(own: Vocabulary, found: Vocabulary, checkpoint: str, where: str) -> None:
    """Make sure that two vocabularies are the same.

    Args:
        own: the checkpoint's
        found: what the data were encoded with
        checkpoint, where: their names, for messages

    Raises:
        OtherVocabulary: they differ
    """
    for part, wanted, other in (
        ("dictionary", own.dictionary_digest, found.dictionary_digest),
        ("BPE", own.bpe_digest, found.bpe_digest),
    ):
        if wanted != other:
            raise OtherVocabulary(part, where, checkpoint, f"digest {wanted[:12]}", other[:12])
