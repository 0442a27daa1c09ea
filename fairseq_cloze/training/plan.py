"""Plan: the ``fairseq-train`` line of a training, made from data, size of the model and device.

What a user gave is kept as it is, and what follows from it follows from that; everything else has a rule here.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ClozeError
from ..model.names import ANY_ARCHITECTURE
from ..plugin.names import CRITERION_NAME, MODEL_NAME, TASK_NAME

TOKENS = 8192  #: of an update: so the models of docs/results.md were trained
LEAST_TOKENS = 1024  #: of an update of a short training
UPDATES = 120  #: that a training is to have at least
CPU_TOKENS = 4096  #: most of a batch where no device's memory is measured
WARMUP = 0.1  #: share of the updates in which the learning rate rises
SAVES = 10  #: in a training

#: Learning rate of a model of that many parameters (RoBERTa-large).  Smaller ones bear more: 5e-5 of a base model,
#: 9e-5 of one of 6 layers, 3e-4 of the small one in ``examples/``.
RATE, RATE_PARAMETERS, RATE_POWER = 1e-5, 355e6, 1.5
LOWEST_RATE, HIGHEST_RATE = 3e-6, 3e-4

#: What a training here decides by itself, and what says it instead.
_FIXED = {
    "--save-dir": "checkpoints lie in --out",
    "--user-dir": "it is this package",
    "--task": f"it is {TASK_NAME}",
    "--criterion": f"it is {CRITERION_NAME}",
    "--valid-subset": "it is 'valid'",
    "--train-subset": "it is 'train'",
    "--finetune-from-model": "it is what --pretrained says",
}
_PRECISIONS = ("--fp16", "--amp", "--autocast", "--memory-efficient-fp16")

#: Options by which a training starts from something else than the pretrained weights.
OTHER_STARTS = ("--restore-file", "--continue-once", "--from-scratch")


@dataclass(frozen=True)
class Device:
    """What a training will run on."""

    name: str = "CPU"
    gpus: int = 0
    has_bfloat16: bool = False  #: has instructions for bfloat16


@dataclass(frozen=True)
class Facts:
    """What there is to train on, and what."""

    parameters: int
    family: str  #: of the model, see :class:`fairseq_cloze.model.architecture.Architecture`
    tokens: int  #: that an epoch costs
    largest: int  #: that the most expensive item costs
    batches: Callable[[int | None, int | None], int]  #: of an epoch, for a limit of tokens and one of items
    has_valid: bool  #: there are answers to validate on


class Given:
    """Options of ``fairseq-train`` that a user gave, as they stand.

    Raises:
        ClozeError: one of them is decided here
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._values: dict[str, str] = {}
        for number, word in enumerate(self.words):
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                following = self.words[number + 1 : number + 2]
                self._values[name] = value if equals else "".join(following)
        for name, reason in _FIXED.items():
            if name in self:
                raise ClozeError(f"{name}: {reason}; leave it out, or take fairseq-train itself")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def any_of(self, names: Sequence[str]) -> bool:
        """Whether one of some options was given."""
        return any(name in self for name in names)

    def text(self, name: str, default: str) -> str:
        """The value of an option."""
        return self._values.get(name, default)

    def number(self, name: str) -> int | None:
        """A whole number, ``None`` where the option was not given; a ``ClozeError`` where it is something else."""
        if name not in self:
            return None
        if not (number := _count(self._values[name])):
            raise ClozeError(f"{name}: expected a number from 1, found '{self._values[name]}'")
        return number

    def numbers(self, name: str) -> list[int]:
        """Whole numbers with commas between them, as fairseq takes them; none where the option was not given."""
        if name not in self:
            return []
        text = self._values[name]
        numbers = [_count(part) for part in text.strip("[]()").split(",")]
        if not all(numbers):
            raise ClozeError(
                f"{name}: expected a number from 1, or one for each of the first epochs with commas between them, as "
                f"4,2, found '{text}'"
            )
        return numbers


def _count(text: str) -> int:
    """A whole number from 1; 0 for anything else."""
    try:
        return max(0, int(text))
    except ValueError:
        return 0


@dataclass(frozen=True)
class Plan:
    """A training that was decided on."""

    data_bin: Path
    options: tuple[tuple[str, ...], ...]  #: name and value, or a name alone
    given: tuple[str, ...]  #: what the user gave, behind them
    updates: int
    epochs: float  #: that so many updates are
    tokens: int  #: that an update is to have
    save_dir: Path

    @property
    def command(self) -> list[str]:
        """What is run."""
        words = [word for option in self.options for word in option]
        return ["fairseq-train", str(self.data_bin), *words, *self.given]

    @property
    def line(self) -> str:
        """The command as it can be given to a shell, an option a line."""
        parts = [f"fairseq-train {shlex.quote(str(self.data_bin))}", *(shlex.join(option) for option in self.options)]
        return " \\\n    ".join(parts + ([shlex.join(self.given)] if self.given else []))


def learning_rate(parameters: int) -> float:
    """The learning rate of a model of that size, rounded to one digit."""
    rate = RATE * (RATE_PARAMETERS / max(parameters, 1)) ** RATE_POWER
    rate = min(max(rate, LOWEST_RATE), HIGHEST_RATE)
    return float(f"{rate:.0e}")


def tokens_of_update(facts: Facts, epochs: float) -> int:
    """How many tokens an update is to have: fewer than usual where a training would have few updates."""
    wanted = min(TOKENS, max(LEAST_TOKENS, math.ceil(facts.tokens * epochs / UPDATES)))
    return max(wanted, facts.largest)


