"""``tokenizer.json`` from strangers: known, or refused by what is not."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.data.tokenizer_file import TokenizerFile
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import ClozeError

SPECIAL = {"begin": "[CLS]", "pad": "[PAD]", "end": "[SEP]", "unknown": "[UNK]", "mask": "[MASK]"}
WORDS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "a", "##b", "b", "c"]


def flags(token: str, number: int, **others: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **plain, "special": True, **others}


def wordpiece(**model: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "added_tokens": [flags(token, number) for number, token in enumerate(WORDS[:5])],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {token: at for at, token in enumerate(WORDS)}, **model},
    }  # fmt: skip


def unigram(**changes: Any) -> dict[str, Any]:
    vocab = [*([token, 0.0] for token in WORDS[:5]), ["\u2581", -1.0], ["a", -2.0], ["b", -3.0]]
    return {
        "added_tokens": [flags("[MASK]", 4, lstrip=True)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
        **changes,
    }


def refused(content: dict[str, Any]) -> str:
    with pytest.raises(ClozeError) as error:
        TokenizerFile(content, "T")
    assert "\n" not in str(error.value)
    return str(error.value)


def tokens(content: dict[str, Any], text: str) -> list[str]:
    vocabulary = Vocabulary.of(content, 12, SPECIAL, "T")
    return [vocabulary.tokens[row] for row in vocabulary.encode([text])[0]]


def test_what_is_known_encodes() -> None:
    assert tokens(wordpiece(), "Ab, ÁB c") == ["a", "##b", "[UNK]", "a", "##b", "c"]
    assert tokens(unigram(), "ab x") == ["\u2581", "a", "b", "\u2581", "[UNK]"]


CANNOT = "; such a tokenizer cannot be used"


@pytest.mark.parametrize(
    ("part", "value", "problem"),
    [
        (
            "normalizer",
            {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
            'T: normalizer Replace: expected a pattern that is known of pattern, found {"Regex": "(a+)+$"}',
        ),
        (
            "pre_tokenizer",
            {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(x*)*y"}}]},
            'T: pre_tokenizer Split: expected a pattern that is known of pattern, found {"Regex": "(x*)*y"}',
        ),
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\x04\0\0\0\xff\xff\xff\x7f").decode()},
            "T: normalizer Precompiled: expected a sound table of precompiled_charsmap, found a damaged one",
        ),
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": "!!"},
            "T: normalizer Precompiled: expected a sound table of precompiled_charsmap, found a damaged one",
        ),
        ("normalizer", {"type": "Magic"}, "T: normalizer: expected one of BertNormalizer, NFC, NFD, "),
        ("normalizer", [], "T: normalizer: expected a JSON object, found []"),
        (
            "normalizer",
            {"type": "NFC", "strength": 3},
            "T: normalizer NFC: expected no strength, found 3",
        ),
        (
            "normalizer",
            {"type": "BertNormalizer", "lowercase": "yes"},
            "T: normalizer BertNormalizer: expected another value of lowercase, found yes",
        ),
        ("pre_tokenizer", None, "T: pre_tokenizer: expected one for words, as WordPiece has, found none"),
        (
            "pre_tokenizer",
            {"type": "ByteLevel", "add_prefix_space": False},
            "T: pre_tokenizer: expected one for words, as WordPiece has, found ByteLevel",
        ),
        ("model", {"type": "WordLevel"}, "T: the model: expected one of BPE, WordPiece, Unigram, found WordLevel"),
    ],
)
def test_steps(part: str, value: Any, problem: str) -> None:
    text = refused({**wordpiece(), part: value})
    assert text.startswith(problem) and text.endswith(CANNOT)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"vocab": {}}, "T: model.vocab: expected tokens and their numbers, found {}"),
        ({"vocab": {"a": -1}}, "T: expected tokens and their numbers, from 0 to 16,777,216, found -1 for 'a'"),
        ({"vocab": {"a": 1 << 30}}, "T: expected tokens and their numbers, from 0 to 16,777,216, found 1073741824"),
        ({"vocab": {"\ud800": 1}}, "T: expected tokens, found half of a surrogate pair"),
        ({"vocab": {"": 1}}, "T: expected tokens and their numbers, from 0 to 16,777,216, found 1 for ''"),
        ({"vocab": {"[UNK]": 9, "b": 9}}, "T: expected one token for each number, found '[UNK]' and 'b' for 9"),
        ({"unk_token": "<no>"}, "T: expected the unknown token '<no>' in the vocabulary, found none"),
        (
            {"max_input_chars_per_word": 10**9},  # whose work would grow as its square
            "T: model WordPiece: expected another value of max_input_chars_per_word, found 1000000000",
        ),
    ],
)
def test_models(model: dict[str, Any], problem: str) -> None:
    content = wordpiece(**model)
    if "vocab" in model:
        content["added_tokens"] = []
    assert refused(content).startswith(problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model": {"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}}, "T: expected the unknown token '99' in"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "T: model Unigram: expected unk_id, the number of"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", "b"]]}}, "T: model.vocab 0: expected a token and"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0], ["a", 1]]}}, "T: expected each token once, "),
        ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "T: pre_tokenizer: expected Metaspace as the last, as "),
        ({"added_tokens": [3]}, "T: added_tokens: expected tokens with flags, found 3"),
        ({"added_tokens": [flags("a", 2)]}, "T: token 'a' is 6 in the vocabulary, 2 among the added tokens"),
    ],
)
def test_unigrams(change: dict[str, Any], problem: str) -> None:
    assert refused(unigram(**change)).startswith(problem)


def test_a_digest_covers_what_changes_a_token_and_only_that() -> None:
    def digests(content: dict[str, Any], rows: int = 12) -> tuple[str, str]:
        vocabulary = Vocabulary.of(content, rows, SPECIAL, "T")
        return vocabulary.dictionary_digest, vocabulary.tokenizer_digest

    plain = wordpiece()
    dictionary, tokenizer = digests(plain)
    same = copy.deepcopy(plain)
    same["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 0]}
    same["decoder"], same["truncation"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"max_length": 8}
    same["model"]["vocab"] = dict(reversed(list(same["model"]["vocab"].items())))
    same["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "BertNormalizer"}]}
    del same["model"]["max_input_chars_per_word"]
    assert digests(same) == (dictionary, tokenizer)
    assert digests(plain, 13)[0] != dictionary and digests(plain, 13)[1] == tokenizer

    def changed(*path: str, value: Any) -> tuple[bool, bool]:
        content = copy.deepcopy(plain)
        place: Any = content
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        found = digests(content)
        return found[0] != dictionary, found[1] != tokenizer

    assert changed("normalizer", "lowercase", value=False) == (False, True)
    assert changed("normalizer", value=None) == (False, True)
    assert changed("pre_tokenizer", value={"type": "Whitespace"}) == (False, True)
    assert changed("model", "max_input_chars_per_word", value=20) == (False, True)
    vocab = plain["model"]["vocab"]
    assert changed("model", "vocab", value={**vocab, "a": vocab["b"], "b": vocab["a"]}) == (True, False)
    assert changed("model", "vocab", value={**vocab, "new": 9}) == (True, True)
    added = plain["added_tokens"]
    assert changed("added_tokens", value=[*added, flags("  ", 9)]) == (True, True)
    assert changed("added_tokens", value=[*added[:-1], {**added[-1], "lstrip": True}]) == (False, True)
    assert changed("added_tokens", value=[{**added[0], "lstrip": True}, *added[1:]]) == (False, False)


def test_digests_see_scores() -> None:
    content = unigram()
    before = Vocabulary.of(content, 12, SPECIAL, "T").tokenizer_digest
    content["model"]["vocab"][-1][1] = -4.0
    assert Vocabulary.of(content, 12, SPECIAL, "T").tokenizer_digest != before


def test_files_of_a_vocabulary_are_read_back(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of(unigram(), 12, SPECIAL, "T")
    vocabulary.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "vocabulary.json"]
    loaded = Vocabulary.load(tmp_path)
    assert (loaded.files, loaded.order, loaded.digests) == (vocabulary.files, vocabulary.order, vocabulary.digests)
    assert json.loads((tmp_path / "vocabulary.json").read_text()) == {"rows": 12, "special": SPECIAL, "in_order": False}
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == unigram()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rows": "12"}, "vocabulary.json: expected 'rows', a number, 'special', the tokens of begin, pad, end, "),
        ({"rows": 1 << 40}, "vocabulary.json: expected 'rows', a number, 'special', the tokens of begin, pad, end, "),
        ({"in_order": 1}, "vocabulary.json: expected 'rows', a number, 'special', the tokens of begin, pad, end, "),
        ({"special": {}}, "vocabulary.json: expected 'rows', a number, 'special', the tokens of begin, pad, end, "),
        ({"special": {**SPECIAL, "pad": "a\n"}}, "vocabulary.json: expected 'rows', a number, 'special', the tokens "),
        ({"special": {**SPECIAL, "pad": "<no>"}}, "expected the token <no> in the tokenizer, found none; take the "),
        ({"special": {**SPECIAL, "pad": "[CLS]"}}, "vocabulary.json: expected special tokens with a row of their own "),
        ({"rows": 3}, "vocabulary.json: expected special tokens with a row of their own below 3, found the numbers 0"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    Vocabulary.of(unigram(), 12, SPECIAL, "T").save(tmp_path)
    content = json.loads((tmp_path / "vocabulary.json").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ClozeError) as error:
        Vocabulary.load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: {problem}")


def test_two_vocabularies_in_a_folder(tmp_path: Path, vocabulary: Vocabulary) -> None:
    Vocabulary.of(unigram(), 12, SPECIAL, "T").save(tmp_path)
    for name, content in vocabulary.fairseq_files().items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ClozeError) as error:
        Vocabulary.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: tokenizer.json and dict.txt, encoder.json, vocab.bpe are of two vocabularies; move away those "
        "that are not of the weights"
    )
    vocabulary.save(tmp_path)  # takes the other away
    assert Vocabulary.load(tmp_path).digests == vocabulary.digests
