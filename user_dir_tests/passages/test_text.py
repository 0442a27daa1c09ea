from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.passages.text import BLANK, capitalise, likely_blank, normalise, opens_sentence, sentence_breaks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a  b\n\nc\td", "a b c d"),
        ("  leading and trailing \n", "leading and trailing"),
        (
            "tired , but happy . Really ? Yes ! One : two ; ( three )",
            "tired, but happy. Really? Yes! One: two; ( three)",
        ),
        ("a\x7fb", "a b"),
        ("ideographic\u3000space and\u00a0no-break", "ideographic space and no-break"),
        ("\ufeffzero\u200bwidth", "zerowidth"),
        ("a share of .5 and ,5", "a share of .5 and ,5"),
        ("“Curly” quotes’ stay", "“Curly” quotes’ stay"),
        ("wait ...", "wait..."),
        ("worked.", "worked."),
        ("", ""),
    ],
)
def test_standard_normalisation(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_no_normalisation_keeps_the_text() -> None:
    read = "".join(["no", "ne"])  # as from a file: equal to the one in the code, and another object
    assert normalise(" a \n , b\x7f", read) == " a \n , b\x7f"


@given(st.text())
def test_normalisation_is_idempotent_and_keeps_blanks(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert len(BLANK.findall(once)) == len(BLANK.findall(text))


@settings(max_examples=1000)
@given(st.text(alphabet="ab1 _\n\t.,\u200b\ufeff\x7f"))
def test_normalisation_keeps_every_blank(text: str) -> None:
    assert len(BLANK.findall(normalise(text))) == len(BLANK.findall(text))


@pytest.mark.parametrize(
    ("article", "runs"),
    [
        ("one _ two", ["_"]),
        ("one ____ two _", ["____", "_"]),
        ("the ___41___ end", ["___41___"]),
        ("_ 20 minutes", ["_"]),
        ("gave _31 me", ["_"]),
        ("most 69_ of", ["_"]),
        ("for years._37 that", ["_"]),
        ("a deal of _ 48 _ : the", ["_", "_"]),
        ("this _  (1) that", ["_"]),
        ("__(1)__ x", ["__", "__"]),
        ("no blank", []),
    ],
)
def test_blanks(article: str, runs: list) -> None:
    assert BLANK.findall(article) == runs


def test_sentence_breaks() -> None:
    article = 'It rained. _ stayed! "Why?" he asked. No. 5 (see e.g. that) was 3.5 km away... Then "(so)" ended.'
    breaks = sentence_breaks(article)
    pieces = [article[a:b] for a, b in zip([0, *breaks], [*breaks, len(article)])]
    assert pieces == [
        "It rained.",
        " _ stayed!",
        ' "Why?" he asked.',
        " No.",
        " 5 (see e.g. that) was 3.5 km away...",
        ' Then "(so)" ended.',
    ]


@given(st.text(alphabet="aB_.! \n\"'"))
def test_sentence_breaks_stand_between_an_end_and_white_space(text: str) -> None:
    for position in sentence_breaks(text):
        assert text[position].isspace() and not text[position - 1].isspace()


@pytest.mark.parametrize(
    ("article", "mark"),
    [
        ("She ... home (a) [1] <b> ( 7 ).", "[1]"),  # the surest, wherever it stands
        ("She {{went}} [ mask ] home.", "[ mask ]"),
        ("She {{" + "x" * 40 + "}} home.", "{{" + "x" * 38),  # forty characters of it
        ("She {{" + "x" * 41 + "}} home, then.", None),
    ],
)
def test_likely_blanks(article: str, mark: str | None) -> None:
    assert likely_blank(article) == (f"; if '{mark}' stands for one, write _ in its place" if mark else "")


@pytest.mark.parametrize(
    ("before", "expected"),
    [("", True), ("  ", True), ("It rained. ", True), ("Really?", True), ("It rained, ", False), ("He said: ", False)],
)
def test_opens_sentence(before: str, expected: bool) -> None:
    assert opens_sentence(before) is expected


@given(st.text(alphabet='a.!?… \n\x1c\u3000\x85_"', max_size=12))
def test_opens_sentence_is_what_a_search_from_the_start_says(before: str) -> None:
    assert opens_sentence(before) == bool(re.search(r"[.!?]\s*\Z|\A\s*\Z", before))


def test_capitalise() -> None:
    assert [capitalise(word) for word in ("however", "USA", "in spite of", "", "éclair")] == [
        "However",
        "USA",
        "In spite of",
        "",
        "Éclair",
    ]
