"""The chance watch: its statistics, its words, and fairseq-train stopped by it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.plugin.chance import (
    BLANKS_NEEDED,
    Beginning,
    Cause,
    ChanceWatch,
    Finding,
    Stretch,
    Verdict,
    likely_causes,
)
from fairseq_cloze.plugin.sums import plain
from fairseq_cloze.ranking.metrics import MICRO
from fairseq_cloze.runs.events import read_events
from fairseq_cloze.statistics import chance_interval

from ..support.commands import PASSAGES, TRAIN_OPTIONS, Ran, free_port, start, train
from ..support.texts import write_passage

LOG4 = math.log(4)


def stretch(
    blanks: int, accuracy: float, loss: float = 1.2, first: int = 1, last: int | None = None, options: int = 4
) -> Stretch:
    """Sums that give an accuracy (percent) and a mean loss."""
    correct = round(blanks * accuracy / 100)
    chance = blanks * MICRO // options
    return Stretch(first, last or first, blanks, correct, chance, blanks * loss, blanks * math.log(options))


def told(watch: ChanceWatch, updates: list[Stretch], rate: float = 1e-5) -> list[int]:
    """Numbers of the updates after which the watch speaks."""
    return [found.window.last for found in verdicts(watch, updates, rate)]


def verdicts(watch: ChanceWatch, updates: list[Stretch], rate: float = 1e-5) -> list[Verdict]:
    """What the watch says."""
    found = [watch.add(update, rate) for update in updates]
    return [each for each in found if each is not None]


def simulated(accuracies: Any, blanks: int = 110, loss: float = 1.2, seed: int = 0) -> list[Stretch]:
    """Updates with as many right answers as chance has it, for true accuracies in percent."""
    rng = np.random.default_rng(seed)
    hits = rng.binomial(blanks, np.asarray(accuracies) / 100.0)
    return [stretch(blanks, 100.0 * hit / blanks, loss, number) for number, hit in enumerate(hits, 1)]


# -- when it speaks --------------------------------------------------------------------------------------------------


def test_join_adds_up() -> None:
    parts = [stretch(10, 50.0, 1.0, 3), stretch(30, 10.0, 2.0, 4, options=2)]
    joined = Stretch.join(parts)
    assert (joined.first, joined.last, joined.blanks, joined.correct) == (3, 4, 40, 8)
    assert (joined.accuracy, joined.mean_loss) == (20.0, 1.75)
    assert joined.chance_percent == 43.75
    assert joined.guessing_loss == pytest.approx((10 * math.log(4) + 30 * math.log(2)) / 40)
    assert joined.updates == "updates 3 to 4" and parts[0].updates == "update 3"


def test_sums_of_workers_and_steps() -> None:
    """Of logging outputs as fairseq hands them over: one per accumulation step, or one sum of doubles."""
    steps = [
        {"n_blanks": 3, "n_correct": 1, "chance": 750_000, "loss": 4.0, "log_candidates": 3 * LOG4},
        {"n_blanks": 0, "n_correct": 0, "chance": 0, "loss": 0.0, "log_candidates": 0.0},
        {"n_blanks": 2, "n_correct": 2, "chance": 1_000_000, "loss": 1.0, "log_candidates": 2 * math.log(2)},
    ]
    summed = {key: float(sum(step[key] for step in steps)) for key in steps[0]}
    for logs in (steps, [summed]):
        assert Stretch.of_update(7, plain(logs)) == Stretch(
            7,
            7,
            5,
            3,
            1_750_000,
            5.0,
            pytest.approx(3 * LOG4 + 2 * math.log(2)),  # type: ignore[arg-type]
        )


def test_at_chance_by_accuracy_or_by_loss() -> None:
    high = chance_interval(25.0, 10_000)[1]  # 25.85
    assert stretch(10_000, high - 0.01).is_at_chance(softmax=True)
    assert not stretch(10_000, high + 0.02).is_at_chance(softmax=True)
    assert stretch(10_000, 5.0).is_at_chance(softmax=True)  # below is no better
    assert stretch(10_000, 27.4, 1.009 * LOG4).is_at_chance(softmax=True)
    assert stretch(10_000, 27.4, 0.991 * LOG4).is_at_chance(softmax=True)
    assert not stretch(10_000, 27.4, 0.989 * LOG4).is_at_chance(softmax=True)
    assert not stretch(10_000, 27.4, 1.011 * LOG4).is_at_chance(softmax=True)
    assert not stretch(10_000, 27.4, LOG4).is_at_chance(softmax=False)  # a margin loss of 1.386 means nothing
    assert not stretch(10_000, 35.0, LOG4).is_at_chance(softmax=True)  # too sure of itself, but it ranks
    assert stretch(10_000, 50.9, options=2).is_at_chance(softmax=True)


def test_it_speaks_after_patience_and_then_whenever_that_has_doubled() -> None:
    updates = [stretch(110, 25.0, LOG4, number) for number in range(1, 2001)]
    assert told(ChanceWatch(200), updates) == [200, 400, 800, 1600]


def test_few_blanks_take_longer() -> None:
    """A verdict after 50 updates of 4 blanks would rest on 200 blanks."""
    updates = [stretch(4, 25.0, LOG4, number) for number in range(1, 301)]
    assert told(ChanceWatch(50), updates)[0] == BLANKS_NEEDED // 4
    window = verdicts(ChanceWatch(50), updates)[0].window
    assert (window.first, window.last, window.blanks) == (1, 250, 1000)


def test_updates_without_a_labelled_blank_count_for_nothing() -> None:
    empty = [Stretch(number, number, 0, 0, 0, 0.0, 0.0) for number in range(1, 100)]
    assert told(ChanceWatch(5), empty) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("accuracy", "loss"), [(43.0, 1.2), (35.0, LOG4), (30.0, 1.36)])
def test_better_than_chance_says_nothing(accuracy: float, loss: float, seed: int) -> None:
    assert told(ChanceWatch(200), simulated([accuracy] * 1500, loss=loss, seed=seed)) == []


def test_guessing_is_told_in_time() -> None:
    """At the first opportunity in 95 of 100 runs, and in all soon after."""
    first = [told(ChanceWatch(50), simulated([25.0] * 100, loss=2.0, seed=seed))[0] for seed in range(100)]
    assert np.mean(np.array(first) == 50) >= 0.88 and max(first) < 100


def test_a_model_that_begins_to_learn_is_left_alone() -> None:
    accuracies = np.concatenate([np.full(120, 25.0), np.linspace(25, 35, 80), np.full(800, 40.0)])
    updates = simulated(accuracies, loss=LOG4)  # near log C all the time, and 26% over the first 200 updates
    assert told(ChanceWatch(200), updates) == []


def test_a_fall_is_told_and_after_learning_another_one_is_news() -> None:
    watch = ChanceWatch(100)
    updates = simulated([43.0] * 30 + [25.0] * 270 + [43.0] * 300 + [25.0] * 200)
    first, second, third, fourth = told(watch, updates)
    assert first in range(125, 140) and second == first + 100
    assert third in range(685, 725) and fourth == third + 100


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 20), st.data())
def test_a_verdict_is_about_the_last_updates(blanks: list[int], patience: int, data: st.DataObject) -> None:
    """Whatever comes: enough updates, enough blanks, none to spare, and truly at chance."""
    watch = ChanceWatch(patience)
    updates = []
    for number, count in enumerate(blanks, 1):
        correct = data.draw(st.integers(0, count // 2))
        updates.append(Stretch(number, number, 5 * count, 5 * correct, 5 * count * MICRO // 4, 1.0, 5 * count * LOG4))
        verdict = watch.add(updates[-1], 1e-5)
        if verdict is None:
            continue
        window = verdict.window
        assert window == Stretch.join(updates[window.first - 1 :]) and window.last == number
        assert number - window.first + 1 >= patience and window.blanks >= BLANKS_NEEDED
        assert window.is_at_chance(softmax=True)
        shorter = Stretch.join(updates[window.first :])
        assert shorter.blanks < BLANKS_NEEDED or number - window.first < patience


def test_losses_that_are_no_numbers() -> None:
    updates = [stretch(110, 0.0, math.nan if number == 3 else 1.0, number) for number in range(1, 201)]
    [found] = verdicts(ChanceWatch(200), updates)
    assert math.isnan(found.window.loss)


# -- what it says ----------------------------------------------------------------------------------------------------

PROVED = Beginning(
    "mean", "punct", weights="weights are those of model.pt", vocabulary="dictionary 0a and tokenizer 0b are"
)


def verdict(accuracy: float = 25.1, loss: float = 1.388, **values: Any) -> Verdict:
    """A verdict at update 200."""
    defaults = {
        "window": stretch(22_000, accuracy, loss, 1, 200),
        "start": stretch(330, 25.5, 1.39, 1, 3),
        "peak": None,
        "highest_rate": 1e-5,
        "highest_at": 200,
        "first_scale": None,
        "last_scale": None,
        "softmax": True,
    }
    return Verdict(**{**defaults, **values})


RATE = (
    "the highest so far is 1e-05, at update 200. Start again with a lower --lr, 1e-5 or less for large models, and "
    "some hundred --warmup-updates"
)
COMMON = Cause(
    "high_rate",
    f"the learning rate is too high, or there is no warm-up: nothing speaks for it but that it is common; {RATE}",
)
SHIFTED = Cause(
    "other_text",
    "answers are shifted, or the text is not the language of the weights: accuracy was 25.5% in updates 1 to 3 and "
    "never above chance. Score the weights alone with 'fairseq-cloze evaluate'",
)


def test_the_whole_report() -> None:
    peak = stretch(330, 43.3, 1.29, 1, 3)
    found = verdict(loss=1.9, start=peak, peak=peak)
    assert Finding.of(found, PROVED).text == (
        "updates 1 to 200 are at chance: accuracy is 25.1% of 22,000 blanks, guessing gives 24.4 to 25.6% in 95 of 100 "
        "cases; the loss is 1.900, guessing has 1.386. Likely causes, the best evidence first (see docs/chance.md):\n"
        "  1. the learning rate is too high, or there is no warm-up: accuracy was 43.3% in updates 1 to 3 and fell, "
        f"the loss rose from 1.290 in updates 1 to 3 to 1.900; {RATE}\n"
        "  Proved: weights are those of model.pt; dictionary 0a and tokenizer 0b are"
    )


def test_a_loss_without_meaning_is_left_out() -> None:
    assert "loss" not in Finding.of(verdict(softmax=False), PROVED).summary
    assert Finding.of(verdict(loss=math.nan), PROVED).summary.endswith("in 95 of 100 cases; the loss is no number")


def test_nothing_measured() -> None:
    assert likely_causes(verdict(), PROVED) == [SHIFTED, COMMON]


def test_evidence_orders_the_causes() -> None:
    """Everything wrong at once."""
    beginning = Beginning("head", "none", True, "", "the tokenizer could not be compared, model.pt came without", False)
    found = verdict(accuracy=20.0, highest_rate=1e-9, highest_at=1, first_scale=128.0, last_scale=0.5)
    causes = likely_causes(found, beginning)
    assert [cause.kind for cause in causes] == [
        *("fp16_overflow", "from_scratch", "new_head", "low_rate", "vocabulary", "shifted_answers", "text_norm"),
        "high_rate",
    ]
    assert [cause.text for cause in causes] == [
        "fp16 overflow: loss_scale fell from 128 to 0.5. Train without --fp16 to be sure",
        "the weights began at random, as --from-scratch asks for, 200 updates so far. Start from pretrained weights "
        "(--finetune-from-model), or go on for longer",
        "the ranking head of --scorer head began at random, 200 updates so far. Go on for longer, or take --scorer "
        "mean, which starts above chance",
        "the learning rate moves hardly anything: the highest so far is 1e-09",
        "dictionary or tokenizer are not those of the weights: the tokenizer could not be compared, model.pt came "
        "without. Put the tokenizer files that came with the weights beside them",
        "answers are shifted: accuracy is below what guessing gives, 24.4% and more. Check data that other tools have "
        "converted",
        "the text does not look like the pretraining text: it was prepared with --text-norm none",
        COMMON.text.replace("1e-05, at update 200", "1e-09, at update 1"),
    ]
    assert Finding.of(found, beginning).proved == []
    assert "Proved" not in Finding.of(found, beginning).text


def test_the_fields_of_its_event() -> None:
    found = verdict()
    assert Finding.of(found, PROVED).fields() == {
        "first": 1,
        "n_blanks": 22_000,
        "n_correct": 5522,
        "accuracy": pytest.approx(25.1),
        "guessing": chance_interval(25.0, 22_000),
        "loss": pytest.approx(1.388),
        "guessing_loss": pytest.approx(LOG4),
        "text": "updates 1 to 200 are at chance: accuracy is 25.1% of 22,000 blanks, guessing gives 24.4 to 25.6% in "
        "95 of 100 cases; the loss is 1.388, guessing has 1.386",
        "causes": [{"kind": cause.kind, "text": cause.text} for cause in (SHIFTED, COMMON)],
        "proved": ["weights are those of model.pt", "dictionary 0a and tokenizer 0b are"],
    }


def test_learning_rate_far_too_high() -> None:
    [first, _] = likely_causes(verdict(highest_rate=0.1, highest_at=1), PROVED)
    assert first.kind == "high_rate"
    assert first.text.startswith(
        "the learning rate is too high, or there is no warm-up: RoBERTa is fine-tuned below 1e-4; the highest so far "
        "is 0.1, at update 1. "
    )
    assert "fine-tuned" not in str(likely_causes(verdict(highest_rate=0.1), Beginning("mean", "punct", True)))


def test_overflow_comes_first() -> None:
    assert likely_causes(verdict(loss=math.inf), PROVED)[0] == Cause(
        "overflow", "overflow: losses are no numbers. Train without --fp16, or with a lower --lr"
    )
    assert likely_causes(verdict(first_scale=128.0, last_scale=256.0), PROVED) == [SHIFTED, COMMON]


def test_the_watch_keeps_the_evidence() -> None:
    watch = ChanceWatch(100)
    updates = [stretch(110, 43.0 if number <= 6 else 25.0, 1.2, number) for number in range(1, 151)]
    found = [watch.add(update, rate=min(update.last, 20) * 1e-6, scale=128.0 / update.last) for update in updates]
    [seen] = [each for each in found if each]
    assert seen.peak is not None
    assert (seen.start.updates, seen.peak.updates) == ("updates 1 to 3", "updates 1 to 3")
    assert (seen.highest_rate, seen.highest_at) == (20 * 1e-6, 20)
    assert (seen.first_scale, seen.last_scale) == (128.0, 128.0 / seen.window.last)


@pytest.mark.parametrize("seed", range(20))
def test_luck_is_no_peak(seed: int) -> None:
    """Among all the phases of a run at chance the best one is good, but not that good."""
    watch = ChanceWatch(200)
    for update in simulated([25.0] * 300, loss=LOG4, seed=seed):
        found = watch.add(update, 1e-5)
        assert found is None or found.peak is None


# -- fairseq-train ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guessing(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    """A data-bin in which every article has three copies with random answers: nothing to learn, nothing to memorise."""
    folder, rng = tmp_path_factory.mktemp("guessing"), random.Random(1)
    for copy in range(3):
        for path in sorted((PASSAGES / "train").glob("*.json")):
            record = json.loads(path.read_text())
            record["answers"] = [rng.choice("ABCD"[: len(options)]) for options in record["options"]]
            write_passage(folder / "passages" / f"{copy}-{path.name}", **record)
    prepare({"train": [folder / "passages"]}, pretrained, folder / "bin", workers=1)
    return folder / "bin"


def options(pretrained: Path) -> Any:
    return (
        *("--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt", "--disable-validation"),
        *("--chance-patience", 5, "--stop-at-chance", "--no-epoch-checkpoints"),
    )


def check_stopped(text: str, pretrained: Path, save_dir: Path) -> None:
    """The words of a run that was stopped at chance."""
    lines = text.splitlines()
    [said] = [number for number, line in enumerate(lines) if " are at chance: accuracy is " in line]
    assert " | WARNING | fairseq_cloze.plugin.task | updates " in lines[said]
    assert lines[said].endswith(". Likely causes, the best evidence first (see docs/chance.md):")
    assert lines[said + 1].startswith(
        "  1. the learning rate is too high, or there is no warm-up: RoBERTa is fine-tuned below 1e-4; the highest so "
        "far is 0.001, at update 1. "
    )
    assert lines[said + 2].startswith("  2. answers are shifted, or the text is not the language of the weights: ")
    assert lines[said + 3].startswith(f"  Proved: weights are those of {pretrained / 'model.pt'} (encoder ")
    [error] = [line for line in lines if line.startswith("Error: ")]
    last_update = lines[said].split(" are at chance")[0].split()[-1]
    assert error == (
        f"Error: stopped at update {last_update}, as --stop-at-chance asks for; causes are named above. "
        f"{save_dir / 'checkpoint_last.pt'} stays, look at it with 'fairseq-cloze doctor'"
    )
    assert "Traceback" not in text


def test_a_run_at_chance_ends_with_its_own_status(tmp_path: Path, guessing: Path, pretrained: Path) -> None:
    save = ("--save-interval-updates", 5, "--batch-size", 64)
    ran = train(guessing, tmp_path, *options(pretrained), *save, code=4)
    check_stopped(ran.text, pretrained, tmp_path)
    assert (tmp_path / "checkpoint_last.pt").exists()
    *_, chance, stopped = read_events(tmp_path / "metrics.jsonl")
    assert (chance["type"], chance["first"]) == ("chance", 1)
    assert [cause["kind"] for cause in chance["causes"]] == ["high_rate", "other_text"]
    assert f"Error: {stopped.pop('text')}" in ran.text and f"{chance['text']}. Likely causes" in ran.text
    at = {"update": chance["update"], "epoch": chance["epoch"], "time": stopped["time"]}
    assert stopped == {"type": "stopped", **at, "status": 4}
    updates = len(ran.metrics("train_inner"))
    assert updates < 20 and f"stopped at update {updates + 1}, " in ran.text


@pytest.mark.slow
def test_all_workers_end_with_that_status(tmp_path: Path, guessing: Path, pretrained: Path) -> None:
    """Both see the same sums and stop at the same update; the first one says why."""
    command = (guessing, *TRAIN_OPTIONS, "--save-dir", tmp_path / "save", *options(pretrained))
    command += ("--save-interval-updates", 2, "--batch-size", 32, "--distributed-world-size", 2)
    command += ("--distributed-init-method", f"tcp://127.0.0.1:{free_port()}", "--distributed-no-spawn")
    command += ("--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp")
    ranks = [start("fairseq-train", *command, "--distributed-rank", rank, "--device-id", rank) for rank in (0, 1)]
    texts = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [4, 4], texts
    check_stopped(texts[0], pretrained, tmp_path / "save")
    assert "at chance" not in texts[1].replace("stop_at_chance", "") and "Error" not in texts[1]


@pytest.mark.slow
def test_a_run_that_learns_says_nothing(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    learns = ("--max-tokens", 1024, "--max-update", 100, "--no-save")
    ran = train(data_bin, tmp_path, *options(pretrained), *learns)
    assert "at chance: " not in ran.text
    heard = ChanceWatch(5)  # the same run, had it stood at chance
    rows: list[Any] = Ran(0, ran.text).metrics("train_inner")
    assert any(
        heard.add(stretch(int(row["n_blanks"]), 25.0, row["loss"], number), 1e-5) for number, row in enumerate(rows, 1)
    )
