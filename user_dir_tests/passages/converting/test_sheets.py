"""Sheets in many layouts: nothing is lost, and what is not certain is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.errors import PassageError
from fairseq_cloze.passages.converting.lines import text_document
from fairseq_cloze.passages.converting.sheets import read_sheet
from fairseq_cloze.passages.converting.word import read_word

from ...support.sheets import LAYOUTS, example_passages, plain
from ...support.word_sheets import WORD_LAYOUTS, saved

EXAMPLES = example_passages()[::20]


def read(text: str, key: str | None = None, uneven: bool = False) -> list[dict]:
    other = None if key is None else text_document(key, "key.txt")
    return [passage.to_json() for passage in read_sheet(text_document(text, "exam.txt"), other, uneven)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_back(name: str) -> None:
    layout = LAYOUTS[name]
    for fields in EXAMPLES:
        [found] = read(layout.sheet([fields]))
        assert plain(found) == plain(fields)
    pair = EXAMPLES[:2]
    assert [plain(found) for found in read(layout.sheet(pair))] == [plain(fields) for fields in pair]
    apart = read(layout.sheet(pair, with_key=False), layout.key_file(pair))
    assert [plain(found) for found in apart] == [plain(fields) for fields in pair]


@pytest.mark.parametrize("name", WORD_LAYOUTS)
def test_every_layout_of_word_reads_back(name: str) -> None:
    for passages in ([EXAMPLES[0]], EXAMPLES[1:3], EXAMPLES[3:8]):
        document = read_word(saved(WORD_LAYOUTS[name](passages)), "exam.docx")
        found = [passage.to_json() for passage in read_sheet(document)]
        assert [plain(each) for each in found] == [plain(fields) for fields in passages]


WORDS = st.sampled_from(
    ["the", "A", "boy", "Maya", "to", "of", "river,", "house.", "No.", "20", "3", "1999", '"Yes,"', "(twice)", "I", "B"]
    + ["c.", "D)", "key", "text"]
)
OPTION = st.lists(st.sampled_from("went slowly to A. b) 3 vitamin C don't / no".split()), min_size=1, max_size=3).map(
    " ".join
)


@st.composite
def passages(draw: st.DrawFn) -> dict:
    blanks, count = draw(st.integers(2, 12)), draw(st.integers(2, 5))
    article = " ".join(draw(st.lists(WORDS, min_size=1, max_size=6))[0:6])
    for _ in range(blanks):
        article += " _" + draw(st.sampled_from(["", ",", "."] if "_" in article else ["", ","]))
        article += draw(st.sampled_from([" ", "\n", " "])) + " ".join(draw(st.lists(WORDS, min_size=1, max_size=6)))
    options = [draw(st.lists(OPTION, min_size=count, max_size=count)) for _ in range(blanks)]
    answers = [draw(st.sampled_from("ABCDE"[:count])) for _ in range(blanks)]
    return {"article": article, "options": options, "answers": answers}


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=20)
@given(fields=passages())
def test_a_passage_is_read_as_it_is_or_refused(name: str, fields: dict) -> None:
    """Whatever words it has, such as such that look like letters, numbers or headings."""
    try:
        [found] = read(LAYOUTS[name].sheet([fields]))
    except PassageError:
        return
    assert plain(found) == plain(fields)


TEXT = "Maya went to the (1)____ every day.\nShe liked the (2)____ of bread.\nThe man was (3)____ to her.\n\n"
FIRST, SECOND, THIRD = LISTS = (
    "1. A. bakery B. bank C. beach D. bus\n",
    "2. A. sound B. smell C. sight D. taste\n",
    "3. A. rude B. cold C. kind D. late\n",
)
OPTIONS = "".join(LISTS)
KEY = "\nAnswers: 1-3 ABC\n"
NO_SUCH_ANSWER = "expected an answer of blank 2 that is a letter A-D or one of its options, found"

#: Broken sheets: where they are broken, and what is said.
BROKEN = {
    "no options for one": (TEXT + FIRST + THIRD + KEY, 6, "expected the options of blank 2, found those of 3"),
    "no options for the last": (
        TEXT + FIRST + SECOND,
        3,
        "expected 2 blanks, as many as have options, found blank 3, which has none",
    ),
    "options for no blank": (
        TEXT + OPTIONS + "4. A. a B. b C. c D. d\n" + KEY,
        3,
        "expected blank 4, which has options, found no more blanks; number blanks and options alike",
    ),
    "a blank that is gone": (
        TEXT.replace("(2)____", "") + OPTIONS + KEY,
        3,
        "expected blank 2, which has options, found blank 3; number blanks and options alike",
    ),
    "a blank without a number": (
        TEXT.replace("(2)____", "____") + OPTIONS + KEY,
        3,
        "expected blank 2, which has options, found blank 3; number blanks and options alike",
    ),
    "a number twice": (
        TEXT.replace("(3)", "(2)") + OPTIONS + KEY,
        3,
        "expected blank 3, which has options, found blank 2; number blanks and options alike",
    ),
    "one blank more": (
        TEXT.replace("day", "____ day") + OPTIONS + KEY,
        1,
        "expected blanks with numbers only, such as '(1)____', found '____'; number it, give it options, or "
        "take it out",
    ),
    "one option less": (
        TEXT + FIRST + SECOND.replace(" D. taste", "") + THIRD,
        6,
        "the options of blank 2: expected 4, as the first blank has, found 3; if that is meant, pass --uneven",
    ),
    "a letter that is skipped": (
        TEXT + FIRST + "2. A. sound\nB. smell\nD. taste\n" + THIRD,
        6,
        "the options of blank 2: expected 4, as the first blank has, found 2; if that is meant, pass --uneven",
    ),
    "an option without text": (
        TEXT + FIRST + SECOND.replace("sight", "") + THIRD,
        6,
        "the options of blank 2: expected a text for option C, found none; write / where nothing goes",
    ),
    "two places for an option": (
        TEXT + FIRST + SECOND.replace("sound", "vitamin B.") + THIRD,
        6,
        "expected one place where option B begins, found several in '2. A. vitamin B. B. smell C. sight D. taste'; "
        "put each option on a line of its own",
    ),
    "options without a number": (
        TEXT + FIRST + SECOND[3:] + THIRD,
        6,
        "expected a number before the options, as others have, found none",
    ),
    "a key that is short": (TEXT + OPTIONS + "\nAnswers: 1-3 AB\n", 9, "expected 3 answers for 1-3, found 2"),
    "a key with a hole": (
        TEXT + OPTIONS + "\nAnswers: 1. A 3. C\n",
        9,
        "expected answers for all 3 blanks or for none, found 2; blank 2 of this text has none",
    ),
    "a key that is long": (
        TEXT + OPTIONS + "\nAnswers: 1-4 ABCD\n",
        9,
        "expected one answer for each blank, found an answer, and no such blank for 4",
    ),
    "two answers": (
        TEXT + OPTIONS + "\nAnswers: 1. A 1. B 2. C 3. D\n",
        9,
        "expected one answer for each blank, found two answers for 1",
    ),
    "a letter of no option": (TEXT + OPTIONS + "\nKey: 1. A 2. F 3. C\n", 9, f"{NO_SUCH_ANSWER} 'F'"),
    "an answer of no option": (TEXT + OPTIONS + "\nKey\n1. A\n2. scent\n3. C\n", 11, f"{NO_SUCH_ANSWER} 'scent'"),
    "letters without numbers": (
        TEXT + OPTIONS + "\nKey: ABCD\n",
        9,
        "expected 3 answers, one per blank, found 4",
    ),
    "no answers in a key": (
        TEXT + OPTIONS + "\nAnswers:\nas we said in class\n",
        10,
        "expected answers such as '1-5 ABCDA' or '1. A 2. B', found 'as we said in class'",
    ),
    "no options at all": (
        TEXT,
        1,
        "expected options for the blanks of this text, found none ('Maya went to the (1)____ every day.')",
    ),
    "no blanks": (
        "Maya went to the bakery.\n\n" + OPTIONS,
        3,
        "expected a text with blanks before its options, found none; mark each blank ____ or with its number, such as "
        "__1__",
    ),
    "a text behind the options": (
        TEXT + OPTIONS + "\nThe bakery is closed.\n",
        9,
        "expected options or answers, found 'The bakery is closed.'; put a text before its options, and take out what "
        "belongs to none",
    ),
    "two texts, options of one": (
        TEXT + OPTIONS + "\nHe had a (4)____ dog.\n",
        9,
        "expected options for the blanks of this text, found none ('He had a (4)____ dog.')",
    ),
    "a bank that is short": (
        TEXT + "A. bakery B. smell\n",
        5,
        "expected options for each of 3 blanks, or one list with at least as many, found one list of 2",
    ),
    "a heading in the text": (
        TEXT + "Section B\nThe end was good.\n\n" + OPTIONS,
        6,
        "expected options, or a text with blanks, found 'The end was good.'; if it belongs to the text before, take "
        "out what stands between them",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sheets_are_refused_with_line_and_reason(name: str) -> None:
    text, line, problem = BROKEN[name]
    with pytest.raises(PassageError) as error:
        read(text)
    assert (error.value.source, error.value.problem) == (f"exam.txt, line {line}", problem)


GO = ["go", "went", "goes"]
DO = ["do", "did", "done"]

#: Sheets as people also write them, and what is in them: texts, options, answers.
ODD = {
    "questions": (
        "Grammar Quiz\n\n1. He ____ home.\nA. go B. went C. goes\n\n2. She has ____ it.\nA. do\nB. did\nC. "
        "done\n\nKey: BC",
        [("He _ home.", [GO], "B"), ("She has _ it.", [DO], "C")],
    ),
    "options in the same line": (
        "1. He ____ home. A. go B. went C. goes\n2. She has ____ it.   (A) do (B) did (C) done\n",
        [("He _ home.", [GO], ""), ("She has _ it.", [DO], "")],
    ),
    "Aiken": (
        "He ____ home.\nA. go\nB. went\nC. goes\nANSWER: B\n\nShe has ____ it.\nA. do\nB. did\nC. done\nANSWER: C\n",
        [("He _ home.", [GO], "B"), ("She has _ it.", [DO], "C")],
    ),
    "one list for all": (
        "Maya (1)____ and has (2)____ it.\n\nA. done\nB. went\nC. at\nD. goes\n\nAnswers: 1. B 2. A\n",
        [("Maya _ and has _ it.", [["done", "went", "at", "goes"]] * 2, "BA")],
    ),
    "each text with its key": (
        "He (1)____ home.\n1. A. go B. went C. goes\nAnswers: B\n\nShe has (1)____ it.\n1. A. do B. did C. "
        "done\nKey: 1. C",
        [("He _ home.", [GO], "B"), ("She has _ it.", [DO], "C")],
    ),
    "numbers and a key that begin anew": (
        "Passage 1\nHe (1)____ and (2)____.\n1. A. go B. went C. goes\n2. A. do B. did C. done\n\nPassage 2\n"
        "She (1)____ and (2)____.\n1. A. do B. did C. done\n2. A. go B. went C. goes\nKey: 1-2 AB 1-2 CA",
        [("He _ and _.", [GO, DO], "AB"), ("She _ and _.", [DO, GO], "CA")],
    ),
    "a key with the same headings": (
        "Text A\nHe (1)____ home.\n1. A. go B. went C. goes\n\nText B\nShe has (1)____ it.\n1. A. do B. did C. done\n\n"
        "Key\nText A\n1. B\nText B\n1. C\n",
        [("He _ home.", [GO], "B"), ("She has _ it.", [DO], "C")],
    ),
    "texts first": (
        "Passage 1\nHe (1)____ home.\n\nPassage 2\nShe has (2)____ it.\n\nQuestions\n1. A. go B. went C. goes\n"
        "2. A. do B. did C. done\n",
        [("He _ home.", [GO], ""), ("She has _ it.", [DO], "")],
    ),
    "no space at blanks and options": (
        "He__1__home,and has__2__it.\n1.A.goB.wentC.goes\n2.A.doB.didC.done\n",
        [("He _ home,and has _ it.", [GO, DO], "")],
    ),
    "a star": ("He ____ home.\n1. A. go *B. went C. goes\n", [("He _ home.", [GO], "B")]),
    "an option over two lines": (
        "He (1)____.\n1. A. went slowly all the way\n   to his aunt\n   B. ran\n",
        [("He _.", [["went slowly all the way to his aunt", "ran"]], "")],
    ),
    "other numbers beside blanks": (
        "In 1999 (1)____ 20 (2)____ were 3.\n1. A. only B. so\n2. A. all B. none\n",
        [("In 1999 _ 20 _ were 3.", [["only", "so"], ["all", "none"]], "")],
    ),
    "numbers beside blanks without": (
        "He ate 20 ____ in 3 ____.\n1. A. eggs B. so\n2. A. days B. none\n",
        [("He ate 20 _ in 3 _.", [["eggs", "so"], ["days", "none"]], "")],
    ),
    "bare letters": (
        "He (1)____ home, and has (2)____ it.\n1 A go   B went   C goes\n2\tA\tdo\tB\tdid\tC\tdone\n",
        [("He _ home, and has _ it.", [GO, DO], "")],
    ),
    "columns of spaces": (
        "He (1)____ home, and has (2)____ it.\n     A     B      C\n1   go   went   goes\n2   do   did    done\n",
        [("He _ home, and has _ it.", [GO, DO], "")],
    ),
    "answers by word": (
        "He (1)____ home, and has (2)____ it.\n1. A. go B. went C. goes\n2. A. do B. did C. "
        "done\nAnswers\n1. went\n2. C. done",
        [("He _ home, and has _ it.", [GO, DO], "BC")],
    ),
    "semicolons": ("He (1)____.\n1. A. go; B. went; C. goes.\n", [("He _.", [GO], "")]),
    "pages": (
        "He (1)____ home, and has (2)____ it.\n\nPage 1 of 2\n\n1. A. go B. went C. goes\n- 2 -\n2. A. do B. "
        "did C. done",
        [("He _ home, and has _ it.", [GO, DO], "")],
    ),
    "a dialogue": (
        "A: Why (1)____?\nB: I (2)____.\n\n1. A. go B. sit\n2. A. do B. am\n",
        [("A: Why _?\nB: I _.", [["go", "sit"], ["do", "am"]], "")],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_sheets_as_people_also_write_them(name: str) -> None:
    text, expected = ODD[name]
    found = [(each["article"], each["options"], "".join(each.get("answers", ""))) for each in read(text)]
    assert found == expected


def test_uneven_numbers_of_options_are_read_when_they_are_meant() -> None:
    [found] = read(TEXT + FIRST + SECOND.replace(" D. taste", "") + THIRD + KEY, uneven=True)
    assert [len(options) for options in found["options"]] == [4, 3, 4]


def test_what_is_left_out_is_named() -> None:
    text = "Quiz\nName: ____\n\nDirections: Read\nthis.\n\n" + TEXT + OPTIONS + "\n* * *\n"
    document = text_document(text, "exam.txt")
    read_sheet(document)
    assert document.notes == [
        "left out, as no part of a text (5): line 1: 'Quiz'; line 2: 'Name: ____'; line 4: 'Directions: Read'; "
        "line 5: 'this.'; line 15: '* * *'"
    ]


def test_numbers_of_a_sheet_are_kept() -> None:
    text = TEXT.replace("(1)", "(21)").replace("(2)", "(22)").replace("(3)", "(23)")
    [found] = read(text + OPTIONS.replace("1.", "21.").replace("2.", "22.", 1).replace("3.", "23."))
    assert found["numbers"] == [21, 22, 23]
    assert "numbers" not in read(TEXT + OPTIONS)[0]


def test_a_key_of_its_own_may_have_a_title_and_no_second_key() -> None:
    [found] = read(TEXT + OPTIONS, "Exam 3\nNo.,Answer\n1,A\n2,B\n3,D\n")
    assert found["answers"] == ["A", "B", "D"]
    with pytest.raises(
        PassageError, match="exam.txt: expected one key, found answers in the sheet and key.txt; leave out --key"
    ):
        read(TEXT + OPTIONS + KEY, "1-3 ABC")
