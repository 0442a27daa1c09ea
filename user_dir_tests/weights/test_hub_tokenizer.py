"""Tokenizers of Hugging Face folders: kept as they are, or refused by what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.families import FAMILIES
from fairseq_cloze.weights.hub_tokenizer import read_tokenizer, tokenizer_files

from ..support.models import save_tiny_hf, tiny_vocabulary
from ..support.tokenizers import KINDS, SCRIPTS, save_tokenizer

ROWS = 266
FLAGS = dict.fromkeys(("special", "single_word", "lstrip", "rstrip", "normalized"), False)
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


def refused(folder: Path, rows: int = ROWS) -> str:
    with pytest.raises(CheckpointError) as error:
        read_tokenizer(folder, None, rows)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "SRC")


def test_all_places_of_a_tokenizer(folder: Path) -> None:
    vocabulary, order, notes = read_tokenizer(folder, None, ROWS)
    assert (vocabulary.symbols, vocabulary.merges) == (tiny_vocabulary().symbols, tiny_vocabulary().merges)
    assert (order, notes) == (list(range(ROWS)), [])


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ({"type": "WhitespaceSplit"}, "WhitespaceSplit"),
        ({"type": "Sequence", "pretokenizers": []}, "none"),
        (None, "none"),
    ],
)
def test_other_pre_tokenizers(whole: Path, step: Any, found: str) -> None:
    edit(whole / "tokenizer.json", pre_tokenizer=step)
    assert refused(whole) == (
        f"SRC/tokenizer.json: pre_tokenizer: expected ByteLevel as the last, as BPE has, found {found}; such a "
        "tokenizer cannot be used"
    )


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
        {**BYTES, "use_regex": False},
        {**BYTES, "add_prefix_space": True},
    ],
)
def test_a_bpe_that_splits_otherwise_is_kept_as_it_is(whole: Path, step: Any) -> None:
    edit(whole / "tokenizer.json", pre_tokenizer=step)
    (whole / "vocab.json").unlink()
    vocabulary, order, notes = read_tokenizer(whole, None, ROWS)
    assert not vocabulary.is_fairseqs and (order, notes) == (list(range(ROWS)), [])
    assert vocabulary.dictionary_digest == tiny_vocabulary().dictionary_digest
    assert vocabulary.tokenizer_digest != tiny_vocabulary().tokenizer_digest


def test_a_sequence_of_one_step_is_that_step(whole: Path) -> None:
    edit(whole / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES]})
    assert read_tokenizer(whole, None, ROWS)[0].symbols == tiny_vocabulary().symbols


@pytest.mark.parametrize(
    ("field", "value"), [("dropout", 0.1), ("byte_fallback", True), ("end_of_word_suffix", "</w>")]
)
def test_other_kinds_of_bpe(whole: Path, field: str, value: Any) -> None:
    content = edit(whole / "tokenizer.json")
    edit(whole / "tokenizer.json", model={**content["model"], field: value})
    shown = value if isinstance(value, str) else json.dumps(value)
    assert refused(whole) == (
        f"SRC/tokenizer.json: model BPE: expected another value of {field}, found {shown}; such a tokenizer cannot be "
        "used"
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
        edit(folder / "tokenizer.json", added_tokens=[*others, {"id": number, "content": token, **FLAGS}])
    else:
        edit(folder / "added_tokens.json", **{token: number})


def test_a_row_without_a_token(folder: Path) -> None:
    numbers = {**tiny_vocabulary().token_rows()}
    del numbers["madeupword0000"]
    for name in ("tokenizer.json", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps(numbers))
    merges = "".join(f"{left} {right}\n" for left, right in tiny_vocabulary().merges)
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    vocabulary, order, _ = read_tokenizer(folder, None, ROWS)
    assert vocabulary.tokens[264] == "madeupword0264" and order == list(range(ROWS))


@pytest.mark.parametrize("token", ["[BLANK]", "New York"])
def test_added_tokens_are_kept(folder: Path, token: str) -> None:
    add(folder, token, ROWS)
    vocabulary, order, notes = read_tokenizer(folder, None, ROWS + 1)
    assert not vocabulary.is_fairseqs and (len(vocabulary), notes) == (ROWS + 1, [])
    assert order is not None and order.index(ROWS) in vocabulary.encode([f"in {token} so"])[0]


def test_an_added_token_with_another_number_than_the_library_gives(whole: Path) -> None:
    add(whole, "New York", ROWS + 3)
    assert refused(whole, ROWS + 9) == (
        f"SRC/tokenizer.json: token 'New York' has number 269 there, 266 where the library reads it; {TAKE}"
    )


def test_an_added_token_in_the_place_of_another(folder: Path) -> None:
    add(folder, "New York", 264)
    (folder / "vocab.json").unlink(missing_ok=True) if (folder / "tokenizer.json").exists() else None
    assert ": expected one token for each number, found 'madeupword0000' and 'New York' for 264; " in refused(folder)


@pytest.mark.parametrize("place", ["added_tokens.json", "tokenizer_config.json"])
def test_the_mask_among_added_tokens(whole: Path, place: str) -> None:
    (whole / "tokenizer.json").unlink()
    numbers = json.loads((whole / "vocab.json").read_text())
    del numbers["<mask>"]
    (whole / "vocab.json").write_text(json.dumps(numbers))
    (whole / "added_tokens.json").unlink()
    assert refused(whole) == f"SRC: expected the token <mask> or [MASK] in the tokenizer, found none; {TAKE}"
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
        "SRC: expected <pad> to be token 1, as pad_token_id of config.json says, found 3; files of the tokenizer and "
        "weights are of two models"
    )


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"a": -1}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found -1 for 'a'"),
        ({"a": 1.5}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found 1.5 for 'a'"),
        ({"a": None}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found None for 'a'"),
        ({"\ud800": 3}, "SRC/vocab.json: expected tokens and their numbers, from 0 on, found 3 for '\\ud800'"),
        ({"a": 10**6}, "SRC: expected 266 tokens at most, as the embedding has rows, found number 1,000,000"),
        ({"a": 10**12}, "SRC: expected tokens and their numbers, from 0 to 16,777,216, found 1000000000000 for 'a'"),
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
        ("a b c\n", "SRC/merges.txt: merge 1: expected two tokens, found a b c; download it again"),
        ("Ġ t\na\n", "SRC/merges.txt: merge 2: expected two tokens, found a; download it again"),
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


# -- written -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "roberta"])
def test_what_is_written_is_read_alike(kind: str, tmp_path: Path) -> None:
    """By transformers, and here: the same tokens with the same numbers, in one text, in two, around a mask."""
    source = save_tokenizer(kind, tmp_path / "hf")
    family = FAMILIES[json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"]]
    rows = max(source.get_vocab().values()) + 3
    vocabulary, order, _ = read_tokenizer(tmp_path / "hf", None, rows)
    files = tokenizer_files(vocabulary, family, 126)
    assert [*files] == ["tokenizer.json", "tokenizer_config.json"]
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family.model_type}))
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert found.model_max_length == 126
    for role in ("cls", "sep", "pad", "unk", "mask", "bos", "eos"):
        for name in (f"{role}_token", f"{role}_token_id"):
            assert getattr(found, name) == getattr(source, name)
    assert found.convert_tokens_to_ids(vocabulary.tokens[4]) == vocabulary.order[4]
    for text in SCRIPTS:
        assert found(text, f"{text} {found.mask_token}.") == source(text, f"{text} {found.mask_token}.")
        assert found(text) == source(text)
    again, order_again, _ = read_tokenizer(tmp_path, None, rows)
    assert again.digests == vocabulary.digests and order_again == order
