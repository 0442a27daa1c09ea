"""Answers become keys and filled sheets, and a key is read back as those answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.passages.converting.answering import answer, read_letters
from fairseq_cloze.passages.converting.convert import load
from fairseq_cloze.passages.converting.word import read_word

SHEET = """Passage 1
She (21)____ home (22)____ tea.
It was good.

21. A. go B. went C. goes
22. A. for B. so C. at

Passage 2
He has (23)____ it.

23. A. do B. did C. done
"""
PREDICTED = {"exam:1": ["B", "A"], "exam:2": ["C"]}
KEY = "Answer key\nPassage 1 (exam:1)\n21-22 BA\n\nPassage 2 (exam:2)\n23. C\n"
FILLED = """Passage 1 (exam:1)
She __ 21 went __ home __ 22 for __ tea.
It was good.

Answers: 21-22 BA

Passage 2 (exam:2)
He has __ 23 done __ it.

Answers: 23. C
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exam.txt").write_text(SHEET)
    (tmp_path / "answers.json").write_text(json.dumps(PREDICTED))
    return tmp_path


def test_keys_and_sheets(folder: Path) -> None:
    for to, expected in (("key", KEY), ("sheet", FILLED)):
        said = answer(folder / "answers.json", [folder / "exam.txt"], to, folder / "out.txt")
        assert (folder / "out.txt").read_text() == expected
        assert said == f"2 passages, 3 answers; wrote {folder / 'out.txt'}"
        answer(folder / "answers.json", [folder / "exam.txt"], to, folder / "out.docx")
        document = read_word((folder / "out.docx").read_bytes(), "out.docx")
        assert "\n".join(line.text for line in document.lines) + "\n" == expected.replace("__ ", " ").replace(
            " __", " "
        )


def test_a_key_is_read_back(folder: Path) -> None:
    for name in ("key.txt", "key.docx"):
        answer(folder / "answers.json", [folder / "exam.txt"], "key", folder / name)
        found = {fields["id"]: fields["answers"] for fields, _ in load([folder / "exam.txt"], [folder / name])}
        assert found == PREDICTED


@given(st.lists(st.lists(st.sampled_from("ABC"), min_size=1, max_size=24), min_size=1, max_size=4))
def test_every_key_is_read_back(letters: list[list[str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        passages = [
            {"id": f"p{number}", "article": "a _ " * len(own), "options": [["x", "y", "z"]] * len(own)}
            for number, own in enumerate(letters)
        ]
        (folder / "p.jsonl").write_text("".join(json.dumps(fields) + "\n" for fields in passages))
        predicted = {f"p{number}": own for number, own in enumerate(letters)}
        (folder / "answers.json").write_text(json.dumps(predicted))
        answer(folder / "answers.json", [folder / "p.jsonl"], "key", folder / "key.txt")
        sheet = ""
        for number, own in enumerate(letters):
            sheet += (
                f"Passage {number + 1}\n" + "".join(f"a ({place}) ____ " for place in range(1, len(own) + 1)) + "\n\n"
            )
            sheet += "".join(f"{place}. A. x B. y C. z\n" for place in range(1, len(own) + 1)) + "\n"
        (folder / "p.txt").write_text(sheet)
        found = [fields["answers"] for fields, _ in load([folder / "p.txt"], [folder / "key.txt"])]
        assert found == letters


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(PREDICTED),
        json.dumps(
            {"exam:1": {"answers": ["B", "A"], "probabilities": []}, "exam:2": ["C"], "fairseq_cloze": {"n": 1}}
        ),
        '{"id": "exam:1", "answers": ["B", "A"]}\n{"id": "exam:2", "answers": ["C"]}\n',
    ],
)
def test_what_predict_writes_is_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    assert read_letters(tmp_path / "a.json") == PREDICTED


@pytest.mark.parametrize(
    ("predicted", "problem"),
    [
        ({"exam:1": ["B", "A"]}, "passage 'exam:2': expected 1 answers, found none; predict these passages"),
        ({**PREDICTED, "exam:1": ["B"]}, "passage 'exam:1': expected 2 answers, found 1; predict these passages"),
        ({**PREDICTED, "exam:1": ["B", "D"]}, "passage 'exam:1', blank 2: expected a letter of 3 options, found D"),
        ({**PREDICTED, "x": ["B"]}, "passage 'x': expected one of the passages, found none of this id; give all"),
        ({**PREDICTED, "x": [1]}, "passage 'x': expected a list of letters, found something else; write it with"),
        ([], "expected a JSON object of passages; write it with 'fairseq-cloze predict'"),
    ],
)
def test_answers_of_other_passages_are_refused(predicted: Any, problem: str, folder: Path) -> None:
    (folder / "answers.json").write_text(json.dumps(predicted))
    with pytest.raises(ClozeError) as error:
        answer(folder / "answers.json", [folder / "exam.txt"], "key", folder / "key.txt")
    assert str(error.value).startswith(f"{folder}/answers.json: {problem}")
    assert not (folder / "key.txt").exists()


def test_lines_are_counted_with_those_that_are_blank(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "answers": ["A"]}\n\n\n{"id": "b", oh\n')
    with pytest.raises(ClozeError, match=r"/a\.jsonl, line 4: expected JSON"):
        read_letters(tmp_path / "a.jsonl")
