from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.data.encoding import COLUMNS, EncodingOptions, column_dtype, encode_passages
from fairseq_cloze.data.store import EncodedPassage, Store
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.passages.markers import compile_marker
from fairseq_cloze.passages.passage import UNLABELLED, Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.passages.text import BLANK, WHITE_SPACE, normalise

from ..support.commands import PASSAGES


def make(article: str, *options: list[str], gold: Any = None, **fields: Any) -> Passage:
    labels = tuple(gold) if gold is not None else (UNLABELLED,) * len(options)
    return Passage("p", "p.json", article, tuple(map(tuple, options)), labels, **fields)


def encode(passage: Passage, vocabulary: Vocabulary, **options: Any) -> EncodedPassage:
    columns = encode_passages([passage], vocabulary, EncodingOptions(**options))
    return Store.from_columns([columns], len(vocabulary))[0]


def texts(encoded: EncodedPassage, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "article": vocabulary.decode(encoded.tokens),
        "candidates": [[vocabulary.decode(tokens) for tokens in row] for row in encoded.candidates],
    }


@pytest.mark.parametrize(
    ("article", "decoded", "candidates"),
    [
        ("It  was _ .", "It was<mask>.", [" calm", " cold"]),
        ("_ it was.", "<mask> it was.", ["calm", "cold"]),
        ('He said, "_ days."', 'He said, "<mask> days."', ["calm", "cold"]),
        ("It was (_ ).", "It was (<mask>).", ["calm", "cold"]),
        ("very_", "very<mask>", ["calm", "cold"]),
        ("gave _31 me", "gave<mask>31 me", [" calm", " cold"]),
        ("most 69_ of", "most 69<mask> of", ["calm", "cold"]),
        ("the ___41___ end", "the<mask> end", [" calm", " cold"]),
        ("it took _ 20 minutes", "it took<mask> 20 minutes", [" calm", " cold"]),
    ],
)
def test_spaces_around_a_blank(vocabulary: Vocabulary, article: str, decoded: str, candidates: list[str]) -> None:
    encoded = encode(make(article, ["calm", "cold"]), vocabulary)
    assert texts(encoded, vocabulary) == {"article": decoded, "candidates": [candidates]}


@given(st.text(alphabet="a.! \n_7", min_size=1, max_size=30).filter(lambda text: BLANK.search(text)))
@settings(max_examples=200, deadline=None)
def test_sentence_case_looks_no_further_back_than_the_blank_before(vocabulary: Vocabulary, article: str) -> None:
    """And finds what a search of all the text before each blank does, whose time grows as the square of the text."""
    blanks = [match.start() for match in BLANK.finditer(article)]
    opens = [re.search(r"[.!?]\s*\Z|\A\s*\Z", article[:start]) is not None for start in blanks]
    encoded = encode(make(article, *[["x", "y"] for _ in blanks]), vocabulary, text_norm="none", sentence_case=True)
    found = [vocabulary.decode(row[0]).strip() for row in encoded.candidates]
    assert found == ["X" if upper else "x" for upper in opens]


def test_an_underscore_in_an_option_is_text(vocabulary: Vocabulary) -> None:
    encoded = encode(make("The _ and the _ .", ["impetus _", "aim"], ["end", "way"]), vocabulary)
    assert texts(encoded, vocabulary) == {
        "article": "The<mask> and the<mask>.",
        "candidates": [[" impetus _", " aim"], [" end", " way"]],
    }


def test_nothing_has_no_tokens_and_equals_every_other_nothing(vocabulary: Vocabulary) -> None:
    columns = encode_passages([make("Play _ chess.", ["/", "the", "\\", "", "The", "the"], gold=[1])], vocabulary)
    assert columns["candidate_first"].tolist() == [0, 1, 0, 0, 4, 1]
    assert [length == 0 for length in columns["candidate_length"].tolist()] == [True, False, True, True, False, False]


