"""Calibration: the LM head of pretrained weights, fitted to choosing among candidates, on a few passages.

An LM head says how likely each word of the vocabulary is at a mask.  Two things of it mislead who chooses among four
candidates: how common a word is anywhere counts as much as how well it fits here, and the logits are too sure of
themselves.  Three numbers mend that, for candidate c of blank b, with the mean over c's tokens t:

.. math:: s(b, c) = \\alpha \\, x_b \\cdot E_c - \\beta \\, \\bar x \\cdot E_c + \\gamma \\, b_c

x is what the LM head makes of the encoder's output at the mask, x̄ its mean over many blanks, E the embedding and b the
bias of a token.  β is a prior over words, taken from all blanks rather than from a passage's own as ``--contrast`` does
(cf. Zhao et al., "Calibrate Before Use", ICML 2021, and Holtzman et al., "Surface Form Competition", EMNLP 2021); α is
a temperature (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

All three go into the weights: α into the LM head's last layer norm, the rest into its bias.  What comes out is a
checkpoint like any other, scored without contrast.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.databin import DataBin
from ..data.vocabulary import PAD
from ..errors import ClozeError
from ..files import PathLike, check_writable
from ..model.names import LM_HEAD
from ..passages.passage import UNLABELLED
from ..views.making import make_view
from ..views.settings import PartialSettings, Settings
from ..views.view import Item, Sample, View, to_device
from ..weights.carried import FRESH, carried_state, save_state
from ..weights.checkpoint import Checkpoint
from .member import Member, batches_of
from .resources import DEFAULT_RESOURCES, Resources

#: Blanks to fit to: ten times as many brought nothing, with a tenth a model gained half of what it does.
BLANKS = 1500

#: How calibrated weights score.
SETTINGS = Settings(contrast=0.0)

_READ = ("src_tokens", "reads", "row_lengths", "read_counts")  # of a batch

#: The three numbers of an LM head as it is.
AS_PRETRAINED = (1.0, 0.0, 1.0)

_RIDGE = 1e-3  # towards these, so that few blanks cannot run away
_STEPS = 100  # of the fit at most; ten are usual


@dataclass(frozen=True)
class Calibration:
    """Three numbers, and what they are worth on the blanks they were fitted to."""

    n_passages: int
    n_blanks: int  #: labelled ones
    alpha: float  #: of what the LM head says here
    beta: float  #: of what it says on average, subtracted
    gamma: float  #: of its bias
    loss_before: float  #: nats per blank, with the pretrained LM head as it is
    loss_after: float
    accuracy_before: float  #: percent
    accuracy_after: float
    notes: list[str]  #: what the user should know of the checkpoint, and of the memory

    def lines(self) -> list[str]:
        """What was found, for people."""
        return [
            f"calibrated on {self.n_passages:,} passages with {self.n_blanks:,} blanks: loss {self.loss_before:.3f} -> "
            f"{self.loss_after:.3f}, accuracy {self.accuracy_before:.1f} -> {self.accuracy_after:.1f}%",
            f"alpha {self.alpha:.3f}, beta {self.beta:.3f}, gamma {self.gamma:.3f}",
            *self.notes,
        ]


def calibrate(
    checkpoint: PathLike | Checkpoint,
    data_bin: PathLike | DataBin,
    out: PathLike,
    split: str = "train",
    blanks: int = BLANKS,
    resources: Resources = DEFAULT_RESOURCES,
) -> Calibration:
    """Write calibrated weights, whole or not at all.

    Args:
        checkpoint: pretrained weights, as a path or read already
        data_bin, split: passages with answers, as a path or opened already; those to train on, never those to test on
        out: checkpoint to write
        blanks: how many to fit to at least, from windows that are drawn always alike; all, where there are fewer
        resources: what it may use

    Raises:
        ClozeError: checkpoint and data-bin cannot be read or do not belong together, no blank has an answer, or *out*
            cannot be written
        OutOfMemory: memory is too small for one passage alone
    """
    target = Path(out)
    check_writable(target)
    source = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.read(Path(checkpoint))
    if target.exists() and Path(source.name).exists() and target.samefile(source.name):
        raise ClozeError(f"{target}: would replace the weights that it is made from; choose another file")
    data = data_bin if isinstance(data_bin, DataBin) else DataBin(data_bin)
    store = data.open(split)
    member = Member(source, data.vocabulary, f"data-bin {data.folder}", PartialSettings(**asdict(SETTINGS)), resources)
    view = make_view(SETTINGS, store, data.vocabulary, member.architecture.max_positions)
    items = _drawn(view, blanks)
    if not len(items):
        raise ClozeError(
            f"{data.folder}: expected blanks with answers in split '{split}' to fit to, found none; name another split"
        )
    features = _Features(member, view, items, resources)
    fitted = (features.terms, features.distinct, features.gold)
    before, after = torch.tensor(AS_PRETRAINED, dtype=torch.float64), fit(*fitted)
    alpha, beta, gamma = after.tolist()
    weights = holding(dict(source.weights), features.mean.cpu(), alpha, beta, gamma)
    carried = carried_state(data.vocabulary, data.encoding, SETTINGS)
    save_state({**source.state, "model": weights, **FRESH, "task_state": carried}, target)
    return Calibration(
        n_passages=features.passages,
        n_blanks=len(features.gold),
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        loss_before=float(_loss(*fitted, before)),
        loss_after=float(_loss(*fitted, after)),
        accuracy_before=_accuracy(*fitted, before),
        accuracy_after=_accuracy(*fitted, after),
        notes=member.notes,
    )


def fit(terms: Tensor, distinct: Tensor, gold: Tensor) -> Tensor:
    """The numbers whose products with the terms choose best: the mean cross-entropy, which is convex, is least.

    Args:
        terms: what each number is multiplied with, ``float64 (blanks, candidates, 3)``
        distinct: which candidates there are, ``bool (blanks, candidates)``
        gold: the right ones, ``int64 (blanks,)``

    Returns:
        ``float64 (3,)``
    """
    start = torch.tensor(AS_PRETRAINED, dtype=torch.float64)
    numbers = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([numbers], max_iter=_STEPS, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = _loss(terms, distinct, gold, numbers) + _RIDGE * (numbers - start).square().sum()
        torch.autograd.backward(found)
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return numbers.detach()


def holding(weights: dict[str, Tensor], mean: Tensor, alpha: float, beta: float, gamma: float) -> dict[str, Tensor]:
    """Weights, by fairseq's names, changed so that the LM head's logits hold the three numbers; *mean* is x̄."""
    for part in ("weight", "bias"):
        name = f"{LM_HEAD}layer_norm.{part}"
        if name in weights:
            weights[name] = (weights[name].float() * alpha).to(weights[name].dtype)
    anywhere = weights[f"{LM_HEAD}weight"].float() @ mean
    bias = weights[f"{LM_HEAD}bias"]
    weights[f"{LM_HEAD}bias"] = (gamma * bias.float() - beta * anywhere).to(bias.dtype)
    return weights


class _Features:
    """The terms of every labelled blank of some passages, on the CPU."""

    def __init__(self, member: Member, view: View, items: np.ndarray, resources: Resources) -> None:

        def read(part: Sequence[Item]) -> tuple[Tensor, Sample]:
            sample = view.collate(part)
            inputs = {name: sample["net_input"][name] for name in _READ}
            with torch.inference_mode():
                return member.model.at_reads(**to_device(inputs, member.device)), sample

        found: list[tuple[Tensor, Sample]] = []
        for batch in batches_of(view, items, resources):
            found += member.in_parts(view, [view.item(int(index)) for index in batch], read)
        self.mean = torch.cat([features for features, _ in found]).mean(dim=0)
        head = member.model.encoder.lm_head
        parts = []
        for features, sample in found:
            labelled = (sample["gold"] != UNLABELLED).nonzero()[:, 0]
            tokens = sample["net_input"]["candidate_tokens"][labelled]
            present = tokens.ne(PAD)
            with torch.inference_mode():
                rows = F.embedding(tokens.to(member.device), head.weight).float()
                here = (features[labelled.to(member.device), None, None] * rows).sum(dim=-1)
                anywhere = rows @ self.mean
                terms = torch.stack([here, -anywhere, head.bias.float()[tokens.to(member.device)]], dim=-1).cpu()
            means = (terms * present[..., None]).sum(dim=2) / present.sum(dim=2).clamp(min=1)[..., None]
            parts.append((means.double(), sample["distinct"][labelled], sample["gold"][labelled]))
        widest = max(means.size(1) for means, _, _ in parts)
        self.terms = torch.cat([F.pad(means, (0, 0, 0, widest - means.size(1))) for means, _, _ in parts])
        self.distinct = torch.cat([F.pad(distinct, (0, widest - distinct.size(1))) for _, distinct, _ in parts])
        self.gold = torch.cat([gold for _, _, gold in parts])
        self.passages = len({view.passage_of(int(item)) for item in items})


def _drawn(view: View, blanks: int) -> np.ndarray:
    """Items with so many labelled blanks, longest first, ``int64 (items,)``."""
    gold, chosen, found = view.store.columns["gold"], [], 0
    for item in np.random.default_rng(1).permutation(len(view)).tolist():
        if found >= blanks:
            break
        if labelled := int((gold[view.item(item)["blanks"]] != UNLABELLED).sum()):
            chosen.append(item)
            found += labelled
    items = np.array(chosen, dtype=np.int64)
    return items[np.argsort(-view.row_length[items], kind="stable")]


def _loss(terms: Tensor, distinct: Tensor, gold: Tensor, numbers: Tensor) -> Tensor:
    """Mean cross-entropy in nats."""
    return F.cross_entropy((terms @ numbers).masked_fill(~distinct, float("-inf")), gold)


def _accuracy(terms: Tensor, distinct: Tensor, gold: Tensor, numbers: Tensor) -> float:
    """In percent."""
    best = (terms @ numbers).masked_fill(~distinct, float("-inf")).argmax(dim=1)
    return 100.0 * float(best.eq(gold).double().mean())
