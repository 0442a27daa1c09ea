"""The chance watch: says when a training does no better than guessing, and why that may be.

It looks at the sums of the last updates together, at least ``patience`` updates and :data:`BLANKS_NEEDED` blanks.  The
newer half alone has to say the same, so that a model that begins to learn is left alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..ranking.metrics import MICRO
from ..statistics import chance_interval

BLANKS_NEEDED = 1000  #: labelled blanks of a verdict; guessing among four then gives 22.3 to 27.7%
LOSS_TOLERANCE = 0.01  #: the loss is that of guessing within this part of log C ...
ACCURACY_TOLERANCE = 0.1  #: ... where accuracy is not above chance by more than this part: too sure a model has it, too

#: Accuracy once stood above chance if a phase of the run, of so many blanks, did, by so many standard deviations.
PHASE_BLANKS, PHASE_DEVIATIONS = 250, 4.0
LOSS_RISE = 1.1  #: the loss rose if it is so much higher than at the start, and than that of guessing
LOWEST_RATE, HIGHEST_RATE = 1e-6, 1e-4  #: learning rates at which RoBERTa is fine-tuned with Adam lie between


@dataclass(frozen=True)
class Stretch:
    """Updates that follow each other: sums over their labelled blanks and all workers."""

    first: int  #: number of the first update, counted from 1
    last: int
    blanks: int
    correct: int
    chance: int  #: sum of the chances of guessing right, in millionths
    loss: float  #: sum of the losses, in nats
    log_candidates: float  #: sum of log C, C being the number of distinct candidates of a blank

    @staticmethod
    def of_update(number: int, sums: Mapping[str, Any]) -> Stretch:
        """One update, from the sums of the criterion's logging outputs."""
        keys = ("n_blanks", "n_correct", "chance", "loss", "log_candidates")
        blanks, correct, chance, loss, log_candidates = (float(sums.get(key, 0)) for key in keys)
        return Stretch(number, number, int(blanks), int(correct), int(chance), loss, log_candidates)

    @staticmethod
    def join(parts: Sequence[Stretch]) -> Stretch:
        """One stretch of several that follow each other."""
        names = ("blanks", "correct", "chance", "loss", "log_candidates")
        return Stretch(parts[0].first, parts[-1].last, *(sum(getattr(part, name) for part in parts) for name in names))

    @property
    def accuracy(self) -> float:
        """Percent of the blanks."""
        return 100.0 * self.correct / self.blanks

    @property
    def chance_percent(self) -> float:
        """Accuracy that guessing reaches on average."""
        return 100.0 * self.chance / MICRO / self.blanks

    @property
    def deviations(self) -> float:
        """Accuracy less chance, in standard deviations of guessing."""
        p = self.chance_percent / 100.0
        return (self.accuracy / 100.0 - p) / math.sqrt(max(p * (1.0 - p), 1e-12) / self.blanks)

    @property
    def mean_loss(self) -> float:
        """Nats per blank."""
        return self.loss / self.blanks

    @property
    def guessing_loss(self) -> float:
        """Mean of log C."""
        return self.log_candidates / self.blanks

    def is_at_chance(self, softmax: bool) -> bool:
        """Whether accuracy, or with the softmax loss the loss, is that of guessing."""
        if self.accuracy <= chance_interval(self.chance_percent, self.blanks)[1]:
            return True
        near = abs(self.mean_loss - self.guessing_loss) <= LOSS_TOLERANCE * self.guessing_loss
        return softmax and near and self.accuracy <= (1.0 + ACCURACY_TOLERANCE) * self.chance_percent

    @property
    def updates(self) -> str:
        """The numbers, for messages."""
        return f"updates {self.first} to {self.last}" if self.first < self.last else f"update {self.first}"


@dataclass(frozen=True)
class Verdict:
    """A stretch at chance, and what else was seen since the run started or was resumed."""

    window: Stretch
    start: Stretch  #: the first phase
    peak: Stretch | None  #: the phase furthest above chance, if any was above
    highest_rate: float  #: highest learning rate
    highest_at: int  #: first update that had it
    first_scale: float | None  #: loss scale of fp16; ``None`` without
    last_scale: float | None
    softmax: bool  #: whether the loss is the softmax loss, so that log C is the loss of guessing


