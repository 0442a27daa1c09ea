"""Trials: would the same weights do better in another arrangement?  The one in which they do names the fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from ..model.encoder import ACTIVATIONS
from ..model.masked_lm import MaskedLM

#: All pairs of layers are tried up to so many, then neighbours alone.
_ALL_PAIRS = 6
#: Rows beside that of the mask that may be it.
_NEAR = 4


@dataclass(frozen=True)
class Trial:
    """One arrangement; the model has it inside of :attr:`arranged`."""

    fault: str  #: what is wrong if the model does better
    what: str  #: what was changed
    arranged: Callable[[], AbstractContextManager[None]]


def trials(model: MaskedLM, vocabulary: Vocabulary) -> list[Trial]:
    """Arrangements that mistakes have led to."""
    encoder: Any = model.encoder.sentence_encoder
    found = []
    for order in _orders(len(encoder.layers), first=int(model.architecture.norm_first)):
        name = f"layers in the order {', '.join(map(str, order))}"
        found.append(Trial("wrong order of layers", name, partial(_layers, encoder, order)))
    heads, width = model.architecture.encoder_attention_heads, model.architecture.encoder_embed_dim
    for other in sorted({2 * heads, heads // 2, width // 64} - {heads, 0}):
        if width % other == 0 and width // other % 2 == 0:
            name = f"{other} attention heads instead of {heads}"
            found.append(Trial("wrong number of attention heads", name, partial(_heads, encoder, other)))
    for function in ("gelu", "relu"):
        if ACTIVATIONS[function] is not encoder.layers[0].activation_fn:
            name = f"{function} instead of {model.architecture.activation_fn}"
            found.append(Trial("wrong activation function", name, partial(_activation, model, function)))
    special = {BOS: "begin", PAD: "pad", EOS: "end", UNK: "unknown"}
    mask, last = vocabulary.mask, len(vocabulary) - 1
    others = {
        row: f"row {row}" for row in range(mask - _NEAR, min(mask + _NEAR, last) + 1) if row > UNK and row != mask
    }
    swaps = [("wrong mask row", mask, row, f"mask and {name}") for row, name in {**special, **others}.items()]
    swaps += [("wrong pad row", PAD, row, f"pad and {special[row]}") for row in (BOS, EOS)]
    swaps += [("wrong begin or end row", BOS, EOS, "begin and end")]
    for fault, row, other, name in swaps:
        exchanged = f"rows of {name} exchanged"
        found.append(Trial(fault, exchanged, partial(_exchanged, encoder, row, other)))
    return found


def better(before: Tensor, after: Tensor) -> tuple[float, float]:
    """How much lower losses of the same tokens are *after*: mean in nats, and in standard errors."""
    gains = before - after
    error = float(gains.std()) / math.sqrt(max(len(gains), 1))
    return float(gains.mean()), float(gains.mean()) / max(error, 1e-12)


def _orders(count: int, first: int) -> list[list[int]]:
    """Other orders of layers, but for those before *first*."""
    numbers = list(range(first, count))
    orders = [numbers[::-1], numbers[1:] + numbers[:1], numbers[-1:] + numbers[:-1]]
    as_text = sorted(numbers, key=str)  # a file's order where 10 comes before 2
    orders.append([as_text.index(number) + first for number in numbers])
    for left, a in enumerate(numbers):
        for b in numbers[left + 1 :] if len(numbers) <= _ALL_PAIRS else numbers[left + 1 : left + 2]:
            orders.append([{a: b, b: a}.get(number, number) for number in numbers])
    unique = {tuple(order): [*range(first), *order] for order in orders if order != numbers}
    return list(unique.values())


@contextmanager
def _layers(encoder: Any, order: list[int]) -> Iterator[None]:
    layers = encoder.layers
    places = [(layer.is_local, layer.reach) for layer in layers]

    def place(arranged: nn.ModuleList) -> None:
        encoder.layers = arranged
        for layer, (is_local, reach) in zip(arranged, places):  # which a place decides
            layer.is_local, layer.reach = is_local, reach

    place(nn.ModuleList(layers[number] for number in order))
    try:
        yield
    finally:
        place(layers)


@contextmanager
def _set(objects: list[Any], name: str, value: Any) -> Iterator[None]:
    before = [getattr(each, name) for each in objects]
    try:
        for each in objects:
            setattr(each, name, value)
        yield
    finally:
        for each, old in zip(objects, before):
            setattr(each, name, old)


@contextmanager
def _heads(encoder: Any, heads: int) -> Iterator[None]:
    attentions = [layer.self_attn for layer in encoder.layers]
    width = attentions[0].q_proj.weight.size(0) // heads
    with _set(attentions, "heads", heads), _set([encoder], "head_width", width):
        yield


def _activation(model: MaskedLM, name: str) -> AbstractContextManager[None]:
    parts: list[Any] = [*model.encoder.sentence_encoder.layers, model.encoder.lm_head]
    return _set(parts, "activation_fn", ACTIVATIONS[name])


@contextmanager
def _exchanged(encoder: Any, row: int, other: int) -> Iterator[None]:
    """The embedding is asked for the one row where the other is meant."""

    def exchange(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        tokens = given[0]
        return (torch.where(tokens == row, other, torch.where(tokens == other, row, tokens)),)

    handle = encoder.embed_tokens.register_forward_pre_hook(exchange)
    try:
        yield
    finally:
        handle.remove()
