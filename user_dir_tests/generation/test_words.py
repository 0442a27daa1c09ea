from __future__ import annotations

import sys

import pytest

from fairseq_cloze.errors import SetupError
from fairseq_cloze.generation.words import Tagger, forms, kind_at, open_kind, pool_kinds


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger()


def kinds(tagger: Tagger, text: str) -> dict[str, str | None]:
    tokens = tagger.tag(text, 0, len(text))
    assert [text[token.start : token.end].lower() for token in tokens if token.plain] == [
        token.word for token in tokens if token.plain
    ]
    return {text[token.start : token.end]: kind_at(tokens, at) for at, token in enumerate(tokens)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog had eaten the bread in the kitchen.", {"eaten": "VBN", "bread": "NN", "in": "preposition"}),
        ("Yesterday she quickly closed the heavy door.", {"quickly": "RB-ly", "closed": "VBD/VBN", "heavy": "JJ"}),
        ("They want to build better houses.", {"build": "VB", "houses": "NNS"}),
        ("He stayed at home because he was tired.", {"because": "conjunction"}),
        (
            "However, nobody saw himself there.",
            {"However": "connective", "nobody": "indefinite", "himself": "reflexive"},
        ),
        ("The boy has broken many windows.", {"has": "have", "broken": "VBN", "many": "plural quantifier"}),
        ("She wanted to know why we left.", {"why": "question"}),
        ("I saw Anna and the Bank of England.", {"Anna": None, "Bank": None, "of": None, "England": None}),
        ("Every day they put the book on the table.", {"put": None, "book": "NN"}),
        ("They will put the book on the table.", {"put": "VB"}),
        ("He walked straight past, and it was late.", {"straight": None, "past": None, "late": None}),
        ("It was a long walk to the next house.", {"long": "JJ", "next": "JJ"}),
        ('"For the man was old, and he waited for the bus.', {"For": None, "for": "preposition"}),
        ("He didn't buy a well-known book for 20 pounds.", {"didn't": None, "well-known": None, "20": None}),
    ],
)
def test_kinds_in_context(tagger: Tagger, text: str, expected: dict[str, str | None]) -> None:
    found = kinds(tagger, text)
    assert {word: found[word] for word in expected} == expected


def test_the_same_word_has_the_kind_of_its_place(tagger: Tagger) -> None:
    assert kinds(tagger, "It was a long walk home.")["walk"] == "NN"
    assert kinds(tagger, "They can walk home.")["walk"] == "VB"


def test_forms_and_kinds() -> None:
    assert forms("went") == (("VBD", "go"),)
    assert open_kind("went", "VBD") == "VBD" and open_kind("walked", "VBD") == "VBD/VBN" == open_kind("walked", "VBN")
    assert open_kind("walked", "NN") is None and open_kind("xyzzy", "NN") is None
    assert pool_kinds("bore") == ("VBD",)  # no infinitive, though the dictionary has one
    assert pool_kinds("table") == ("NN",) and pool_kinds("happily") == ("RB-ly",) and pool_kinds("the") == ()
    assert pool_kinds("walked") == ("VBD", "VBD/VBN", "VBN")


@pytest.mark.parametrize("package", ["textblob", "lemminflect"])
def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SetupError) as error:
        Tagger()
    assert str(error.value) == (
        f"generate: expected the package {package}, found none; install it with pip install 'fairseq-cloze[generate]'"
    )
