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
from statistics import fmean, linear_regression
from typing import Any

from ..errors import ClozeError, OutOfMemory
from .names import CRITERION_NAME, TASK_NAME

SHARE = 0.92  #: of the memory to fill: fragments and batches of odd shapes need the rest
STEP = 32  #: sizes are multiples of that many tokens
FIRST = 512  #: tokens of the first size, unless one item costs more
CLOSE = 0.03  #: sizes that differ by less than that share are as good as equal
FAR = 6  #: before a size that is more than that many times the largest one measured, a quarter of it is measured

#: After the first sizes, one for each of these at most: where the predicted size does not fit, that share of the way
#: from the largest size that fits to the smallest one that does not.
ROUNDS = (0.9, 0.9, 0.75, 0.5, 0.5, 0.5)


@dataclass
class Probe:
    """A size that was tried; bytes, and no peak where memory ran out."""

    tokens: int  #: ``--max-tokens``
    predicted: int | None  #: peak expected before; ``None`` for the first two
    peak: int | None = None
    backward: int = 0  #: peak until the gradients were there
    update: int = 0  #: peak after that
    reserved: int = 0  #: what torch had taken from the device for it


@dataclass
class FitResult:
    """What fits; bytes."""

    device: str
    max_tokens: int  #: largest size that fits
    update_freq: int | None  #: accumulation steps with which it makes updates of at least the size asked for
    predicted: int  #: peak expected of it before it was measured
    peak: int  #: its measured peak: on CUDA of tensors, on a CPU of the process
    limit: int  #: memory there is
    share: float  #: share of it that may be filled
    fixed: int  #: the peak of a backward pass is that and ...
    per_token: float  #: ... that for each token
    update: int  #: the peak of the optimizer's step, whatever the batch
    parameters: int  #: their number
    weights: int  #: these three stay from update to update
    gradients: int
    optimizer: int
    largest_item: int  #: tokens
    all_items: int
    probes: list[Probe] = field(default_factory=list)  #: what was tried, in order
    seconds: float = 0.0  #: wall time

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
            measured = "none left" if probe.peak is None else _gib(probe.peak)
            out.append(f"{probe.tokens:10,}{predicted:>15}{measured:>15}")
        if self.max_tokens >= self.all_items:
            out.append(f"all {self.all_items:,} tokens of the training split fit into one batch")
        return [*out, self.options]


def _gib(size: float) -> str:
    return f"{size / 2**30:.3f}"


def fit_batch(
    args: Sequence[str],
    memory_limit: int | None = None,
    share: float = SHARE,
    say: Callable[[str], None] = lambda line: None,
    at_most: int | None = None,
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
        at_most: more is not wanted, so it is not looked for

    Raises:
        ClozeError: the options do not make a training
        OutOfMemory: the most expensive item does not fit alone
    """
    if not 0.0 < share <= 1.0:
        raise ClozeError(f"--share: expected a number above 0, at most 1, found {share}")
    start = time.monotonic()
    with _Measuring(_completed(args), memory_limit) as measuring:
        result = _search(measuring, share, say, at_most)
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
        self._request = json.dumps({"args": list(args), "limit": limit})

    def __enter__(self) -> _Measuring:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        package = Path(__file__).resolve().parent.parent
        path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
        name = package.name
        code = f"import {name} as package; package.register(); from {name}.plugin.measuring import serve; serve()"
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "text": True}
        command = [sys.executable, "-c", code]
        self._process: Any = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes)
        self.facts = self._ask(self._request)
        return self

    def __exit__(self, *details: Any) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def measure(self, tokens: int) -> dict[str, Any]:
        """See :meth:`fairseq_cloze.plugin.measuring.Steps.measure`."""
        return self._ask(str(tokens))

    def _ask(self, line: str) -> dict[str, Any]:
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
            reason = last[0] if last else self._process.returncode
            raise ClozeError(f"training cannot start with these options: {reason}; fairseq-train says more")
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise ClozeError(answer["error"])
        return answer


class _Line:
    """Peak of a backward pass as a line through what was measured."""

    def __init__(self, fitted: Sequence[Probe]) -> None:
        tokens, peaks = [probe.tokens for probe in fitted], [probe.backward for probe in fitted]
        slope = linear_regression(tokens, peaks).slope if len(set(tokens)) > 1 else 0.0
        self.per_token = max(slope, 1.0)
        self.fixed = fmean(peaks) - self.per_token * fmean(tokens)
        self.update = max(probe.update for probe in fitted)

    def at(self, tokens: int) -> int:
        """Peak of a training step."""
        return max(self.update, round(self.fixed + self.per_token * tokens))


def _search(measuring: _Measuring, share: float, say: Callable[[str], None], at_most: int | None = None) -> FitResult:
    facts = measuring.facts
    limit, least, total = facts["limit"], facts["least"], facts["total"]
    probes: list[Probe] = []
    target = share * limit  # less what is taken outside of torch

    def fitted() -> list[Probe]:
        return [probe for probe in probes if probe.peak is not None]

    def good() -> list[Probe]:
        return [probe for probe in fitted() if (probe.peak or 0) <= target]

    def try_size(tokens: int) -> Probe:
        nonlocal target
        probe = Probe(tokens, _Line(fitted()).at(tokens) if len(fitted()) > 1 else None)
        answer = measuring.measure(tokens)
        if answer["fits"]:
            target = min(target, share * (limit - answer["outside"]))
            probe.backward, probe.update, probe.reserved = answer["backward"], answer["update"], answer["reserved"]
            probe.peak = max(probe.backward, probe.update)
        probes.append(probe)
        say(f"{tokens:,} tokens: {'out of memory' if probe.peak is None else _gib(probe.peak) + ' GiB'}")
        return probe

    size = max(FIRST, least)
    for tokens in (size, 2 * size, 4 * size):
        if len(probes) > 1 and _Line(probes).at(tokens) > target:
            break
        if try_size(tokens).peak is None:
            break
    if probes[0].peak is None and (size == least or try_size(least).peak is None):
        raise OutOfMemory(
            f"the most expensive item alone, {least:,} tokens, does not fit into {_gib(limit)} GiB on "
            f"{facts['device']}; --checkpoint-activations, --fp16 or --autocast need less memory per token"
        )
    if len(fitted()) < 2:
        tried = [probe.tokens for probe in probes]
        try_size((min(tried) + max(tried)) // 2)
    most = max(total if at_most is None else min(total, at_most), least)
    for share_of_gap in ROUNDS:
        best = max((probe.tokens for probe in good()), default=least)
        line = _Line(fitted())
        wanted = min(int((target - line.fixed) / line.per_token), most) if line.update <= target else least
        failed = min((probe.tokens for probe in probes if probe.peak is None), default=None)
        if failed is not None and wanted >= failed:
            wanted = int(best + share_of_gap * (failed - best))
        elif wanted > FAR * fitted()[-1].tokens:  # what small sizes say is rough
            wanted //= 4
        wanted = max(wanted // STEP * STEP if wanted < most else wanted, least)
        nearest = min(abs(wanted - best), failed - best if failed is not None else wanted)
        if (good() and nearest <= max(CLOSE * best, STEP)) or wanted in [probe.tokens for probe in probes]:
            break
        try_size(wanted)
    chosen = max(good(), default=None, key=lambda each: each.tokens) or min(fitted(), key=lambda each: each.tokens)
    line = _Line(fitted())
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
        **{name: facts[name] for name in ("parameters", "weights", "gradients", "optimizer")},
        largest_item=least,
        all_items=total,
        probes=probes,
    )
