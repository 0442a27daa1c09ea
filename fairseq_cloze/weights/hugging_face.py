"""Hugging Face: pretrained weights from there, checkpoints to there.

On the way here the first token-type row, which fairseq lacks, is added to the positions, and the embedding rows are
sorted into its order: the four special symbols, the other tokens, the mask.  What differs between the families stands
in :mod:`fairseq_cloze.weights.families`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.encoding import DEFAULT_ENCODING, EncodingOptions
from ..data.vocabulary import BOS, EOS, PAD
from ..errors import CheckpointError, ClozeError, first_line
from ..files import PathLike, alone_in, cannot_write, replacing, write_text
from ..model.architecture import FIRST_POSITION, Architecture
from ..model.masked_lm import shapes
from ..model.names import ENCODER, LM_HEAD
from ..version import __version__
from ..views.settings import Settings
from .carried import MODEL_FILE, pretrained_state, save_state
from .checkpoint import Checkpoint
from .families import FAMILIES, Family
from .hub_files import CONFIG, PICKLED, SAFETENSORS, read_config, read_json, read_weights
from .hub_proof import prove_import
from .hub_tokenizer import read_tokenizer, tokenizer_files
from .hub_tokenizer_files import TOKENIZER_FILES
from .model_card import CARD, Figure, is_ours, model_card, own_figures
from .plain import show
from .reading import is_archive
from .release import import_release

#: Files of a hub model that are read.
HUB_FILES = [
    *(CONFIG, SAFETENSORS, "model-*.safetensors", PICKLED, "pytorch_model-*.bin", "*.index.json"),
    *TOKENIZER_FILES,
]

#: Who has written a ``config.json``.
_MADE_BY = "made_by"

#: Where it says how to score with the model, and how its text becomes tokens.
_SETTINGS = "fairseq_cloze"


class _Source(NamedTuple):
    """A model of Hugging Face as it was read, and the checkpoint that was made of it."""

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    order: list[int] | None  #: for each row of the checkpoint's dictionary, that of the model
    checkpoint: Checkpoint


def read_hf(source: PathLike, gpt2_bpe: PathLike | None = None) -> Checkpoint:
    """Read a masked LM of Hugging Face as a checkpoint of fairseq, in memory.

    Args:
        source: a local folder, or the name of a model on the hub where ``huggingface_hub`` is installed
        gpt2_bpe: folder with fairseq's three vocabulary files, for sources without tokenizer files

    Returns:
        with weights in float32, called *source* in messages

    Raises:
        CheckpointError: not a masked LM of one of :data:`fairseq_cloze.weights.families.FAMILIES`; says what it is
    """
    return _read(source, gpt2_bpe).checkpoint


def _read(source: PathLike, gpt2_bpe: PathLike | None) -> _Source:
    folder = _find_folder(str(source))
    config = read_config(folder)
    weights, notes = read_weights(folder, config)
    family = FAMILIES[config["model_type"]]
    vocabulary, order, more = read_tokenizer(folder, gpt2_bpe, len(weights[family.place(family.tokens)]))
    positions = 0
    if family.positions:
        positions = len(weights[family.place(family.positions)]) - (FIRST_POSITION if family.behind_padding else 0)
        if positions < 1:
            raise CheckpointError(f"{source}: expected at least one position, found {positions}")
    architecture = family.architecture(config, positions, untied=family.decoder in weights)
    options = dict(zip(("dropout", "attention_dropout"), (config[field] for field in family.dropouts)))
    converted = from_hub_names(weights, family, architecture, order, folder)
    state = pretrained_state(converted, architecture, vocabulary, options, *_read_settings(config, folder))
    checkpoint = Checkpoint(state, folder, str(source))
    checkpoint.require_sound()
    checkpoint.notes += [f"{source}: {note}" for note in (*notes, *more)]
    return _Source(folder, config, weights, order, checkpoint)


def import_hf(
    source: PathLike,
    out: PathLike,
    gpt2_bpe: PathLike | None = None,
    announce: Callable[[str], Any] | None = None,
) -> Path:
    """Convert a masked LM of Hugging Face into a folder that fairseq and this project start from.

    Args:
        source, gpt2_bpe: see :func:`read_hf`; or a tarball of fairseq's, see
            :func:`fairseq_cloze.weights.release.import_release`
        out: folder to write ``model.pt``, whose path is returned, and the vocabulary into
        announce: called with notes, and with a line of proof, see
            :func:`fairseq_cloze.weights.hub_proof.prove_import`; nothing is proved without

    Raises:
        CheckpointError: see :func:`read_hf`, or it would compute otherwise
        ClozeError: *out* cannot be written
    """
    if is_archive(Path(source)):
        return import_release(source, out, gpt2_bpe, announce)
    found = _read(source, gpt2_bpe)
    checkpoint, path = found.checkpoint, Path(out) / MODEL_FILE
    if announce:
        for note in checkpoint.notes:
            announce(note)
        announce(f"{source}: {prove_import(found.folder, checkpoint, found.weights, found.config, found.order)}")
    with alone_in(out):
        checkpoint.require_vocabulary().save(Path(out))
        save_state(checkpoint.state, path)
    return path


def _read_settings(config: Mapping[str, Any], folder: Path) -> tuple[EncodingOptions, Settings]:
    """What an export has put into ``config.json``; the defaults for what is not there."""
    told = config.get(_SETTINGS, {})
    kinds: list[type[EncodingOptions] | type[Settings]] = [EncodingOptions, Settings]
    known = {entry.name: type(entry.default) for kind in kinds for entry in fields(kind)}
    for name, value in told.items() if isinstance(told, dict) else [(None, told)]:
        wanted = known.get(str(name))
        if wanted is None or type(value) not in ((int, float) if wanted is float else (wanted,)):
            found = show(value) if name is None else f"{show(name)} {show(value)}"
            raise CheckpointError(
                f"{folder}: {CONFIG}: {_SETTINGS}: expected values of {', '.join(known)}, found {found}; export it "
                "again, or use a newer fairseq-cloze"
            )
    try:
        chosen = [{entry.name: told[entry.name] for entry in fields(kind) if entry.name in told} for kind in kinds]
        return EncodingOptions(**chosen[0]), Settings(**chosen[1])
    except ClozeError as error:
        raise CheckpointError(f"{folder}: {CONFIG}: {_SETTINGS}: {error}") from error


def export_hf(
    checkpoint: Checkpoint,
    out: PathLike,
    figures: Sequence[Figure] = (),
    name: str | None = None,
    announce: Callable[[str], Any] | None = None,
) -> str:
    """Write a fairseq checkpoint as a Hugging Face folder with tokenizer and model card.

    Args:
        checkpoint: what to write
        out: folder to write
        figures: of its accuracy, for the card, beside those of its training
        name: what the card calls it, such as its name on the hub; *out* where it is not given
        announce: called with what the user should know

    Returns:
        name of the class that loads it, such as ``RobertaForMultipleChoice`` where there is a ranking head, else
        ``RobertaForMaskedLM``

    Raises:
        CheckpointError: there is no class with the same arithmetic, or the vocabulary is not to be found
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    out = Path(out)
    checkpoint.require_sound()
    vocabulary = checkpoint.require_vocabulary()
    architecture = checkpoint.architecture
    ranking = checkpoint.has_ranking_head
    family = _family_to_export(checkpoint)
    model_class = family.multiple_choice if ranking else family.masked_lm
    order = vocabulary.order
    converted = to_hub_names(checkpoint.weights, family, architecture, ranking, order)
    config = _hf_config(family, checkpoint, len(vocabulary), model_class, order)
    tokenizer = tokenizer_files(vocabulary, family, architecture.max_positions)
    figures = [*figures, *own_figures(checkpoint)]
    card = model_card(checkpoint, family, model_class, name or str(out), config[_SETTINGS], figures)
    with alone_in(out), replacing(out / SAFETENSORS) as temporary:  # which takes long, and gets its name last
        stale = [path for path in _earlier_files(out) if path.name not in tokenizer]
        try:
            save_file(
                {key: value.contiguous().clone() for key, value in converted.items()}, temporary, {"format": "pt"}
            )
        except SafetensorError as error:  # a disk that is full is no OSError there
            raise cannot_write(out / SAFETENSORS, first_line(error)) from error
        write_text(out / CONFIG, json.dumps(config, indent=1) + "\n")
        for path in stale:
            path.unlink()
        for file, content in tokenizer.items():
            write_text(out / file, content)
        if is_ours(out / CARD):
            write_text(out / CARD, card)
        elif announce:
            announce(f"{out / CARD} was not written by export-hf, so it stays as it is; remove it to get a model card")
    return model_class


