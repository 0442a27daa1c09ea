"""Checkpoints of fairseq: the weights under ``model``, the configuration under ``args`` (older) or ``cfg`` (newer).

Those this project writes carry their vocabulary and the way their passages were encoded.
"""

from __future__ import annotations

import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.encoding import EncodingOptions
from ..data.fairseq_files import DICTIONARY_FILE, ENCODER_FILE, FAIRSEQ_FILES, GPT2_BPE_URL, MERGES_FILE
from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError
from ..files import PathLike
from ..model.architecture import FIRST_POSITION, LARGEST_BASE, MOST_LAYERS, Architecture
from ..model.encoder import ACTIVATIONS
from ..model.masked_lm import shapes
from ..model.names import ENCODER, HEAD_NAME, HEADS, LM_HEAD, RANKING_HEAD
from ..views.settings import AS_TRAINED, PartialSettings
from .carried import Carried, OtherVocabulary, compare_vocabularies, read_carried
from .families import HUB_PREFIXES
from .plain import show
from .reading import State, load_checkpoint, upgraded_weights

#: A weight of a layer, by the number of the layer and its name there.
LAYER = re.compile(rf"{re.escape(ENCODER)}layers\.([0-9]{{1,6}})\.(.+)")

LARGEST = 1e9  #: of a weight; trained ones stay below a hundred, and the square of a sum has to be a number yet

#: What a run must have loaded: names for people, prefixes of the weights.
PARTS = {"encoder": ENCODER, "LM head": LM_HEAD}


#: Largest number of tokens.
_MOST = 1 << 24


class Progress(NamedTuple):
    """How far a training had come; ``None`` where a checkpoint does not tell."""

    epoch: int | None
    updates: int | None


