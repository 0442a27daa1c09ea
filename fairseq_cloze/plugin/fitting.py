"""Fitting: the largest ``--max-tokens`` that a device has memory for, by measuring training steps.

Without ``torch``, which the process that measures loads (:mod:`fairseq_cloze.plugin.measuring`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ClozeError, OutOfMemory
from .names import CRITERION_NAME, TASK_NAME

#: Share of the memory to fill: fragments and batches of odd shapes need the rest.
SHARE = 0.92

#: Sizes are multiples of that many tokens.
STEP = 32

#: After the first sizes, one for each of these at most: where the predicted size does not fit, that share of the way
#: from the largest size that fits to the smallest one that does not.
ROUNDS = (0.9, 0.9, 0.75, 0.5, 0.5, 0.5)

#: Sizes that differ by less than that share are as good as equal.
CLOSE = 0.03

#: Before a size that is more than that many times the largest one measured, a quarter of it is measured.
FAR = 6

_FIRST = 512  # tokens of the first size, unless one item costs more
_GIB = 2**30


@dataclass
class Probe:
    """A size that was tried; bytes.

    Attributes:
        tokens: ``--max-tokens``
        predicted: peak expected before; ``None`` for the first two
        peak: measured peak; ``None`` where memory ran out
        backward: peak until the gradients were there
        update: peak after that
        reserved: what torch had taken from the device for it
    """

    tokens: int
    predicted: int | None
    peak: int | None = None
    backward: int = 0
    update: int = 0
    reserved: int = 0


@dataclass
class FitResult:
    """What fits; bytes.

    Attributes:
        max_tokens: largest size that fits
        update_freq: accumulation steps with which it makes updates of at least the size that was asked for
        predicted: peak expected of it before it was measured
        peak: its measured peak: on CUDA of tensors, on a CPU of the process
        limit: memory there is
        share: share of it that may be filled
        fixed, per_token: the peak of a backward pass is *fixed* and *per_token* for each token
        update: the peak of the optimizer's step, whatever the batch
        parameters: their number
        weights, gradients, optimizer: bytes that stay from update to update
        probes: what was tried, in order
        seconds: wall time
    """

    device: str
    max_tokens: int
    update_freq: int | None
    predicted: int
    peak: int
    limit: int
    share: float
    fixed: int
    per_token: float
    update: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    largest_item: int
    all_items: int
    probes: list[Probe] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def options(self) -> str:
        """What to pass to ``fairseq-train``."""
        return f"--max-tokens {self.max_tokens}" + (f" --update-freq {self.update_freq}" if self.update_freq else "")

    def to_json(self) -> str:
        """The result as JSON."""
        return json.dumps({**asdict(self), "options": self.options}, indent=1) + "\n"

    def lines(self) -> list[str]:
        """The result as a table."""
        kept = self.weights + self.gradients + self.optimizer
        out = [
            f"{self.device}: {_gib(self.limit)} GiB, of which {100 * self.share:.0f}% may be filled",
            f"{self.parameters:,} parameters: weights {_gib(self.weights)}, gradients {_gib(self.gradients)}, "
            f"optimizer {_gib(self.optimizer)} GiB, {kept / self.parameters:.1f} bytes each",
            f"a token of a batch takes {self.per_token / 2**20:.3f} MiB",
            f"{'tokens':>10}{'predicted GiB':>15}{'measured GiB':>15}",
        ]
        for probe in self.probes:
            predicted = "" if probe.predicted is None else _gib(probe.predicted)
            out.append(
                f"{probe.tokens:10,}{predicted:>15}{'none left' if probe.peak is None else _gib(probe.peak):>15}"
            )
        if self.max_tokens >= self.all_items:
            out.append(f"all {self.all_items:,} tokens of the training split fit into one batch")
        return [*out, self.options]


def _gib(size: float) -> str:
    return f"{size / _GIB:.3f}"


def fit_batch(
    args: Sequence[str],
    memory_limit: int | None = None,
    share: float = SHARE,
    say: Callable[[str], None] = lambda line: None,
) -> FitResult:
    """Find the largest ``--max-tokens`` whose training steps fit.

    Runs fairseq's trainer on the most expensive batches of the training split, at small sizes first; the peak is linear
    in tokens, which predicts the size that fills the memory; that one is measured, too, and corrected.

    Args:
        args: options of ``fairseq-train``, the data-bin among them; ``--task`` and ``--criterion`` may be left out.
            Nothing is written into ``--save-dir``
        memory_limit: most bytes to use; all that is free where it is not given
        share: share of it that may be filled
        say: is called with a line when a size was measured

    Raises:
        ClozeError: the options do not make a training
        OutOfMemory: the most expensive item does not fit alone
    """
    if not 0.0 < share <= 1.0:
        raise ClozeError(f"--share: expected a number above 0, at most 1, found {share}")
    start = time.monotonic()
    with _Measuring(_completed(args), memory_limit) as measuring:
        result = _search(measuring, share, say)
    result.seconds = time.monotonic() - start
    return result


def _completed(args: Sequence[str]) -> list[str]:
    """The options with those that are always the same."""
    out = [str(arg) for arg in args]
    for option, value in (("--task", TASK_NAME), ("--criterion", CRITERION_NAME), ("--optimizer", "adam")):
        if not any(arg == option or arg.startswith(f"{option}=") for arg in out):
            out += [option, value]
    return out


class _Measuring:
    """The process that measures."""

    def __init__(self, args: Sequence[str], limit: int | None) -> None:
        self._args, self._limit = list(args), limit

    def __enter__(self) -> _Measuring:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        package = Path(__file__).resolve().parent.parent
        path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
        name = package.name
        code = f"import {name} as package; package.register(); from {name}.plugin.measuring import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.facts = self._ask(json.dumps({"args": self._args, "limit": self._limit}))
        return self

    def __exit__(self, *details: Any) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def measure(self, tokens: int) -> dict[str, Any]:
        """See :meth:`fairseq_cloze.plugin.measuring.Steps.measure`."""
        return self._ask(str(tokens))

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            text = self._process.stdout.readline()
        except BrokenPipeError:
            text = ""
        if not text:
            self._process.wait()
            self._errors.seek(0)
            last = [each for each in self._errors.read().splitlines() if each.strip()][-1:]
            raise ClozeError(
                f"training cannot start with these options: {''.join(last) or self._process.returncode}; "
                "fairseq-train says more"
            )
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise ClozeError(answer["error"])
        return answer


class _Line:
    """Peak of a backward pass as a line through what was measured."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        points = [(probe.tokens, probe.backward) for probe in probes if probe.peak is not None]
        count = len(points)
        mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
        self.per_token = max(slope, 1.0)
        self.fixed = mean_y - self.per_token * mean_x
        self.update = max(probe.update for probe in probes)

    def at(self, tokens: int) -> int:
        """Peak of a training step."""
        return max(self.update, int(self.fixed + self.per_token * tokens))


