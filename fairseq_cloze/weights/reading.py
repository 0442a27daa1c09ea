"""Reading: files of weights, without running code that they hold, under the names that fairseq gives them today."""

import os
import re
import shlex
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from ..files import POINTER_IS, is_pointer, open_regular
from ..model.names import ENCODER, HEADS, LM_HEAD
from .archive import Archive
from .plain import Convert, Refused, TensorRef, show, to_plain

State = dict[str, Any]

#: Second copies of an encoder layer's parameters, which fairseq 0.12.2 saves and never trains.
DEAD_PARAMETER = re.compile(r".*\blayers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


#: Where most of a training's checkpoint lies, which nobody but fairseq needs.
_OPTIMIZER = "last_optimizer_state"


def allow_checkpoint_types() -> None:
    """Let ``torch.load`` admit the ``argparse.Namespace`` of older RoBERTa checkpoints, which is plain data, too."""
    torch.serialization.add_safe_globals([Namespace])


def refuse_pointer(path: Path) -> None:
    """``CheckpointError`` if a file is what git leaves where git lfs is not installed."""
    if is_pointer(path):
        raise CheckpointError(f"{path}: is {POINTER_IS}")


def is_archive(path: Path) -> bool:
    """Whether a file is packed with gzip, or a tarball, as fairseq's releases are."""
    try:
        with open_regular(path) as file:
            begin = file.read(512)
    except OSError:
        return False
    return begin.startswith(b"\x1f\x8b") or begin[257:262] == b"ustar"


class StillWritten(CheckpointError):
    """A checkpoint that another program writes to; it may be whole a moment later."""


def load_checkpoint(
    path: Path, name: str | None = None, optimizer: bool = False, convert: Convert | None = None
) -> Any:
    """Read a checkpoint, called *name* in messages, into CPU memory; its checksums are compared, no code in it runs.

    Args:
        optimizer: read its state, too; else its tensors are on the meta device
        convert: see :func:`fairseq_cloze.weights.plain.to_plain`

    Raises:
        CheckpointError: it is missing, damaged, or something else; ``StillWritten`` where it is being written
    """
    name = name or str(path)
    if not path.is_file():
        raise CheckpointError(f"{name}: no such checkpoint; check the path")
    refuse_pointer(path)
    if is_archive(path):
        raise CheckpointError(
            f"{name}: is an archive, as fairseq's releases come in; run 'fairseq-cloze import-hf {shlex.quote(name)} "
            "--out DIR' and give DIR/model.pt"
        )
    try:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            try:
                return read_checkpoint(file, name, optimizer, convert)
            finally:
                after = os.fstat(file.fileno())
                if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                    raise StillWritten(f"{name}: was written to while it was read; try again when it is complete")
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be read ({error.strerror or error}); check the file") from error


def read_checkpoint(file: BinaryIO, name: str, optimizer: bool = False, convert: Convert | None = None) -> Any:
    """As :func:`load_checkpoint`, of an open file."""
    try:
        archive = Archive(file)

        def tensor(ref: TensorRef, place: str) -> Tensor:
            keep = optimizer or not place.startswith(_OPTIMIZER)
            return ref.over(archive.storage(ref.storage, _short(place), keep))

        state = to_plain(archive.graph, tensor, convert)
        archive.check_others()
        return state
    except (OSError, CheckpointError):
        raise
    except Refused as error:
        path, place = next(iter(error.found.items()))
        more = f" and {len(error.found) - 1} more kinds" if len(error.found) > 1 else ""
        raise CheckpointError(
            f"{name}: holds an object of {show(path)}{more}, first in {_short(place) or 'its place'}, which is "
            f"not read as it could run code; make a plain copy of it: fairseq-cloze clean {shlex.quote(name)} plain.pt"
        ) from error
    except Exception as error:  # the parsers of pickles and of zip files raise many kinds for damaged files
        size, reason = file.seek(0, os.SEEK_END), show(first_line(error), 200)
        raise CheckpointError(
            f"{name}: cannot be read as a checkpoint, {size:,} bytes ({reason}); "
            "the file is truncated, damaged or no PyTorch file, copy it again"
        ) from error


def _short(place: str) -> str:
    """A place in a checkpoint, for messages; weights go by their own names."""
    return show(place.removeprefix("model."), 120)


#: Prefixes of what is a model's, under names of all times, and types that it may have.
_MODEL = ("encoder.", "decoder.", HEADS)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _check_weight(key: Any, value: Any, name: str) -> None:
    plain = isinstance(key, str) and isinstance(value, Tensor)
    if plain and key.startswith(_MODEL):
        plain = value.dtype in _FLOATS and value.dim() in (1, 2) and value.numel() > 0
    if not plain:
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(
            f"{name}: weight {show(key, 120)}: expected one or two dimensions of floating-point numbers, "
            f"found {found}; take the original file"
        )


def upgraded_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights under today's names, without dead copies; ``CheckpointError`` unless of an encoder and LM head.

    Releases of 2019 call the encoder ``decoder`` and its norm otherwise, and join the projections for attention.
    """
    out = {}
    for key, value in weights.items():
        _check_weight(key, value, name)
        if DEAD_PARAMETER.fullmatch(key):
            continue
        key = re.sub(r"^decoder\.", "encoder.", key).replace(".emb_layer_norm.", ".layernorm_embedding.")
        joined = re.fullmatch(r"(.*\.self_attn\.)in_proj_(weight|bias)", key)
        if joined:
            if len(value) % 3:
                raise CheckpointError(
                    f"{name}: weight {key}: expected three parts of one size, found {len(value)} rows"
                )
            for projection, part in zip("qkv", value.chunk(3)):
                out[f"{joined[1]}{projection}_proj.{joined[2]}"] = part
        else:
            out[key] = value
    for needed, what in ((f"{ENCODER}embed_tokens.weight", "encoder"), (f"{LM_HEAD}dense.weight", "LM head")):
        if needed not in out or out[needed].dim() != 2:
            raise CheckpointError(
                f"{name}: expected a masked LM of fairseq or of this project, found no {what} ({needed})"
            )
    return out
