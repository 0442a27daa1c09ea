from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.data.vocabulary import BOS, EOS, Vocabulary
from fairseq_cloze.doctor.measures import (
    filled_texts,
    known_share,
    largest_activations,
    masked_lm_losses,
    merge_order,
    number_order,
    pair_similarity,
    related_rows,
    sample_passages,
    shuffled,
    spectral_ratio,
    tied_blanks,
)
from fairseq_cloze.doctor.texts import ENGLISH
from fairseq_cloze.ranking.ranker import load


@pytest.mark.parametrize("shape", [(48, 48), (96, 48), (2000, 64)])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_random_weights_have_a_spectral_ratio_of_one(shape: tuple[int, int], kind: str) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.empty(shape)
    weight = weight.normal_(0, 0.02, generator=generator) if kind == "normal" else weight.uniform_(generator=generator)
    weight = weight - weight.mean()
    assert 0.85 < spectral_ratio(weight) < 1.1
    edge = float(weight.std()) * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
    exact = float(torch.linalg.matrix_norm(weight, 2)) / edge
    assert exact * 0.93 < spectral_ratio(weight) <= exact * 1.001  # power iteration comes from below
    assert spectral_ratio(weight.half()) == pytest.approx(spectral_ratio(weight), rel=1e-3)


def test_structure_has_a_larger_spectral_ratio() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(64, 64, generator=generator)
    direction = torch.randn(64, generator=generator)
    assert spectral_ratio(weight + 0.5 * torch.outer(direction, direction)) > 1.5
    assert spectral_ratio(torch.zeros(8, 8)) == spectral_ratio(torch.ones(8, 8)) == 0.0


def test_pairs(vocabulary: Vocabulary) -> None:
    """Of words of three letters and more: ' t' begins all kinds of words."""
    words = ("the", "and", "run", "water")
    tokens = [form for word in words for form in (f"Ġ{word}", word, f"Ġ{word.capitalize()}", word.upper(), "Ġt", "t")]
    tokens = list(dict.fromkeys([*vocabulary.token_rows()][4:-1] + tokens))
    table = Vocabulary.build(tokens, [("Ġ", "t")], "test")
    token = {row: name for name, row in table.token_rows().items()}
    pairs = [(token[a], token[b]) for a, b in related_rows(table)]
    for word in words:
        assert (f"Ġ{word}", word) in pairs and (f"Ġ{word}", f"Ġ{word.capitalize()}") in pairs
    assert all(a[1:] == b.replace("Ġ", "").lower() and a != b and len(a) > 3 for a, b in pairs)


def test_pairs_are_closer_than_others() -> None:
    pairs = np.arange(200).reshape(100, 2)
    embedding = torch.randn(200, 48, generator=torch.Generator().manual_seed(1))
    own, other, errors = pair_similarity(embedding, pairs)
    assert abs(own) < 0.1 and abs(other) < 0.1 and abs(errors) < 3
    embedding[1::2] = embedding[::2]
    own, other, errors = pair_similarity(embedding, pairs)
    assert own == pytest.approx(1.0) and abs(other) < 0.1 and errors > 5
    assert pair_similarity(embedding.half() + 3, pairs)[0] == pytest.approx(1.0, abs=1e-2)  # a common direction


def test_orders(vocabulary: Vocabulary) -> None:
    assert merge_order(vocabulary) == 1.0
    assert number_order(vocabulary) == pytest.approx(1.0)
    assert known_share(vocabulary) == 1.0
    lines = [f"{a} {b}" for a, b in vocabulary.merges]
    backwards = Vocabulary({**vocabulary.fairseq_files(), "vocab.bpe": "\n".join(lines[::-1]).encode()}, "test")
    made = sum(len(a) == len(b) == 1 for a, b in vocabulary.merges)  # these need no earlier merge
    assert merge_order(backwards) == pytest.approx(made / len(lines), abs=0.02)


def test_every_token_is_masked_once(pretrained: Path, vocabulary: Vocabulary) -> None:
    [member] = load(pretrained / "model.pt").members
    texts = ["It was a cold day.", "", "x"]
    losses = masked_lm_losses(member.model, member.vocabulary, texts, 126)
    tokens = member.vocabulary.encode(texts)
    assert len(losses) == sum(map(len, tokens)) and len(tokens[2]) == 1
    assert len(masked_lm_losses(member.model, member.vocabulary, [ENGLISH[0]], 20)) == 18
    # the only token of the last text, by hand
    source = torch.tensor([[BOS, member.vocabulary.mask, EOS]])
    with torch.inference_mode():
        logits = member.model(src_tokens=source)[0][0, 1].float().log_softmax(-1)
    assert -float(logits[tokens[2][0]]) == pytest.approx(float(losses[-1]), abs=1e-4)


