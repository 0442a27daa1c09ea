"""Text with blanks has the tokens that transformers' own tokenizers give it, and candidates those of their place."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.data.encoding import EncodingOptions, encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.passages.passage import UNLABELLED, Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.passages.text import BLANK, normalise, sentence_breaks
from fairseq_cloze.weights.hub_tokenizer import read_tokenizer

from ..support.commands import PASSAGES, ROOT
from ..support.tokenizers import KINDS, SCRIPTS, save_tokenizer

#: What stands for nothing in texts: no name of a special token.
_SPECIAL = re.compile(r"<[^<>]*>|\[[A-Z]+\]|\|\|\|[A-Z_]+\|\|\||[\ufdd0-\ufdef]")

_folder = Path()


@pytest.fixture(scope="module", autouse=True)
def _share(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _folder
    _folder = tmp_path_factory.mktemp("tokenizers")


@cache
def both(kind: str) -> tuple[Any, Vocabulary, list[int]]:
    """transformers' tokenizer, ours, and for each row of ours the number there."""
    theirs = save_tokenizer(kind, _folder / kind)
    vocabulary, order, _ = read_tokenizer(_folder / kind, None, len(theirs) + 3)
    return theirs, vocabulary, order or list(range(len(vocabulary)))


def passage(article: str) -> Passage:
    blanks = len(BLANK.findall(article))
    return Passage("p", "p.json", article, (("x", "y"),) * blanks, (UNLABELLED,) * blanks)


def check(kind: str, articles: list[str], norm: str, language: str = "en") -> int:
    """Compare with transformers; the number of tokens."""
    theirs, vocabulary, order = both(kind)
    store = Store.from_columns(
        [encode_passages(list(map(passage, articles)), vocabulary, EncodingOptions(norm, language=language))],
        len(vocabulary),
    )
    tokens = 0
    for number, article in enumerate(articles):
        article = normalise(article, norm, language)
        text = theirs.mask_token.join(BLANK.split(article))
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        found = store[number]
        assert [order[row] for row in found.tokens] == expected
        masks = [at for at, each in enumerate(expected) if each == theirs.mask_token_id]
        assert found.blank_positions.tolist() == masks
        starts = found.sentence_starts
        breaks = sentence_breaks(article, language)
        assert starts[0] == 0 and (np.diff(starts) >= 0).all() and len(starts) == len(breaks) + 1
        texts = [article[a:b] for a, b in zip([0, *breaks], [*breaks, len(article)])]
        bounds = [*starts.tolist(), len(expected)]
        blanks = [expected[a:b].count(theirs.mask_token_id) for a, b in zip(bounds, bounds[1:])]
        assert blanks == [len(BLANK.findall(each)) for each in texts]
        tokens += len(expected)
    return tokens


@pytest.mark.parametrize("kind", KINDS)
def test_articles_have_the_tokens_of_transformers(kind: str) -> None:
    articles = [each.article for each in read_passages([PASSAGES / "train"])]
    for text in SCRIPTS:
        half = len(text) // 2
        articles += [f"{text} _ {text}", f"{text[:half]}_{text[half:]}", f"_{text}", f"{text}  _ "]
    check(kind, articles, "standard")


