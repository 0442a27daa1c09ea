"""Measures: what weights, vocabularies and models show of their health, as plain numbers."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.fairseq_files import numbers_by_rule
from ..data.store import Store
from ..data.tokenizer_file import BYTES, UNIGRAM
from ..data.vocabulary import BOS, EOS, UNK, Vocabulary
from ..model.encoder import EncoderLayer, rotated
from ..model.masked_lm import MaskedLM
from ..model.names import LM_HEAD
from ..passages.passage import UNLABELLED

#: One token in so many is masked at a time, about as in pretraining (15%).
_STRIDE = 5

_SEED = 1

_PLACES = 12

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
    """Rows of words that differ only by a leading space or a capital, ``int64 (pairs, 2)``; three letters and more.

    Where nothing begins with a capital, words that differ by a leading space and words with their plural.
    """
    rows = vocabulary.words_of_rows
    words = [(text[1:], row) for text, row in rows.items() if text.startswith(" ")]
    words = [(word, row) for word, row in words if len(word) > 2 and word.isalpha() and word.islower()]
    capitals = is_cased(vocabulary)
    pairs = []
    for word, row in words:
        other = f" {word.capitalize()}" if capitals else f" {word}s"
        pairs += [(row, rows[each]) for each in (word, other) if each in rows]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def is_cased(vocabulary: Vocabulary) -> bool:
    """Whether there are tokens of two letters and more with capitals among them: at least one in a hundred."""
    words = _words(vocabulary)
    return sum(word != word.lower() for word in words) > 0.01 * len(words)


def has_small_letters(vocabulary: Vocabulary) -> bool:
    """Whether at least half of the tokens of two letters and more are of a script that has capitals."""
    words = _words(vocabulary)
    return len(words) > 0 and sum(word != word.upper() for word in words) > 0.5 * len(words)


def _words(vocabulary: Vocabulary) -> list[str]:
    """Tokens of two letters and more."""
    return [word for text in vocabulary.words_of_rows if len(word := text.strip()) > 1 and word.isalpha()]


def keeps_case(vocabulary: Vocabulary) -> bool:
    """Whether the tokenizer tells capitals from small letters."""
    capital, small = vocabulary.encode(["A Ferry", "a ferry"])
    return capital.tolist() != small.tolist()


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


def number_order(vocabulary: Vocabulary) -> float:
    """Rank correlation (Spearman) of rows and the order in which the tokenizer learned them; NaN where it tells none.

    Both follow frequency, so it is well above 0 in a dictionary in its own order.  A byte-level BPE numbers its tokens
    as it learned them, Unigram has scores.
    """
    learned: dict[str, float] = {}
    if vocabulary.file.kind == UNIGRAM:
        learned = {token: -vocabulary.file.scores[number] for token, number in vocabulary.file.own.items()}
    elif vocabulary.merges:
        learned = {token: float(number) for token, number in numbers_by_rule(vocabulary.merges).items()}
    special = {*range(UNK + 1), vocabulary.mask}
    numbers = [learned[token] for row, token in enumerate(vocabulary.tokens) if row not in special and token in learned]
    if len(numbers) < 3:
        return float("nan")
    ranks = np.argsort(np.argsort(np.array(numbers), kind="stable"), kind="stable")
    return float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1])


def known_share(vocabulary: Vocabulary) -> float:
    """Share of the rows whose tokens a byte-level BPE can make; 1 of other kinds."""
    if not vocabulary.merges:
        return 1.0
    makes = numbers_by_rule(vocabulary.merges)
    listed = [token for row, token in enumerate(vocabulary.tokens) if row > UNK and row != vocabulary.mask]
    return sum(token in makes or token in vocabulary.file.added for token in listed) / max(len(listed), 1)


def survives(vocabulary: Vocabulary, text: str, tokens: np.ndarray) -> bool:
    """Whether *text* can be read off its *tokens*: its letters, where the kind keeps no more."""
    back = vocabulary.decode(tokens.tolist())
    if vocabulary.file.kind == BYTES:
        return back == text
    return UNK in tokens or _letters(back) == _letters(text)


def _letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())


def first_place(positions: Tensor) -> int | None:
    """Place, as a row, of the begin token: the row before those that are like the next; ``None`` if none are.

    Rows of neighbours are alike where positions were learned (mean cosine about 0.6), but for that of the begin token,
    which is always in the same place.
    """
    alike = F.cosine_similarity(positions[:-1].float(), positions[1:].float(), dim=1)
    usual = float(alike[: len(alike) // 2].median())
    if usual < 0.2:
        return None
    near = alike[:_PLACES] > usual / 2
    both = (near[:-1] & near[1:]).nonzero()
    return int(both[0]) - 1 if len(both) else None


def shuffled(texts: Sequence[str]) -> list[str]:
    """The same texts with the words of each in another order."""
    order = np.random.default_rng(_SEED)
    gaps = [" " if " " in text else "" for text in texts]  # Chinese has none
    return [gap.join(order.permutation(text.split() if gap else list(text))) for gap, text in zip(gaps, texts)]


def beginning(text: str) -> str:
    """About the first forty words of a text."""
    return " ".join(text.split()[:40]) if " " in text else text[:60]


def masked_lm_losses(model: MaskedLM, vocabulary: Vocabulary, texts: Sequence[str], max_positions: int) -> Tensor:
    """Loss of every token of *texts*, each masked once, together with every fifth of its text.

    Args:
        model: in evaluation mode
        vocabulary: its own
        texts: cut to rows of *max_positions* tokens, begin and end included

    Returns:
        nats, ``float32 (tokens,)``
    """
    predicted = _predictions(model, vocabulary, texts, max_positions)
    losses = [F.cross_entropy(logits, targets, reduction="none").cpu() for logits, targets in predicted]
    return torch.cat([torch.zeros(0), *losses])


def surpassed(
    model: MaskedLM, vocabulary: Vocabulary, texts: Sequence[str], max_positions: int, rows: Sequence[int]
) -> list[float]:
    """For each of *rows* the share of all that are predicted less at *texts*; see :func:`masked_lm_losses`."""
    logits = torch.cat([each for each, _ in _predictions(model, vocabulary, texts, max_positions)])
    mean = logits.softmax(dim=-1).mean(dim=0)
    return [float((mean < mean[row]).float().mean()) for row in rows]


def _predictions(
    model: MaskedLM, vocabulary: Vocabulary, texts: Sequence[str], max_positions: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of each masked token of a text, ``float32 (tokens, rows)``, and the tokens."""
    device = next(model.parameters()).device
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
            yield logits.float(), row.expand_as(masked)[masked]


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

    def look_inside(name: str, layer: EncoderLayer, x: Tensor, rotation: Tensor | None) -> None:
        """Compute a layer for one row, ``(length, width)``, module by module, which forward passes do in one."""
        attention, own_norm = layer.self_attn, getattr(layer, "self_attn_layer_norm", nn.Identity())
        normed = own_norm(x) if layer.norm_first else x
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        parts = torch.stack([projection(normed).unflatten(1, (attention.heads, -1)) for projection in projections], 1)
        if rotation is not None:
            parts = torch.cat([rotated(parts[:, :2], rotation), parts[:, 2:]], dim=1)
        q, k, v = parts.permute(1, 2, 0, 3)  # (heads, length, width of a head) each
        logits = q * q.size(-1) ** -0.5 @ k.transpose(1, 2)  # (heads, length, length)
        place = torch.arange(len(x), device=x.device)
        near = (place[:, None] - place).abs() <= (len(x) if layer.reach is None else layer.reach)
        note(f"{name}.self_attn.logits", logits[:, near])
        logits = logits.masked_fill(~near, -math.inf)
        x = x + attention.out_proj((logits.softmax(dim=-1) @ v).transpose(0, 1).flatten(1))
        middle = layer.final_layer_norm(x) if layer.norm_first else own_norm(x)
        inner = layer.fc1(middle)
        if layer.gated:
            inner, gate = inner.chunk(2, dim=-1)
            inner = layer.activation_fn(inner) * gate
        else:
            inner = layer.activation_fn(inner)
        note(f"{name}.fc2", inner)
        x = (x if layer.norm_first else middle) + layer.fc2(inner)
        note(name, x) if layer.norm_first else layer.final_layer_norm(x)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, EncoderLayer):
            look = partial(look_inside, name)
            handles.append(module.register_forward_pre_hook(lambda layer, given, look=look: look(layer, *given[::2])))
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