def _earlier_files(out: Path) -> list[Path]:
    """The tokenizer of an earlier export, and what transformers made of it, which it would read instead of the new one.

    Raises:
        ClozeError: there is a model that was not exported by this project
    """
    there = [name for name in (CONFIG, SAFETENSORS, *TOKENIZER_FILES) if (out / name).exists()]
    config = read_json(out / CONFIG) if CONFIG in there else {}
    ours = str(config.get(_MADE_BY)).startswith("fairseq-cloze") and "transformers_version" not in config
    if there and not ours:
        raise ClozeError(
            f"{out}: holds {', '.join(there)}, which 'fairseq-cloze export-hf' did not write, and which would be lost; "
            "choose another folder"
        )
    return [out / name for name in TOKENIZER_FILES if name in there]


def _family_to_export(checkpoint: Checkpoint) -> Family:
    """The family that a checkpoint is of; ``CheckpointError`` where no class of it computes the same."""
    architecture, ranking = checkpoint.architecture, checkpoint.has_ranking_head
    family = FAMILIES.get(architecture.family)
    if family is None:
        raise CheckpointError(
            f"{checkpoint.name}: expected one of the families {', '.join(FAMILIES)}, found "
            f"{show(architecture.family)}; it cannot be exported"
        )
    other = family.difference(architecture)
    if other:
        raise CheckpointError(
            f"{checkpoint.name}: {other} cannot be exported, Hugging Face's {family.name} has none such"
        )
    if ranking and family.ranking is None:
        raise CheckpointError(
            f"{checkpoint.name}: its ranking head cannot be exported, that of Hugging Face's {family.name} computes "
            "otherwise"
        )
    always, found = family.parts.get("pooler_activation_fn", "tanh"), architecture.pooler_activation_fn
    if ranking and found != always:
        raise CheckpointError(
            f"{checkpoint.name}: pooler_activation_fn {found} cannot be exported, the ranking head of Hugging Face's "
            f"{family.name} is always {always}"
        )
    return family


