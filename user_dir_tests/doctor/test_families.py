"""The doctor names faults of other families, too: of mini's weights in the clothes of BERT and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq_cloze.data.tokenizer_file import BYTES, UNIGRAM, WORDPIECE
from fairseq_cloze.data.vocabulary import PAD, Vocabulary
from fairseq_cloze.doctor.diagnosis import Diagnosis
from fairseq_cloze.doctor.examination import examine
from fairseq_cloze.doctor.texts import texts_for
from fairseq_cloze.model.names import ENCODER, LM_HEAD
from fairseq_cloze.weights.carried import pretrained_state
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import ROOT

MINI = ROOT / "examples" / "pretrained" / "mini" / "model.pt"
SPECIAL = {"begin": "[CLS]", "pad": "[PAD]", "end": "[SEP]", "unknown": "[UNK]", "mask": "[MASK]"}
#: Numbers of the special tokens, so that the other rows stay as they are.
NUMBERS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
FAMILY = {WORDPIECE: "bert", UNIGRAM: "camembert", BYTES: "bert"}
KINDS = tuple(FAMILY)

Weights = dict[str, Tensor]
Edit = Callable[[Weights], Any]


@cache
def mini() -> Checkpoint:
    return Checkpoint.read(MINI)


def wordpiece(words: dict[int, str], lower: bool) -> dict[str, Any]:
    """Tokens of a RoBERTa as those of a BERT: a mark of punctuation stands for itself, whatever is before it."""
    numbers = dict(NUMBERS)
    for row, text in words.items():
        alone = len(text) == 1 and not text.isalnum()
        token = text[1:] if text.startswith(" ") and text[1:].isalnum() else text if alone else f"##{text}"
        numbers.setdefault(token, row + 1)
    return {
        "normalizer": {"type": "BertNormalizer", "lowercase": lower},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": numbers, "unk_token": "[UNK]"},
    }


def unigram(words: dict[int, str], lower: bool) -> dict[str, Any]:
    """The same with scores by frequency, which the order of mini's rows is."""
    pairs: list[list[Any]] = [[token, 0.0] for token in NUMBERS]
    for row in range(4, len(mini().require_vocabulary()) - 1):
        text = words.get(row, f"[unused{row}]").replace(" ", "\u2581")
        pairs.append([text, -8 - row / 2000])
    return {
        "normalizer": {"type": "Lowercase"} if lower else None,
        "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "always"},
        "model": {"type": "Unigram", "vocab": pairs, "unk_id": 1},
    }


@cache
def vocabulary(kind: str, lower: bool = False, capitals: bool = True) -> Vocabulary:
    """Of mini's rows, in a tokenizer of another kind, which may have lost its *capitals*."""
    own = mini().require_vocabulary()
    if kind == BYTES:
        return own
    words = {row: text for text, row in own.words_of_rows.items() if capitals or text == text.lower()}
    content = (wordpiece if kind == WORDPIECE else unigram)(words, lower)
    added = [{"id": number, "content": token, "special": True} for token, number in NUMBERS.items()]
    return Vocabulary.of({**content, "added_tokens": added}, len(own), SPECIAL, "clothes")


def diagnosis(kind: str, edit: Edit = lambda weights: None, words: Vocabulary | None = None, **shape: Any) -> Diagnosis:
    weights = {name: value.float() for name, value in mini().weights.items()}
    edit(weights)
    architecture = replace(mini().architecture, **{"family": FAMILY[kind], **shape})
    state = pretrained_state(weights, architecture, words or vocabulary(kind), {})
    return examine(Checkpoint(state, Path("/nowhere/model.pt"), "clothes"))


def found(result: Diagnosis) -> dict[str, str]:
    return {check.name: check.verdict for check in result.checks if check.verdict not in ("ok", "skipped")}


@pytest.mark.parametrize("kind", KINDS)
def test_sound(kind: str) -> None:
    result = diagnosis(kind)
    assert result.verdict_line() == "fit"
    assert found(result) == {}
    values = {check.name: check.values for check in result.checks}
    assert values["masked-LM loss"]["gain"] > 3
    assert values["tokenizer"]["kind"] == kind
    assert values["architecture"] == {"family": FAMILY[kind], "odd": ""}


def permuted(weights: Weights) -> None:
    rows = weights[f"{ENCODER}embed_tokens.weight"]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    weights.update({f"{ENCODER}embed_tokens.weight": rows, f"{LM_HEAD}weight": rows})