def precision(device: Device) -> list[tuple[str, ...]]:
    """The option of the precision to compute in, if any."""
    if device.has_bfloat16:
        return [("--autocast",)]
    return [("--fp16",)] if device.gpus else []


def make_plan(
    facts: Facts,
    device: Device,
    given: Given,
    *,
    data_bin: Path,
    weights: Path,
    save_dir: Path,
    user_dir: Path,
    epochs: float = 3.0,
    watched: bool = False,
    fits: int | None = None,
    is_calibrated: bool = False,
) -> Plan:
    """Decide on a training.

    Args:
        facts, device, given: what there is
        data_bin, weights, save_dir, user_dir: paths for the line
        epochs: how often to train on each passage, as far as *given* does not say when to end
        watched: somebody else scores the checkpoints, so the training does not validate
        fits: most tokens of a batch that the device has memory for, where that was measured
        is_calibrated: the weights are, so they score without contrast

    Raises:
        ClozeError: *given* does not fit
    """
    processes = given.number("--distributed-world-size") or max(device.gpus, 1)
    epochs = float(given.number("--max-epoch") or epochs)
    tokens = tokens_of_update(facts, epochs)
    wanted = max(math.ceil(tokens / processes), facts.largest)  # of each in an update
    max_tokens, batch_size = given.number("--max-tokens"), given.number("--batch-size")
    update_freqs = given.numbers("--update-freq") or [1]  # of the first epochs; the last one of all that follow
    if max_tokens is None and batch_size is None:
        most = fits or (wanted if device.gpus else CPU_TOKENS)
        max_tokens = max(min(wanted, most), facts.largest)
        if "--update-freq" not in given:
            update_freqs = [math.ceil(wanted / max_tokens)]
    batches = facts.batches(max_tokens, batch_size)
    sizes = [math.ceil(batches / (processes * update_freq)) for update_freq in update_freqs]
    updates = max(1, round(_updates_in(sizes, epochs)))
    if limit := given.number("--max-update"):
        updates = min(limit, updates) if "--max-epoch" in given else limit

    scheduler = given.text("--lr-scheduler", "polynomial_decay")
    optimizer = "adam" if "--memory-efficient-fp16" in given else "fused_adamw"
    is_adam = given.text("--optimizer", optimizer) in ("adam", "fused_adamw")
    is_own = facts.family == "roberta"
    options: list[tuple[str, ...]] = [
        ("--user-dir", str(user_dir)),
        ("--task", TASK_NAME),
        ("--criterion", CRITERION_NAME),
        ("--arch", MODEL_NAME if is_own else ANY_ARCHITECTURE),
        *([] if given.any_of(OTHER_STARTS) else [("--finetune-from-model", str(weights))]),
        *([("--contrast", "0")] if is_calibrated else []),
        *([] if given.any_of(_PRECISIONS) else precision(device)),
        ("--optimizer", optimizer),
        *([("--adam-betas", "(0.9, 0.98)"), ("--adam-eps", "1e-6"), ("--weight-decay", "0.01")] if is_adam else []),
        ("--clip-norm", "1.0"),
        ("--lr", f"{learning_rate(facts.parameters):g}"),
        ("--lr-scheduler", "polynomial_decay"),
    ]
    if scheduler == "polynomial_decay":
        options += [
            ("--warmup-updates", str(max(1, round(WARMUP * updates)))),
            ("--total-num-update", str(updates)),
        ]
    if "--max-epoch" not in given:
        options.append(("--max-update", str(updates)))
    if max_tokens is not None:
        options.append(("--max-tokens", str(max_tokens)))
    if update_freqs[0] > 1:
        options.append(("--update-freq", str(update_freqs[0])))  # unless it was given
    options += [
        ("--save-dir", str(save_dir)),
        ("--save-interval-updates", str(max(1, math.ceil(updates / SAVES)))),
        ("--keep-interval-updates", "2"),
        ("--no-epoch-checkpoints",),
    ]
    if watched or not facts.has_valid:
        options.append(("--disable-validation",))
    elif not given.any_of(("--disable-validation", "--best-checkpoint-metric")):
        options += [("--best-checkpoint-metric", "accuracy"), ("--maximize-best-checkpoint-metric",)]
    options += [("--log-format", "simple"), ("--log-interval", str(max(1, math.ceil(updates / 50))))]
    planned = _epochs_of(sizes, updates)
    if planned <= 1.0:  # no passage is seen twice, so none can be learned by heart
        options += [("--dropout", "0"), ("--attention-dropout", "0")]
    kept = tuple(option for option in options if option[0] not in given)
    return Plan(data_bin, kept, tuple(given.words), updates, planned, tokens, save_dir)


def _updates_in(sizes: Sequence[int], epochs: float) -> float:
    """How many updates so many epochs have, if the first ones have *sizes*, and all that follow have the last one."""
    *first, rest = sizes
    begun = sum(size * min(max(epochs - number, 0.0), 1.0) for number, size in enumerate(first))
    return begun + rest * max(epochs - len(first), 0.0)


def _epochs_of(sizes: Sequence[int], updates: float) -> float:
    """The other way round."""
    *first, rest = sizes
    epochs = 0.0
    for size in first:
        share = min(updates / size, 1.0)
        epochs, updates = epochs + share, updates - share * size
    return epochs + updates / rest


def with_save_dir(plan: Plan, save_dir: Path, seed: int) -> Plan:
    """The same training with another seed, into another folder."""
    others = tuple(option for option in plan.options if option[0] not in ("--seed", "--save-dir"))
    return replace(plan, options=(*others, ("--seed", str(seed)), ("--save-dir", str(save_dir))), save_dir=save_dir)