class Checkpoint:
    """A checkpoint of fairseq, read once.

    Args:
        state: its content, as fairseq saves it; ``CheckpointError`` where it is something else
        path: where it is, or where it came from; a vocabulary may lie beside it
        name: what messages call it; the path where it is not given
    """

    def __init__(self, state: Any, path: PathLike, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or str(path)
        if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
            hint = "expected a checkpoint of fairseq"
            if isinstance(state, dict) and any(str(key).startswith(HUB_PREFIXES) for key in state):
                hint += ", found Hugging Face weights; convert them with 'fairseq-cloze import-hf'"
            raise CheckpointError(f"{self.name}: {hint}")
        self.state: State = state
        self.notes: list[str] = []  #: what the user should know of how it was read

    @classmethod
    def read(cls, path: PathLike, name: str | None = None) -> Checkpoint:
        """Read a file; ``CheckpointError`` where it is missing, truncated, or something else."""
        return cls(load_checkpoint(Path(path), name), path, name)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights under today's names, on the CPU; ``CheckpointError`` unless they are of an encoder with LM head."""
        return upgraded_weights(self.state["model"], self.name)

    @cached_property
    def architecture(self) -> Architecture:
        """Shape of the model, from the weights and from options; ``CheckpointError`` where it is not supported."""
        layers = {match[1] for match in map(LAYER.match, self.weights) if match}
        try:
            embedding_width = self.weights[f"{ENCODER}embed_tokens.weight"].size(1)
            fc1 = self.weights[f"{ENCODER}layers.0.fc1.weight"]
            inner, embed_dim = fc1.size(0), fc1.size(-1)
            rotary_base = self._number("rotary_base", (int, float), 0, LARGEST_BASE)
            if not rotary_base:
                positions = self.weights[f"{ENCODER}embed_positions.weight"].size(0) - FIRST_POSITION
            heads = self.options["encoder_attention_heads"]
        except KeyError as error:
            problem = f"expected a masked LM of fairseq or of this project, {error} is missing from it"
            raise CheckpointError(f"{self.name}: {problem}") from error
        if self.option("encoder_normalize_before"):
            problem = "RoBERTa with layer norm before the blocks (roberta_prenorm) is not supported"
            raise CheckpointError(f"{self.name}: {problem}")
        if type(heads) is not int or heads < 1 or embed_dim % heads:
            raise self._wrong_option("encoder_attention_heads", f"a number that divides the width {embed_dim}")
        if rotary_base:
            if embed_dim // heads % 2:
                raise self._wrong_option("rotary_base", f"none, as heads have the odd width {embed_dim // heads}")
            positions = self._number("max_positions", (int,), 1, _MOST)
        elif positions < 1:
            raise CheckpointError(f"{self.name}: expected at least one position, found {positions}")
        flags: dict[str, Any] = {}
        for name in ("untie_weights_roberta", "shared_layers", "norm_first", "gated", "without_biases"):
            if self.option(name) not in (None, False, True):
                raise self._wrong_option(name, "true or false")
            flags[name] = bool(self.option(name))
        if flags["gated"] and inner % 2:
            raise self._wrong_option("gated", f"false, as its feed-forward layers have the odd width {inner}")
        eps, texts = self.option("layer_norm_eps"), {}
        if eps is not None and not (type(eps) in (int, float) and 0 < eps < 1):
            raise self._wrong_option("layer_norm_eps", "a small number above 0")
        for name in ("activation_fn", "pooler_activation_fn"):
            texts[name] = self.option(name) or getattr(Architecture, name)
            if texts[name] not in list(ACTIVATIONS):
                raise self._wrong_option(name, f"one of {', '.join(ACTIVATIONS)}")
        family = self.option("family")
        if family is not None and type(family) is not str:
            raise self._wrong_option("family", "a text")
        return Architecture(
            encoder_layers=self._number("encoder_layers", (int,), 1, MOST_LAYERS - 1)
            if flags["shared_layers"]
            else len(layers),
            encoder_embed_dim=embed_dim,
            encoder_ffn_embed_dim=inner // 2 if flags["gated"] else inner,
            encoder_attention_heads=heads,
            max_positions=positions,
            layer_norm_eps=Architecture.layer_norm_eps if eps is None else float(eps),
            family=family or Architecture.family,
            embedding_dim=0 if f"{ENCODER}project_in_dim.weight" not in self.weights else embedding_width,
            rotary_base=float(rotary_base),
            local_rotary_base=float(self._number("local_rotary_base", (int, float), 0, LARGEST_BASE)),
            local_attention=self._number("local_attention", (int,), 0, _MOST),
            global_every=self._number("global_every", (int,), 1, _MOST),
            **flags,
            **texts,
        )

    @property
    def dropouts(self) -> dict[str, float]:
        """Its options of dropout, by name; ``CheckpointError`` where one is no probability."""
        names = [name for name in ("dropout", "attention_dropout") if self.option(name) is not None]
        return {name: float(self._number(name, (int, float), 0, 1)) for name in names}

    def _wrong_option(self, name: str, expected: str) -> CheckpointError:
        found = show(self.option(name))
        return CheckpointError(
            f"{self.name}: option {name}: expected {expected}, found {found}; take the original file"
        )

    def _number(self, name: str, kinds: tuple[type, ...], least: int, most: float) -> Any:
        """An option that is a number, its default where it is not there."""
        found: Any = self.option(name)
        found = getattr(Architecture, name, None) if found is None else found
        if type(found) not in kinds or not least <= found <= most:
            raise self._wrong_option(name, f"a number from {least} to {most:,.0f}")
        return found

    def require_sound(self) -> None:
        """Make sure that every weight has its place in the model, and :meth:`require_usable`.

        Raises:
            CheckpointError: the first that is missing, of another shape or not known
        """
        problem = self.misfit
        if problem:
            raise CheckpointError(f"{self.name}: weights do not fit the model, {problem}; take the original file")
        self.require_usable()

    def require_usable(self) -> None:
        """``CheckpointError`` if weights are such as no model computes with; says how many, and where first."""
        count, found = unusable(self.weights)
        if count:
            raise CheckpointError(f"{self.name}: {found}; take an earlier checkpoint, 'fairseq-cloze doctor' says more")

    @property
    def misfit(self) -> str:
        """The first weight that does not belong into a model of this shape; empty where all do."""
        layers, option = self.architecture.encoder_layers, self.option("encoder_layers")
        if option is not None and option != layers:
            return f"expected {show(option)} layers as configured, found {layers}"
        expected = shapes(self.architecture, self.rows, self.has_ranking_head)
        found = {
            name: tuple(value.shape)
            for name, value in self.weights.items()
            if not name.endswith(".version") and (name.startswith(RANKING_HEAD) or not name.startswith(HEADS))
        }
        for name in (*expected, *found):
            wanted, other = (str(values.get(name, "none")) for values in (expected, found))
            if wanted != other:
                return f"{name}: expected {wanted}, found {other}"
        return ""

    @property
    def rows(self) -> int:
        """Rows of the embedding."""
        return self.weights[f"{ENCODER}embed_tokens.weight"].size(0)

    @cached_property
    def heads(self) -> frozenset[str]:
        """Names of the classification heads."""
        return frozenset(name.split(".")[1] for name in self.weights if name.startswith(HEADS))

    @property
    def has_ranking_head(self) -> bool:
        """Whether it can score with :data:`fairseq_cloze.model.names.HEAD_NAME`."""
        return HEAD_NAME in self.heads

    def require_ranking_head(self) -> None:
        """``CheckpointError`` unless there is a ranking head to score with."""
        if not self.has_ranking_head:
            raise CheckpointError(
                f"{self.name}: has no ranking head, its scores would be random; pass --scorer mean, or train one first"
            )

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """Options of the model as they were saved, by name; only numbers and texts."""
        args = self.state.get("args")
        return _scalars(self.configuration.get("model") if args is None else args)

    def option(self, name: str) -> Any:
        """An option of the model as it was saved; ``None`` where the configuration has none."""
        return self.options.get(name)

    def prove_load(self, current: Mapping[str, Tensor], got: Mapping[str, str]) -> str:
        """Make sure that a model whose weights are *current*, with digests *got*, was loaded from here.

        Returns:
            a line that says what was proved

        Raises:
            CheckpointError: encoder or LM head differ; names the part
        """
        cast = {name: value.to(current.get(name, value).dtype) for name, value in self.weights.items()}
        for part, wanted in digests(cast).items():
            if wanted != got[part]:
                raise CheckpointError(
                    f"the {part} is not that of {self.name}: expected digest {wanted[:12]}, found {got[part][:12]}; "
                    "training would start from other weights than those asked for"
                    f"{_first_difference(cast, current, PARTS[part])}"
                )
        return f"weights are those of {self.name} ({', '.join(f'{part} {value[:12]}' for part, value in got.items())})"

    @cached_property
    def _carried(self) -> Carried | None:
        return read_carried(self.state.get("task_state"), self.name)

    @property
    def carried(self) -> PartialSettings:
        """Settings that it was trained with; nothing where it is of other origin."""
        return self._carried.settings if self._carried else AS_TRAINED

    @property
    def encoding(self) -> EncodingOptions | None:
        """How its text was encoded; ``None`` where it is of other origin."""
        return self._carried.encoding if self._carried else None

    @property
    def task_options(self) -> Mapping[str, Any]:
        """Options of the task it was trained with, by name; empty for checkpoints of older fairseq."""
        return _scalars(self.configuration.get("task"))

    def setting(self, group: str, name: str) -> Any:
        """A value of the training's configuration, a number, a text or a list of these; ``None`` for all others."""
        value = _table(self.configuration.get(group)).get(name)
        plain = all(isinstance(one, str | int | float) for one in (value if isinstance(value, list) else [value]))
        return value if plain else None

    @property
    def progress(self) -> Progress:
        """Epoch and number of updates."""
        history = self.state.get("optimizer_history")
        last = _table(history[-1]) if isinstance(history, list) and history else {}
        updates = last.get("num_updates", 0) if last else None
        position = _table(_table(self.state.get("extra_state")).get("train_iterator"))
        epoch = position.get("epoch")
        for number in (updates, epoch):
            if number is not None and (type(number) is not int or number < 0):
                raise CheckpointError(f"{self.name}: expected numbers of updates and epochs, found {show(number)}")
        if epoch is not None:  # at the end of an epoch it is the next one's
            epoch -= position.get("iterations_in_epoch") == 0 and epoch > 1
        return Progress(epoch, updates)

    @property
    def configuration(self) -> Mapping[str, Any]:
        """fairseq's configuration of the training that saved it, by group and name; empty in older ones."""
        return _table(self.state.get("cfg"))

    @cached_property
    def identity(self) -> str:
        """SHA-256 of its weights, of what else decides their scores, and of the number of updates, hexadecimal.

        The bytes of the file are no identity: a training that goes on may save the weights it began with once more.
        """
        shape = {field.name: self.option(field.name) for field in fields(Architecture)}
        encoding = self.encoding and asdict(self.encoding)
        others = [shape, asdict(self.carried), encoding, self.progress.updates]
        return hashlib.sha256(json.dumps([digest(self.state["model"], ""), *others]).encode()).hexdigest()

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary that it carries, else the one that lies beside it."""
        if self._carried:
            return self._carried.vocabulary
        folder = self.path.parent
        return Vocabulary.load(folder) if Vocabulary.lies_in(folder) else None

    def require_vocabulary(self) -> Vocabulary:
        """As :attr:`vocabulary`, but there has to be one: ``CheckpointError`` otherwise."""
        if self.vocabulary is None:
            raise CheckpointError(
                f"{self.name}: carries no vocabulary and none lies beside it; put {', '.join(FAIRSEQ_FILES)} into "
                f"{self.path.parent} (for fairseq's own releases, {ENCODER_FILE} and {MERGES_FILE} are at "
                f"{GPT2_BPE_URL})"
            )
        return self.vocabulary

    def check_vocabulary(self, vocabulary: Vocabulary, where: str) -> tuple[str, bool]:
        """Make sure that data, called *where*, were encoded with the vocabulary the weights were trained with.

        Returns:
            a line that says what was proved, and whether that is all there is to prove

        Raises:
            OtherVocabulary: they do not belong together; says which of embedding, dictionary and tokenizer
        """
        if self.rows != len(vocabulary):
            expected = f"{self.rows:,} embedding rows"
            raise OtherVocabulary("dictionary", where, self.name, expected, f"{len(vocabulary):,}")
        dictionary, tokenizer = vocabulary.dictionary_digest[:12], vocabulary.tokenizer_digest[:12]
        unknown = f"could not be compared, {self.name} came without"
        if self.vocabulary is not None:
            compare_vocabularies(self.vocabulary, vocabulary, self.name, where)
            return f"dictionary {dictionary} and tokenizer {tokenizer} are the checkpoint's", True
        beside = self.path.parent / DICTIONARY_FILE
        if beside.is_file() and vocabulary.is_fairseqs:  # as in fairseq's tarballs
            files = {**vocabulary.fairseq_files(), DICTIONARY_FILE: beside.read_bytes()}
            own = Vocabulary(files, str(self.path.parent))
            compare_vocabularies(own, vocabulary, self.name, where)
            return f"dictionary {dictionary} is the checkpoint's; the tokenizer {unknown}", False
        return f"dictionary has the checkpoint's {self.rows:,} rows; it and the tokenizer {unknown}", False


def unusable(weights: Mapping[str, Tensor]) -> tuple[int, str]:
    """How many numbers among weights no model computes with, and that in words; 0 and none of a sound model."""
    # As Python's numbers, as the limit becomes infinite in half precision.
    bad = {name: value for name, value in weights.items() if value.numel() and not value.abs().max().item() <= LARGEST}
    count = sum(int((~(value.double().abs() <= LARGEST)).sum()) for value in bad.values())
    return count, f"{count:,} weights are NaN or beyond {LARGEST:.0e}, first in {next(iter(bad))}" if bad else ""


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _scalars(options: Any) -> Mapping[str, Any]:
    """Options by name, of a namespace or a dictionary; others than numbers and texts only by their type."""
    table = vars(options) if isinstance(options, Namespace) else _table(options)
    return {
        name: value if isinstance(value, str | int | float | None) else show(value) for name, value in table.items()
    }


def digest(weights: Mapping[str, Tensor], prefix: str) -> str:
    """SHA-256 over names, shapes, types and values of the weights whose names start with *prefix*."""
    total = hashlib.sha256()
    for name in sorted(weights):
        if not name.startswith(prefix) or name.endswith(".version"):  # a marker of fairseq's, no weight
            continue
        value = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def digests(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """:func:`digest` of each of :data:`PARTS`."""
    return {part: digest(weights, prefix) for part, prefix in PARTS.items()}


def _first_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str) -> str:
    """Where a model departs from a checkpoint, in words for the end of a message."""
    for name in sorted({*expected, *found}):
        if name.startswith(prefix) and not name.endswith(".version"):
            if name not in found or name not in expected:
                return f" (first difference: {name} is only in the {'model' if name in found else 'checkpoint'})"
            if not torch.equal(expected[name].cpu(), found[name].cpu()):
                return f" (first difference: {name})"
    return ""