def exchanged(a: int, b: int) -> Edit:
    def edit(weights: Weights) -> None:
        rows = weights[f"{ENCODER}embed_tokens.weight"].clone()
        rows[[a, b]] = rows[[b, a]]
        bias = weights[f"{LM_HEAD}bias"].clone()
        bias[[a, b]] = bias[[b, a]]
        weights.update({f"{ENCODER}embed_tokens.weight": rows, f"{LM_HEAD}weight": rows, f"{LM_HEAD}bias": bias})

    return edit


def lost_head(weights: Weights) -> None:
    generator = torch.Generator().manual_seed(3)
    for name in [name for name in weights if name.startswith(f"{LM_HEAD}dense")]:
        weights[name] = torch.zeros_like(weights[name]).normal_(0, 0.02, generator=generator)


def ordered(*order: int) -> Edit:
    def edit(weights: Weights) -> None:
        old = dict(weights)
        for place, number in enumerate(order):
            for name in [name for name in old if name.startswith(f"{ENCODER}layers.{number}.")]:
                weights[name.replace(f"layers.{number}.", f"layers.{place}.")] = old[name]

    return edit


def shifted(rows: int) -> Edit:
    """As if *rows* more stood before the first position, or fewer."""

    def edit(weights: Weights) -> None:
        name = f"{ENCODER}embed_positions.weight"
        weights[name] = weights[name].roll(rows, 0)

    return edit


LAST = 15_999
FAULTS: dict[str, tuple[Edit, str]] = {
    "lost head": (lost_head, "random LM head"),
    "rows of another order": (permuted, "rows of other weights"),
    "neighbours exchanged": (ordered(0, 2, 1, 3), "wrong order of layers"),
    "from the end": (ordered(3, 2, 1, 0), "wrong order of layers"),
    "rotated": (ordered(1, 2, 3, 0), "wrong order of layers"),
    "positions two too late": (shifted(2), "positions shifted"),
    "positions two too early": (shifted(-2), "positions shifted"),
    "mask and the row before": (exchanged(LAST, LAST - 1), "wrong mask row"),
    "mask and begin": (exchanged(LAST, 0), "wrong mask row"),
    "mask and a word": (exchanged(LAST, 264), "wrong mask row"),
    "pad and a word": (exchanged(PAD, 264), "wrong pad row"),
}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(WORDPIECE, fault) for fault in FAULTS]
    + [(kind, fault) for kind in (UNIGRAM, BYTES) for fault in ("rows of another order", "mask and a word")],
)
def test_faults_of_weights(kind: str, fault: str) -> None:
    edit, name = FAULTS[fault]
    assert diagnosis(kind, edit).faults("unfit") == [name]


def test_wrong_number_of_heads() -> None:
    result = diagnosis(WORDPIECE, encoder_attention_heads=8)
    assert result.verdict_line() == "unfit: wrong number of attention heads"
    line = next(check.line() for check in result.checks if check.name == "arrangement")
    assert "with 4 attention heads instead of 8 the masked-LM loss is " in line


def test_wrong_activation_function() -> None:
    assert diagnosis(WORDPIECE, activation_fn="relu").faults("unfit") == ["wrong activation function"]


@pytest.mark.parametrize("kind", [WORDPIECE, UNIGRAM])
def test_wrong_casing(kind: str) -> None:
    result = diagnosis(kind, words=vocabulary(kind, lower=True))
    assert result.faults("unfit") == ["cased weights with an uncased tokenizer"]
    result = diagnosis(kind, words=vocabulary(kind, capitals=False))
    assert "uncased weights with a cased tokenizer" in result.faults("unfit")
    result = diagnosis(kind, words=vocabulary(kind, lower=True, capitals=False))
    assert result.faults("unfit") == []


@pytest.mark.parametrize(
    ("family", "shape", "odd"),
    [
        ("bert", {"shared_layers": True}, "shared_layers True"),
        ("albert", {}, "embedding_dim 0"),
        ("modernbert", {}, "norm_first False"),
        ("bert", {"local_attention": 64}, "local_attention 64"),
    ],
)
def test_parts_of_another_family(family: str, shape: dict[str, Any], odd: str) -> None:
    result = diagnosis(WORDPIECE, family=family, **shape)
    assert result.faults("unfit")[0] == "wrong architecture"
    line = next(check.line() for check in result.checks if check.name == "architecture")
    assert line.startswith(f"unfit    architecture    {odd}, which ")


def test_the_text_is_in_the_language_of_the_vocabulary() -> None:
    from fairseq_cloze.data.prepare import passage_texts

    own = mini().require_vocabulary()
    assert texts_for(own)[0] == "English"
    for language, name in (("fr", "French"), ("zh", "Chinese")):
        texts = passage_texts([ROOT / "examples" / "languages" / language])
        assert texts_for(Vocabulary.learn(texts, 900))[0] == name