def test_largest_activations(pretrained: Path) -> None:
    [member] = load(pretrained / "model.pt").members
    found = largest_activations(member.model, member.vocabulary, ENGLISH[0], 126)
    layer = member.model.encoder.sentence_encoder.layers[1]
    seen = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokens = member.vocabulary.encode([ENGLISH[0]])[0][:124].tolist()
    with torch.inference_mode():
        member.model(src_tokens=torch.tensor([[BOS, *tokens, EOS]]))
    handle.remove()
    x = seen[0].double()  # of the one row, packed
    attention = layer.self_attn
    query = (x @ attention.q_proj.weight.double().T + attention.q_proj.bias.double()).view(len(x), 4, 12)
    key = (x @ attention.k_proj.weight.double().T + attention.k_proj.bias.double()).view(len(x), 4, 12)
    logits = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(12)
    name = "encoder.sentence_encoder.layers.1.self_attn"
    assert found[f"{name}.logits"] == pytest.approx(float(logits.abs().max()), rel=1e-4)
    assert found[f"{name}.q_proj"] == pytest.approx(float(query.abs().max()), rel=1e-4)
    assert {f"{name}.k_proj", f"{name}.v_proj", "encoder.sentence_encoder.layers.0.fc2", "encoder.lm_head"} <= set(
        found
    )
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_a_sample_is_made_of_whole_passages(data_bin: Path) -> None:
    store = DataBin(data_bin).open("train")
    assert sample_passages(store, 10**6).blanks == store.blanks
    whole = sample_passages(store, 10**6)
    assert set(whole.columns) == set(store.columns)
    for name in store.columns:
        assert np.array_equal(whole.columns[name], store.columns[name]), name
    part = sample_passages(store, 100)
    assert 100 <= part.blanks < 130 and len(part) < len(store)
    ids = [store.id(number) for number in range(len(store))]
    for number in range(len(part)):
        ours, theirs = part[number], store[ids.index(part.id(number))]
        assert np.array_equal(ours.tokens, theirs.tokens) and np.array_equal(ours.gold, theirs.gold)
        assert np.array_equal(ours.blank_positions, theirs.blank_positions)
        assert [[c.tolist() for c in row] for row in ours.candidates] == [
            [c.tolist() for c in row] for row in theirs.candidates
        ]
    again = sample_passages(store, 100)
    assert [again.id(n) for n in range(len(again))] == [part.id(n) for n in range(len(part))]


def test_texts_have_gold_in_their_blanks(data_bin: Path) -> None:
    data = DataBin(data_bin)
    store = data.open("valid")
    texts = filled_texts(store, data.vocabulary, 3, 40)
    assert [len(text.split()) for text in texts] == [40, 40, 40]
    assert all("<mask>" not in text and "_" not in text for text in texts)


def test_shuffled_words_are_the_same_words() -> None:
    mixed = shuffled(ENGLISH)
    assert mixed == shuffled(ENGLISH) and mixed != list(ENGLISH)
    assert [sorted(text.split()) for text in mixed] == [sorted(text.split()) for text in ENGLISH]


def test_ties(data_bin: Path) -> None:
    store = DataBin(data_bin).open("valid")
    chances = np.tile(np.array([0.1, 0.4, 0.4, 0.1], dtype=np.float32), (store.blanks, 1))
    assert tied_blanks(chances, store) == store.blanks
    chances[1:, 1] = 0.41
    assert tied_blanks(chances, store) == 1


def test_candidates_of_one_text_do_not_tie(data_bin: Path) -> None:
    store = DataBin(data_bin).open("valid")
    first = np.asarray(store.columns["candidate_first"]).copy()
    first[2] = 1  # the third candidate of the first blank repeats the second
    store.columns = {**store.columns, "candidate_first": first}
    chances = np.tile(np.array([0.1, 0.4, 0.4, 0.1], dtype=np.float32), (store.blanks, 1))
    assert tied_blanks(chances, store) == store.blanks - 1
