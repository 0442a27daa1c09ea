from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.ranking.answers import PassagePrediction, write_predictions
from fairseq_cloze.ranking.compare import compare
from fairseq_cloze.statistics import paired_interval

from ..support.commands import run


def write(path: Path, **passages: Any) -> Path:
    """A prediction file: per passage its answers and its gold, as strings; ``-`` in gold is an unlabelled blank."""
    made = {
        key: PassagePrediction(list(answers), [None if letter == "-" else letter for letter in gold])
        for key, (answers, gold) in passages.items()
    }
    write_predictions(path, made)
    return path


# -- two files -------------------------------------------------------------------------------------------------------


def test_whole_output(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", x=("AABBC", "ABCBC"), y=("AA", "BA"), z=("CD", "-D"))
    b = write(tmp_path / "b.json", z=("DD", "-D"), y=("BB", "BA"), x=("ABCBA", "ABCBC"))
    done = run("fairseq-cloze", "compare", a, b, "--json", tmp_path / "out.json")
    # x: A right in 1, 4, 5; B in 1, 2, 3, 4.  y: A right in 2, B in 1.  z: the first is unlabelled, both right in 2.
    low, high = (100 * bound for bound in paired_interval(2, 3, 8))
    assert done.text.splitlines() == [
        f"A {a}",
        f"B {b}",
        "                        accuracy %    blanks",
        "A                            62.50         8",
        "B                            75.00         8",
        "both right                   37.50         3",
        "only A right                 25.00         2",
        "only B right                 37.50         3",
        "both wrong                    0.00         0",
        f"B - A +12.50 points, 95% interval {low:+.2f} to {high:+.2f}",
        "McNemar's exact test over 5 blanks: p = 1.0000",
        "exact sign-flip test over 1 passages: p = 1.0000",
        "1 blanks are unlabelled and count for nothing above",
        "B is ahead, but it may be luck: two equally good models would differ as much in 100% of comparisons. "
        "Only 1 passages differ, too few to tell: take more.",
    ]
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "a": str(a),
        "b": str(b),
        "n_passages": 3,
        "n_blanks": 8,
        "n_unlabelled": 1,
        "accuracy_a": 62.5,
        "accuracy_b": 75.0,
        "both_right": 3,
        "only_a": 2,
        "only_b": 3,
        "both_wrong": 0,
        "difference": 12.5,
        "interval_low": pytest.approx(low),
        "interval_high": pytest.approx(high),
        "n_passages_differ": 1,
        "p_blanks": 1.0,
        "p_passages": 1.0,
    }


def test_what_the_verdict_says(tmp_path: Path) -> None:
    def verdict(*passages: str) -> str:
        """Per passage its blanks: B has ``+`` right and A ``-``; ``=`` is right in both."""
        gold = {f"p{number}": "A" * len(text) for number, text in enumerate(passages)}
        answers_a = {f"p{number}": text.translate(PLUS) for number, text in enumerate(passages)}
        answers_b = {f"p{number}": text.translate(MINUS) for number, text in enumerate(passages)}
        a = write(tmp_path / "a.json", **{key: (answers_a[key], gold[key]) for key in gold})
        b = write(tmp_path / "b.json", **{key: (answers_b[key], gold[key]) for key in gold})
        return compare(a, b).verdict()

    PLUS, MINUS = str.maketrans("+-=", "BAA"), str.maketrans("+-=", "ABA")
    assert verdict("+-", "==") == "A and B have the same number of blanks right."
    assert verdict(*["+"] * 6) == (
        "B is better, and hardly by luck: two equally good models would differ as much in 3.12% of comparisons."
    )
    assert verdict(*["-"] * 40) == (
        "A is better, and hardly by luck: two equally good models would differ as much in fewer than 0.01% of "
        "comparisons."
    )
    assert verdict(*["+"] * 5, "=") == (
        "B is ahead, but it may be luck: two equally good models would differ as much in 6.25% of comparisons. "
        "Only 5 passages differ, too few to tell: take more."
    )
    assert verdict(*["+"] * 5, "-") == (
        "B is ahead, but it may be luck: two equally good models would differ as much in 21.9% of comparisons."
    )
    assert verdict(*["+"] * 6, *["-"] * 4) == (
        "B is ahead, but it may be luck: two equally good models would differ as much in 75.4% of comparisons."
    )


def test_one_passage_is_no_evidence(tmp_path: Path) -> None:
    """Twenty blanks of one passage: McNemar takes them for twenty proofs, the test over passages for one."""
    a = write(tmp_path / "a.json", x=("A" * 20, "B" * 20), y=("B", "B"))
    b = write(tmp_path / "b.json", x=("B" * 20, "B" * 20), y=("B", "B"))
    result = compare(a, b)
    assert result.p_blanks == pytest.approx(2 / 2**20)
    assert result.p_passages == 1.0
    assert result.verdict().startswith("B is ahead, but it may be luck")


