"""Task: a text without end in samples of one length, some words masked anew in every epoch."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset, indexed_dataset
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, MISSING

from fairseq_cloze.data.vocabulary import BOS, PAD, Vocabulary
from fairseq_cloze.plugin.names import option

from .optimizer import INNER
from .words import Masked, Words


@dataclass
class MaskedWordsConfig(FairseqDataclass):
    """Options of ``--task masked_words``."""

    data: str = option(MISSING, "folder that binarize.py wrote")
    tokens_per_sample: int = option(128, "tokens of a sample, before words of several tokens become one mask")
    mask_prob: float = option(0.3, "chance of the likeliest words to be masked; common ones are masked less often")
    seed: int = II("common.seed")


@register_task("masked_words", dataclass=MaskedWordsConfig)
class MaskedWordsTask(FairseqTask):
    """Say the words that are masked, each by one mask: what a cloze passage asks for."""

    def __init__(self, cfg: MaskedWordsConfig) -> None:
        super().__init__(cfg)
        self.vocabulary = Vocabulary.load(cfg.data)
        self.dictionary = Dictionary.load(str(Path(cfg.data) / "dict.txt"))
        self.dictionary.add_symbol("<mask>")

    @property
    def source_dictionary(self) -> Any:
        """fairseq's dictionary of tokens."""
        return self.dictionary

    target_dictionary = source_dictionary

    def load_dataset(self, split: str, *arguments: Any, **options: Any) -> None:
        """Read a split."""
        train = self._train
        words = train if split == "train" else Words(self._tokens(split), self.vocabulary, train)
        self.datasets[split] = MaskedWords(words, self.cfg.tokens_per_sample, self.cfg.mask_prob, self.cfg.seed)

    @cached_property
    def _train(self) -> Words:
        """The training text, in which it is counted what is common."""
        return Words(self._tokens("train"), self.vocabulary)

    def _tokens(self, split: str) -> np.ndarray:
        rows = indexed_dataset.make_dataset(str(Path(self.cfg.data) / split), "mmap")
        return np.concatenate([rows[index].numpy() for index in range(len(rows))]).astype(np.int32)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """A model whose matrices inside layers are marked for the optimizer."""
        model = super().build_model(cfg, from_checkpoint)
        for name, parameter in model.named_parameters():
            setattr(parameter, INNER, ".layers." in name and parameter.dim() == 2)
        return model

    def max_positions(self) -> int:
        """Most tokens of a sample."""
        return self.cfg.tokens_per_sample


class MaskedWords(FairseqDataset):
    """Samples of *length* tokens; where they begin and what is masked is drawn anew for each epoch."""

    def __init__(self, words: Words, length: int, share: float, seed: int) -> None:
        self.words, self.share, self.seed = words, share, seed
        self.inner = length - 1  # the first is <s>
        n_samples = len(words.tokens) // self.inner - 1  # one less, as they begin anywhere in the first
        if n_samples < 1:
            raise ValueError(f"expected a text of {2 * self.inner} tokens at least, found {len(words.tokens)}")
        self.sizes = np.full(n_samples, length)
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Draw where samples begin."""
        self.epoch = epoch
        self.offset = int(np.random.default_rng([self.seed, epoch]).integers(self.inner))

    def __getitem__(self, index: int) -> Masked:
        """A sample, masked."""
        start = self.offset + index * self.inner
        random = np.random.default_rng([self.seed, self.epoch, index])
        return self.words.masked(start, start + self.inner, self.share, random)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.sizes)

    def num_tokens(self, index: int) -> int:
        """Tokens of a sample, at most."""
        return int(self.sizes[index])

    size = num_tokens

    def ordered_indices(self) -> np.ndarray:
        """All samples; fairseq shuffles the batches, and here it is drawn who is in one."""
        return np.random.default_rng(self.seed).permutation(len(self))

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """fairseq's batches of all samples: any multiple is ignored, for which it would leave some out."""
        batches: list[np.ndarray] = super().batch_by_size(indices, max_tokens, max_sentences)
        return batches

    def collater(self, samples: list[Masked]) -> dict[str, Any]:
        """A batch: masks are what the model reads, and each hidden token knows the number of its mask."""
        samples = sorted(samples, key=lambda sample: -len(sample.tokens))
        if not samples:
            return {}
        width = len(samples[0].tokens) + 1
        tokens = torch.full((len(samples), width), PAD)
        reads, masks, counts, n = [], [], [], 0
        for row, sample in enumerate(samples):
            tokens[row, 0] = BOS
            tokens[row, 1 : len(sample.tokens) + 1] = torch.from_numpy(sample.tokens)
            places, number = np.unique(sample.places, return_inverse=True)
            reads.append(row * width + places + 1)
            masks.append(n + number)
            counts.append(len(places))
            n += len(places)
        lengths = [len(sample.tokens) + 1 for sample in samples]
        return {
            "net_input": {
                "src_tokens": tokens,
                "reads": torch.from_numpy(np.concatenate(reads)),
                "row_lengths": lengths,
                "read_counts": counts,
            },
            "masks": torch.from_numpy(np.concatenate(masks)),
            "target": torch.from_numpy(np.concatenate([sample.hidden for sample in samples])),
            "weights": torch.from_numpy(np.concatenate([sample.weights for sample in samples])),
            "n_masks": n,
            "nsentences": len(samples),
            "ntokens": sum(lengths),
        }
