"""What stores hold, and views of them."""

from __future__ import annotations

from typing import Any

from fairseq_cloze.data.store import Store
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.views.making import make_view as view_of_settings
from fairseq_cloze.views.settings import Settings
from fairseq_cloze.views.view import View


def as_lists(store: Store) -> list[Any]:
    return [
        (
            item.id,
            item.tokens.tolist(),
            item.sentence_starts.tolist(),
            item.blank_positions.tolist(),
            item.gold.tolist(),
            [[tokens.tolist() for tokens in row] for row in item.candidates],
        )
        for item in (store[number] for number in range(len(store)))
    ]


def make_view(
    name: str, store: Store, vocabulary: Vocabulary, positions: int, other: str = "remove", **more: Any
) -> View:
    """The view of that name, by otherwise default settings."""
    return view_of_settings(Settings(name, other_blanks=other, **more), store, vocabulary, positions)
