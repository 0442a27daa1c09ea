from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze import register
from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.passages.passage import LETTERS, Passage
from fairseq_cloze.ranking.answers import (
    PassagePrediction,
    gold_of,
    make_predictions,
    read_predictions,
    write_predictions,
)

from ..support.commands import PASSAGES, run

register()

FOUR = ["calm", "cold", "old", "odd"]
MEND = "write it with 'fairseq-cloze predict --scores' or 'fairseq-cloze evaluate --predictions'"


# -- making ----------------------------------------------------------------------------------------------------------


def make_store(vocabulary: Any) -> Store:
    """Two passages: repeated options, gold on the second of two equal ones, and a blank without gold."""
    one = Passage("x/one", "one", "She _ to _ school.", (("went", "go", "went"), ("the", "/", "a", "\\")), (2, 3))
    two = Passage("two", "two", "No _ .", (("way", "use"),), (-1,))
    return Store.from_columns([encode_passages([one, two], vocabulary)], len(vocabulary))


def test_gold_is_the_first_of_equals(vocabulary: Any) -> None:
    assert gold_of(make_store(vocabulary)).tolist() == [0, 1, -1]


def test_predictions_of_a_store_and_their_file(tmp_path: Path, vocabulary: Any) -> None:
    probabilities = np.array([[0.5, 0.25, 0.25, 0], [0.1, 0.2, 0.3, 0.4], [0.12345678, 0.87654322, 0, 0]], np.float32)
    made = make_predictions(make_store(vocabulary), np.array([0, 2, 1]), probabilities)
    assert made == {
        "x/one": PassagePrediction(["A", "C"], ["A", "B"], [[0.5, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]]),
        "two": PassagePrediction(["B"], [None], [[0.123457, 0.876543]]),
    }
    write_predictions(tmp_path / "deep" / "p.json", made)
    assert (tmp_path / "deep" / "p.json").read_text() == (
        "{\n"
        ' "x/one": {"answers": ["A", "C"], "gold": ["A", "B"], '
        '"probabilities": [[0.5, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]]},\n'
        ' "two": {"answers": ["B"], "probabilities": [[0.123457, 0.876543]]}\n'
        "}\n"
    )
    assert read_predictions(tmp_path / "deep" / "p.json") == made


def test_lines_are_read_as_the_object_is(tmp_path: Path, vocabulary: Any) -> None:
    """Written where the name says so; a mistake has its line."""
    made = make_predictions(make_store(vocabulary), np.array([0, 2, 1]), np.full((3, 4), 0.25, np.float32))
    path = tmp_path / "p.jsonl"
    write_predictions(path, made)
    assert path.read_text() == (
        '{"id": "x/one", "answers": ["A", "C"], "gold": ["A", "B"], '
        '"probabilities": [[0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]}\n'
        '{"id": "two", "answers": ["B"], "probabilities": [[0.25, 0.25]]}\n'
    )
    assert read_predictions(path) == made and list(read_predictions(path)) == list(made)
    first = path.read_text().splitlines()[0]
    for line, problem in (
        (first, f": expected each passage once, found 'x/one' twice; {MEND}"),
        ("[]", f": expected an object with a string 'id', found []; {MEND}"),
        ('{"id": "q"}', f": passage 'q': expected an object with a list 'answers', found {{}}; {MEND}"),
        ("{", ": expected JSON, found a mistake in line 1, column 2 (Expecting property name enclosed in double "
              f"quotes); {MEND}"),
    ):  # fmt: skip
        path.write_text(f"{first}\n\n{line}\n")
        with pytest.raises(ClozeError) as error:
            read_predictions(path)
        assert str(error.value) == f"{path}, line 3{problem}"