@pytest.mark.parametrize("language", ["fr", "zh"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_languages_have_the_tokens_of_transformers(kind: str, language: str) -> None:
    articles = [each.article for each in read_passages([ROOT / "examples" / "languages" / language])]
    assert len(articles) == 10
    for norm in ("standard", "none"):
        check(kind, articles, norm, language)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_cloth_train_has_the_tokens_of_transformers(kind: str, cloth: Path) -> None:
    articles = [each.article for each in read_passages([cloth / "train"])]
    assert len(articles) == 5512
    tokens = sum(check(kind, articles[at : at + 200], "standard") for at in range(0, len(articles), 200))
    assert tokens > 1_000_000
    print(f"{kind}: {len(articles):,} passages, {tokens:,} tokens")


_texts = st.text(alphabet="aBc _.!?\n,'\"12é\u3000-") | st.text() | st.sampled_from(SCRIPTS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(before=_texts, after=_texts, norm=st.sampled_from(["standard", "none"]))
def test_any_text_has_the_tokens_of_transformers(kind: str, before: str, after: str, norm: str) -> None:
    text = _SPECIAL.sub("", before) + " _ " + _SPECIAL.sub("", after)
    check(kind, [text], norm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("character", ["\x1c", "\x1f", "\x85", "\xa0", "\u2028", "\u3000"])
def test_what_python_takes_for_white_space_before_a_blank(kind: str, character: str) -> None:
    check(kind, [f"{character} _ ", f"so{character}_", f"so {character}_ {character} it"], "none")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_begins_where_its_text_does(kind: str) -> None:
    _, vocabulary, _ = both(kind)
    article = "It rained. _ stayed ___14___ home!  Why? \u201cNo,\u201d he _ . _"
    columns = encode_passages([passage(article)], vocabulary, EncodingOptions("none"))
    bounds = [*columns["sentence_start"].tolist(), len(columns["tokens"])]
    sentences = [vocabulary.decode(columns["tokens"][a:b]).strip() for a, b in zip(bounds, bounds[1:])]
    mask = vocabulary.special["mask"]
    first = "it" if "uncased" in kind or kind in ("albert", "electra", "distilbert") else "It"
    assert [re.sub(r"\W|\ufffd", "", each.replace(mask, "M")) for each in sentences] == [
        f"{first}rained",
        "MstayedMhome",
        "Why" if first == "It" else "why",
        "NoheM" if first == "It" else "noheM",
        "M",
    ]


#: Of each kind the tokens of "they" behind nothing, a space, a bracket and a letter, as texts of them joined by "|".
_PLACES = {
    "roberta": ("they", " they", "they", "they"),
    "modernbert": ("they", " they", "they", "they"),
    "bert-cased": (" they", " they", " they", "they"),
    "bert-uncased": (" they", " they", " they", "they"),
    "distilbert": (" they", " they", " they", "they"),
    "electra": (" they", " they", " they", "they"),
    "xlm-roberta": (" they", " they", "they", "they"),
    "camembert": (" they", " they", "they", "they"),
    "albert": (" they", " they", "they", "they"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_has_the_tokens_of_its_place(kind: str) -> None:
    _, vocabulary, _ = both(kind)
    article = "_ and _ (_ s_."
    columns = encode_passages(
        [Passage("p", "p.json", article, (("they", "/"),) * 4, (0,) * 4)], vocabulary, EncodingOptions()
    )
    candidates = [each[0] for each in Store.from_columns([columns], len(vocabulary))[0].candidates]
    assert tuple(vocabulary.decode(each) for each in candidates) == _PLACES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_behind_a_space_has_the_tokens_of_a_text_there(kind: str) -> None:
    theirs, vocabulary, order = both(kind)
    for number, text in enumerate(SCRIPTS):
        article = f"So _ {number}"
        columns = encode_passages(
            [Passage("p", "p.json", article, ((text, "/"),), (0,))], vocabulary, EncodingOptions("none")
        )
        found = Store.from_columns([columns], len(vocabulary))[0].candidates[0][0]
        assert [order[row] for row in found] == theirs(f"So {text}", add_special_tokens=False)["input_ids"][
            len(theirs("So", add_special_tokens=False)["input_ids"]) :
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_like_a_special_token_is_text(kind: str) -> None:
    _, vocabulary, _ = both(kind)
    names = list(vocabulary.special.values())
    article = f"So {' '.join(names)} _ {''.join(names)} \ufdd0\ufdd1 \ufdd4."
    columns = encode_passages([passage(article)], vocabulary, EncodingOptions())
    assert columns["blank_position"].tolist() == np.flatnonzero(columns["tokens"] == vocabulary.mask).tolist()
    assert not {0, 1, 2} & set(columns["tokens"].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_a_slash_and_a_candidate_is_a_token_at_least(kind: str) -> None:
    _, vocabulary, _ = both(kind)
    assert len(vocabulary.nothing) >= 1
    columns = encode_passages(
        [Passage("p", "p.json", "So _ .", (("\u200b", "\ufffd", "a"),), (0,))], vocabulary, EncodingOptions("none")
    )
    assert (columns["candidate_length"] > 0).all()
