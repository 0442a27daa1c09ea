"""Carried: what a checkpoint of this project brings along, so that it can be used and checked alone.

It lies in fairseq's ``task_state``, as plain strings, numbers and bytes.
"""

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
    """Vocabulary, encoding and settings that a checkpoint was trained with.

    Args:
        content: what :func:`carried_state` has made
        origin: the checkpoint, for messages

    Raises:
        CheckpointError: a later version of this project has written it
    """

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
        values: dict[str, Any] = {name: self._content.get(name) for name in CARRIED}
        return PartialSettings(**values)


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
    """What a checkpoint's ``task_state`` carries; ``None`` for checkpoints of other origin."""
    content = (task_state or {}).get(STATE_KEY)
    return Carried(content, origin) if content else None
