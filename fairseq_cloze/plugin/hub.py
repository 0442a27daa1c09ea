"""Hub: what ``ClozeRobertaModel.from_pretrained`` returns, in the idiom of fairseq's hub interfaces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import PathLike
from ..ranking.ranker import Ranked, Ranker, load


class ClozeHubInterface(nn.Module):
    """A ranker as a torch module: ``eval``, ``half``, ``cuda`` and ``to`` do what they do to any model."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker
        self.models = nn.ModuleList([member.model for member in ranker.members])

    @classmethod
    def from_pretrained(cls, folder: PathLike, checkpoint_file: str = "model.pt", **options: Any) -> ClozeHubInterface:
        """Load *checkpoint_file* from a folder; several with colons between them are averaged.

        Options are those of :func:`fairseq_cloze.load`; a :class:`CheckpointError` says what cannot be used.
        """
        return cls(load(*[Path(folder, name) for name in checkpoint_file.split(os.pathsep)], **options))

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.ranker.members[0].device

    def rank(self, text: str, options: Sequence[Sequence[str]]) -> list[Ranked]:
        """See :meth:`fairseq_cloze.Ranker.rank`."""
        return self.ranker.rank(text, options)

    def rank_many(self, passages: Iterable[Any]) -> Iterator[list[Ranked]]:
        """See :meth:`fairseq_cloze.Ranker.rank_many`."""
        return self.ranker.rank_many(passages)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClozeHubInterface:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for member in self.ranker.members:  # which sends batches to where its model is
            member.device = next(member.model.parameters()).device
        return self
