"""Tokenizers in other files than ``tokenizer.json`` become what transformers makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.hub_tokenizer import read_tokenizer
from fairseq_cloze.weights.hub_tokenizer_files import HubTokenizer

from ..support.tokenizers import KINDS, save_tokenizer, sentencepiece_model

#: Kinds that come in other files, too, and these.
_FILES = {
    "roberta": ("vocab.json", "merges.txt"),
    "bert-cased": ("vocab.txt",),
    "bert-uncased": ("vocab.txt",),
    "electra": ("vocab.txt",),
    "xlm-roberta": ("sentencepiece.bpe.model",),
    "camembert": ("sentencepiece.bpe.model",),
    "albert": ("spiece.model",),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        save_tokenizer(kind, home / kind)
    return {kind: home / kind for kind in KINDS}


def parts(folder: Path, target: Path, names: tuple[str, ...]) -> Path:
    """A folder with some files of another."""
    target.mkdir()
    for name in ("config.json", "tokenizer_config.json", *names):
        shutil.copy(folder / name, target)
    return target


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_tokenizer(folder, None, 2000)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "SRC")


@pytest.mark.parametrize("kind", list(_FILES))
def test_files_of_each_kind_are_the_same_vocabulary(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    whole, order, notes = read_tokenizer(folders[kind], None, 2000)
    found, same_order, same_notes = read_tokenizer(parts(folders[kind], tmp_path / "a", _FILES[kind]), None, 2000)
    assert (found.tokens, found.special, found.digests) == (whole.tokens, whole.special, whole.digests)
    assert (order, notes) == (same_order, same_notes) == (order, [])


def test_rows_are_sorted(folders: dict[str, Path]) -> None:
    vocabulary, order, _ = read_tokenizer(folders["camembert"], None, 800)
    assert order is not None and vocabulary.order == order and order[:4] == [5, 1, 6, 3]
    assert order[4:8] == [0, 2, 4, 7] and order[-2:] == [799, vocabulary.file.tokens["<mask>"]]
    assert sorted(order) == list(range(800))
    assert vocabulary.tokens[-2:] == ["madeupword0799", "<mask>"]
    assert (vocabulary.symbols[:4], vocabulary.mask) == (["<s>", "<pad>", "</s>", "<unk>"], 799)


def test_cased_weights_without_a_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers lowers them, too."""
    folder = parts(folders["bert-cased"], tmp_path / "a", ("vocab.txt",))
    (folder / "tokenizer_config.json").unlink()
    vocabulary, _, notes = read_tokenizer(folder, None, 2000)
    assert vocabulary.file.normalizer[0]["lowercase"] is True
    assert notes == [
        "no tokenizer_config.json says whether vocab.txt has capitals; texts are put into lower case, as transformers "
        "does then"
    ]


def test_options_of_bert_that_differ(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = parts(folders["bert-cased"], tmp_path / "a", ("tokenizer.json",))
    edit(folder / "tokenizer_config.json", do_lower_case=True)
    vocabulary, _, notes = read_tokenizer(folder, None, 2000)
    assert vocabulary.file.normalizer[0]["lowercase"] is True
    assert notes == [
        "tokenizer.json has lowercase False, tokenizer_config.json has do_lower_case True: took the latter, as "
        "transformers does"
    ]


def test_a_token_twice(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = parts(folders["bert-cased"], tmp_path / "a", ("vocab.txt",))
    with open(folder / "vocab.txt", "a") as file:
        file.write("[CLS]\n")
    assert refused(folder) == "SRC/vocab.txt: expected each token once, found '[CLS]' twice; download it again"


@pytest.mark.parametrize(
    "content", [b"", b"\n\x05hello", b"\xff" * 40, b"\x08\x01", b"\x0a\x00", b"\n\n\n\x04\xff\xff\xff\xff"]
)
def test_no_sentencepiece(folders: dict[str, Path], tmp_path: Path, content: bytes) -> None:
    folder = parts(folders["albert"], tmp_path / "a", ("spiece.model",))
    (folder / "spiece.model").write_bytes(content)
    assert refused(folder).startswith("SRC/spiece.model: ")


def test_sentencepiece_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "albert"}))
    sentencepiece_model(tmp_path / "spiece.model", model_type="bpe")
    assert refused(tmp_path) == (
        "SRC/spiece.model: expected SentencePiece of the kind Unigram, found kind 2; such a tokenizer cannot be used"
    )


def test_a_truncated_sentencepiece(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = parts(folders["xlm-roberta"], tmp_path / "a", ("sentencepiece.bpe.model",))
    content = (folder / "sentencepiece.bpe.model").read_bytes()
    (folder / "sentencepiece.bpe.model").write_bytes(content[: len(content) // 2])
    assert refused(folder) == (
        "SRC/sentencepiece.bpe.model: is no model of SentencePiece, or damaged; copy or download it again"
    )


def test_pieces_of_an_unknown_family(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = parts(folders["xlm-roberta"], tmp_path / "a", ("sentencepiece.bpe.model",))
    edit(folder / "config.json", model_type="t5")
    assert refused(folder) == (
        "SRC: expected the files of a tokenizer (tokenizer.json, vocab.json and merges.txt, vocab.txt, or "
        "sentencepiece.bpe.model or spiece.model), found config.json, sentencepiece.bpe.model, tokenizer_config.json; "
        "for a RoBERTa without them pass --gpt2-bpe and a folder with encoder.json, vocab.bpe and dict.txt"
    )


def test_a_pointer_of_git_lfs(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = parts(folders["modernbert"], tmp_path / "a", ())
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a pointer of git lfs" in refused(folder)


def test_special_tokens_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = parts(folders["modernbert"], tmp_path / "a", ("tokenizer.json",))
    assert HubTokenizer(folder).special("mask_token") == "[MASK]"
    edit(folder / "tokenizer_config.json", mask_token={"content": "<|padding|>"})
    assert read_tokenizer(folder, None, 2000)[0].special["mask"] == "<|padding|>"
