"""Reading and checking passages; each anomaly seen in real exam files is a case here, in words of our own."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.errors import SKIP_HINT, ClozeError, NoBlankError, PassageError
from fairseq_cloze.passages.passage import LETTERS, UNLABELLED, Passage
from fairseq_cloze.passages.reading import Record, Tally, find_files, parse_record, read_passages

TWO = ["calm", "cold"]
FOUR = ["calm", "cold", "old", "odd"]


def record(article: Any = "It was _ .", options: Any = None, **fields: Any) -> Record:
    """A record of source ``x.json``; ``answers`` and others by keyword."""
    fields = {"article": article, "options": [FOUR] if options is None else options, **fields}
    return Record("x.json", "x", json.dumps({k: v for k, v in fields.items() if v is not ...}).encode())


def problem(**fields: Any) -> str:
    with pytest.raises(PassageError) as error:
        parse_record(record(**fields))
    return str(error.value)


# -- what has to be read ---------------------------------------------------------------------------------------------


def test_a_plain_passage() -> None:
    passage = parse_record(record("It was _ and  _  .", [FOUR, TWO], answers=["C", "A"], source="middle7", level="A2"))
    assert passage == Passage(
        id="x",
        source="x.json",
        article="It was _ and  _  .",
        candidates=(("calm", "cold", "old", "odd"), ("calm", "cold")),
        gold=(2, 0),
        ranks=None,
    )


@pytest.mark.parametrize(
    ("answers", "gold"),
    [
        (["B"], (1,)),
        (["b"], (1,)),
        ([" D "], (3,)),
        ([0], (0,)),
        ([3], (3,)),
        ([], (UNLABELLED,)),
        (None, (UNLABELLED,)),
        (..., (UNLABELLED,)),
    ],
)
def test_answers(answers: Any, gold: tuple) -> None:
    assert parse_record(record(answers=answers)).gold == gold


@pytest.mark.parametrize(
    ("options", "candidates"),
    [
        (["applying ", " doing", "\tin spite of \n"], ("applying", "doing", "in spite of")),
        (["/", "a", "an", "the"], ("/", "a", "an", "the")),
        (["\\", "a", "an", "the"], ("\\", "a", "an", "the")),
        (["", "a"], ("", "a")),
        (["   ", "a"], ("", "a")),
        (["impetus _", "a_b"], ("impetus _", "a_b")),  # an underscore inside an option is text
        (["worked.", "tried."], ("worked.", "tried.")),
        (["like", "like", "likes"], ("like", "like", "likes")),
        (["English", "english"], ("English", "english")),
        (["it’s", "“so”"], ("it’s", "“so”")),
        (["one", "two", "three", "four", "five"], ("one", "two", "three", "four", "five")),
        (list(LETTERS), tuple(LETTERS)),
    ],
)
def test_options(options: list[str], candidates: tuple) -> None:
    assert parse_record(record(options=[options])).candidates == (candidates,)


@pytest.mark.parametrize(
    "article",
    [
        "gave _31 me",
        "most 69_ of",
        "for years._37 that",
        "this _  (1) that",
        "it took _ 20 minutes",
        "the ___41___ end",
        "[KS5UKS5U] a _ b",
        "one\n\ntwo  \t_ , three\x7f.",
        "“Yes,” she\u3000_ .",
    ],
)
def test_one_blank(article: str) -> None:
    passage = parse_record(record(article))
    assert passage.article == article
    assert len(passage.gold) == 1


def test_a_number_between_two_runs_leaves_two_blanks() -> None:
    assert len(parse_record(record("a deal of _ 48 _ : the", [FOUR, FOUR])).gold) == 2


def test_numbers_of_options_may_differ() -> None:
    passage = parse_record(record("_ and _", [TWO, FOUR], answers=["B", "D"]))
    assert [len(choices) for choices in passage.candidates] == [2, 4]


def test_byte_order_mark() -> None:
    data = b"\xef\xbb\xbf" + record().data
    assert parse_record(Record("x.json", "x", data)).article == "It was _ ."


def test_ranks_give_gold() -> None:
    passage = parse_record(record(ranks=[[0, 2, 1, 0.5]]))
    assert (passage.gold, passage.ranks) == ((1,), ((0.0, 2.0, 1.0, 0.5),))


def test_ranks_and_answers() -> None:
    assert parse_record(record(ranks=[[2, 2, 1, 0]], answers=["B"])).gold == (1,)


def test_own_id() -> None:
    assert parse_record(record(id="exam-7")).id == "exam-7"
    assert parse_record(record(id=7)).id == "7"


# -- what has to be refused, word for word ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"article": "_ a _ b _", "options": [FOUR, FOUR]},
            "x.json: field 'options': expected a list of 3, one entry for each of the 3 blanks in 'article', found 2",
        ),
        (
            {"article": "_ a _", "options": [FOUR, FOUR], "answers": ["A"]},
            "x.json: field 'answers': expected a list of 2, one entry for each of the 2 blanks in 'article', found 1",
        ),
        (
            {"answers": ["E"]},
            "x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found \"E\"",
        ),
        (
            {"answers": [4]},
            "x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found 4",
        ),
        (
            {"answers": [-1]},
            "x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found -1",
        ),
        (
            {"answers": [True]},
            "x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found true",
        ),
        (
            {"article": "_ a _", "options": [FOUR, TWO], "answers": ["A", None]},
            "x.json: blank 2, field 'answers': expected a letter A-B or a number 0-1 for 2 options, found nothing",
        ),
        (
            {"answers": "ABCD"},
            "x.json: field 'answers': expected a list of 1, one entry for the blank in 'article', found \"ABCD\"",
        ),
        ({"article": 5}, "x.json: field 'article': expected a string, found 5"),
        ({"article": ...}, "x.json: field 'article': expected a string, found nothing"),
        (
            {"options": {"A": "x"}},
            "x.json: field 'options': expected a list of 1, one entry for the blank in 'article', found {\"A\": \"x\"}",
        ),
        ({"options": [["one"]]}, "x.json: blank 1, field 'options': expected a list of 2 to 26 strings, found 1"),
        ({"options": ["ab"]}, "x.json: blank 1, field 'options': expected a list of 2 to 26 strings, found \"ab\""),
        ({"options": [["a", 1990]]}, "x.json: blank 1, field 'options': expected strings only, found 1990"),
        (
            {"ranks": [[1, 2]]},
            "x.json: blank 1, field 'ranks': expected 4 finite numbers, one per option, found [1, 2]",
        ),
        (
            {"ranks": [[1, 2, float("nan"), 0]]},
            "x.json: blank 1, field 'ranks': expected 4 finite numbers, one per option, found [1, 2, NaN, 0]",
        ),
        (
            {"ranks": [[1, 2, 0, 0]], "answers": ["A"]},
            "x.json: blank 1, field 'answers': expected the candidate of the highest rank (B), found A",
        ),
        ({"id": ["a"]}, "x.json: field 'id': expected a string, found [\"a\"]"),
        (
            {"article": "half \ud800 _"},
            "x.json: field 'article': expected Unicode text, found half of a surrogate pair (\\ud800)",
        ),
        (
            {"options": [["a", "\udfff"]]},
            "x.json: blank 1, field 'options': expected Unicode text, found half of a surrogate pair (\\udfff)",
        ),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    assert problem(**fields) == f"{message}; {SKIP_HINT}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.json: expected JSON, found a mistake in line 1, column 1 (Expecting value)"),
        (
            b'{"article": "_"}\n{"article": "_"}',
            "x.json: expected JSON, found a mistake in line 2, column 1 (Extra data); "
            "name the file .jsonl if it holds one passage per line",
        ),
        (
            b"[1]",
            "x.json: expected a JSON object with 'article', 'options', 'answers', found [1]",
        ),
        (b'{"article": "caf\xe9 _"}', "x.json: expected UTF-8 text, found byte 0xe9 at offset 16"),
        (b"[" * 100_000, "x.json: expected a passage, found JSON nested too deeply"),
    ],
)
def test_not_json(data: bytes, message: str) -> None:
    with pytest.raises(PassageError) as error:
        parse_record(Record("x.json", "x", data))
    assert str(error.value) == f"{message}; {SKIP_HINT}"


def test_the_hint_says_what_to_do() -> None:
    assert SKIP_HINT == "mend the passage, or pass --on-error skip to leave such passages out"


def test_no_blank_is_an_error_of_its_own() -> None:
    with pytest.raises(NoBlankError) as error:
        parse_record(record("No gap here.", []))
    assert error.value.problem == "no blank: the article holds no underscore"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["article", "options", "answers", "ranks", "id"]), json_values),
    st.none() | st.lists(st.lists(st.text(max_size=5), max_size=5), max_size=3),
)
def test_anything_is_read_or_refused(fields: dict[str, Any], options: list[list[str]] | None) -> None:
    """No input ends in another exception than ours, and what is read is consistent."""
    if options is not None:
        fields = {"article": " _ ".join("x" * (len(options) + 1)), "options": options, **fields}
    try:
        passage = parse_record(Record("x.json", "x", json.dumps(fields).encode()))
    except PassageError as error:
        assert str(error).startswith("x.json: ")
    else:
        assert len(passage.candidates) == len(passage.gold) > 0
        assert all(UNLABELLED <= gold < len(row) for gold, row in zip(passage.gold, passage.candidates))


# -- files -----------------------------------------------------------------------------------------------------------


def test_folder_tree_in_order_with_ids(passage: Callable[..., Path]) -> None:
    for name in ("high/b.json", "high/a.json", "middle/a.json", "c10.json", "c9.json"):
        folder = passage(name, "It was _ .", [FOUR], ["A"])
    root = next(parent for parent in folder.parents if parent.name == "passages")
    (root / "notes.txt").write_text("not a passage")
    (root / ".hidden.json").write_text("{}")
    tally = Tally()
    assert [item.id for item in read_passages([root], tally=tally)] == [
        "c10",
        "c9",
        "high/a",
        "high/b",
        "middle/a",
    ]
    assert (tally.passages, tally.blanks, tally.labelled, tally.skipped) == (5, 5, 5, [])
    assert sorted(Path(name).name for name in tally.ignored_files) == [".hidden.json", "notes.txt"]
    assert tally.summary() == ("5 passages, 5 blanks, 0 skipped, 2 files that are not JSON or JSONL ignored")


def test_links_and_hidden_folders(tmp_path: Path) -> None:
    """Linked folders are read, each folder once, loops end; hidden folders are counted as ignored."""
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    for name in ("middle/a.json", ".ipynb_checkpoints/a-checkpoint.json"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(record(answers=["A"]).data)
    (tmp_path / "elsewhere" / "b.json").write_bytes(record(answers=["A"]).data)
    (root / "high").symlink_to(tmp_path / "elsewhere")
    (root / "middle" / "up").symlink_to(root)
    (root / "again").symlink_to(root / "middle")
    tally = Tally()
    assert [item.id for item in read_passages([root], tally=tally)] == ["high/b", "middle/a"]
    assert [Path(name).name for name in tally.ignored_files] == ["a-checkpoint.json"]


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.json").write_bytes(record().data)
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # what the system does to anybody but root
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ClozeError) as error:
        list(read_passages([tmp_path]))
    assert str(error.value) == f"{tmp_path / 'closed'}: cannot be read (Permission denied); check the folder"


def test_jsonl_and_gzip(tmp_path: Path) -> None:
    lines = [record(f"Line {n} _ .", answers=["A"]).data for n in (1, 2)]
    (tmp_path / "a.jsonl").write_bytes(lines[0] + b"\n\n" + lines[1])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(lines[0]))
    passages = list(read_passages([tmp_path]))
    assert [(item.id, Path(item.source).name) for item in passages] == [
        ("a:1", "a.jsonl, line 1"),
        ("a:3", "a.jsonl, line 3"),
        ("b:1", "b.jsonl.gz, line 1"),
        ("b:2", "b.jsonl.gz, line 2"),
        ("c", "c.json.gz"),
    ]


def test_stop_at_the_first_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(record().data + b"\nnot json\n")
    with pytest.raises(PassageError, match=r"a\.jsonl, line 2: expected JSON, found a mistake in line 1, column 1"):
        list(read_passages([tmp_path / "a.jsonl"]))


def test_skip_counts_and_names(tmp_path: Path) -> None:
    good, bad, empty = record(answers=["A"]), record(answers=["E"]), record("No gap.", [])
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good.data, bad.data, empty.data, b"{"]))
    tally = Tally()
    assert len(list(read_passages([tmp_path], on_error="skip", tally=tally))) == 1
    assert [(Path(source).name, reason) for source, reason in tally.skipped] == [
        (
            "a.jsonl, line 2",
            "blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found \"E\"",
        ),
        ("a.jsonl, line 3", "no blank: the article holds no underscore"),
        (
            "a.jsonl, line 4",
            "expected JSON, found a mistake in line 1, column 2 (Expecting property name enclosed in double quotes)",
        ),
    ]
    assert tally.summary() == "1 passages, 1 blanks, 3 skipped"


def test_a_passage_without_a_blank_never_stops(passage: Callable[..., Path]) -> None:
    path = passage("a.json", "No gap.", [])
    tally = Tally()
    assert list(read_passages([path], tally=tally)) == []
    assert tally.skipped == [(str(path), "no blank: the article holds no underscore")]


def test_same_id_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(record(id="p").data + b"\n" + record(id="p").data)
    with pytest.raises(ClozeError) as error:
        list(read_passages([tmp_path]))
    file = tmp_path / "a.jsonl"
    assert str(error.value) == (
        f"{file}, line 2: passage id 'p' is taken by {file}, line 1; "
        "give each passage its own 'id', or pass the folder above both"
    )


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ClozeError) as error:
        find_files(tmp_path)
    assert str(error.value) == (f"{tmp_path}: expected a folder with .json or .jsonl files, found none; check the path")
    with pytest.raises(ClozeError) as error:
        find_files(tmp_path / "gone")
    assert str(error.value) == (
        f"{tmp_path / 'gone'}: no such file or folder; give a JSON or JSONL file, or a folder of them"
    )
    (tmp_path / "a.txt").write_text("_")
    with pytest.raises(ClozeError) as error:
        find_files(tmp_path / "a.txt")
    assert str(error.value) == (
        f"{tmp_path / 'a.txt'}: expected a name that ends in .json or .jsonl (or .gz after it), found 'a.txt'; "
        "rename the file after its format"
    )


def test_damaged_gzip_is_skipped_and_named(tmp_path: Path) -> None:
    lines = [record(f"Line {n} _ .", answers=["A"]).data for n in (1, 2)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines[0] + b"\n") + b"\x1f\x8b half")
    (tmp_path / "b.json").write_bytes(lines[1])
    tally = Tally()
    assert [item.id for item in read_passages([tmp_path], "skip", tally)] == ["a:1", "b"]
    [(source, reason)] = tally.skipped
    assert source == str(tmp_path / "a.jsonl.gz")
    assert reason.startswith("cannot be read (") and reason.endswith("); check the file")


def test_damaged_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(ClozeError, match=r"a\.json\.gz: cannot be read \(.*\); check the file"):
        list(read_passages([tmp_path]))
    (tmp_path / "a.json.gz").write_bytes(b"plain text")
    with pytest.raises(ClozeError, match=r"a\.json\.gz: cannot be read \(Not a gzipped file"):
        list(read_passages([tmp_path]))