LETTER = st.sampled_from("ABCD")
BLANK = st.tuples(LETTER, LETTER, st.none() | LETTER)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), st.lists(BLANK, max_size=6), max_size=5))
def test_swapping_the_files_mirrors_the_result(passages: dict[str, Any]) -> None:
    labelled = [blank for blanks in passages.values() for blank in blanks if blank[2] is not None]
    with TemporaryDirectory() as folder:
        paths = [Path(folder, "a.json"), Path(folder, "b.json")]
        for number, path in enumerate(paths):
            made = {
                key: PassagePrediction([blank[number] for blank in blanks], [blank[2] for blank in blanks])
                for key, blanks in passages.items()
            }
            write_predictions(path, made)
        if not labelled:
            with pytest.raises(ClozeError, match="expected gold beside the answers, found none"):
                compare(*paths)
            return
        there, back = compare(*paths), compare(*reversed(paths))
    assert there.both_right + there.only_a + there.only_b + there.both_wrong == there.n_blanks == len(labelled)
    assert there.accuracy_a == pytest.approx(100 * sum(a == gold for a, _, gold in labelled) / len(labelled))
    assert there.accuracy_b == pytest.approx(100 * sum(b == gold for _, b, gold in labelled) / len(labelled))
    assert there.difference == pytest.approx(there.accuracy_b - there.accuracy_a, abs=1e-9)
    assert there.interval_low <= there.difference <= there.interval_high
    mirrored = replace(
        back,
        a=there.a,
        b=there.b,
        accuracy_a=back.accuracy_b,
        accuracy_b=back.accuracy_a,
        only_a=back.only_b,
        only_b=back.only_a,
        difference=-back.difference,
        interval_low=-back.interval_high,
        interval_high=-back.interval_low,
    )
    assert mirrored == there


# -- files that do not belong together -------------------------------------------------------------------------------

ADVICE = "score the same passages with both models"
GOLD = (
    "expected gold beside the answers, found none; write it from labelled passages with "
    "'fairseq-cloze predict --scores' or 'fairseq-cloze evaluate --predictions'"
)


@pytest.mark.parametrize(
    ("a", "b", "where", "problem"),
    [
        ({"x": ("A", "A"), "y": ("A", "A")}, {"x": ("A", "A")}, "b", f": expected the 2 passages of {{a}}, found 1 of "
         f"them missing, first 'y'; {ADVICE}"),
        ({"x": ("A", "A")}, {"x": ("A", "A"), "z": ("A", "A")}, "a", f": expected the 2 passages of {{b}}, found 1 of "
         f"them missing, first 'z'; {ADVICE}"),
        ({"x": ("AB", "AB")}, {"x": ("A", "A")}, "b", f": passage 'x': expected 2 blanks as in {{a}}, found 1; "
         f"{ADVICE}"),
        ({"x": ("AB", "AC")}, {"x": ("AB", "AB")}, "b", f": passage 'x', blank 2, field 'gold': expected C as in "
         f"{{a}}, found B; {ADVICE}"),
        ({"x": ("AB", "AC")}, {"x": ("AB", "A-")}, "b", f": passage 'x', blank 2, field 'gold': expected C as in "
         f"{{a}}, found none; {ADVICE}"),
        ({"x": ("A", "-")}, {"x": ("A", "A")}, "a", f": {GOLD}"),
        ({"x": ("A", "A")}, {"x": ("A", "-")}, "b", f": {GOLD}"),
    ],
)  # fmt: skip
def test_files_of_different_passages(tmp_path: Path, a: Any, b: Any, where: str, problem: str) -> None:
    names = {"a": write(tmp_path / "a.json", **a), "b": write(tmp_path / "b.json", **b)}
    with pytest.raises(ClozeError) as error:
        compare(names["a"], names["b"])
    assert str(error.value) == f"{names[where]}{problem.format(**names)}"


@pytest.mark.parametrize("content", [None, '{"x": ["A"]}'])
def test_the_command_says_what_is_wrong(tmp_path: Path, content: str | None) -> None:
    a, b = write(tmp_path / "a.json", x=("A", "A")), tmp_path / "b.json"
    expected = f"Error: {b}: no such prediction file; check the path"
    if content is not None:
        b.write_text(content)
        expected = (
            f"Error: {b}: passage 'x': expected an object with answers and gold, found answers alone; write it with "
            "'fairseq-cloze predict --scores' or 'fairseq-cloze evaluate --predictions'"
        )
    assert run("fairseq-cloze", "compare", a, b, code=1).text.splitlines() == [expected]
