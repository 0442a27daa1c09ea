from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.data.fairseq_files import DICTIONARY_FILE, ENCODER_FILE, FAIRSEQ_FILES, MERGES_FILE
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.passages.text import BLANK, normalise

from ..support.commands import PASSAGES
from ..support.models import fairseq_ids


def own_ids(vocabulary: Vocabulary, text: str) -> list:
    return vocabulary.encode([text])[0].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    vocabulary.save(folder)
    return folder


def test_learned_size_and_special_rows(vocabulary: Vocabulary) -> None:
    assert len(vocabulary) == 600
    assert vocabulary.symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert (vocabulary.mask, vocabulary.symbols[-1]) == (599, "<mask>")


def test_fairseq_reads_the_same_files_to_the_same_rows(vocabulary: Vocabulary, folder: Path) -> None:
    encode, dictionary = fairseq_ids(folder)
    assert (len(dictionary), dictionary.index("<mask>")) == (len(vocabulary), vocabulary.mask)
    for passage in read_passages([PASSAGES / "valid"]):
        for text in (*BLANK.split(normalise(passage.article)), *sum(passage.candidates, ())):
            assert own_ids(vocabulary, text) == encode(text)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    vocabulary = _shared
    assert vocabulary.decode(own_ids(vocabulary, text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_has_fairseq_rows(text: str) -> None:
    encode = _shared_fairseq
    # fairseq's dictionary splits lines at white space that BPE has already turned into visible characters
    assert own_ids(_shared, text) == (encode(text) if text else [])


@pytest.fixture(scope="module", autouse=True)
def _share(vocabulary: Vocabulary, folder: Path) -> None:
    global _shared, _shared_fairseq
    _shared = vocabulary
    _shared_fairseq = fairseq_ids(folder)[0]


def test_text_that_looks_like_a_special_symbol_is_text(vocabulary: Vocabulary) -> None:
    ids = own_ids(vocabulary, "a <mask> and <s>")
    assert vocabulary.mask not in ids and 0 not in ids
    assert vocabulary.decode(ids) == "a <mask> and <s>"


def test_decode_names_special_symbols(vocabulary: Vocabulary) -> None:
    ids = [0, *own_ids(vocabulary, "She was"), vocabulary.mask, *own_ids(vocabulary, " so."), 2]
    assert vocabulary.decode(ids) == "<s>She was<mask> so.</s>"


def test_nothing_is_a_slash(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode(vocabulary.nothing) == " /"


def test_save_and_load(vocabulary: Vocabulary, folder: Path) -> None:
    loaded = Vocabulary.load(folder)
    assert loaded.files == vocabulary.files
    assert (loaded.dictionary_digest, loaded.tokenizer_digest) == (
        vocabulary.dictionary_digest,
        vocabulary.tokenizer_digest,
    )


def test_digests_see_what_matters_only(vocabulary: Vocabulary) -> None:
    files = vocabulary.fairseq_files()
    encoder = json.loads(files[ENCODER_FILE])
    files[ENCODER_FILE] = json.dumps(dict(reversed(list(encoder.items()))), indent=2).encode()
    rows = files[DICTIONARY_FILE].decode().splitlines()
    files[DICTIONARY_FILE] = "".join(f"{row.split()[0]} 1\n" for row in rows).encode()
    files[MERGES_FILE] = files[MERGES_FILE].replace(b"\n", b"\r\n")
    same = Vocabulary(files, "test")
    assert (same.dictionary_digest, same.tokenizer_digest) == (
        vocabulary.dictionary_digest,
        vocabulary.tokenizer_digest,
    )

    rows[5], rows[6] = rows[6], rows[5]
    swapped = Vocabulary({**vocabulary.fairseq_files(), DICTIONARY_FILE: "\n".join(rows).encode()}, "test")
    assert swapped.dictionary_digest != vocabulary.dictionary_digest
    assert swapped.tokenizer_digest == vocabulary.tokenizer_digest

    merges = vocabulary.fairseq_files()[MERGES_FILE].decode().splitlines()
    merges[1], merges[2] = merges[2], merges[1]
    other = Vocabulary({**vocabulary.fairseq_files(), MERGES_FILE: "\n".join(merges).encode()}, "test")
    assert other.tokenizer_digest != vocabulary.tokenizer_digest
    assert other.dictionary_digest == vocabulary.dictionary_digest


def test_a_dictionary_may_list_the_mask(vocabulary: Vocabulary) -> None:
    rows = vocabulary.fairseq_files()[DICTIONARY_FILE] + b"<mask> 1\n"
    listed = Vocabulary({**vocabulary.fairseq_files(), DICTIONARY_FILE: rows}, "test")
    assert listed.dictionary_digest == vocabulary.dictionary_digest
    first = Vocabulary(
        {**vocabulary.fairseq_files(), DICTIONARY_FILE: b"<mask> 1\n" + vocabulary.fairseq_files()[DICTIONARY_FILE]},
        "test",
    )
    assert (first.mask, len(first)) == (4, 600)


def test_tokens_outside_the_dictionary_are_unknown(vocabulary: Vocabulary) -> None:
    rows = vocabulary.fairseq_files()[DICTIONARY_FILE].decode().splitlines()
    number = json.loads(vocabulary.fairseq_files()[ENCODER_FILE])["x"]
    kept = [row for row in rows if row.split()[0] != str(number)]
    smaller = Vocabulary({**vocabulary.fairseq_files(), DICTIONARY_FILE: "\n".join(kept).encode()}, "test")
    assert own_ids(smaller, "x") == [3]


def change(tmp_path: Path, folder: Path, name: str, content: bytes) -> str:
    target = tmp_path / "changed"
    shutil.copytree(folder, target)
    (target / name).write_bytes(content)
    with pytest.raises(ClozeError) as error:
        Vocabulary.load(target).encode(["text"])
    return str(error.value).replace(str(target), "DIR")


def test_no_folder_of_weights(tmp_path: Path) -> None:
    """A model of Hugging Face, a name on its hub, a tarball: the message has the command that makes a folder of it."""
    (tmp_path / "a model").mkdir()
    (tmp_path / "a model" / "config.json").write_text("{}")
    (tmp_path / "x.tar.gz").write_bytes(b"")
    run = "'fairseq-cloze import-hf"
    other = f"; of a tarball of fairseq's or a name on the Hugging Face hub {run} "
    for path, problem in (
        (
            tmp_path / "a model",
            f"is a model of Hugging Face, from which no training starts; run {run} '{tmp_path}/a model' --out DIR' and "
            "give DIR",
        ),
        (
            Path("bert-none"),
            f"expected a folder of weights, found none{other}bert-none --out DIR' makes one; then give DIR",
        ),
        (
            tmp_path / "x.tar.gz",
            f"expected a folder of weights, found a file{other}{tmp_path}/x.tar.gz --out DIR' makes one; then give DIR",
        ),
    ):
        with pytest.raises(ClozeError) as error:
            Vocabulary.load(path)
        assert str(error.value) == f"{path}: {problem}"


def test_missing_files(tmp_path: Path, folder: Path) -> None:
    (tmp_path / DICTIONARY_FILE).write_bytes((folder / DICTIONARY_FILE).read_bytes())
    with pytest.raises(ClozeError) as error:
        Vocabulary.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: encoder.json and vocab.bpe not found; a folder of weights needs dict.txt, encoder.json, "
        "vocab.bpe (for fairseq's own RoBERTa tarballs, get encoder.json and vocab.bpe from "
        "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/)"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            DICTIONARY_FILE,
            b"12 5\n13\n",
            "DIR: dict.txt, line 2: expected a symbol and a count, found '13'; "
            "take the dict.txt that came with the weights",
        ),
        (DICTIONARY_FILE, b"12 5\n12 4\n", "DIR: dict.txt holds '12' twice; take the one that came with the weights"),
        (
            DICTIONARY_FILE,
            b"the 5\nof 4\n",
            "DIR: dict.txt and encoder.json do not belong together: 0 of 596 BPE tokens stand in the dictionary; "
            "take all three files from the folder of the weights",
        ),
        (
            MERGES_FILE,
            b"#version: 0.2\na b c\n",
            "DIR: vocab.bpe, line 2: expected two tokens with a space between them, found 'a b c'; copy the file again",
        ),
        (
            ENCODER_FILE,
            b"[]",
            "DIR: encoder.json: expected a JSON object from BPE tokens to numbers; copy the file again",
        ),
        (
            ENCODER_FILE,
            b'{"a": 1000000000000}',  # which would take terabytes
            "DIR: encoder.json: expected numbers from 0 to 16,777,216, found 1000000000000 for 'a'; "
            "copy the file again",
        ),
        (
            ENCODER_FILE,
            b'{"a": 0, "a": 1}',
            'DIR: encoder.json: expected each key once, found "a" twice; copy the file again',
        ),
        (
            ENCODER_FILE,
            b'{"\\ud800": 0}',
            "DIR: encoder.json: expected BPE tokens, found half of a surrogate pair; copy the file again",
        ),
        (
            MERGES_FILE,
            b"h e\nh \xff\n",
            "DIR: vocab.bpe, line 2: expected two tokens with a space between them, found 'h \\xff'; "
            "copy the file again",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, folder: Path, name: str, content: bytes, message: str) -> None:
    assert change(tmp_path, folder, name, content) == message


def test_truncated_encoder(tmp_path: Path, folder: Path) -> None:
    content = (folder / ENCODER_FILE).read_bytes()[:100]
    assert change(tmp_path, folder, ENCODER_FILE, content).startswith(
        "DIR: encoder.json: expected JSON, found a mistake in line 1, column 101 ("
    )


def test_merges_of_another_bpe(tmp_path: Path, folder: Path) -> None:
    text = change(tmp_path, folder, MERGES_FILE, b"#version: 0.2\nq x\nqx q\n")
    assert text.startswith("DIR: vocab.bpe and encoder.json do not belong together (")
    assert text.endswith("; take all three files from the folder of the weights")


def test_too_small_to_learn() -> None:
    with pytest.raises(ClozeError) as error:
        Vocabulary.learn(["text"], 200)
    assert str(error.value) == "a byte-level BPE needs at least 262 rows, 200 were asked for"


def test_files_are_three() -> None:
    assert FAIRSEQ_FILES == ("dict.txt", "encoder.json", "vocab.bpe")


def test_encoding_is_integer_rows(vocabulary: Vocabulary) -> None:
    rows = vocabulary.encode(["", "to"])
    assert [row.dtype for row in rows] == [np.int64, np.int64]
    assert (rows[0].shape, rows[1].shape) == ((0,), (2,))
