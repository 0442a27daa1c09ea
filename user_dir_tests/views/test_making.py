"""Views against slow constructions from the encoded passages, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.data.vocabulary import BOS, EOS, PAD, Vocabulary
from fairseq_cloze.errors import DataBinError
from fairseq_cloze.passages.passage import UNLABELLED, Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.views.filled import FilledView
from fairseq_cloze.views.joint import JointView
from fairseq_cloze.views.view import View

from ..support.commands import PASSAGES
from ..support.stores import make_view
from ..support.texts import odd_passages


@pytest.fixture(scope="module")
def store(vocabulary: Vocabulary) -> Store:
    passages = [*odd_passages(), *read_passages([PASSAGES / "valid"])]
    return Store.from_columns([encode_passages(passages, vocabulary)], len(vocabulary))


def labelled(store: Store, vocabulary: Vocabulary) -> Store:
    passages = [odd_passages()[0], *read_passages([PASSAGES / "valid"])]
    return Store.from_columns([encode_passages(passages, vocabulary)], len(vocabulary))


def rows_of(sample: dict[str, Any]) -> list[list[int]]:
    return [[token for token in row if token != PAD] for row in sample["net_input"]["src_tokens"].tolist()]


def everything(view: View) -> dict[str, Any]:
    return view.collate([view.item(index) for index in range(len(view))])


def by_hand(
    store: Store, view: str, vocabulary: Vocabulary, other: str = "remove"
) -> list[list[tuple[list[int], int]]]:
    """Per blank, per distinct candidate: the row, and where the candidate starts in it."""
    out = []
    for number in range(len(store)):
        passage = store[number]
        mask = set(passage.blank_positions.tolist())
        fills: dict[int, list[int]] = {}
        for blank, position in enumerate(passage.blank_positions.tolist()):
            gold = passage.gold[blank]
            fills[position] = {
                "remove": [],
                "mask": [vocabulary.mask],
                "gold": passage.candidates[blank][gold].tolist() if gold != UNLABELLED else [],
            }[other]
        for blank, own in enumerate(passage.blank_positions.tolist()):
            seen: list[list[int]] = []
            rows = []
            for candidate in (tokens.tolist() for tokens in passage.candidates[blank]):
                if candidate in seen:
                    continue
                seen.append(candidate)
                left: list[int] = []
                right: list[int] = []
                for position, token in enumerate(passage.tokens.tolist()):
                    side = left if position < own else right
                    if position in mask:
                        if position != own:
                            side += fills[position]
                    else:
                        side.append(token)
                if view == "neighbors":
                    before = max([position for position in mask if position < own], default=-1)
                    after = min([position for position in mask if position > own], default=len(passage.tokens))
                    left = passage.tokens[before + 1 : own].tolist()
                    right = passage.tokens[own + 1 : after].tolist()
                rows.append(([BOS, *left, *candidate, *right, EOS], len(left) + 1))
            out.append(rows)
    return out


@pytest.mark.parametrize("other", ["remove", "mask", "gold"])
def test_full_by_hand(store: Store, vocabulary: Vocabulary, other: str) -> None:
    if other == "gold":
        store = labelled(store, vocabulary)
    check_filled(store, vocabulary, "full", other)


def test_neighbors_by_hand(store: Store, vocabulary: Vocabulary) -> None:
    check_filled(store, vocabulary, "neighbors", "remove")


def check_filled(store: Store, vocabulary: Vocabulary, name: str, other: str) -> None:
    view = make_view(name, store, vocabulary, 10_000, other)
    expected = by_hand(store, name, vocabulary, other)
    assert len(view) == store.blanks == len(expected)
    sample = everything(view)
    assert rows_of(sample) == [row for rows in expected for row, _ in rows]
    assert view.rows.tolist() == [len(rows) for rows in expected]
    assert view.row_length.tolist() == [max(len(row) for row, _ in rows) for rows in expected]
    assert sample["ntokens"] == sum(len(row) for rows in expected for row, _ in rows)
    assert sample["spans"][:, 0].tolist() == [start for rows in expected for _, start in rows]
    assert sample["blanks"].tolist() == list(range(store.blanks))
    assert sample["row"][sample["distinct"]].tolist() == list(range(len(rows_of(sample))))
    assert (sample["row"][~sample["distinct"]] == -1).all()
    for (start, end), row in zip(sample["spans"].tolist(), rows_of(sample)):
        assert 0 < start <= end < len(row)


def test_joint_by_hand(store: Store, vocabulary: Vocabulary) -> None:
    view = make_view("joint", store, vocabulary, 10_000, "remove")
    sample = everything(view)
    assert rows_of(sample) == [[BOS, *store[number].tokens.tolist(), EOS] for number in range(len(store))]
    assert view.row_length.tolist() == [len(row) for row in rows_of(sample)]
    assert view.rows.tolist() == [1] * len(store)
    source = sample["net_input"]["src_tokens"]
    assert (source.flatten()[sample["net_input"]["reads"]] == vocabulary.mask).all()
    assert (source == vocabulary.mask).equal(sample["net_input"]["masked_tokens"])
    assert sample["blanks"].tolist() == list(range(store.blanks))
    tokens = sample["net_input"]["candidate_tokens"].tolist()
    expected = [row for number in range(len(store)) for row in store[number].candidates]
    for found, row in zip(tokens, expected):
        cut = [[token for token in candidate if token != PAD] for candidate in found]
        assert cut[: len(row)] == [(t if len(t) else vocabulary.nothing).tolist() for t in row]
        assert not any(cut[len(row) :])


def test_what_loss_and_metrics_get(store: Store, vocabulary: Vocabulary) -> None:
    view = make_view("joint", store, vocabulary, 10_000, "remove")
    sample = view.collate([view.item(0), view.item(1)])
    assert {name: sample[name].tolist() for name in ("blanks", "gold", "exists", "distinct", "first")} == {
        "blanks": [0, 1, 2, 3],
        "gold": [1, 0, 0, -1],  # the third option of the second blank repeats the first
        "exists": [
            [True, True, False, False, False],
            [True, True, True, True, False],
            [True, True, True, False, False],
            [True, True, True, True, True],
        ],
        "distinct": [
            [True, True, False, False, False],
            [True, True, False, True, False],
            [True, True, True, False, False],
            [True, True, True, True, True],
        ],
        "first": [[0, 1, 0, 0, 0], [0, 1, 0, 3, 0], [0, 1, 2, 0, 0], [0, 1, 2, 3, 4]],
    }
    assert sample["chance"].tolist()[:3] == [1 / 2, 2 / 4, 1 / 3]
    lengths = [[len(tokens) for tokens in row] for number in (0, 1) for row in store[number].candidates]
    assert sample["multi_token"].tolist() == [max(row) > 1 for row in lengths]
    assert sample["relevance"].dtype == torch.float64  # --fp16 halves float32
    assert sample["relevance"].tolist()[:3] == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert (sample["nsentences"], sample["id"].tolist()) == (2, [0, 1])


def test_equal_candidates_have_the_highest_of_their_ranks(vocabulary: Vocabulary) -> None:
    ranks = ((-2.0, -1.0, 3.0, 0.5), (-4.0, -3.0))
    passage = Passage("p", "p", "a _ b _", (("to", "at", "to", "in"), ("x", "x")), (2, 1), ranks)
    store = Store.from_columns([encode_passages([passage], vocabulary)], len(vocabulary))
    sample = everything(make_view("joint", store, vocabulary, 126, "remove"))
    assert sample["gold"].tolist() == [0, 0]
    assert sample["relevance"].tolist() == [[3, -1, 0, 0.5], [-3, 0, 0, 0]]


@pytest.mark.parametrize("name", ["joint", "full", "neighbors"])
@pytest.mark.parametrize("positions", [40, 64, 126])
def test_long_passages_become_windows(vocabulary: Vocabulary, store: Store, name: str, positions: int) -> None:
    """Whatever the limit: no row is longer, every blank is there once, and its text is a piece of the passage."""
    view = make_view(name, store, vocabulary, positions, "mask")
    sample = everything(view)
    rows = rows_of(sample)
    assert sorted(sample["blanks"].tolist()) == list(range(store.blanks))
    assert max(map(len, rows)) <= positions
    assert all(row[0] == BOS and row[-1] == EOS for row in rows)
    by_item = [max(map(len, rows_of(view.collate([view.item(index)])))) for index in range(len(view))]
    assert view.row_length.tolist() == by_item
    uncut = make_view(name, store, vocabulary, 10_000, "mask")
    texts = [" ".join(map(str, row)) for row in rows_of(everything(uncut))]
    if name == "joint":
        for index, row in enumerate(rows):
            assert " ".join(map(str, row[1:-1])) in texts[view.passage_of(index)]
    else:
        assert len(rows) == len(texts)
        for row, text in zip(rows, texts):
            assert " ".join(map(str, row[1:-1])) in text


def test_rows_that_fit_are_whole(vocabulary: Vocabulary, store: Store) -> None:
    lengths = make_view("joint", store, vocabulary, 10_000, "remove").row_length
    limit = int(np.median(lengths))
    view = make_view("joint", store, vocabulary, limit, "remove")
    assert isinstance(view, JointView)
    whole = {view.passage_of(index) for index in range(len(view))}
    assert len(whole) == len(store)
    for number in np.flatnonzero(lengths <= limit):
        rows = [index for index in range(len(view)) if view.passage_of(index) == number]
        assert [int(view.row_length[index]) for index in rows] == [int(lengths[number])]


@pytest.mark.parametrize(("view", "scorer"), [("full", "mean"), ("joint", "kmask")])
def test_a_candidate_longer_than_the_model(vocabulary: Vocabulary, view: str, scorer: str) -> None:
    passage = Passage("long", "long", "a _ b", (("x " * 60, "y"),), (0,))
    store = Store.from_columns([encode_passages([passage], vocabulary)], len(vocabulary))
    with pytest.raises(DataBinError) as error:
        make_view(view, store, vocabulary, 40, scorer=scorer)
    length = len(store[0].candidates[0][0])
    assert str(error.value) == (
        f"passage 'long': a candidate of {length} tokens does not fit into 40 positions; "
        "take the passage out, or a model with more positions"
    )


def test_gold_in_the_other_blanks_needs_labels(store: Store, vocabulary: Vocabulary) -> None:
    with pytest.raises(DataBinError) as error:
        make_view("full", store, vocabulary, 512, "gold")
    assert str(error.value) == (
        "other_blanks 'gold' needs every blank labelled, found 1 without an answer; use 'remove' or 'mask'"
    )


def test_items_of_filled_views_say_where_they_come_from(store: Store, vocabulary: Vocabulary) -> None:
    view = make_view("full", store, vocabulary, 512, "remove")
    assert isinstance(view, FilledView)
    assert [view.passage_of(index) for index in range(4)] == [0, 0, 0, 1]


@pytest.mark.parametrize("scorer", ["mean", "kmask", "l2r"])
@pytest.mark.parametrize("positions", [40, 64, 126, 10_000])
def test_one_forward_views_know_what_items_cost(
    vocabulary: Vocabulary, store: Store, scorer: str, positions: int
) -> None:
    view = make_view("joint", store, vocabulary, positions, scorer=scorer)
    assert isinstance(view, JointView)
    blanks: list[int] = []
    for index in range(len(view)):
        sample = view.collate([view.item(index)])
        source = sample["net_input"]["src_tokens"]
        assert (len(source), source.size(1)) == (view.rows[index], view.row_length[index])
        assert source.size(1) <= positions
        blanks += sample["blanks"].tolist()
    assert blanks == list(range(store.blanks))


def test_what_copies_hold(vocabulary: Vocabulary, store: Store) -> None:
    """'come back' of the odd passage: as many masks as it has tokens, then one fewer after its first token, ..."""
    view = make_view("joint", store, vocabulary, 10_000, scorer="l2r")
    passage = store[0]
    mask = vocabulary.mask
    text, positions = passage.tokens.tolist(), passage.blank_positions.tolist()
    expected = []
    for position, candidates in zip(positions, passage.candidates):
        several = [(tokens if len(tokens) else vocabulary.nothing).tolist() for tokens in candidates]
        several = [
            tokens for number, tokens in enumerate(several) if tokens not in several[:number] and len(tokens) > 1
        ]
        fills = [[mask] * length for length in sorted({len(tokens) for tokens in several})]
        fills += [tokens[:n] + [mask] * (len(tokens) - n) for tokens in several for n in range(1, len(tokens))]
        expected += [[BOS, *text[:position], *fill, *text[position + 1 :], EOS] for fill in fills]
    assert rows_of(view.collate([view.item(0)]))[1:] == expected and len(expected) > 3
