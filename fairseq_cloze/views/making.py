"""Views: how encoded passages become model inputs, by name."""

from ..data.store import Store
from ..data.vocabulary import Vocabulary
from .filled import FullView, NeighborsView
from .joint import JointView
from .settings import Settings
from .view import View


def make_view(settings: Settings, store: Store, vocabulary: Vocabulary, max_positions: int) -> View:
    """The view of a split with rows of at most *max_positions* tokens, ``<s>`` and ``</s>`` included."""
    if settings.view == "joint":
        return JointView(store, vocabulary, max_positions, settings.scorer)
    if settings.view == "full":
        return FullView(store, vocabulary, max_positions, settings.other_blanks)
    return NeighborsView(store, vocabulary, max_positions)
