"""Scores against transformers, and against slow loops; invariance to the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaForMaskedLM

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.model.heads import RankingHead
from fairseq_cloze.model.losses import LOSSES, ranking_losses
from fairseq_cloze.model.names import HEAD_NAME
from fairseq_cloze.model.scores import candidate_scores
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.ranking.member import Member
from fairseq_cloze.ranking.metrics import best_candidates
from fairseq_cloze.ranking.ranker import load
from fairseq_cloze.ranking.scores import Outcome
from fairseq_cloze.views.settings import Settings

from ..support.commands import PASSAGES
from ..support.stores import make_view
from ..support.texts import odd_passages

VIEWS = [
    *(("joint", kind) for kind in ("mean", "kmask", "l2r")),
    *((view, kind) for view in ("full", "neighbors") for kind in ("mean", "head")),
]


def chosen(name: str, kind: str, contrast: float = 0.7) -> Settings:
    return Settings(name, kind, contrast=contrast)


@pytest.fixture(scope="module")
def member(pretrained: Path) -> Member:
    return load(pretrained / "model.pt").members[0]


@pytest.fixture(scope="module")
def headed(pretrained: Path) -> Member:
    [built] = load(pretrained / "model.pt").members
    torch.manual_seed(5)
    built.model.classification_heads[HEAD_NAME] = RankingHead(built.architecture).eval()
    return built


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return [*odd_passages(), *list(read_passages([PASSAGES / "valid"]))[:4]]


@pytest.fixture(scope="module")
def store(passages: list[Passage], member: Member) -> Store:
    return Store.from_columns([encode_passages(passages, member.vocabulary)], len(member.vocabulary))


def scores_of(member: Member, store: Store, name: str, kind: str, batch_size: int) -> dict[int, list[float]]:
    """Log-probabilities of the distinct candidates of each blank, batched as asked."""
    view = make_view(name, store, member.vocabulary, 126, scorer=kind)
    out = {}
    order = torch.randperm(len(view), generator=torch.Generator().manual_seed(batch_size)).tolist()
    for start in range(0, len(order), batch_size):
        sample = view.collate([view.item(index) for index in order[start : start + batch_size]])
        with torch.inference_mode():
            scores = candidate_scores(member.model, sample, chosen(name, kind))
        assert scores.dtype == torch.float32
        assert scores.isfinite().equal(sample["distinct"])
        for blank, row in zip(sample["blanks"].tolist(), scores.log_softmax(dim=1).tolist()):
            out[blank] = [value for value in row if value != float("-inf")]
    return out


@pytest.mark.parametrize(("name", "kind"), VIEWS)
def test_scores_of_half_precision_are_float32(headed: Member, store: Store, name: str, kind: str) -> None:
    """Sums and softmaxes are made in float32, whatever the model computes in."""
    view = make_view(name, store, headed.vocabulary, 126, scorer=kind)
    sample = view.collate([view.item(index) for index in range(4)])
    with torch.inference_mode():
        half = candidate_scores(copy.deepcopy(headed.model).half(), sample, chosen(name, kind))
        full = candidate_scores(headed.model, sample, chosen(name, kind))
    assert half.dtype == torch.float32
    assert (half - full)[sample["distinct"]].abs().max() < 0.05
    if kind != "head":  # means of half-precision logits that half precision could not hold
        assert not half.half().float().equal(half)


@pytest.mark.parametrize(("name", "kind"), VIEWS)
def test_scores_do_not_depend_on_the_batch(headed: Member, store: Store, name: str, kind: str) -> None:
    alone = scores_of(headed, store, name, kind, 1)
    assert sorted(alone) == list(range(store.blanks))
    for batch_size in (3, 7, 100):
        together = scores_of(headed, store, name, kind, batch_size)
        for blank in alone:
            assert together[blank] == pytest.approx(alone[blank], abs=1e-5)


@pytest.mark.parametrize("kind", ["kmask", "l2r"])
def test_the_empty_candidate_may_be_the_only_one_of_several_tokens(
    member: Member, passage: Callable[..., Path], kind: str
) -> None:
    """It is scored as the slash that exams print; alone in a batch, too, its tokens are put in proportion."""
    assert len(member.vocabulary.nothing) == 2
    passage("1.json", "He gave it to _ the old man.", [["/", "of", "for"]], ["A"])
    folder = passage("2.json", "He is an _ man.", [["extraordinarily", "old"]], ["B"]).parent
    both = Store.from_columns(
        [encode_passages(list(read_passages([folder])), member.vocabulary)], len(member.vocabulary)
    )
    alone, together = (scores_of(member, both, "joint", kind, size)[0] for size in (1, 2))
    assert alone == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("contrast", [0.0, 0.7])
@pytest.mark.parametrize("kind", ["mean", "kmask", "l2r"])
def test_joint_equals_a_transformers_loop(
    hf_folder: Path, member: Member, store: Store, kind: str, contrast: float
) -> None:
    """One row of text at a time, the whole vocabulary at every mask, one candidate after the other."""
    model = RobertaForMaskedLM.from_pretrained(hf_folder).eval()
    view = make_view("joint", store, member.vocabulary, 126, scorer=kind)
    sample = view.collate([view.item(index) for index in range(len(view))])
    with torch.inference_mode():
        found = candidate_scores(member.model, sample, chosen("joint", kind, contrast)).log_softmax(dim=1)
    rows = iter(found.tolist())
    several = 0
    for index in range(len(view)):
        item = view.item(index)
        text, positions = item["tokens"].tolist(), item["positions"].tolist()
        at_masks = [log_p(model, text)[position] for position in positions]
        for number, (blank, position) in enumerate(zip(item["blanks"].tolist(), positions)):
            expected = []
            for tokens in distinct(by_blank(store)[blank]):
                tokens = tokens or member.vocabulary.nothing.tolist()
                several += len(tokens) > 1
                pieces = slow_pieces(model, text, position, tokens, kind, member.vocabulary.mask)
                others = [row[torch.tensor(tokens)] for other, row in enumerate(at_masks) if other != number]
                if others:
                    pieces = pieces - contrast * torch.stack(others).mean(dim=0)
                expected.append(pieces.mean().item())
            row = [value for value in next(rows) if value != float("-inf")]
            assert row == pytest.approx(torch.tensor(expected).log_softmax(dim=0).tolist(), abs=1e-4)
    assert several > 20 and next(rows, None) is None


def log_p(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)


def slow_pieces(model: Any, text: list[int], position: int, tokens: list[int], kind: str, mask: int) -> torch.Tensor:
    """Log-probability of each token of a candidate."""
    if kind == "mean":
        return log_p(model, text)[position][torch.tensor(tokens)]
    pieces = []
    for piece, token in enumerate(tokens):
        known = tokens[:piece] if kind == "l2r" else []
        copied = [*text[:position], *known, *[mask] * (len(tokens) - len(known)), *text[position + 1 :]]
        pieces.append(log_p(model, copied)[position + piece, token])
    return torch.stack(pieces)


def distinct(candidates: list[list[int]]) -> list[list[int]]:
    return [tokens for number, tokens in enumerate(candidates) if tokens not in candidates[:number]]


def by_blank(store: Store) -> list[list[list[int]]]:
    return [[tokens.tolist() for tokens in row] for number in range(len(store)) for row in store[number].candidates]


@pytest.mark.parametrize("name", ["full", "neighbors"])
def test_filled_text_equals_a_transformers_loop(hf_folder: Path, member: Member, store: Store, name: str) -> None:
    """One row at a time: mean log-probability of the candidate's tokens and of one neighbour on each side."""
    model = RobertaForMaskedLM.from_pretrained(hf_folder).eval()
    found = scores_of(member, store, name, "mean", 5)
    view = make_view(name, store, member.vocabulary, 126, "remove")
    for index in range(len(view)):
        item = view.item(index)
        expected = []
        for row, (start, end) in zip(item["rows"], item["spans"]):
            with torch.inference_mode():
                log_p = model(torch.tensor(row[None])).logits[0].log_softmax(dim=-1)
            own = [log_p[position, row[position]].item() for position in range(start - 1, end + 1)]
            expected.append(sum(own) / len(own))
        assert found[index] == pytest.approx(torch.tensor(expected).log_softmax(dim=0).tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["mean", "kmask", "l2r"])
