"""Measures: what weights, vocabularies and models show of their health, as plain numbers."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.fairseq_files import numbers_by_rule
from ..data.store import Store
from ..data.vocabulary import BOS, EOS, UNK, Vocabulary
from ..model.encoder import EncoderLayer
from ..model.masked_lm import MaskedLM
from ..model.names import LM_HEAD
from ..passages.passage import UNLABELLED

#: Original prose, for checkpoints that come without data.
ENGLISH = (
    "The old ferry leaves the harbour at seven every morning, whether or not there are passengers. Captain Lowe says "
    "that a boat is like a clock: people stop trusting it the first time it is late. On Monday there was a thick fog, "
    "and only two women and a boy with a bicycle came on board. They stood close together near the door and drank hot "
    "tea from paper cups while the engine warmed up.",
    "My grandmother never used a cookbook. When I asked her how much sugar went into the apple cake, she looked at me "
    "as if I had asked how much air one should breathe. “Enough,” she said, and laughed. Years later I tried to write "
    "the recipe down, and it took me five cakes to find out what she meant. The first one was so sweet that even the "
    "dog did not want it.",
    "In the spring the school decided to plant a garden behind the library. The younger children wanted flowers, but "
    "the teachers thought that vegetables would be more useful. In the end they did both: tomatoes and beans along the "
    "wall, and a long row of sunflowers by the gate. Nobody knew who would water the plants during the holidays, so "
    "each family took the key for a week and wrote down what had grown.",
)

#: One token in so many is masked at a time, about as in pretraining (15%).
_STRIDE = 5

_SEED = 1

_COMPUTING = (nn.Linear, nn.LayerNorm)


def spectral_ratio(weight: Tensor) -> float:
    """Largest singular value, over what random entries of the same deviation would give.

    A matrix of independent entries with deviation σ has a largest singular value of σ(√rows + √columns), whatever their
    distribution (the edge of the Marchenko-Pastur law); what training writes stands out above it.

    Args:
        weight: floating point ``(rows, columns)``, finite

    Returns:
        about 1 for an initial distribution, clearly more after training, 0 for a constant
    """
    weight = weight.detach().float()
    edge = float(weight.std()) * (math.sqrt(weight.size(0)) + math.sqrt(weight.size(1)))
    if not edge > 0:
        return 0.0
    vector = torch.randn(weight.size(1), generator=torch.Generator().manual_seed(_SEED))
    for _ in range(15):  # power iteration
        vector = F.normalize(weight.T @ (weight @ vector), dim=0)
    return float((weight @ vector).norm()) / edge


def related_rows(vocabulary: Vocabulary) -> np.ndarray:
    """Rows of words that differ only by a leading space or a capital, ``int64 (pairs, 2)``; three letters and more."""
    rows = vocabulary.words_of_rows()
    pairs = []
    for text, row in rows.items():
        word = text[1:]
        if text.startswith(" ") and len(word) > 2 and word.isalpha() and word.islower():
            pairs += [(row, rows[other]) for other in (word, f" {word.capitalize()}") if other in rows]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def pair_similarity(embedding: Tensor, pairs: np.ndarray) -> tuple[float, float, float]:
    """How much closer paired rows are than rows of different pairs.

    Args:
        embedding: floating point ``(rows, width)``
        pairs: ``int64 (pairs, 2)``, at least two

    Returns:
        mean cosine of the pairs, of first rows with the next pair's second, and their difference in standard errors
    """
    embedding = embedding.detach().float()
    first, second = (F.normalize(embedding[pairs[:, side]] - embedding.mean(dim=0), dim=1) for side in (0, 1))
    own, other = (first * second).sum(dim=1), (first * second.roll(1, 0)).sum(dim=1)
    error = float((own - other).std()) / math.sqrt(len(pairs))
    return float(own.mean()), float(other.mean()), float((own - other).mean()) / max(error, 1e-12)


def merge_order(vocabulary: Vocabulary) -> float:
    """Share of merges of what earlier merges have made; 1 as learned, clearly less in any other order."""
    made: set[str] = set()
    in_order = 0
    for left, right in vocabulary.merges:
        in_order += all(len(part) == 1 or part in made for part in (left, right))
        made.add(left + right)
    return in_order / max(len(vocabulary.merges), 1) if vocabulary.merges else 1.0


def number_order(vocabulary: Vocabulary) -> tuple[float, float]:
    """Share of the rows that are tokens of the BPE, and the rank correlation (Spearman) of BPE number and row.

    Both follow frequency, so it is well above 0 in a dictionary in its own order.
    """
    number_of = numbers_by_rule(vocabulary.merges)
    listed = [token for row, token in enumerate(vocabulary.tokens) if row > UNK and row != vocabulary.mask]
    numbers = np.array([number_of[token] for token in listed if token in number_of])
    if len(numbers) < 3:
        return 0.0, float("nan")
    ranks = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
    correlation = float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1])
    return len(numbers) / len(listed), correlation


def shuffled(texts: Sequence[str]) -> list[str]:
    """The same texts with the words of each in another order."""
    order = np.random.default_rng(_SEED)
    return [" ".join(order.permutation(text.split())) for text in texts]


def masked_lm_losses(model: MaskedLM, vocabulary: Vocabulary, texts: Sequence[str], max_positions: int) -> Tensor:
    """Loss of every token of *texts*, each masked once, together with every fifth of its text.

    Args:
        model: in evaluation mode
        vocabulary: its own
        texts: cut to rows of *max_positions* tokens, ``<s>`` and ``</s>`` included

    Returns:
        nats, ``float32 (tokens,)``
    """
    device = next(model.parameters()).device
    losses = [torch.zeros(0)]
    for tokens in vocabulary.encode(texts):
        row = torch.tensor([BOS, *tokens[: max_positions - 2].tolist(), EOS], device=device)
        offset = torch.arange(len(row), device=device)
        inside = (offset > 0) & (offset < len(row) - 1)
        masked = torch.stack([(offset % _STRIDE == start) & inside for start in range(_STRIDE)])
        masked = masked[masked.any(dim=1)]
        if not len(masked):
            continue
        source = row.expand_as(masked).masked_fill(masked, vocabulary.mask)
        with torch.inference_mode():
            logits, _ = model(src_tokens=source, masked_tokens=masked)
            losses.append(F.cross_entropy(logits.float(), row.expand_as(masked)[masked], reduction="none").cpu())
    return torch.cat(losses)


def largest_activations(model: MaskedLM, vocabulary: Vocabulary, text: str, max_positions: int) -> dict[str, float]:
    """Largest absolute value that each module takes or gives for *text*, by name; attention before its softmax, too.

    Args:
        model: in float32, so that nothing overflows here
        vocabulary: its own
        text: cut to a row of *max_positions* tokens
    """
    peaks: dict[str, float] = {}

    def note(name: str, *values: Tensor) -> None:
        for value in values:
            peaks[name] = max(peaks.get(name, 0.0), float(value.abs().max().nan_to_num(math.inf)))

    def look_inside(name: str, layer: EncoderLayer, x: Tensor) -> None:
        """Compute a layer for one row, ``(length, width)``, module by module, which forward passes do in one."""
        attention = layer.self_attn
        projected = (projection(x) for projection in (attention.q_proj, attention.k_proj, attention.v_proj))
        q, k, v = (part.unflatten(1, (attention.heads, -1)).transpose(0, 1) for part in projected)
        logits = q * q.size(-1) ** -0.5 @ k.transpose(1, 2)  # (heads, length, length)
        note(f"{name}.self_attn.logits", logits)
        attended = attention.out_proj((logits.softmax(dim=-1) @ v).transpose(0, 1).flatten(1))
        middle = layer.self_attn_layer_norm(x + attended)
        layer.final_layer_norm(middle + layer.fc2(layer.activation_fn(layer.fc1(middle))))

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, EncoderLayer):
            look = partial(look_inside, name)
            handles.append(module.register_forward_pre_hook(lambda layer, given, look=look: look(layer, given[0])))
        elif name.startswith(LM_HEAD.rstrip(".")) or (".layers." in name and isinstance(module, _COMPUTING)):
            see = partial(note, name)
            handles.append(module.register_forward_hook(lambda _, given, result, see=see: see(given[0], result)))
    tokens = vocabulary.encode([text])[0][: max_positions - 2].tolist()
    try:
        with torch.inference_mode():
            model(src_tokens=torch.tensor([[BOS, *tokens, EOS]], device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return peaks


def sample_passages(store: Store, blanks: int) -> Store:
    """Passages drawn with a fixed seed until they have *blanks* blanks; all where there are fewer."""
    order = np.random.default_rng(_SEED).permutation(len(store))
    counts = np.diff(store.blank_offsets)[order]
    chosen = np.sort(order[: int(np.searchsorted(np.cumsum(counts), blanks)) + 1])
    chunks = [store.chunk(int(passage)) for passage in chosen]
    return Store.from_columns(chunks, int(store.columns["tokens"].max(initial=0)) + 1)


def filled_texts(store: Store, vocabulary: Vocabulary, count: int, words: int) -> list[str]:
    """First *words* words of *count* passages with gold in their blanks; unlabelled ones are left out."""
    texts: list[str] = []
    for number in range(len(store)):
        passage = store[number]
        if len(texts) == count or (passage.gold == UNLABELLED).any():
            continue
        before, *others = np.split(passage.tokens, passage.blank_positions)  # the others begin with their blank
        filled = [[choices[gold], piece[1:]] for choices, gold, piece in zip(passage.candidates, passage.gold, others)]
        pieces = [before, *(part for pair in filled for part in pair)]
        texts.append(" ".join(vocabulary.decode(np.concatenate(pieces).tolist()).split()[:words]))
    return texts


def tied_blanks(probabilities: np.ndarray, store: Store) -> int:
    """Blanks of *store* whose best probability, ``float32 (blanks, candidates)``, candidates of two texts share."""
    tied = 0
    first = store.columns["candidate_first"]
    for blank, row in enumerate(probabilities):
        start, end = store.candidate_offsets[blank : blank + 2]
        distinct = row[: end - start][first[start:end] == np.arange(end - start)]
        tied += int((distinct == distinct.max()).sum() > 1)
    return tied
