from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.watch.records import (
    append_record,
    best_of,
    data_digest,
    draw,
    fell_to_chance,
    has_stalled,
    known_files,
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
    assert read_validation(path) == []
    append_record(path, {"checkpoint": "a.pt", "note": "\u2028 ü"})
    with open(path, "ab") as file:
        file.write(b'{"checkpoint": "b')  # killed here
    assert read_validation(path) == [{"checkpoint": "a.pt", "note": "\u2028 ü"}]
    append_record(path, {"checkpoint": "c.pt"})
    append_record(path, {"checkpoint": "d.pt"})
    assert [record["checkpoint"] for record in read_validation(path)] == ["a.pt", "c.pt", "d.pt"]
    assert path.read_bytes().count(b"\n") == 4
    with open(path, "ab") as file:
        file.write(b"[1]\n\xff\xfe\n")
    assert len(read_validation(path)) == 3


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
    records = write_table(tmp_path)
    assert (tmp_path / "validation.txt").read_text() == table(records)
    picture = draw(records, "a run")
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert draw([score(None, 30.0)], "a run") is None


def test_the_digest_is_of_passages_and_vocabulary(data_bin: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "elsewhere"
    shutil.copytree(data_bin, copy)
    digest = data_digest(DataBin(data_bin), "valid")
    assert data_digest(DataBin(copy), "valid") == digest
    assert data_digest(DataBin(data_bin), "test") != digest
    gold = copy / "valid" / "gold.bin"
    content = bytearray(gold.read_bytes())
    content[0] = 1 - min(1, content[0])
    gold.write_bytes(content)
    assert data_digest(DataBin(copy), "valid") != digest
    with pytest.raises(ClozeError, match="no split 'dev', found"):
        data_digest(DataBin(copy), "dev")
