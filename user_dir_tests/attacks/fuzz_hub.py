"""Fuzz: files of Hugging Face folders: configuration, index of shards, files of a tokenizer."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

from safetensors.torch import load

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.weights.hub_files import read_config, read_weights
from fairseq_cloze.weights.hub_tokenizer import read_tokenizer

from ..support.models import save_tiny_hf

_HOME = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

_PLAIN = ("vocab.json", "merges.txt")
#: What is attacked → what lies beside it.
_FILES: dict[str, tuple[str, ...]] = {
    "config.json": ("model.safetensors",),
    "model.safetensors": ("config.json",),
    "model.safetensors.index.json": ("config.json", "shard.safetensors"),
    "vocab.json": ("merges.txt",),
    "merges.txt": ("vocab.json",),
    "tokenizer.json": (),
    "added_tokens.json": _PLAIN,
    "tokenizer_config.json": _PLAIN,
}


@cache
def _contents() -> dict[str, bytes]:
    folder = Path(_HOME.name, "whole")
    save_tiny_hf(folder)
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    contents["shard.safetensors"] = contents["model.safetensors"]
    names = load(contents["model.safetensors"])
    contents["model.safetensors.index.json"] = json.dumps(
        {"weight_map": dict.fromkeys(names, "shard.safetensors")}
    ).encode()
    return contents


def seeds() -> list[bytes]:
    """Files with their names in a line before them."""
    return [name.encode() + b"\n" + _contents()[name] for name in _FILES]


def attack(data: bytes) -> None:
    """A folder with this file is read, or refused in a line."""
    first, _, content = data.partition(b"\n")
    name = first.decode("utf-8", "replace")
    if name not in _FILES:
        return
    folder = Path(tempfile.mkdtemp(dir=_HOME.name))
    try:
        for other in _FILES[name]:
            (folder / other).write_bytes(_contents()[other])
        (folder / name).write_bytes(content)
        if (folder / "config.json").exists():
            read_weights(folder, read_config(folder))
        else:
            read_tokenizer(folder, None, 266)
    except ClozeError as error:
        assert "\n" not in str(error)
    finally:
        shutil.rmtree(folder)
