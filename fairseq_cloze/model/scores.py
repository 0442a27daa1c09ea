"""Scoring: a score per candidate, the same for training, validation and prediction.

Scores are ``float32 (blanks, candidates)``, higher is better, ``-inf`` where a candidate does not exist or repeats an
earlier one.  Softmax over a row gives the probabilities.
"""

from typing import Any

from torch import Tensor, nn

from ..data.vocabulary import PAD
from ..views.settings import Settings
from .heads import contrast_shares, mean_of_others
from .names import HEAD_NAME

Sample = dict[str, Any]


def candidate_scores(model: nn.Module, sample: Sample, settings: Settings) -> Tensor:
    """Score every candidate of a batch.

    ``joint``, by scorer:

    - ``mean``: mean over the candidate's tokens of their logits at the blank's one ``<mask>``.  With a softmax over the
      candidates that is the same as the mean log-probability, as the normaliser is common to all.
    - ``kmask``: as many masks as tokens, mean log-probability of each token at its own.
    - ``l2r``: the same with the tokens before it filled in, mean log-probability: the within-word left-to-right
      pseudo-log-likelihood of Kauf & Ivanova, "A Better Way to Do Masked Language Model Scoring" (ACL 2023), with the
      whole candidate for the word.

    Each less ``settings.contrast`` times the candidate's mean score at the masks of the other blanks, see
    :meth:`fairseq_cloze.model.heads.LMHead.token_scores`.

    ``full``, ``neighbors`` with ``mean``: mean log-probability of the filled-in tokens and of their neighbour on each
    side, as the LM head sees them in the filled text; the neighbours give the empty candidate a score too.

    ``full``, ``neighbors`` with ``head``: a ranking head on ``<s>``.

    Args:
        model: :class:`fairseq_cloze.model.masked_lm.MaskedLM`, the plugin's model, or a RoBERTa of fairseq
        sample: a batch of :meth:`fairseq_cloze.views.view.View.collate`
        settings: complete
    """
    if settings.view == "joint":
        scores = _scores_at_masks(model, sample, settings)
    else:
        by_row = _head_scores(model, sample) if settings.scorer == "head" else _filled_scores(model, sample)
        scores = by_row[sample["row"].clamp(min=0)]
    return scores.masked_fill(~sample["distinct"], float("-inf"))


def _scores_at_masks(model: nn.Module, sample: Sample, settings: Settings) -> Tensor:
    inputs = sample["net_input"]
    contrast = settings.contrast
    normalise = settings.scorer != "mean" and bool(sample["multi_token"].any())
    scores, _ = model(**inputs, contrast=contrast, normalise=normalise)
    if scores.dim() == 2:  # a plain RoBERTa projects to the whole vocabulary: (reads, vocabulary)
        scores = _tokens_of_vocabulary(scores.float(), inputs, contrast, normalise)
    present = inputs["candidate_tokens"].ne(PAD)
    return scores.float().masked_fill(~present, 0.0).sum(dim=-1) / present.sum(dim=-1).clamp(min=1)


def _tokens_of_vocabulary(logits: Tensor, inputs: Sample, contrast: float, normalise: bool) -> Tensor:
    """What :meth:`fairseq_cloze.model.heads.LMHead.token_scores` computes, from logits of the whole vocabulary."""
    if normalise:
        logits = logits.log_softmax(dim=-1)
    tokens, windows = inputs["candidate_tokens"], inputs["windows"]
    flat = tokens.flatten(1)
    others = mean_of_others(logits[: len(windows)], windows) * contrast_shares(windows, contrast)[:, None]
    return (logits[inputs["token_reads"].flatten(1), flat] - others.gather(1, flat)).view_as(tokens)


def _filled_scores(model: nn.Module, sample: Sample) -> Tensor:
    """Mean log-probability of what is filled in and of its neighbours, ``float32 (rows,)``."""
    inputs = sample["net_input"]
    source, reads = inputs["src_tokens"], inputs["reads"]
    logits, _ = model(**inputs)
    own = logits.float().log_softmax(dim=-1).gather(1, source.flatten()[reads][:, None])[:, 0]
    total = own.new_zeros(len(source)).index_add(0, reads // source.size(1), own)
    return total / (sample["spans"].diff()[:, 0] + 2)


def _head_scores(model: nn.Module, sample: Sample) -> Tensor:
    inputs = {name: sample["net_input"][name] for name in ("src_tokens", "row_lengths")}
    scores, _ = model(**inputs, features_only=True, classification_head_name=HEAD_NAME)
    return scores[:, 0].float()