def test_raw_text_is_kept(vocabulary: Vocabulary) -> None:
    encoded = encode(make("It \n was  \n _ , so .", ["calm", "cold"]), vocabulary, text_norm="none")
    assert texts(encoded, vocabulary) == {"article": "It \n was<mask> , so .", "candidates": [[" calm", " cold"]]}


def test_sentence_case(vocabulary: Vocabulary) -> None:
    passage = make("_ it rained. _ we left, _ .", ["then", "IT"], ["so", "yet"], ["so", "yet"])
    kept = encode(passage, vocabulary)
    raised = encode(passage, vocabulary, sentence_case=True)
    assert texts(kept, vocabulary)["candidates"] == [["then", "IT"], [" so", " yet"], [" so", " yet"]]
    assert texts(raised, vocabulary)["candidates"] == [["Then", "IT"], [" So", " Yet"], [" so", " yet"]]


def test_candidates_are_compared_as_they_are_encoded(vocabulary: Vocabulary) -> None:
    """Equal after normalisation and capitalisation is equal."""
    passage = make("_ it rained _ .", ["then", "Then", "now"], ["as  well", "as\nwell", "as\u200b well", "\u200b", "/"])
    columns = encode_passages([passage], vocabulary, EncodingOptions(sentence_case=True))
    assert columns["candidate_first"].tolist() == [0, 0, 2, 0, 0, 0, 3, 3]
    assert texts(encode(passage, vocabulary), vocabulary)["candidates"] == [
        ["then", "Then", "now"],
        [" as well", " as well", " as well", "", ""],
    ]
    raw = encode_passages([passage], vocabulary, EncodingOptions(text_norm="none"))
    assert raw["candidate_first"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]


def test_chinese_candidates_have_no_leading_space(vocabulary: Vocabulary) -> None:
    """Where the blank has white space before it, too; sentences end as the language has it."""
    passage = make("他 _ 了 一本 书 。 很 _ ！", ["看", "买到"], ["好", "/"])
    encoded = encode(passage, vocabulary, language="zh")
    assert texts(encoded, vocabulary) == {
        "article": "他<mask>了一本书。很<mask>！",
        "candidates": [["看", "买到"], ["好", ""]],
    }
    bounds = [*encoded.sentence_starts.tolist(), len(encoded.tokens)]
    assert [vocabulary.decode(encoded.tokens[a:b]) for a, b in zip(bounds, bounds[1:])] == [
        "他<mask>了一本书。",
        "很<mask>！",
    ]


def test_french_spaces_and_capitals(vocabulary: Vocabulary) -> None:
    passage = make("Où _\u00a0? Il dit\u00a0: «\u00a0_\u00a0!\u00a0»", ["est-il", "va"], ["écoute", "non\u00a0!"])
    encoded = encode(passage, vocabulary, language="fr", sentence_case=True)
    assert texts(encoded, vocabulary) == {
        "article": "Où<mask> ? Il dit : «<mask> ! »",
        "candidates": [[" est-il", " va"], [" Écoute", " Non !"]],
    }


def test_with_a_marker_other_underscores_are_text(vocabulary: Vocabulary) -> None:
    fields = {"article": "a snake_case [MASK] , [MASK][MASK]", "options": [["b_c", "x"]] * 3}
    passage = Passage.from_json(fields, "p", "p", compile_marker(r"\[MASK\]"))
    encoded = encode(passage, vocabulary)
    assert texts(encoded, vocabulary) == {
        "article": "a snake_case<mask>,<mask><mask>",
        "candidates": [[" b_c", " x"], [" b_c", " x"], ["b_c", "x"]],
    }


