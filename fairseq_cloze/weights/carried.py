"""Carried: what this project adds to checkpoints, in fairseq's ``task_state``, and checkpoints that it makes itself."""

import zlib
from argparse import Namespace
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.encoding import DEFAULT_ENCODING, EncodingOptions
from ..data.fairseq_files import FAIRSEQ_FILES
from ..data.vocabulary import FILES, Vocabulary
from ..errors import CheckpointError, first_line
from ..files import PathLike, cannot_write, replacing
from ..model.architecture import Architecture
from ..model.names import ANY_ARCHITECTURE
from ..views.settings import CARRIED, PartialSettings, Settings
from .plain import show
from .reading import State

#: Name of the weights in a folder of pretrained weights, as fairseq's releases have it.
MODEL_FILE = "model.pt"

#: Of a checkpoint that no optimiser belongs to.
FRESH = {
    "last_optimizer_state": None,
    "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
}

_ORIGINAL = "take the original file"

#: Key of our part of ``task_state``.
STATE_KEY = "fairseq_cloze"
STATE_VERSION = 2

#: Of each version, the files of the vocabulary.
_FILES = {1: FAIRSEQ_FILES, 2: FILES}


#: Most bytes of a file of the vocabulary: large ones have a few millions.
_LARGEST_FILE = 1 << 25


class Carried:
    """Vocabulary, encoding and settings of a checkpoint, called *origin*.

    ``CheckpointError`` for a later version, and for each part that is damaged.
    """

    def __init__(self, content: Any, origin: str) -> None:
        if not isinstance(content, dict):
            raise CheckpointError(f"{origin}: what this project adds to a checkpoint is {show(content)}; {_ORIGINAL}")
        version = content.get("version")
        if type(version) is not int or version not in _FILES:
            raise CheckpointError(
                f"{origin}: expected version {STATE_VERSION} of what this project adds to a checkpoint, found "
                f"{show(version)}; use a newer fairseq-cloze"
            )
        self._content, self._origin = content, origin

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Tokenizer and rows."""
        files, names = self._content.get("vocabulary"), _FILES[self._content["version"]]
        try:
            return Vocabulary({name: _unpack(files[name]) for name in names}, self._origin)  # type: ignore[index]
        except (KeyError, TypeError, zlib.error) as error:
            raise self._damaged("vocabulary", error) from error

    @property
    def encoding(self) -> EncodingOptions:
        """How text became tokens."""
        options = self._content.get("encoding")
        try:
            return EncodingOptions(**options)  # type: ignore[arg-type]
        except TypeError as error:
            raise self._damaged("encoding", error) from error

    @property
    def settings(self) -> PartialSettings:
        """How passages became input, and how candidates were scored."""
        found = {name: self._content.get(name) for name in CARRIED}
        for name, value in found.items():
            if value is not None and type(value) not in ((int, float) if name == "contrast" else (str,)):
                raise self._damaged(name, TypeError(show(value)))
        return PartialSettings(**found)

    def _damaged(self, part: str, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self._origin}: the {part} that it carries is damaged ({show(first_line(error))}); {_ORIGINAL}"
        )


def _unpack(content: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(content, _LARGEST_FILE)
    if not unpacking.eof:
        raise zlib.error(f"cut short, or more than {_LARGEST_FILE:,} bytes")
    return unpacked


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
    content = task_state.get(STATE_KEY) if isinstance(task_state, Mapping) else None
    return Carried(content, origin) if content else None


class OtherVocabulary(CheckpointError):
    """A vocabulary, of *where*, that does not belong to a checkpoint: the *part*, dictionary or tokenizer, differs."""

    def __init__(self, part: str, where: str, checkpoint: str, expected: str, found: str) -> None:
        self.part = part
        super().__init__(
            f"the {part} of {where} does not belong to {checkpoint}: expected {expected}, found {found}; "
            "prepare the data with --pretrained and the folder of this checkpoint"
        )


def compare_vocabularies(own: Vocabulary, found: Vocabulary, checkpoint: str, where: str) -> None:
    """``OtherVocabulary`` unless data, called *where*, were encoded with a checkpoint's *own* vocabulary."""
    for part, name in (("dictionary", "dictionary_digest"), ("tokenizer", "tokenizer_digest")):
        wanted, other = getattr(own, name)[:12], getattr(found, name)[:12]
        if wanted != other:
            raise OtherVocabulary(part, where, checkpoint, f"digest {wanted}", other)


def pretrained_state(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    vocabulary: Vocabulary,
    options: Mapping[str, Any] = {},
    encoding: EncodingOptions = DEFAULT_ENCODING,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> State:
    """A checkpoint as fairseq's own releases are: options in a namespace, masked LM as task and criterion.

    Weights and *options*, those of the model beside its shape, have fairseq's names; the others are carried along.
    """
    own = "roberta_large" if architecture.encoder_layers == 24 else "roberta_base"
    args = Namespace(
        arch=own if architecture.family == Architecture.family else ANY_ARCHITECTURE,
        task="masked_lm",
        criterion="masked_lm",
        data="",
        tokens_per_sample=architecture.max_positions,
        sample_break_mode="complete",
        encoder_learned_pos=True,
        encoder_normalize_before=False,
        **{"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "pooler_dropout": 0.0, **options},
        **vars(architecture),
    )
    classes = {"criterion_name": "MaskedLmLoss", "optimizer_name": "FairseqAdam"}
    return {
        "args": args,
        "model": dict(weights),
        "optimizer_history": [{**classes, "lr_scheduler_state": {}, "num_updates": 0}],
        **FRESH,
        "task_state": carried_state(vocabulary, encoding, settings),
    }


def save_state(state: State, path: PathLike) -> None:
    """Write a checkpoint, whole or not at all; ``ClozeError`` where it cannot be written."""
    try:
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        raise cannot_write(Path(path), first_line(error)) from error