def _hf_config(family: Family, checkpoint: Checkpoint, rows: int, name: str, order: list[int]) -> dict[str, Any]:
    dropouts = dict(zip(("dropout", "attention_dropout"), family.dropouts))
    encoding = checkpoint.encoding or DEFAULT_ENCODING
    number_of = {"bos": order[BOS], "cls": order[BOS], "pad": order[PAD], "eos": order[EOS], "sep": order[EOS]}
    return {
        "architectures": [name],
        "model_type": family.model_type,
        "vocab_size": rows,
        **family.config(checkpoint.architecture),
        **{dropouts[ours]: share for ours, share in checkpoint.dropouts.items()},
        **{f"{name}_token_id": number_of[name] for name in family.special},
        _SETTINGS: {**asdict(checkpoint.carried.completed()), **asdict(encoding)},
        _MADE_BY: f"fairseq-cloze {__version__}",
    }


def _find_folder(source: str) -> Path:
    """A local folder, or that of a model from the hub, downloaded where it is not yet."""
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{source}: no such folder; to load it from the Hugging Face hub, pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(source, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's own kinds and those of the network below it
        raise CheckpointError(
            f"{source}: no such folder, and not to be had from the Hugging Face hub "
            f"({first_line(error)}); check the name and the network"
        ) from error


def from_hub_names(
    weights: dict[str, Tensor], family: Family, architecture: Architecture, order: list[int] | None, folder: Path
) -> dict[str, Tensor]:
    """Weights under our names; *order* says for each row of our vocabulary the row of the embedding."""
    tokens, positions, token_types = map(family.place, (family.tokens, family.positions, family.token_types))
    expected = shapes(architecture, len(weights[tokens]), ranking_head=False)
    names: dict[str, tuple[str, ...]] = {tokens: (f"{ENCODER}embed_tokens.weight",), family.bias: (f"{LM_HEAD}bias",)}
    if architecture.untie_weights_roberta:
        names[family.decoder] = (f"{LM_HEAD}weight",)
    sorted_by_row = {*names}
    names |= family.names(architecture)
    out = {f"{ENCODER}version": torch.tensor([3.0])}
    for theirs, ours in names.items():
        if ours[0] not in expected:
            continue
        one = expected[ours[0]]
        wanted, found = (len(ours) * one[0], *one[1:]), weights.get(theirs)
        if found is None or found.shape != wanted:
            raise _other_shape(folder, theirs, wanted, found)
        found = found[order] if theirs in sorted_by_row and order is not None else found
        out.update(zip(ours, found.chunk(len(ours))))
    if family.positions:
        places = weights[positions]
        width = architecture.embedding_width
        for name in (positions, *([token_types] if family.token_types else [])):
            if weights[name].dim() != 2 or weights[name].size(1) != width:
                raise _other_shape(folder, name, (len(weights[name]), width), weights[name])
        if family.token_types:
            places = places + weights[token_types][0]
        if not family.behind_padding:  # the rows before the first position are never read
            places = torch.cat([places.new_zeros(FIRST_POSITION, width), places])
        out[f"{ENCODER}embed_positions.weight"] = places
    out.setdefault(f"{LM_HEAD}weight", out[f"{ENCODER}embed_tokens.weight"])
    return out


def _other_shape(folder: Path, name: str, expected: tuple[int, ...], found: Tensor | None) -> CheckpointError:
    return CheckpointError(
        f"{folder}: {name}: expected {expected}, found {'none' if found is None else tuple(found.shape)}; the weights "
        f"are incomplete, or of another model than {CONFIG}: copy or download them again"
    )


def to_hub_names(
    weights: Mapping[str, Tensor],
    family: Family,
    architecture: Architecture,
    ranking: bool,
    order: list[int] | None,
) -> dict[str, Tensor]:
    """Weights of our names under Hugging Face's, with the *ranking* head or with the LM head."""

    def rows(value: Tensor) -> Tensor:
        return value if order is None else torch.empty_like(value).index_copy(0, torch.tensor(order), value)

    out = {family.place(family.tokens): rows(weights[f"{ENCODER}embed_tokens.weight"])}
    if family.positions:
        positions = weights[f"{ENCODER}embed_positions.weight"]
        out[family.place(family.positions)] = positions[0 if family.behind_padding else FIRST_POSITION :]
        if family.token_types:
            out[family.place(family.token_types)] = positions.new_zeros(family.type_rows, positions.size(1))
    for theirs, ours in family.names(architecture, ranking).items():
        if ours[0] in weights:
            out[theirs] = torch.cat([weights[name] for name in ours])
    if ranking:
        return out
    out[family.bias] = rows(weights[f"{LM_HEAD}bias"])
    if architecture.untie_weights_roberta:
        out[family.decoder] = rows(weights[f"{LM_HEAD}weight"])
        if family.decoder_bias:
            out[family.decoder_bias] = out[family.bias]
    return out