class ChanceWatch:
    """Says when a training is at chance, for *patience* updates, and again each time their number has doubled.

    It starts afresh where a run is resumed; then it needs as many updates as at the start of a run.
    """

    def __init__(self, patience: int, softmax: bool = True) -> None:
        self.patience = patience
        self.softmax = softmax
        self._window: deque[Stretch] = deque()
        self._blanks = 0  # in the window
        self._phase: list[Stretch] = []
        self._start: Stretch | None = None
        self._peak: Stretch | None = None
        self._highest_rate, self._highest_at = -1.0, 0
        self._first_scale: float | None = None
        self._above = 0  # updates since the window was last at chance
        self._quiet = 0  # updates until it may be said again
        self._pause = patience

    def add(self, update: Stretch, rate: float, scale: float | None = None) -> Verdict | None:
        """Look at an update, its learning rate, and with fp16 its loss scale; the verdict, if there is one to tell."""
        if rate > self._highest_rate:
            self._highest_rate, self._highest_at = rate, update.first
        self._first_scale = scale if self._first_scale is None else self._first_scale
        self._quiet = max(self._quiet - 1, 0)
        self._add_to_phase(update)
        self._window.append(update)
        self._blanks += update.blanks
        while len(self._window) > self.patience and self._blanks - self._window[0].blanks >= BLANKS_NEEDED:
            self._blanks -= self._window.popleft().blanks
        if len(self._window) < self.patience or self._blanks < BLANKS_NEEDED:
            return None
        window, newer = Stretch.join(self._window), Stretch.join(list(self._window)[len(self._window) // 2 :])
        if not (newer.blanks and newer.is_at_chance(self.softmax) and window.is_at_chance(self.softmax)):
            self._above += 1
            if self._above >= self.patience:  # it has learned; should it fall again, that is news
                self._quiet, self._pause = 0, self.patience
            return None
        self._above = 0
        if self._quiet:
            return None
        self._quiet, self._pause = self._pause, 2 * self._pause
        assert self._start is not None  # a window holds several phases
        highest, scales = (self._highest_rate, self._highest_at), (self._first_scale, scale)
        return Verdict(window, self._start, self._peak, *highest, *scales, self.softmax)

    def _add_to_phase(self, update: Stretch) -> None:
        self._phase.append(update)
        phase = Stretch.join(self._phase)
        if phase.blanks < PHASE_BLANKS:
            return
        self._phase = []
        self._start = self._start or phase
        if phase.deviations > (self._peak.deviations if self._peak else PHASE_DEVIATIONS):
            self._peak = phase


@dataclass
class Beginning:
    """What a run started from."""

    scorer: str
    text_norm: str
    from_scratch: bool = False  #: whether the weights began at random
    weights: str = ""  #: what was proved of them; empty where nothing was
    vocabulary: str = ""  #: what was proved of dictionary and tokenizer; empty where there was nothing to compare with
    vocabulary_proved: bool = True  #: whether that is all there is to prove


#: Why a run may be at chance: what was measured, what was set, what is left; what speaks for it, and what to do.
CAUSES = {
    "overflow": "overflow: losses are no numbers. Train without --fp16, or with a lower --lr",
    "fp16_overflow": "fp16 overflow: loss_scale fell from {verdict.first_scale:g} to {verdict.last_scale:g}. Train "
    "without --fp16 to be sure",
    "high_rate": "the learning rate is too high, or there is no warm-up: {evidence}; the highest so far is "
    "{verdict.highest_rate:g}, at update {verdict.highest_at}. Start again with a lower --lr, 1e-5 or less for large "
    "models, and some hundred --warmup-updates",
    "from_scratch": "the weights began at random, as --from-scratch asks for, {window.last} updates so far. Start from "
    "pretrained weights (--finetune-from-model), or go on for longer",
    "new_head": "the ranking head of --scorer head began at random, {window.last} updates so far. Go on for longer, or "
    "take --scorer mean, which starts above chance",
    "low_rate": "the learning rate moves hardly anything: the highest so far is {verdict.highest_rate:g}",
    "vocabulary": "dictionary or tokenizer are not those of the weights: {beginning.vocabulary}. Put the "
    "tokenizer files that came with the weights beside them",
    "shifted_answers": "answers are shifted: accuracy is below what guessing gives, {low:.1f}% and more. Check data "
    "that other tools have converted",
    "other_text": "answers are shifted, or the text is not the language of the weights: accuracy was "
    "{start.accuracy:.1f}% in {start.updates} and never above chance. Score the weights alone with 'fairseq-cloze "
    "evaluate'",
    "text_norm": "the text does not look like the pretraining text: it was prepared with --text-norm none",
}


@dataclass(frozen=True)
class Cause:
    """Why a run may be at chance: one of :data:`CAUSES`, and its text."""

    kind: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A verdict with what may have caused it."""

    verdict: Verdict
    causes: list[Cause]  #: those with the best evidence first
    proved: list[str]  #: what cannot be the cause

    @classmethod
    def of(cls, verdict: Verdict, beginning: Beginning) -> Finding:
        """The finding about a run that began so."""
        proved = [beginning.weights, beginning.vocabulary if beginning.vocabulary_proved else ""]
        return cls(verdict, likely_causes(verdict, beginning), [line for line in proved if line])

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        window = self.verdict.window
        low, high = chance_interval(window.chance_percent, window.blanks)
        text = (
            f"{window.updates} are at chance: accuracy is {window.accuracy:.1f}% of {window.blanks:,} blanks, guessing "
            f"gives {low:.1f} to {high:.1f}% in 95 of 100 cases"
        )
        if not math.isfinite(window.loss):
            text += "; the loss is no number"
        elif self.verdict.softmax:
            text += f"; the loss is {window.mean_loss:.3f}, guessing has {window.guessing_loss:.3f}"
        return text

    @property
    def text(self) -> str:
        """All of it, several lines."""
        lines = [f"{self.summary}. Likely causes, the best evidence first (see docs/chance.md):"]
        lines += [f"  {number}. {cause.text}" for number, cause in enumerate(self.causes, 1)]
        if self.proved:
            lines.append(f"  Proved: {'; '.join(self.proved)}")
        return "\n".join(lines)

    def fields(self) -> dict[str, Any]:
        """Fields of the event ``chance``, see docs/formats.md."""
        window = self.verdict.window
        return {
            "first": window.first,
            "n_blanks": window.blanks,
            "n_correct": window.correct,
            "accuracy": window.accuracy,
            "guessing": chance_interval(window.chance_percent, window.blanks),
            "loss": window.mean_loss,
            "guessing_loss": window.guessing_loss,
            "text": self.summary,
            "causes": [asdict(cause) for cause in self.causes],
            "proved": self.proved,
        }


def likely_causes(verdict: Verdict, beginning: Beginning) -> list[Cause]:
    """The causes that something speaks for, in the order of :data:`CAUSES`; a high rate, else, as the last one."""
    window, start, peak = verdict.window, verdict.start, verdict.peak
    finite, fresh = math.isfinite(window.loss), beginning.from_scratch
    low, _ = chance_interval(window.chance_percent, window.blanks)
    evidence = []
    if peak is not None:
        evidence.append(f"accuracy was {peak.accuracy:.1f}% in {peak.updates} and fell")
    if verdict.softmax and window.mean_loss > LOSS_RISE * max(start.mean_loss, window.guessing_loss):
        evidence.append(f"the loss rose from {start.mean_loss:.3f} in {start.updates} to {window.mean_loss:.3f}")
    if not fresh and verdict.highest_rate > HIGHEST_RATE:
        evidence.append("RoBERTa is fine-tuned below 1e-4")
    shifted = window.accuracy < low
    seen = {
        "overflow": not finite,
        "fp16_overflow": finite and (verdict.last_scale or math.inf) < (verdict.first_scale or 0.0),
        "high_rate": bool(evidence),
        "from_scratch": fresh,
        "new_head": beginning.scorer == "head",
        "low_rate": verdict.highest_rate < LOWEST_RATE,
        "vocabulary": not beginning.vocabulary_proved,
        "shifted_answers": shifted,
        "other_text": not shifted and peak is None and beginning.scorer != "head" and not fresh,
        "text_norm": beginning.text_norm == "none",
    }
    kinds = [kind for kind in CAUSES if seen[kind]] + ([] if evidence else ["high_rate"])
    facts: dict[str, Any] = {"verdict": verdict, "window": window, "start": start, "beginning": beginning, "low": low}
    facts["evidence"] = ", ".join(evidence) or "nothing speaks for it but that it is common"
    return [Cause(kind, CAUSES[kind].format(**facts)) for kind in kinds]
