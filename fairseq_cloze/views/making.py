"""Views: how encoded passages become model inputs, by name."""

from __future__ import annotations

from ..data.store import Store
from ..data.vocabulary import Vocabulary
from .filled import FullView, NeighborsView
from .joint import JointView
from .settings import Settings
from .view import View


def make_view(settings: Settings, store: Store, vocabulary: Vocabulary, max_positions: int) -> View:
    """Build a view.

    Args:
        settings: for view, scorer and, in ``full``, what stands in the other blanks
        store: the split
        vocabulary: what it was encoded with
        max_positions: most tokens of a row, ``<s>`` and ``</s>`` included
    """
    if settings.view == "joint":
        return JointView(store, vocabulary, max_positions, settings.scorer)
    if settings.view == "full":
        return FullView(store, vocabulary, max_positions, settings.other_blanks)
    return NeighborsView(store, vocabulary, max_positions)