def test_columns_of_two_passages(vocabulary: Vocabulary) -> None:
    one = make("He _ . She _ home.", ["ran", "sat"], ["went", "is", "was"], gold=[1, 2])
    two = Passage("é", "q.json", "No _", (("a", "b"),), (0,), ((0.5, 2.0),))
    columns = encode_passages([one, two], vocabulary)
    assert list(columns) == list(COLUMNS)
    assert columns["id_length"].tolist() == [1, 2]
    assert bytes(columns["id_bytes"]).decode() == "pé"
    assert columns["blank_count"].tolist() == [2, 1]
    assert columns["candidate_count"].tolist() == [2, 3, 2]
    assert columns["gold"].tolist() == [1, 2, 0]
    assert columns["candidate_rank"].tolist() == [0, 1, 0, 0, 1, 0.5, 2]
    assert columns["sentence_count"].tolist() == [2, 1]
    mask = np.flatnonzero(columns["tokens"] == vocabulary.mask)
    assert columns["blank_position"].tolist() == [mask[0], mask[1], mask[2] - columns["token_count"][0]]
    assert {name: values.dtype for name, values in columns.items()} == {
        name: column_dtype(name, len(vocabulary)) for name in COLUMNS
    }


def test_token_type_follows_the_dictionary() -> None:
    assert [column_dtype("tokens", rows).name for rows in (600, 1 << 16, (1 << 16) + 1)] == [
        "uint16",
        "uint16",
        "uint32",
    ]


def test_sentence_starts_decode_to_sentences(vocabulary: Vocabulary) -> None:
    encoded = encode(make("It rained. _ stayed! Why? _", ["He", "She"], ["No", "So"]), vocabulary)
    bounds = [*encoded.sentence_starts.tolist(), len(encoded.tokens)]
    sentences = [vocabulary.decode(encoded.tokens[a:b]) for a, b in zip(bounds[:-1], bounds[1:])]
    assert sentences == ["It rained.", "<mask> stayed!", " Why?", "<mask>"]


def test_example_passages_decode_to_their_text(vocabulary: Vocabulary) -> None:
    """Cutting at blanks and sentences changes no token, and no text is lost."""
    for passage in read_passages([PASSAGES / "train"]):
        encoded = encode(passage, vocabulary)
        assert vocabulary.decode(encoded.tokens) == whole(passage.article, vocabulary)
        assert encoded.tokens.tolist() == uncut(passage.article, vocabulary)


def whole(article: str, vocabulary: Vocabulary, norm: str = "standard") -> str:
    segments = BLANK.split(normalise(article, norm))
    return "<mask>".join([*(segment.rstrip(WHITE_SPACE) for segment in segments[:-1]), segments[-1]])


def uncut(article: str, vocabulary: Vocabulary, norm: str = "standard") -> list[int]:
    segments = BLANK.split(normalise(article, norm))
    tokens: list[int] = []
    for segment in segments[:-1]:
        tokens += [*vocabulary.encode([segment.rstrip(WHITE_SPACE)])[0].tolist(), vocabulary.mask]
    return tokens + vocabulary.encode([segments[-1]])[0].tolist()


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="aBc _.!?\n,'\"12é\u3000") | st.text(), st.sampled_from(["standard", "none"]))
def test_cutting_changes_no_token(text: str, norm: str) -> None:
    article = text + " _ " + text
    blanks = len(BLANK.findall(article))
    passage = make(article, *[["a", "b"]] * blanks)
    encoded = encode(passage, _vocabulary, text_norm=norm)
    assert encoded.tokens.tolist() == uncut(article, _vocabulary, norm)
    assert [encoded.tokens[position] for position in encoded.blank_positions] == [_vocabulary.mask] * blanks
    starts = encoded.sentence_starts
    assert starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] < max(len(encoded.tokens), 1)


@pytest.fixture(scope="module", autouse=True)
def _share(vocabulary: Vocabulary) -> None:
    global _vocabulary
    _vocabulary = vocabulary


def test_unknown_norm() -> None:
    with pytest.raises(ClozeError) as error:
        EncodingOptions(text_norm="raw")
    assert str(error.value) == "text_norm: expected one of standard, none, found 'raw'"
    with pytest.raises(ClozeError) as error:
        EncodingOptions(language="de")
    assert str(error.value) == "language: expected one of en, fr, zh, found 'de'"
