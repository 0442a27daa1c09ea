"""Fuzz: tokenizers of the hub (``KIND/NAME``, new line, bytes): a vocabulary that encodes, or a refusal in a line."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.weights.hub_tokenizer import read_tokenizer
from fairseq_cloze.weights.hub_tokenizer_files import HubTokenizer

from ..support.tokenizers import ALBERT_SPECIAL, save_tokenizer, sentencepiece_model

_HOME = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

#: Kind of a tokenizer → its files that are attacked.
_FILES = {
    "bert-uncased": ("tokenizer.json", "vocab.txt"),
    "xlm-roberta": ("tokenizer.json", "sentencepiece.bpe.model"),
    "albert": ("tokenizer.json", "spiece.model"),
    "camembert": ("sentencepiece.bpe.model",),
    "modernbert": ("tokenizer.json", "tokenizer_config.json"),
}
_BESIDE = ("config.json", "tokenizer_config.json")

_PASSAGE = Passage("p", "p.json", "So _ s_. 中_ \u200b.", (("they", "/"), ("é", "\0"), ("<s>", "[MASK]")), (0, 0, 0))


@cache
def _contents(kind: str) -> dict[str, bytes]:
    folder = Path(_HOME.name, kind)
    model = next((name for name in _FILES[kind] if name.endswith(".model")), None)
    if model is None:
        save_tokenizer(kind, folder)
    else:  # without a table of characters, which is longer than an input may be
        folder.mkdir()
        special = ALBERT_SPECIAL if kind == "albert" else {}
        sentencepiece_model(folder / model, normalization_rule_name="identity", **special)
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        (folder / "tokenizer_config.json").write_text("{}")
        (folder / "tokenizer.json").write_text(json.dumps(HubTokenizer(folder).content))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def seeds() -> list[bytes]:
    """Files with the kind and their names in a line before them."""
    return [f"{kind}/{name}\n".encode() + _contents(kind)[name] for kind, names in _FILES.items() for name in names]


def attack(data: bytes) -> None:
    """A folder with this file is read, and encodes; or it is refused in a line."""
    first, _, content = data.partition(b"\n")
    kind, _, name = first.decode("utf-8", "replace").partition("/")
    if name not in _FILES.get(kind, ()):
        return
    files = {other: _contents(kind)[other] for other in _BESIDE}
    if name == "tokenizer_config.json":
        files["tokenizer.json"] = _contents(kind)["tokenizer.json"]
    folder = Path(tempfile.mkdtemp(dir=_HOME.name))
    try:
        for other, whole in {**files, name: content}.items():
            (folder / other).write_bytes(whole)
        vocabulary, order, _ = read_tokenizer(folder, None, 800)
        assert len(vocabulary) == 800 and (order is None or sorted(order) == list(range(800)))
        tokens = encode_passages([_PASSAGE], vocabulary)["tokens"]
        assert (tokens < 800).all() and np.count_nonzero(tokens == vocabulary.mask) == 3
        vocabulary.decode(tokens.tolist()).encode()
        assert Vocabulary(vocabulary.files, "again").digests == vocabulary.digests
        assert vocabulary.makeshift.shape == (800,) and len(vocabulary.nothing)
        assert len(set(vocabulary.symbols)) == 800
    except ClozeError as error:
        assert "\n" not in str(error)
    finally:
        shutil.rmtree(folder)
