from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.watch.records import (
    append_record,
    best_of,
    draw,
    fell_to_chance,
    has_stalled,
    known_files,
    misfit,
    read_validation,
    scores_of,
    table,
    write_table,
)


def score(updates: Any, accuracy: float, **more: Any) -> dict[str, Any]:
    """A line about a checkpoint."""
    return {
        "checkpoint": f"checkpoint_1_{updates}.pt",
        "split": "valid",
        "data": "d1",
        "data_bin": "/data-bin",
        "content": f"c{updates}",
        "epoch": 1,
        "updates": updates,
        "accuracy": accuracy,
        "accuracy_one_token": accuracy,
        "accuracy_multi_token": None,
        "mrr": 0.5,
        "chance": 25.0,
        "n_blanks": 100,
        **more,
    }


def test_lines_survive_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    lines: list[str] = []
    assert read_validation(path) == []
    append_record(path, score(1, 30.0, note="\u2028 ü"))
    with open(path, "ab") as file:
        file.write(b'{"checkpoint": "b')  # killed here
    assert read_validation(path, lines.append) == [score(1, 30.0, note="\u2028 ü")]
    for number in (2, 3):
        append_record(path, score(number, 40.0))
    with open(path, "ab") as file:
        file.write(b"[1]\n\xff\xfe\n")
    assert [record["updates"] for record in read_validation(path, lines.append)] == [1, 2, 3]
    end = "it is passed over, and stays there"
    mistake = "expected JSON, found a mistake in line 1, column 16 (Unterminated string starting at)"
    assert lines == [
        f"{path}, line 2: cannot be used ({mistake}); {end}",
        f"{path}, line 2: cannot be used ({mistake}); {end}",
        f"{path}, line 5: cannot be used (it is no JSON object); {end}",
        f"{path}, line 6: cannot be used (expected UTF-8 text, found UTF-16; save the file as UTF-8); {end}",
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"split": None}, "expected 'split', a text, found none"),
        ({"checkpoint": 3}, "expected 'checkpoint', a text, found 3"),
        ({"accuracy": "30"}, "expected 'accuracy', a number from 0 to 100, found '30'"),
        ({"accuracy": 100.5}, "expected 'accuracy', a number from 0 to 100, found 100.5"),
        ({"accuracy": True}, "expected 'accuracy', a number from 0 to 100, found True"),
        ({"chance": None}, "expected 'chance', a number from 0 to 100, found none"),
        ({"n_blanks": 0}, "expected 'n_blanks', a whole number above 0, found 0"),
        ({"updates": 1.5}, "expected 'updates', a whole number, found 1.5"),
        ({"aliases": "ab"}, "expected 'aliases', a list of texts, found 'ab'"),
        ({"file": {"inode": 1}}, "expected 'file', inode, size, mtime_ns, found {'inode': 1}"),
        ({"mrr": []}, "expected 'mrr', a number, found []"),
        ({"epoch": None, "updates": None, "mrr": None}, ""),
        ({"error": "x", "accuracy": None, "split": None}, ""),
        ({"error": "x", "split": None}, "expected 'split', a text, found none"),
    ],
)
def test_what_does_not_fit(fields: dict[str, Any], problem: str) -> None:
    assert misfit({**score(1, 30.0), **fields}) == problem


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Kept as they are; shown with their bytes escaped."""
    path = tmp_path / "validation.jsonl"
    name = os.fsdecode(b"checkpoint_caf\xe9\n.pt")
    append_record(path, score(1, 30.0, checkpoint=name, data_bin=os.fsdecode(b"/d\xe9")))
    [record] = read_validation(path)
    assert os.fsencode(record["checkpoint"]) == b"checkpoint_caf\xe9\n.pt"
    path.read_text()
    assert table([record]) == (
        "valid of /d\\xe9: 100 blanks, chance 25.00%\n"
        "checkpoint               epoch   updates  accuracy %  one token  several     MRR\n"
        "checkpoint_caf\\xe9\\n.pt      1         1       30.00      30.00        -  0.5000  best\n"
    )


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ClozeError, match="cannot be read"):
        read_validation(tmp_path)
    with pytest.raises(ClozeError, match="cannot be written"):
        append_record(tmp_path, {})


def test_scores_of_one_split_and_its_passages() -> None:
    records = [
        score(1, 30.0),
        score(2, 90.0, split="test"),
        score(3, 80.0, data="d2"),
        {"checkpoint": "x.pt", "split": "valid", "data": "d1", "error": "truncated"},
    ]
    assert scores_of(records, "valid", "d1") == records[:1]
    assert scores_of(records, "valid", "d2") == [records[2]]


def test_the_earliest_of_equals_is_best() -> None:
    scores = [score(1, 30.0), score(2, 40.0), score(3, 40.0), score(4, 39.0)]
    assert best_of(scores) is scores[1]
    assert best_of([]) is None


def test_a_stall_is_told_once() -> None:
    stalls = [number for number in range(1, 30) if has_stalled([score(n, 40.0 - n) for n in range(number)])]
    assert stalls == [11]  # the best and ten more
    scores: list[Any] = [score(n, 40.0 - n) for n in range(11)] + [score(11, 50.0)]
    assert not has_stalled(scores)
    assert has_stalled(scores + [score(n, 50.0) for n in range(10)])
    assert not has_stalled([])


def test_chance_is_told_once_per_row() -> None:
    """Of 100 blanks guessing among four gets up to 33.5% right."""

    def told(accuracies: list[float]) -> list[int]:
        scores = [score(number, accuracy) for number, accuracy in enumerate(accuracies)]
        return [number for number in range(len(scores)) if fell_to_chance(scores[: number + 1])]

    assert told([33.0, 33.0, 33.0, 20.0, 33.0]) == [2]
    assert told([33.0, 33.0, 34.0, 33.0, 33.0]) == []
    assert told([34.0, 33.0, 33.0, 33.0, 34.0, 33.0, 33.0, 33.0]) == [3, 7]


def test_what_is_known_of_files() -> None:
    file = {"inode": 1, "size": 2, "mtime_ns": 3}
    unread = {"checkpoint": "y.pt", "split": "valid", "data": "d1", "error": "truncated", "content": None}
    records = [
        score(1, 30.0, file=file),
        {**unread, "file": {**file, "inode": 2}},
        {**unread, "file": {**file, "inode": 3}, "content": "c9", "error": "out of memory"},
        score(4, 30.0, file={**file, "inode": 4}, split="test"),
        score(5, 30.0),
    ]
    assert known_files(records, "valid", "d1") == {(1, 2, 3): "c1", (2, 2, 3): None}


def test_the_table() -> None:
    records = [
        score(1000, 30.0),
        score(20, 41.25),
        score(None, 41.25, checkpoint="checkpoint_best.pt", epoch=None),
        score(30, 50.0, split="test"),
        {"checkpoint": "checkpoint_2_40.pt", "split": "valid", "data": "d1", "error": "truncated", "attempts": 3},
    ]
    assert table(records) == (
        "valid of /data-bin: 100 blanks, chance 25.00%\n"
        "checkpoint            epoch   updates  accuracy %  one token  several     MRR\n"
        "checkpoint_best.pt        -         -       41.25      41.25        -  0.5000\n"
        "checkpoint_1_20.pt        1        20       41.25      41.25        -  0.5000  best\n"
        "checkpoint_1_1000.pt      1     1,000       30.00      30.00        -  0.5000\n"
        "\n"
        "test of /data-bin: 100 blanks, chance 25.00%\n"
        "checkpoint          epoch   updates  accuracy %  one token  several     MRR\n"
        "checkpoint_1_30.pt      1        30       50.00      50.00        -  0.5000  best\n"
        "\n"
        "given up:\n"
        "checkpoint_2_40.pt: truncated\n"
    )
    assert table([]) == ""


def test_table_and_picture_are_made_from_the_lines(tmp_path: Path) -> None:
    for record in (score(10, 30.0), score(20, 40.0)):
        append_record(tmp_path / "validation.jsonl", record)
    records = read_validation(tmp_path / "validation.jsonl")
    write_table(tmp_path, records)
    assert (tmp_path / "validation.txt").read_text() == table(records)
    picture = draw(records, "a run")
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert draw([score(None, 30.0)], "a run") is None
