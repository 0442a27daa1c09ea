"""Tokenizers of Hugging Face folders: kept as they are, or refused by what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.hub_tokenizer import read_tokenizer

from ..support.models import save_tiny_hf, tiny_vocabulary

ROWS = 266
TAKE = "take the tokenizer files that came with the weights"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.fixture(params=["whole", "plain", "both"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    save_tiny_hf(tmp_path / "hf")
    gone = {"whole": ("vocab.json", "merges.txt"), "plain": ("tokenizer.json",), "both": ()}[request.param]
    for name in gone:
        (tmp_path / "hf" / name).unlink()
    return tmp_path / "hf"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    save_tiny_hf(tmp_path / "whole")
    return tmp_path / "whole"


def edit(path: Path, **fields: Any) -> dict[str, Any]:
    content = {**json.loads(path.read_text()), **fields} if path.exists() else fields
    path.write_text(json.dumps(content))
    return content


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_tokenizer(folder, None, ROWS)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "SRC")


def test_all_places_of_a_tokenizer(folder: Path) -> None:
    vocabulary, order, notes = read_tokenizer(folder, None, ROWS)
    assert (vocabulary.symbols, vocabulary.merges) == (tiny_vocabulary().symbols, tiny_vocabulary().merges)
    assert (order, notes) == (list(range(ROWS)), [])


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTES]}, "Sequence of Digits, ByteLevel"),
        ({"type": "WhitespaceSplit"}, "WhitespaceSplit"),
        ({**BYTES, "use_regex": False}, "ByteLevel"),
        ({"type": "Sequence", "pretokenizers": []}, "Sequence of "),
        (None, "none"),
        ([1], "list"),
    ],
)  # fmt: skip
def test_other_pre_tokenizers(whole: Path, step: Any, found: str) -> None:
    edit(whole / "tokenizer.json", pre_tokenizer=step)
    assert refused(whole) == (
        f"SRC/tokenizer.json: expected the pre_tokenizer ByteLevel alone, as RoBERTa has, found {found}; such a model "
        "cannot be imported"
    )


def test_a_sequence_of_one_step_is_that_step(whole: Path) -> None:
    edit(whole / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES]})
    assert read_tokenizer(whole, None, ROWS)[0].symbols == tiny_vocabulary().symbols


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("type", "WordPiece", "BPE, found WordPiece"),
        ("dropout", 0.1, "None, found 0.1"),
        ("ignore_merges", True, "None, found True"),
        ("byte_fallback", True, "None, found True"),
        ("end_of_word_suffix", "</w>", "None, found </w>"),
    ],
)
def test_other_kinds_of_bpe(whole: Path, field: str, value: Any, expected: str) -> None:
    content = edit(whole / "tokenizer.json")
    edit(whole / "tokenizer.json", model={**content["model"], field: value})
    assert refused(whole) == (
        f"SRC/tokenizer.json: expected a byte-level BPE with {field} {expected}; such a model cannot be imported"
    )


def test_two_tokenizers_in_a_folder(whole: Path) -> None:
    """transformers reads ``tokenizer.json``; an older one would be believed."""
    numbers = json.loads((whole / "vocab.json").read_text())
    edit(whole / "vocab.json", a=numbers["b"], b=numbers["a"])
    assert refused(whole) == (
        f"SRC: vocab.json and tokenizer.json differ: token 'a' is {numbers['b']} in the one, {numbers['a']} in the "
        "other; delete the one that is not the model's"
    )
    edit(whole / "vocab.json", a=numbers["a"], b=numbers["b"])
    (whole / "merges.txt").write_text("h e\nĠ t\nĠt he\ni n\n")
    assert refused(whole) == (
        "SRC: the merges of merges.txt and tokenizer.json differ; delete the one that is not the model's"
    )


def add(folder: Path, token: str, number: int) -> None:
    if (folder / "tokenizer.json").exists():
        content = edit(folder / "tokenizer.json")
        others = [entry for entry in content["added_tokens"] if entry["content"] != token]
        edit(folder / "tokenizer.json", added_tokens=[*others, {"id": number, "content": token, "special": False}])
    else:
        edit(folder / "added_tokens.json", **{token: number})


def test_added_markers_are_noted(folder: Path) -> None:
    """Row 264 has no word of the BPE."""
    if (folder / "vocab.json").exists():
        numbers = json.loads((folder / "vocab.json").read_text())
        numbers["[BLANK]"] = numbers.pop("madeupword0000")
        (folder / "vocab.json").write_text(json.dumps(numbers))
    if (folder / "tokenizer.json").exists():
        content = edit(folder / "tokenizer.json")
        del content["model"]["vocab"]["madeupword0000"]
        edit(folder / "tokenizer.json", model=content["model"])
    add(folder, "[BLANK]", 264)
    vocabulary, _, notes = read_tokenizer(folder, None, ROWS)
    assert notes == ["added tokens are not kept, text with them is encoded in pieces: [BLANK]"]
    assert len(vocabulary) == ROWS


def test_added_words_are_refused(folder: Path) -> None:
    (folder / "vocab.json").unlink(missing_ok=True) if (folder / "tokenizer.json").exists() else None
    add(folder, "New York", 264)
    assert refused(folder) == (
        "SRC: expected no tokens but those of the BPE and <s>, <pad>, </s>, <unk>, <mask>, found the added token "
        "'New York'; text with it would be encoded otherwise, so such a model cannot be imported"
    )


@pytest.mark.parametrize("place", ["added_tokens.json", "tokenizer_config.json"])
def test_the_mask_among_added_tokens(whole: Path, place: str) -> None:
    (whole / "tokenizer.json").unlink()
    numbers = json.loads((whole / "vocab.json").read_text())
    del numbers["<mask>"]
    (whole / "vocab.json").write_text(json.dumps(numbers))
    (whole / "added_tokens.json").unlink()
    assert refused(whole) == "SRC: expected the token <mask> in the tokenizer, found none; it is not RoBERTa's"
    if place == "added_tokens.json":
        edit(whole / place, **{"<mask>": 265})
    else:
        edit(whole / place, added_tokens_decoder={"265": {"content": "<mask>", "special": True}})
    assert read_tokenizer(whole, None, ROWS)[0].symbols == tiny_vocabulary().symbols


def test_padding_at_another_number(whole: Path) -> None:
    """Positions would be counted from another row than the weights' configuration says."""
    (whole / "tokenizer.json").unlink()
    edit(whole / "vocab.json", **{"<pad>": 3, "<unk>": 1})
    assert refused(whole) == (
        "SRC: expected <pad> to be token 1, as pad_token_id of config.json says, found 3; positions are counted from "
        "there, so such a model cannot be imported"
    )


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"a": -1}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found -1 for 'a'"),
        ({"a": 1.5}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found 1.5 for 'a'"),
        ({"a": None}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found None for 'a'"),
        ({"\ud800": 3}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found 3 for '?'"),
        ({"a": 10**12}, "SRC: expected 266 tokens at most, as the embedding has rows, found number 1,000,000,000,000"),
        ({"a": 5}, "SRC: expected one token for each number, found '\"' and 'a' for 5"),
    ],
)
def test_numbers_that_are_none(whole: Path, numbers: dict[str, Any], problem: str) -> None:
    (whole / "tokenizer.json").unlink()
    edit(whole / "vocab.json", **numbers)
    assert refused(whole).startswith(f"{problem}; ")


@pytest.mark.parametrize(
    ("merges", "problem"),
    [
        ("a b c\n", "SRC/merges.txt: merge 1: expected two tokens, found a list; download it again"),
        ("Ġ t\na\n", "SRC/merges.txt: merge 2: expected two tokens, found a list; download it again"),
        ("Ġ t\nq z\n", f"SRC: expected a number for 'qz', which a merge names, found none; {TAKE}"),
    ],
)  # fmt: skip
def test_merges_that_are_none(whole: Path, merges: str, problem: str) -> None:
    (whole / "tokenizer.json").unlink()
    (whole / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    assert refused(whole) == problem


@pytest.mark.parametrize("content", ["[]", "3", "{", "", '{"model": 3}', '{"model": {"vocab": [], "merges": 3}}'])
def test_a_tokenizer_json_that_is_none(whole: Path, content: str) -> None:
    (whole / "tokenizer.json").write_text(content)
    assert refused(whole).startswith("SRC/tokenizer.json: ")