def test_evaluate_and_predict_write_the_same(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    checkpoint = finetuned / "checkpoint_last.pt"
    done = run(
        "fairseq-cloze", "evaluate", checkpoint, data_bin, "--split", "test", "--predictions", tmp_path / "e.json"
    )
    run("fairseq-cloze", "predict", checkpoint, PASSAGES / "test", "--scores", "--out", tmp_path / "p.json")
    evaluated, predicted = read_predictions(tmp_path / "e.json"), read_predictions(tmp_path / "p.json")
    assert list(evaluated) == list(predicted) and len(evaluated) == 8
    hits = 0
    for key, entry in evaluated.items():
        assert (entry.answers, entry.gold) == (predicted[key].answers, predicted[key].gold)
        rows: list[Any] = [pytest.approx(row, abs=2e-6) for row in predicted[key].probabilities or []]
        assert entry.probabilities == rows
        hits += sum(answer == gold for answer, gold in zip(entry.answers, entry.gold))
    assert f"{'all blanks':24}{100 * hits / 98:10.2f}{98:10}" in done.text


def test_gold_only_where_there_is_some(tmp_path: Path, finetuned: Path, passage: Callable[..., Path]) -> None:
    passage("a.json", "It was _ and _ .", [FOUR, FOUR])
    folder = passage("b.json", "It was _ .", [FOUR], ["C"]).parent
    out = tmp_path / "p.json"
    run("fairseq-cloze", "predict", finetuned / "checkpoint_last.pt", folder, "--scores", "--out", out)
    entries = json.loads(out.read_text())
    assert list(entries) == ["a", "b", "fairseq_cloze"]
    del entries["fairseq_cloze"]
    assert [sorted(entry) for entry in entries.values()] == [
        ["answers", "probabilities"],
        ["answers", "gold", "probabilities"],
    ]
    assert entries["b"]["gold"] == ["C"]


def test_a_prediction_file_that_cannot_be_written(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    """Said before the work, not after it."""
    done = run("fairseq-cloze", "evaluate", finetuned / "gone.pt", data_bin, "--predictions", tmp_path, code=1)
    assert done.text.splitlines()[-1] == f"Error: {tmp_path}: cannot be written (Is a directory); choose another file"


# -- reading ---------------------------------------------------------------------------------------------------------


@st.composite
def passage_predictions(draw: st.DrawFn) -> PassagePrediction:
    counts = draw(st.lists(st.integers(2, 30), max_size=5))
    letters = [LETTERS[:count] for count in counts]
    numbers = st.floats(0, 1)
    return PassagePrediction(
        [draw(st.sampled_from(choices)) for choices in letters],
        [draw(st.none() | st.sampled_from(choices)) for choices in letters],
        draw(st.none() | st.tuples(*(st.lists(numbers, min_size=n, max_size=n) for n in counts)).map(list)),
    )


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), passage_predictions(), max_size=5))
def test_what_is_written_is_read(predictions: dict[str, PassagePrediction]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_predictions(Path(folder, "p.json"), predictions)
        assert read_predictions(Path(folder, "p.json")) == predictions
        assert list(read_predictions(Path(folder, "p.json"))) == list(predictions)


ANSWERS = {"answers": ["A", "B"]}
MISFITS = [
    ("{", f": expected JSON, found a mistake in line 1, column 2 (Expecting property name enclosed in double quotes); "
          f"{MEND}"),
    ('{"p": {"answers": ["A"]}, "p": {"answers": ["B"]}}', f': expected each key once, found "p" twice; {MEND}'),
    ({"p\n": {**ANSWERS, "gole": ["A", "B"]}}, f": passage 'p\\n': expected no other fields than answers, gold, "
                                             f'probabilities, found "gole"; {MEND}'),
    ("[1, 2]", f": expected a JSON object of passages, found [1, 2]; {MEND}"),
    ({"p": ["A"]}, f": passage 'p': expected an object with answers and gold, found answers alone; {MEND}"),
    ({"p": {"gold": ["A"]}}, f": passage 'p': expected an object with a list 'answers', "
                             f'found {{"gold": ["A"]}}; {MEND}'),
    ({"p": {"answers": ["A", "b"]}}, f": passage 'p', blank 2, field 'answers': expected a letter A-Z or AA-DW, "
                                     f'found "b"; {MEND}'),
    ({"p": {**ANSWERS, "gold": ["A"]}}, f": passage 'p', field 'gold': expected a list of 2, one entry per answer, "
                                        f"found 1; {MEND}"),
    ({"p": {**ANSWERS, "gold": "AB"}}, f": passage 'p', field 'gold': expected a list of 2, one entry per answer, "
                                       f'found "AB"; {MEND}'),
    ({"p": {**ANSWERS, "gold": [None, 1]}}, f": passage 'p', blank 2, field 'gold': expected a letter A-Z or AA-DW "
                                            f"or null, found 1; {MEND}"),
    ({"p": {"answers": ["C"], "probabilities": [[0.5, 0.5]]}}, f": passage 'p', blank 1, field 'answers': expected a "
                                                               f'letter A-B, found "C"; {MEND}'),
    ({"p": {"answers": ["A"], "gold": ["C"], "probabilities": [[0.5, 0.5]]}},
     f": passage 'p', blank 1, field 'gold': expected a letter A-B or null, found \"C\"; {MEND}"),
    ({"p": {"answers": ["A"], "probabilities": [[0.5, float("nan")]]}},
     f": expected a finite number, found NaN; {MEND}"),
    ({"p": {"answers": ["A"], "probabilities": [[0.5, 1.5]]}},
     f": passage 'p', blank 1, field 'probabilities': expected 2 to 127 numbers from 0 to 1, found [0.5, 1.5]; {MEND}"),
    ({"p": {"answers": ["A"], "probabilities": []}},
     f": passage 'p', field 'probabilities': expected a list of 1, one entry per answer, found 0; {MEND}"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "problem"), MISFITS)
def test_files_that_do_not_fit(tmp_path: Path, content: Any, problem: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ClozeError) as error:
        read_predictions(path)
    assert str(error.value) == f"{path}{problem}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ClozeError) as error:
        read_predictions(tmp_path / "gone.json")
    assert str(error.value) == f"{tmp_path / 'gone.json'}: no such prediction file; check the path"
    with pytest.raises(ClozeError) as error:
        read_predictions(tmp_path)
    assert str(error.value) == f"{tmp_path}: cannot be read (Is a directory); check the file"
    (tmp_path / "latin.json").write_bytes(b'{"caf\xe9": {}}')
    with pytest.raises(ClozeError, match="latin.json: expected UTF-8 text, found byte 0xe9 at offset 5; write it"):
        read_predictions(tmp_path / "latin.json")