def _search(measuring: _Measuring, share: float, say: Callable[[str], None]) -> FitResult:
    facts = measuring.facts
    limit, least = int(facts["limit"]), int(facts["least"])
    most = max(int(facts["total"]), least)
    probes: list[Probe] = []
    outside = 0

    def try_size(tokens: int) -> Probe:
        nonlocal outside
        fitted = [probe for probe in probes if probe.peak is not None]
        probe = Probe(tokens, _Line(fitted).at(tokens) if len(fitted) > 1 else None)
        answer = measuring.measure(tokens)
        if answer["fits"]:
            outside = max(outside, answer["outside"])
            probe.backward, probe.update, probe.reserved = answer["backward"], answer["update"], answer["reserved"]
            probe.peak = max(probe.backward, probe.update)
        probes.append(probe)
        say(f"{tokens:,} tokens: {'out of memory' if probe.peak is None else _gib(probe.peak) + ' GiB'}")
        return probe

    def target() -> float:
        return share * (limit - outside)

    size = max(_FIRST, least)
    for tokens in (size, 2 * size, 4 * size):
        if len(probes) > 1 and _Line(probes).at(tokens) > target():
            break
        if try_size(tokens).peak is None:
            break
    if probes[0].peak is None:
        if size == least or try_size(least).peak is None:
            raise OutOfMemory(
                f"the most expensive item alone, {least:,} tokens, does not fit into {_gib(limit)} GiB on "
                f"{facts['device']}; --checkpoint-activations, --fp16 or --autocast need less memory per token"
            )
    if len([probe for probe in probes if probe.peak is not None]) < 2:
        low, high = sorted(probe.tokens for probe in probes)[0], max(probe.tokens for probe in probes)
        try_size((low + high) // 2)
    for share_of_gap in ROUNDS:
        fitted = [probe for probe in probes if probe.peak is not None]
        good = [probe.tokens for probe in fitted if (probe.peak or 0) <= target()]
        best = max(good, default=least)
        line = _Line(fitted)
        wanted = int((target() - line.fixed) / line.per_token) if line.update <= target() else least
        wanted = min(wanted, most)
        failed = min((probe.tokens for probe in probes if probe.peak is None), default=None)
        if failed is not None and wanted >= failed:
            wanted = int(best + share_of_gap * (failed - best))
        elif wanted > FAR * fitted[-1].tokens:  # what small sizes say is rough
            wanted //= 4
        wanted = max(wanted // STEP * STEP if wanted < most else wanted, least)
        ends = [abs(wanted - best), failed - best if failed is not None else wanted]
        if (good and min(ends) <= max(CLOSE * best, STEP)) or wanted in [probe.tokens for probe in probes]:
            break
        try_size(wanted)
    fitted = [probe for probe in probes if probe.peak is not None]
    chosen = max((each for each in fitted if (each.peak or 0) <= target()), key=lambda each: each.tokens, default=None)
    chosen = chosen or min(fitted, key=lambda each: each.tokens)
    line = _Line(fitted)
    asked = (facts["max_tokens"] or 0) * facts["update_freq"]
    return FitResult(
        device=facts["device"],
        max_tokens=chosen.tokens,
        update_freq=-(-asked // chosen.tokens) if asked else None,
        predicted=chosen.predicted or line.at(chosen.tokens),
        peak=chosen.peak or 0,
        limit=limit,
        share=share,
        fixed=int(line.fixed),
        per_token=line.per_token,
        update=line.update,
        **{name: int(facts[name]) for name in ("parameters", "weights", "gradients", "optimizer")},
        largest_item=least,
        all_items=int(facts["total"]),
        probes=probes,
    )
