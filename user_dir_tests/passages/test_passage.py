"""Checking passages; each anomaly seen in real exam files is a case here, in words of our own."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.errors import SKIP_HINT, NoBlankError, OneTooHighError, PassageError
from fairseq_cloze.passages.passage import LETTERS, UNLABELLED, Passage, letters_of

TWO = ["calm", "cold"]
FOUR = ["calm", "cold", "old", "odd"]


def checked(article: Any = "It was _ .", options: Any = None, **fields: Any) -> Passage:
    """The passage of JSON with these fields, ``...`` standing for none; its source is ``x.json``."""
    fields = {"article": article, "options": [FOUR] if options is None else options, **fields}
    return Passage.from_json({k: v for k, v in fields.items() if v is not ...}, "x.json", "x")


def problem(**fields: Any) -> str:
    with pytest.raises(PassageError) as error:
        checked(**fields)
    return str(error.value)


# -- what has to be read ---------------------------------------------------------------------------------------------


def test_a_plain_passage() -> None:
    passage = checked("It was _ and  _  .", [FOUR, TWO], answers=["C", "A"], source="middle7", level="A2")
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
        ([], (-1,)),
        (None, (-1,)),
        (..., (-1,)),
    ],
)
def test_answers(answers: Any, gold: tuple) -> None:
    assert checked(answers=answers).gold == gold


THIRTY = [f"w{number}" for number in range(30)]


@pytest.mark.parametrize(("answer", "gold"), [("Z", 25), ("AA", 26), (" ad ", 29), ("Ab", 27), (29, 29), (0, 0)])
def test_answers_of_many_options(answer: Any, gold: int) -> None:
    """After Z comes AA, as in spreadsheets."""
    assert checked(options=[THIRTY], answers=[answer]).gold == (gold,)


def test_letters() -> None:
    assert len(LETTERS) == len(set(LETTERS)) == 127
    assert (LETTERS[0], LETTERS[25], LETTERS[26], LETTERS[51], LETTERS[52], LETTERS[126]) == (
        *("A", "Z", "AA", "AZ", "BA", "DW"),
    )
    assert [letters_of(count) for count in (2, 26, 27, 30)] == ["A-B", "A-Z", "A-Z or AA", "A-Z or AA-AD"]


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
    assert checked(options=[options]).candidates == (candidates,)


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
    passage = checked(article)
    assert passage.article == article
    assert len(passage.gold) == 1


def test_a_number_between_two_runs_leaves_two_blanks() -> None:
    assert len(checked("a deal of _ 48 _ : the", [FOUR, FOUR]).gold) == 2


def test_numbers_of_options_may_differ() -> None:
    passage = checked("_ and _", [TWO, FOUR], answers=["B", "D"])
    assert [len(choices) for choices in passage.candidates] == [2, 4]


def test_ranks_give_gold() -> None:
    passage = checked(ranks=[[0, 2, 1, 0.5]])
    assert (passage.gold, passage.ranks) == ((1,), ((0.0, 2.0, 1.0, 0.5),))


def test_ranks_and_answers() -> None:
    assert checked(ranks=[[2, 2, 1, 0]], answers=["B"]).gold == (1,)
    passage = checked("_ and _", [TWO, FOUR], ranks=[[999_999, -999_999], [0, 0, 0, 1]], answers=["A", "D"])
    assert passage.gold == (0, 3)


def test_answers_that_are_numbers_are_remembered() -> None:
    assert checked("_ and _ and _", [TWO, FOUR, FOUR], answers=[1, "C", 3]).lowest == 1
    with pytest.raises(OneTooHighError) as error:
        checked("_ and _", [TWO, FOUR], answers=[0, 4])
    assert error.value.lowest == 0


def test_what_looks_like_a_blank_beside_as_many_blanks_as_options_is_text() -> None:
    assert checked("It was _ [1].").candidates == (tuple(FOUR),)


def test_many_blanks() -> None:
    passage = checked("_ " * 300, [TWO] * 300, answers=["B"] * 300, ranks=[[0, 1]] * 300)
    assert (len(passage.candidates), passage.gold) == (300, (1,) * 300)


def test_a_passage_stays_as_it_was_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        checked().article = "It was."  # type: ignore[misc]


def test_own_id() -> None:
    assert checked(id="exam-7").id == "exam-7"
    assert checked(id=7).id == "7"


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
            "x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found 4; numbers "
            "are counted from 0: if yours begin with 1, subtract 1 from each",
        ),
        (
            {"answers": [-1]},
            "x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found -1",
        ),
        *(
            (
                {"answers": [answer]},
                f"x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found {shown}",
            )
            for answer, shown in (
                ("", '""'),
                ("AB", '"AB"'),
                ("x" * 58, '"' + "x" * 58 + '"'),
                ("x" * 59, '"' + "x" * 56 + "..."),
            )
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
        ({"options": [["one"]]}, "x.json: blank 1, field 'options': expected a list of 2 to 127 strings, found 1"),
        (
            {"options": [[str(number) for number in range(128)]]},
            "x.json: blank 1, field 'options': expected a list of 2 to 127 strings, found 128",
        ),
        (
            {"options": [THIRTY], "answers": ["AE"]},
            "x.json: blank 1, field 'answers': expected a letter A-Z or AA-AD or a number 0-29 for 30 options, found "
            '"AE"',
        ),
        ({"options": ["ab"]}, "x.json: blank 1, field 'options': expected a list of 2 to 127 strings, found \"ab\""),
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
            {"ranks": [[1, 2, 1e6, 0]]},
            "x.json: blank 1, field 'ranks': expected 4 finite numbers, one per option, found [1, 2, 1000000.0, 0]",
        ),
        (
            {"ranks": [[1, 2, True, 0]]},
            "x.json: blank 1, field 'ranks': expected 4 finite numbers, one per option, found [1, 2, true, 0]",
        ),
        (
            {"ranks": [[1, 2, 0, 0]], "answers": ["A"]},
            "x.json: blank 1, field 'answers': expected the candidate of the highest rank (B), found A",
        ),
        (
            {"article": "_ _", "options": [TWO, FOUR], "ranks": [[1, 0], [0, 0, 1, 0]], "answers": ["A", "D"]},
            "x.json: blank 2, field 'answers': expected the candidate of the highest rank (C), found D",
        ),
        (
            {"ranks": [[1, 2, 3, 4, 5]]},
            "x.json: blank 1, field 'ranks': expected 4 finite numbers, one per option, found [1, 2, 3, 4, 5]",
        ),
        ({"id": ["a"]}, "x.json: field 'id': expected a string, found [\"a\"]"),
        (
            {"id": "a\udcff"},
            "x.json: field 'id': expected Unicode text, found half of a surrogate pair (\\udcff)",
        ),
        (
            {"answers": ["\ud800"]},
            "x.json: blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found \"\\ud800\"",
        ),
        (
            {"article": "She [MASK] home (1)."},
            "x.json: field 'article': expected a blank, a run of underscores, for what stands in 'options', found "
            "none; the text holds 1 '[MASK]': if it stands for the blank, give --blank '\\[MASK\\]'",
        ),
        (
            {"article": "She went home.", "options": [], "answers": ["A"]},
            "x.json: field 'article': expected a blank, a run of underscores, for what stands in 'answers', found none",
        ),
        (
            {"article": "She _ home (...) and {{slept}}.", "options": [FOUR, FOUR]},
            "x.json: field 'options': expected a list of 1, one entry for the blank in 'article', found 2; "
            "if '{{slept}}' stands for one, write _ in its place",
        ),
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


def test_the_hint_says_what_to_do() -> None:
    assert SKIP_HINT == "mend the passage, or pass --on-error skip to leave such passages out"


def test_no_blank_is_an_error_of_its_own() -> None:
    with pytest.raises(NoBlankError) as error:
        checked("No gap here.", [])
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
        passage = Passage.from_json(json.loads(json.dumps(fields)), "x.json", "x")
    except PassageError as error:
        assert str(error).startswith("x.json: ")
    else:
        assert len(passage.candidates) == len(passage.gold) > 0
        assert all(UNLABELLED <= gold < len(row) for gold, row in zip(passage.gold, passage.candidates))
