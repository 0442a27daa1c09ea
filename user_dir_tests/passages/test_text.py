from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.passages.choices import LANGUAGES
from fairseq_cloze.passages.text import (
    BLANK,
    MARKED,
    WHITE_SPACE,
    capitalise,
    likely_language,
    normalise,
    opens_sentence,
    sentence_breaks,
)


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Où est-il\u00a0? Là\u202f! Voici\u00a0: oui ; non .", "Où est-il ? Là ! Voici : oui ; non."),
        ("«\u00a0Bonjour\u00a0» , dit-il ( ou _ )", "« Bonjour », dit-il ( ou _)"),
        ("Qu'est-ce? «Rien»", "Qu'est-ce? «Rien»"),  # nothing is put in
    ],
)
def test_french_keeps_its_spaces(text: str, expected: str) -> None:
    assert normalise(text, language="fr") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他 _ 了 一本 书 。", "他_了一本书。"),
        ("“ 你 好 ！ ” 我 ___3___ 说 ： “ 再 见 。 ”", "“你好！”我___3___说：“再见。”"),
        ("我用 Python _ 程序", "我用 Python _程序"),  # beside other letters a space stays
        ("_ _ 了\u3000\u3000\n今天", "_ _了今天"),  # two blanks stay two
        (f"他 {MARKED} 了", f"他{MARKED}了"),
        ("你好 , 世界", "你好, 世界"),
    ],
)
def test_chinese_has_no_spaces(text: str, expected: str) -> None:
    assert normalise(text, language="zh") == expected


@pytest.mark.parametrize("language", LANGUAGES)
@given(st.text() | st.text(alphabet=f"a他。 _1{MARKED}!?»«\u00a0\u3000"))
def test_normalisation_is_idempotent_and_keeps_blanks(language: str, text: str) -> None:
    once = normalise(text, language=language)
    assert normalise(once, language=language) == once
    assert normalise(text, "none", language) == text
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


@pytest.mark.parametrize(
    ("language", "pieces"),
    [
        ("fr", ["Où vas-tu ?", " Il dit : « Viens ! »", " Émile rit… mais _ resta.", " — _ va bien."]),
        ("zh", ["他来了。", "_走了！", "“真的吗？”", "她问……然后笑了！", " 3点见。“好。”"]),
    ],
)
def test_sentence_breaks_of_other_languages(language: str, pieces: list[str]) -> None:
    """In Chinese there is none before an opening mark, and an ellipsis is none."""
    article = "".join(pieces)
    if language == "zh":
        pieces = [pieces[0], pieces[1] + pieces[2], *pieces[3:]]
    breaks = sentence_breaks(article, language)
    assert [article[a:b] for a, b in zip([0, *breaks], [*breaks, len(article)])] == pieces


@pytest.mark.parametrize(
    ("language", "before", "expected"),
    [
        *(("fr", "Il dit : « ", True), ("fr", "« ", True), ("fr", "le mot « ", False), ("fr", "Vrai ? ", True)),
        *(("fr", "Il dit : ", False), ("en", "Il dit : « ", False)),
        *(("zh", "他来了。", True), ("zh", "真的吗？", True), ("zh", "他来了，", False), ("en", "他来了。", False)),
    ],
)
def test_opens_sentence_in_other_languages(language: str, before: str, expected: bool) -> None:
    assert opens_sentence(before, language) is expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Le matin, je vais chercher le pain au village avec ma sœur et nous parlons de la mer.", "fr"),
        ("他 _ 了一本书。我用 Python _ 程序。", "zh"),
        ("In the morning I fetch bread, et cetera; the des Moines bus is au revoir to all of them.", None),
        ("La casa es grande y los niños juegan en el jardín con sus amigos.", None),
        ("Read 《红楼梦》, a Chinese novel, and tell me what you think of it.", None),
        ("", None),
    ],
)
def test_likely_language(text: str, language: str | None) -> None:
    assert likely_language(text) == language


@given(st.text(alphabet="aB_.! \n\"'"))
def test_sentence_breaks_stand_between_an_end_and_white_space(text: str) -> None:
    for position in sentence_breaks(text):
        assert text[position].isspace() and not text[position - 1].isspace()


@pytest.mark.parametrize(
    ("before", "expected"),
    [("", True), ("  ", True), ("It rained. ", True), ("Really?", True), ("It rained, ", False), ("He said: ", False)],
)
def test_opens_sentence(before: str, expected: bool) -> None:
    assert opens_sentence(before) is expected


@given(st.text(alphabet='a.!?… \n\x1c\u3000\x85_"', max_size=12))
def test_opens_sentence_is_what_a_search_from_the_start_says(before: str) -> None:
    assert opens_sentence(before) == bool(re.search(r"[.!?]\s*\Z|\A\s*\Z", before))


def test_white_space_is_unicodes() -> None:
    pythons = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert set(WHITE_SPACE) == pythons - set("\x1c\x1d\x1e\x1f") and len(WHITE_SPACE) == 25


def test_capitalise() -> None:
    assert [capitalise(word) for word in ("however", "USA", "in spite of", "", "éclair")] == [
        "However",
        "USA",
        "In spite of",
        "",
        "Éclair",
    ]
