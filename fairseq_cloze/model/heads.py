"""Heads: what stands on the encoder. The LM head scores tokens, the ranking head a whole text.

Parameters and their names are fairseq's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture
from .encoder import activation_of, make_norm
from .memory import make_sure_of_room


class LMHead(nn.Module):
    """The LM head for *rows* entries of the vocabulary; may share the *weight* of the token embedding."""

    def __init__(self, architecture: Architecture, rows: int, weight: Tensor | None) -> None:
        super().__init__()
        width = architecture.embedding_width
        self.dense = nn.Linear(architecture.encoder_embed_dim, width, not architecture.without_biases)
        self.activation_fn = activation_of(architecture.activation_fn)
        self.layer_norm = make_norm(architecture, width)
        self.weight = nn.Linear(width, rows, bias=False).weight if weight is None else weight
        self.bias = nn.Parameter(torch.zeros(rows))

    def forward(self, features: Tensor, masked_tokens: Tensor | None = None) -> Tensor:
        """Logits of the whole vocabulary, ``(..., rows)``; with *masked_tokens*, there alone, ``(positions, rows)``."""
        if masked_tokens is not None:
            features = features[masked_tokens]
        return F.linear(self.transform(features), self.weight) + self.bias

    def transform(self, features: Tensor) -> Tensor:
        """What embeddings are multiplied with, ``(..., width of the embeddings)``, from encoder output."""
        make_sure_of_room(features)
        x = self.dense(features)
        x = self.activation_fn(x.float()).to(x.dtype)  # as fairseq; there are few tokens here
        return self.layer_norm(x)

    def token_scores(
        self,
        features: Tensor,
        candidate_tokens: Tensor,
        token_reads: Tensor,
        windows: Tensor,
        contrast: float = 0.0,
        normalise: bool = False,
    ) -> Tensor:
        """Score the tokens of candidates, ``(blanks, candidates, tokens)``, by their embedding rows alone.

        A token's score is its logit where it is read, less *contrast* times its mean logit at the masks of the window's
        other blanks.  As logits are linear in what the LM head transforms, that is one product with a difference of
        vectors.  With ``contrast`` 1 it is the pointwise mutual information of candidate and blank in the domain of the
        window (cf. Holtzman et al., "Surface Form Competition: Why the Highest Probability Answer Isn't Always Right",
        EMNLP 2021).

        Args:
            features: encoder output where something is read, the blanks' own masks first, ``(reads, width)``
            candidate_tokens, token_reads, windows: see :meth:`fairseq_cloze.views.joint.JointView.collate`
            contrast: 0 to 1; 0 is used in windows of one blank
            normalise: log-probabilities instead of logits, which needs the logits of the whole vocabulary
        """
        x = self.transform(features)
        share = contrast_shares(windows, contrast).to(x)
        others = mean_of_others(x[: len(windows)], windows) * share[:, None]
        flat, reads = candidate_tokens.flatten(1), token_reads.flatten(1)
        rows = F.embedding(flat, self.weight)  # (blanks, candidates * tokens, width)
        scores = ((x[reads] - others[:, None]) * rows).sum(dim=-1) + self.bias[flat] * (1 - share[:, None])
        if normalise:
            log_z = (F.linear(x, self.weight) + self.bias).float().logsumexp(dim=-1)
            others_z = mean_of_others(log_z[: len(windows), None], windows)[:, 0] * share
            scores = scores - (log_z[reads] - others_z[:, None])
        return scores.view_as(candidate_tokens)


def contrast_shares(windows: Tensor, contrast: float) -> Tensor:
    """*contrast* for each blank, 0 where its window has no other, ``float32 (blanks,)``."""
    return contrast * (_blanks_of(windows)[windows] > 1).float()


def mean_of_others(values: Tensor, windows: Tensor) -> Tensor:
    """Mean of *values*, ``(blanks, width)``, over the other blanks of the same window, 0 where there is none."""
    count = _blanks_of(windows)[windows]
    total = torch.zeros_like(values).index_add(0, windows, values)
    return (total[windows] - values) / (count - 1).clamp(min=1)[:, None]


def _blanks_of(windows: Tensor) -> Tensor:
    """How many blanks each window has, as there are no more windows than blanks, ``int64 (blanks,)``.

    ``torch.bincount`` would wait for the device, to know how many windows there are.
    """
    return torch.zeros_like(windows).index_add(0, windows, torch.ones_like(windows))


class RankingHead(nn.Module):
    """One score for a whole text, from its ``<s>``, with *dropout* before each of the two products."""

    def __init__(self, architecture: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        width = architecture.encoder_embed_dim
        self.dense = nn.Linear(width, width)
        self.activation_fn = activation_of(architecture.pooler_activation_fn)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Scores, ``(rows, 1)``, from encoder output, ``(rows, length, width)``."""
        x = self.activation_fn(self.dense(self.dropout(features[:, 0])))
        return self.out_proj(self.dropout(x))
