"""Train: from passages and weights to a fine-tuned model, a table and a report.

The same call goes on where it was interrupted.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ClozeError, printable
from ..files import PathLike, alone_in, write_text
from ..plugin.fitting import fit_batch
from ..plugin.requirements import require_installed
from ..ranking.resources import check_device
from .calibrating import calibrated
from .facts import find_device, gather_facts
from .inputs import CHECKPOINTS, claim, make_materials, read_inputs
from .launch import claim_save_dir, requeued_by_signals, run_training, wait_for, watching
from .outcome import (
    ANSWERS,
    BEFORE,
    OF_AVERAGE,
    Outcome,
    average,
    difference,
    find_result,
    prediction_files,
    score,
    score_before,
    split_to_judge,
)
from .plan import OTHER_STARTS, Device, Given, Plan, make_plan, with_save_dir
from .progress import Progress

REPORT, RESULT = "report.html", "result.json"
_FIT = "fit.json"
_AVERAGE = "average of their weights"
_NOTHING = "no split has answers to judge the result by; give --valid or --test to have a table"

Tell = Callable[[str], None]


def train(
    data: PathLike,
    pretrained: str,
    out: PathLike,
    *,
    epochs: float = 3.0,
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    watch: str | None = None,
    seeds: int | None = None,
    against: PathLike | None = None,
    options: Sequence[str] = (),
    preparing: Mapping[str, Any] | None = None,
    tell: Tell = print,
) -> Outcome | None:
    """Fine-tune weights on passages with ``fairseq-train``.

    Args:
        data, valid, test: see :func:`fairseq_cloze.training.inputs.read_inputs`
        pretrained: folder or file of weights, or a name of the Hugging Face hub
        out: folder for all that is made; it belongs to the content of data and weights
        epochs: how often to train on each passage
        watch: device on which a watch scores the checkpoints beside the training; by default the training validates
        seeds: train as often, with seeds 1, 2 ..., each into a folder of its own
        against: folder of another training, or a prediction file, to compare with
        options: for ``fairseq-train``; they stand in place of what is decided here
        preparing: how passages are encoded, arguments of :func:`fairseq_cloze.data.prepare.prepare` by name
        tell: takes a line for people

    Returns:
        what came of it; ``None`` where no split has answers to judge by

    Raises:
        ClozeError: something is missing, does not fit, or belongs to another training
        SystemExit: ``fairseq-train`` has ended with that status, or a signal came: then with ``Exit.REQUEUE``
    """
    require_installed()
    given = Given(options)
    if seeds is not None and "--seed" in given:
        raise ClozeError("--seeds and --seed: expected one of them")
    if watch is not None:
        check_device(watch)
    others = prediction_files(against) if against is not None else []
    inputs, folder = read_inputs(data, pretrained, valid, test, preparing), Path(out)

    def say(line: str) -> None:
        tell(printable(line))

    with requeued_by_signals(), alone_in(folder):
        claim(folder, inputs)
        data_bin, weights = make_materials(inputs, folder, say)
        plan = _decide(data_bin, weights, folder, given, epochs, watch is not None, say)
        if seeds is None:
            runs = {"fine-tuned": plan}
        else:
            places = {seed: folder / f"seed{seed}" / CHECKPOINTS for seed in range(1, seeds + 1)}
            runs = {f"fine-tuned, seed {seed}": with_save_dir(plan, place, seed) for seed, place in places.items()}
        for run in runs.values():
            tell(run.line)
            _train(run, watch, say)
        results = {name: find_result(run.save_dir, watch is not None) for name, run in runs.items()}
        mean = average(list(results.values()), given, folder, say)
        outcome = _judge(results, mean, data_bin, weights, folder, given)
        if outcome is not None and others:
            ones = [run.path for run in outcome.runs]
            outcome.differences.append(difference(f"fine-tuned - {against}", ones, others))
        _finish(outcome, results, mean, data_bin, folder, say)
    return outcome


def _decide(data_bin: Path, weights: Path, folder: Path, given: Given, epochs: float, watched: bool, say: Tell) -> Plan:
    facts, device = gather_facts(data_bin, weights, given), find_device(given)
    if watched and not facts.has_valid:
        raise ClozeError("--watch: there are no answers in a split 'valid' to score; give --valid, or leave it out")
    start = calibrated(data_bin, weights, folder, given, device, say)

    def plan(fits: int | None = None) -> Plan:
        return make_plan(
            *(facts, device, given),
            data_bin=data_bin,
            weights=start or weights,
            is_calibrated=start is not None,
            save_dir=folder / CHECKPOINTS,
            user_dir=Path(__file__).resolve().parents[1],
            epochs=epochs,
            watched=watched,
            fits=fits,
        )

    decided = plan()
    if device.gpus and not given.any_of(("--max-tokens", "--batch-size")):
        decided = plan(_fitting(decided, device, decided.tokens, folder / _FIT, say))
    say(
        f"{facts.parameters:,} parameters on {device.name}; {decided.updates:,} updates of about "
        f"{facts.tokens * decided.epochs / decided.updates:,.0f} tokens, {decided.epochs:.2g} epochs"
    )
    return decided


def _fitting(plan: Plan, device: Device, wanted: int, path: Path, say: Tell) -> int:
    """The most tokens of a batch that fit, up to those *wanted*; measured once for the same plan and device."""
    asked = hashlib.sha256(json.dumps([device.name, *plan.command]).encode()).hexdigest()
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["asked"] == asked:
            return int(before["max_tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    say(f"measuring what fits into the memory of {device.name}")
    found = fit_batch(plan.command[1:], say=say, at_most=wanted)
    write_text(path, json.dumps({"asked": asked, "max_tokens": found.max_tokens}) + "\n")
    return found.max_tokens


def _train(plan: Plan, watch: str | None, say: Tell) -> None:
    claim_save_dir(plan.save_dir)
    progress = Progress(plan.save_dir, plan.updates)
    say(f"the log of fairseq-train: {progress.log}")
    with progress:
        with watching(plan.save_dir, plan.data_bin, watch, progress) as watcher:
            status = run_training(plan.command, progress)
            progress.end(status)
            if not status and watcher is not None:
                status = wait_for(watcher, progress)  # until it has scored the last checkpoint
                progress.look()
    if status:
        raise SystemExit(status)


def _judge(
    results: Mapping[str, Path], mean: Path | None, data_bin: Path, weights: Path, folder: Path, given: Given
) -> Outcome | None:
    split = split_to_judge(data_bin)
    if split is None:
        return None
    scored = []
    for name, checkpoint in results.items():
        answers = checkpoint.parents[1] / ANSWERS
        found, chance, settings = score(data_bin, checkpoint, answers, split, name)
        scored.append(found)
    of_mean = None if mean is None else score(data_bin, mean, folder / OF_AVERAGE, split, _AVERAGE)[0]
    before = None
    if not given.any_of(OTHER_STARTS):
        if "--contrast" not in given:  # those trained from calibrated weights need none
            settings = replace(settings, contrast=None)
        before = score_before(data_bin, weights, settings, folder / BEFORE, split)
    paths = [run.path for run in scored]
    differences = [difference("fine-tuned - pretrained", paths, [before.path])] if before else []
    return Outcome(split, chance, before, scored, of_mean, differences)


def _finish(
    outcome: Outcome | None, results: Mapping[str, Path], mean: Path | None, data_bin: Path, folder: Path, say: Tell
) -> None:
    from ..report.page import report, write_report

    shown: list[PathLike] = [checkpoint.parent for checkpoint in results.values()]
    if outcome is not None:
        write_text(folder / RESULT, outcome.to_json())
        shown += [scored.path for scored in outcome.all]
    write_report(report(shown, passages=data_bin if outcome is not None else None), folder / REPORT)
    for line in outcome.lines() if outcome is not None else [_NOTHING]:
        say(line)
    for name, checkpoint in results.items():
        say(f"{name}: {checkpoint}")
    if mean is not None:
        say(f"{_AVERAGE}: {mean}")
    say(f"report: {folder / REPORT}")