def test_a_plain_roberta_gives_the_same_scores(member: Member, store: Store, kind: str) -> None:
    """``--arch roberta_base`` projects to the whole vocabulary."""

    class Plain(torch.nn.Module):
        def forward(self, src_tokens: torch.Tensor, masked_tokens: torch.Tensor, **others: Any) -> Any:
            return member.model(src_tokens, masked_tokens=masked_tokens)

    view = make_view("joint", store, member.vocabulary, 126, scorer=kind)
    sample = view.collate([view.item(index) for index in range(len(view))])
    with torch.inference_mode():
        one, two = (candidate_scores(model, sample, chosen("joint", kind)) for model in (member.model, Plain()))
    assert (one - two)[sample["distinct"]].abs().max() < 1e-5


def test_repeated_candidates_are_one(pretrained: Path, store: Store) -> None:
    """The second blank of the first passage offers one word twice; the first wins and may be gold."""
    found = Outcome(load(pretrained / "model.pt").score(store), store)
    shares = found.probabilities[1]
    assert shares[0] == shares[2] > 0
    assert shares[:4].sum() == pytest.approx(1.0, abs=1e-6)
    assert found.best[1] != 2


@pytest.mark.parametrize(("name", "kind"), [entry for entry in VIEWS if entry[1] != "head"])
def test_settings_and_counts(pretrained: Path, store: Store, name: str, kind: str) -> None:
    path = pretrained / "model.pt"
    scored = [load(path, view=name, scorer=kind, batch_size=size).score(store) for size in (1, 7, 64)]
    assert scored[0].forwards == scored[1].forwards == scored[2].forwards
    results = [Outcome(scores, store) for scores in scored]
    assert [result.counts["n_blanks"] for result in results] == [store.blanks - 1] * 3
    assert [result.counts["n_unlabelled"] for result in results] == [1] * 3
    assert results[0].counts == results[1].counts == results[2].counts
    assert results[0].best.tolist() == results[2].best.tolist()
    assert abs(results[0].probabilities - results[2].probabilities).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "kind", "loss"),
    [*((*view, "softmax") for view in VIEWS), *(("joint", "mean", loss) for loss in LOSSES if loss != "softmax")],
)
def test_a_batch_can_be_learned(headed: Member, store: Store, name: str, kind: str, loss: str) -> None:
    """Gradients reach the weights by every way of scoring: forty steps take most of the loss of one batch."""
    model = copy.deepcopy(headed.model)
    view = make_view(name, store, headed.vocabulary, 126, scorer=kind)
    items = [view.item(index) for index in ((3,) if name == "joint" else (4, 5, 6, 7))]
    sample = view.collate(items)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        scores = candidate_scores(model, sample, chosen(name, kind))
        total = ranking_losses(scores, sample, loss).mean()
        history.append(total.item())
        total.backward()
        optimizer.step()
    floor = 0.0  # what remains when the scores are as good as can be
    if loss == "listnet":
        target = sample["relevance"].masked_fill(~sample["distinct"], float("-inf")).softmax(dim=1)
        floor = float(torch.special.entr(target).sum(dim=1).mean())
    assert history[-1] - floor < 0.25 * (history[0] - floor)
    assert best_candidates(scores).tolist() == sample["gold"].tolist()
