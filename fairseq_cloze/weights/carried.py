"""Carried: what a checkpoint of this project brings along in fairseq's ``task_state``, to be used and checked alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ..data.encoding import EncodingOptions
from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError
from ..views.settings import CARRIED, PartialSettings, Settings

#: Key of our part of ``task_state``.
STATE_KEY = "fairseq_cloze"
STATE_VERSION = 1


class Carried:
    """Vocabulary, encoding and settings that a checkpoint was trained with; *origin* is its name, for messages."""

    def __init__(self, content: Mapping[str, Any], origin: str) -> None:
        if content.get("version") != STATE_VERSION:
            raise CheckpointError(
                f"{origin}: expected version {STATE_VERSION} of what this project adds to a checkpoint, found "
                f"{content.get('version')}; use a newer fairseq-cloze"
            )
        self._content, self._origin = content, origin

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Dictionary and BPE."""
        files = self._content["vocabulary"]
        return Vocabulary({name: zlib.decompress(content) for name, content in files.items()}, self._origin)

    @property
    def encoding(self) -> EncodingOptions:
        """How text became tokens."""
        return EncodingOptions(**self._content["encoding"])

    @property
    def settings(self) -> PartialSettings:
        """How passages became input, and how candidates were scored."""
        return PartialSettings(**{name: self._content.get(name) for name in CARRIED})


def carried_state(vocabulary: Vocabulary, encoding: EncodingOptions, settings: Settings) -> dict[str, Any]:
    """The part of a ``task_state`` that :func:`read_carried` reads."""
    return {
        STATE_KEY: {
            "version": STATE_VERSION,
            "vocabulary": {name: zlib.compress(content, 9) for name, content in vocabulary.files.items()},
            "encoding": encoding.to_dict(),
            **{name: getattr(settings, name) for name in CARRIED},
        }
    }


def read_carried(task_state: Mapping[str, Any] | None, origin: str) -> Carried | None:
    """What a checkpoint's ``task_state`` carries; ``None`` for checkpoints of other origin.

    Raises:
        CheckpointError: a later version of this project has written it
    """
    content = (task_state or {}).get(STATE_KEY)
    return Carried(content, origin) if content else None


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
            f"the {part} of {where} does not belong to {checkpoint}: expected {expected}, found {found}; "
            "prepare the data with --pretrained and the folder of this checkpoint"
        )


def compare_vocabularies(own: Vocabulary, found: Vocabulary, checkpoint: str, where: str) -> None:
    """Make sure that data, *where* for messages, were encoded with a checkpoint's *own* vocabulary.

    Raises:
        OtherVocabulary: they were not
    """
    for part, name in (("dictionary", "dictionary_digest"), ("BPE", "bpe_digest")):
        wanted, other = getattr(own, name)[:12], getattr(found, name)[:12]
        if wanted != other:
            raise OtherVocabulary(part, where, checkpoint, f"digest {wanted}", other)
