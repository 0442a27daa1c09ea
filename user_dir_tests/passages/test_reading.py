"""Reading passages from files."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import SKIP_HINT, ClozeError, PassageError
from fairseq_cloze.passages.reading import _TOO_LONG, LONGEST, Record, Tally, find_files, parse_record, read_passages

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
FOUR = ["calm", "cold", "old", "odd"]


def record(article: Any = "It was _ .", options: Any = None, **fields: Any) -> Record:
    """A record of source ``x.json``; ``answers`` and others by keyword."""
    fields = {"article": article, "options": [FOUR] if options is None else options, **fields}
    return Record("x.json", "x", json.dumps({k: v for k, v in fields.items() if v is not ...}).encode())


# -- records ---------------------------------------------------------------------------------------------------------


def test_byte_order_mark() -> None:
    data = b"\xef\xbb\xbf" + record().data
    assert parse_record(Record("x.json", "x", data)).article == "It was _ ."


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
        (
            '{"article": "_"}'.encode("utf-16"),
            "x.json: expected UTF-8 text, found UTF-16; save the file as UTF-8",
        ),
        (b'{"article": "_", "article": "_"}', 'x.json: expected each key once, found "article" twice'),
        (b'{"ranks": [[1e999]]}', "x.json: expected a finite number, found 1e999"),
        (b'{"ranks": [[-Infinity]]}', "x.json: expected a finite number, found -Infinity"),
        (
            b'{"answers": [' + b"9" * 5000 + b"]}",
            "x.json: expected a number of at most 1,000 digits, found one of 5,000",
        ),
        (
            b'{"article": ' + b"[" * 993 + b"]" * 993 + b"}",  # which Python reads, and cannot write
            "x.json: expected JSON, found it nested too deeply",
        ),
        (b"[" * 100_000, "x.json: expected JSON, found it nested too deeply"),
    ],
)
def test_not_json(data: bytes, message: str) -> None:
    with pytest.raises(PassageError) as error:
        parse_record(Record("x.json", "x", data))
    assert str(error.value) == f"{message}; {SKIP_HINT}"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            b'{"article": "_"},',
            "expected JSON, found a mistake in line 1, column 17 (Extra data); take away the comma behind the passage, "
            "lines of JSONL have none between them",
        ),
        (
            b'{"article": "_"}\r{"article": "_"}\r',
            "expected JSON, found a mistake in line 1, column 18 (Extra data); another passage begins in the line: end "
            "each with a line feed, a carriage return alone is none",
        ),
        (
            b'{"article":\n',
            "expected JSON, found a mistake in line 1, column 12 (Expecting value); the line ends within a passage: "
            "name the file .json if it holds one passage over several lines",
        ),
    ],
)
def test_what_is_wrong_with_a_line(data: bytes, problem: str) -> None:
    with pytest.raises(PassageError) as error:
        parse_record(Record("x.jsonl, line 1", "x:1", data, is_line=True))
    assert error.value.problem == problem


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
            "expected JSON, found a mistake in line 1, column 2 (Expecting property name enclosed in double quotes); "
            "the line ends within a passage: name the file .json if it holds one passage over several lines",
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


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.ndjson.gz"])
def test_pointers_of_git_lfs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(PassageError) as error:
        list(read_passages([tmp_path]))
    assert error.value.problem == (
        "cannot be read (is a pointer of git lfs, not the file itself; run 'git lfs pull' in its folder, or download "
        "it); check the file"
    )
    tally = Tally()
    assert list(read_passages([tmp_path], "skip", tally)) == [] and len(tally.skipped) == 1


def test_a_pointer_of_git_lfs_from_a_pipe() -> None:
    with pytest.raises(PassageError) as error:
        parse_record(Record("standard input, line 1", "x", POINTER.encode().splitlines(True)[0], None, True))
    assert error.value.problem == (
        "expected JSON, found a pointer of git lfs, not the file itself; run 'git lfs pull' in its folder, or download "
        "it"
    )


def test_damaged_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(ClozeError, match=r"a\.json\.gz: cannot be read \(.*\); check the file"):
        list(read_passages([tmp_path]))
    (tmp_path / "a.json.gz").write_bytes(b"plain text")
    with pytest.raises(ClozeError, match=r"a\.json\.gz: cannot be read \(Not a gzipped file"):
        list(read_passages([tmp_path]))


def test_what_would_be_waited_for(tmp_path: Path) -> None:
    """A pipe or an endless device in a folder is refused; who names a pipe wants it read."""
    (tmp_path / "a.json").write_bytes(record().data)
    for name, kind in (("b.json", "pipe"), ("c.jsonl", "device")):
        odd = tmp_path / name
        os.mkfifo(odd) if kind == "pipe" else odd.symlink_to("/dev/zero")
        with pytest.raises(ClozeError) as error:
            find_files(tmp_path)
        assert str(error.value) == f"{odd}: expected a file, found a {kind}; take it out of the folder"
        if kind == "pipe":
            assert find_files(odd) == [(odd, "b")]
        else:
            with pytest.raises(ClozeError, match=r"c\.jsonl: expected a file, found a device; give a JSON"):
                find_files(odd)
        odd.unlink()
    (tmp_path / "b.json").symlink_to("b.json")
    with pytest.raises(PassageError, match=r"b\.json: cannot be read \(.*Too many levels of symbolic links"):
        list(read_passages([tmp_path]))


def test_a_passage_too_long_for_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq_cloze.passages.reading.LONGEST", 200)
    good = record(answers=["A"]).data
    (tmp_path / "a.jsonl").write_bytes(good + b"\n" + b'"' + b"x" * 1000 + b'"\n' + good)
    (tmp_path / "b.json").write_bytes(b" " * 300)
    tally = Tally()
    assert [item.id for item in read_passages([tmp_path], "skip", tally)] == ["a:1", "a:3"]
    assert [(Path(source).name, reason[:28]) for source, reason in tally.skipped] == [
        ("a.jsonl, line 2", "expected a passage of at mos"),
        ("b.json", "expected a passage of at mos"),
    ]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/d\xff"))
    folder.mkdir()
    (folder / os.fsdecode(b"a\xe9.json")).write_bytes(record(answers=["A"]).data)
    (folder / os.fsdecode(b"b\xe9.json")).write_bytes(b"{")
    tally = Tally()
    assert [item.id for item in read_passages([folder], "skip", tally)] == ["a\\xe9"]
    assert tally.skipped[0][0] == f"{tmp_path}/d\\xff/b\\xe9.json"
    with pytest.raises(ClozeError) as error:
        find_files(folder / "gone")
    assert str(error.value).startswith(f"{tmp_path}/d\\xff/gone: no such file or folder")


def test_what_a_tally_says(tmp_path: Path) -> None:
    """Labelled and unlabelled blanks, two and more a passage; and once a passage is left out after it was counted."""
    three = {"article": "_ and _ and _", "options": [FOUR] * 3}
    lines = [record(**three, answers=["A", "B", "C"]).data, record("_ or _", [FOUR] * 2).data]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    tally = Tally()
    passages = list(read_passages([tmp_path], tally=tally))
    assert tally.summary() == "2 passages, 5 blanks (2 unlabelled), 0 skipped"
    tally.count(passages[0], 2)
    assert (tally.passages, tally.blanks, tally.labelled) == (4, 11, 9)
    tally.count(passages[0], -2)
    tally.leave_out(passages[0], "too long")
    assert tally.summary() == "1 passages, 2 blanks (2 unlabelled), 1 skipped"
    assert tally.skipped == [(f"{tmp_path}/a.jsonl, line 1", "too long")]
    tally.require_passages([tmp_path])
    tally.leave_out(passages[1], "too short")
    with pytest.raises(ClozeError) as error:
        tally.require_passages([tmp_path, "b"])
    assert str(error.value) == (
        f"{tmp_path}, b: expected passages with blanks, found none (0 passages, 0 blanks, 2 skipped; "
        f"skipped {tmp_path}/a.jsonl, line 1: too long)"
    )
    tally = Tally()
    tally.count(passages[0], 100)
    assert tally.summary() == "100 passages, 300 blanks, 0 skipped"


def test_the_longest_passage() -> None:
    assert (LONGEST, _TOO_LONG) == (64 * 1024 * 1024, "expected a passage of at most 64 MB, found more")


# -- answers counted from 1 ------------------------------------------------------------------------------------------


def numbered(folder: Path, *answers: Any) -> str | None:
    """What is said of JSONL with these answers, one a passage."""
    (folder / "a.jsonl").write_bytes(b"\n".join(record(answers=[answer]).data for answer in answers))
    tally = Tally()
    list(read_passages([folder], "skip", tally))
    return tally.numbering.problem()


def test_answers_counted_from_1(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    assert numbered(tmp_path, 1, 3, 4, 2, 4) == (
        f"{file}: expected answers counted from 0, found none that is 0, and one that is as high as the number of "
        f"options ({file}, line 3); subtract 1 from each, or write letters"
    )
    for answers in ((0, 1, 4), (1, 2, 3), (1, 5), ("A", "B", 4), ("E", 1), (4,)):
        assert numbered(tmp_path, *answers) is None


def test_answers_of_one_folder_of_several(tmp_path: Path) -> None:
    """Another folder's zeros prove nothing of this one's."""
    for name, answer in (("a/x", 0), ("a/y", 1), ("b/x", 4), ("b/y", 1)):
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(record(answers=[answer]).data)
    tally = Tally()
    list(read_passages([tmp_path], "skip", tally))
    assert (tally.numbering.problem() or "").startswith(f"{tmp_path / 'b'}: expected answers counted from 0, ")
