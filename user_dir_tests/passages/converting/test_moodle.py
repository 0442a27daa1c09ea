"""Quizzes of Moodle: embedded answers, GIFT, XML."""

from __future__ import annotations

import pytest

from fairseq_cloze.errors import PassageError
from fairseq_cloze.passages.converting.moodle import read_cloze, read_gift, read_xml

CLOZE = (
    "The river {1:MULTICHOICE:=froze#well done~melted~burned} in {2:MC:spring~%100%winter~%0%May}.\n"
    "He paid 5{1:MULTICHOICE_V:~=\\~5 \\} euros~a&amp;b}, {:MCH:so~=but} left."
)
PASSAGE = {
    "article": "The river _ in _.\nHe paid 5 _, _ left.",
    "options": [["froze", "melted", "burned"], ["spring", "winter", "May"], ["~5 } euros", "a&b"], ["so", "but"]],
    "answers": ["A", "B", "A", "B"],
}


def test_embedded_answers() -> None:
    assert read_cloze(CLOZE, "quiz.txt", "quiz").passages == [("quiz.txt", "quiz", PASSAGE)]


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("a\n{1:SHORTANSWER:=x}", ", line 2", "expected MULTICHOICE, which has options, found SHORTANSWER"),
        ("{1:MULTICHOICE:a~b}", ", line 1", "expected one right option, marked =, found 0"),
        ("{1:MULTICHOICE:=a~=b}", ", line 1", "expected one right option, marked =, found 2"),
        ("{1:MULTICHOICE:a=b" + "~c" * 126 + "}", ", line 1", "expected at most 127 options, found 128"),
        ("{1:MULTICHOICE:=a}", ", line 1", "expected two options or more, found 1"),
        ("{1:MULTICHOICE:=a~%50%b}", ", line 1", "expected one right option, found 'b' that is right by 50%"),
        ("{1:MULTICHOICE:=a~}", ", line 1", "expected a text for each option, found none; write / where nothing goes"),
        ("____ {1:MULTICHOICE:=a~b}", "", "expected blanks that are {1:MULTICHOICE:...} only, found '_'; take it out"),
    ],
)
def test_embedded_answers_that_are_refused(text: str, where: str, problem: str) -> None:
    with pytest.raises(PassageError) as error:
        read_cloze(text, "quiz.txt", "quiz")
    assert (error.value.source, error.value.problem) == (f"quiz.txt{where}", problem)


GIFT = """// a comment
$CATEGORY: grammar

::since:: She has lived here {~for =since#right ~during####all} 2019.

[html]<p>There is <b>hardly</b></p> {
  ~no
  =any \\= all
} milk.

She ____ late. {~come =came}

I like {=tea ~stone}
"""


def test_gift() -> None:
    made = read_gift(GIFT, "quiz.gift", "quiz")
    assert [
        (source, name, fields["article"], fields["options"][0], fields["answers"])
        for source, name, fields in made.passages
    ] == [
        ("quiz.gift, line 4", "quiz:1", "She has lived here _ 2019.", ["for", "since", "during"], ["B"]),
        ("quiz.gift, line 6", "quiz:2", "There is hardly _ milk.", ["no", "any = all"], ["B"]),
        ("quiz.gift, line 11", "quiz:3", "She ____ late.", ["come", "came"], ["B"]),
        ("quiz.gift, line 13", "quiz:4", "I like _", ["tea", "stone"], ["A"]),
    ]
    assert made.passages[0][2]["id"] == "since" and made.notes == ["left out 2 comments and categories"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Who is it? {=Maya ~Leo}", "expected a sentence with a gap, found a question; mark the gap ____"),
        ("The sun is hot. {T}", "expected options that begin with = or ~, found 'T'"),
        ("Two {=a ~b} and {=c ~d}.", "expected one list of options in { }, found 2; part questions by empty lines"),
        ("Match {=a -> b =c -> d} it.", "expected one list of options, found pairs to match"),
        ("Maya ____ {=a ~b} it.", "expected one blank, the place of { }, found '_' beside it"),
    ],
)
def test_questions_of_gift_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(PassageError) as error:
        read_gift(text, "quiz.gift", "quiz")
    assert (error.value.source, error.value.problem) == ("quiz.gift, line 1", problem)


XML = """<?xml version="1.0" encoding="UTF-8"?>
<quiz><question type="category"><category><text>top</text></category></question>
<question type="cloze"><name><text>River</text></name><questiontext format="html"><text><![CDATA[<p>The river
{1:MULTICHOICE:=froze~melted} here.</p><p>It was&nbsp;cold.</p>]]></text></questiontext></question></quiz>"""


def test_xml() -> None:
    made = read_xml(XML.encode(), "quiz.xml", "quiz")
    [(source, name, fields)] = made.passages
    assert (source, name) == ("quiz.xml, question 2", "quiz:1")
    assert fields == {
        "id": "River",
        "article": "The river\n_ here.\nIt was\xa0cold.",
        "options": [["froze", "melted"]],
        "answers": ["A"],
    }
    for text, problem in (
        (
            XML.replace("<quiz>", '<!DOCTYPE x [<!ENTITY a "b">]><quiz>'),
            "expected XML of Moodle, found a document type",
        ),
        (XML.replace("</quiz>", ""), "expected XML, found a mistake"),
        (XML.replace('"cloze"', '"multichoice"'), "expected type 'cloze', found 'multichoice'"),
        (XML.replace("quiz>", "feed>"), "expected <quiz>, as Moodle exports questions, found <feed>"),
    ):
        with pytest.raises(PassageError) as error:
            read_xml(text.encode(), "quiz.xml", "quiz")
        assert error.value.problem.startswith(problem)
