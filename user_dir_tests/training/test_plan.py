"""What is decided, from data, size of the model and device."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.training.plan import (
    Device,
    Facts,
    Given,
    Plan,
    learning_rate,
    make_plan,
    tokens_of_update,
    with_save_dir,
)

CLOTH = Facts(
    parameters=125_000_000,
    family="roberta",
    tokens=1_800_000,
    largest=512,
    batches=lambda max_tokens, items: (
        math.ceil(1_800_000 / max_tokens) if max_tokens else math.ceil(5513 / (items or 1))
    ),
    has_valid=True,
)
#: Of a training that sees no passage twice.
NO_DROPOUT = {"--dropout": "0", "--attention-dropout": "0"}
CPU, H100, V100 = Device(), Device("H100", 1, True), Device("V100", 1, False)


def planned(*words: str, facts: Facts = CLOTH, device: Device = CPU, **more: Any) -> Plan:
    paths = {name: Path(name) for name in ("data_bin", "weights", "save_dir", "user_dir")}
    return make_plan(facts, device, Given(words), **paths, **more)


def options(plan: Plan) -> dict[str, str]:
    """Names and values; that of a flag is empty, and no name is there twice."""
    assert len({option[0] for option in plan.options}) == len(plan.options)
    return {name: " ".join(value) for name, *value in plan.options}


def test_the_whole_line() -> None:
    plan = planned(device=V100)
    assert (
        plan.line
        == r"""fairseq-train data_bin \
    --user-dir user_dir \
    --task cloze_ranking \
    --criterion cloze_ranking \
    --arch cloze_roberta \
    --finetune-from-model weights \
    --fp16 \
    --optimizer fused_adamw \
    --adam-betas '(0.9, 0.98)' \
    --adam-eps 1e-6 \
    --weight-decay 0.01 \
    --clip-norm 1.0 \
    --lr 5e-05 \
    --lr-scheduler polynomial_decay \
    --warmup-updates 66 \
    --total-num-update 660 \
    --max-update 660 \
    --max-tokens 8192 \
    --save-dir save_dir \
    --save-interval-updates 66 \
    --keep-interval-updates 2 \
    --no-epoch-checkpoints \
    --best-checkpoint-metric accuracy \
    --maximize-best-checkpoint-metric \
    --log-format simple \
    --log-interval 14"""
    )
    assert plan.command[:4] == ["fairseq-train", "data_bin", "--user-dir", "user_dir"]
    assert plan.command[-1] == "14" and "(0.9, 0.98)" in plan.command


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [
        (355_000_000, 1e-5),
        (125_000_000, 5e-5),
        (82_000_000, 9e-5),
        (7_371_137, 3e-4),
        (3_800_000, 3e-4),
        (1, 3e-4),
        (3_000_000_000, 3e-6),
    ],
)
def test_learning_rate(parameters: int, rate: float) -> None:
    assert learning_rate(parameters) == rate


@pytest.mark.parametrize(
    ("tokens", "largest", "wanted"),
    [(1_800_000, 512, 8192), (200_000, 300, 5000), (2000, 300, 1024), (2000, 4000, 4000), (1_800_000, 9000, 9000)],
)
def test_tokens_of_an_update(tokens: int, largest: int, wanted: int) -> None:
    """As many as usual, fewer where a training would have few updates, never less than an item needs."""
    assert tokens_of_update(replace(CLOTH, tokens=tokens, largest=largest), epochs=3.0) == wanted


def test_what_does_not_fit_is_accumulated() -> None:
    assert options(planned(device=H100, fits=3000))["--max-tokens"] == "3000"
    assert options(planned(device=H100, fits=3000))["--update-freq"] == "3"
    assert options(planned(device=H100, fits=3000))["--max-update"] == "600"  # 200 of 3 batches in an epoch
    on_cpu = options(planned())
    assert (on_cpu["--max-tokens"], on_cpu["--update-freq"], on_cpu["--max-update"]) == ("4096", "2", "660")
    costly = options(planned(facts=replace(CLOTH, largest=5000)))
    assert (costly["--max-tokens"], costly["--update-freq"]) == ("5000", "2")
    assert "--update-freq" not in options(planned(device=H100, fits=99999))


@pytest.mark.parametrize(
    ("device", "words", "found"),
    [
        (CPU, (), []),
        (V100, (), ["--fp16"]),
        (H100, (), ["--autocast"]),
        (H100, ("--fp16",), []),
        (Device(has_bfloat16=True), (), ["--autocast"]),
        (Device(has_bfloat16=True), ("--autocast",), []),
        (CPU, ("--autocast",), []),
    ],
)
def test_precision(device: Device, words: tuple[str, ...], found: list[str]) -> None:
    assert [name for name in options(planned(*words, device=device)) if name in ("--fp16", "--autocast")] == found


@pytest.mark.parametrize(("words", "epochs"), [((), 1.0), (("--max-epoch", "1"), 3.0), (("--max-update", "9"), 3.0)])
def test_nothing_is_dropped_where_nothing_is_seen_twice(words: tuple[str, ...], epochs: float) -> None:
    found = options(planned(*words, epochs=epochs))
    assert (found["--dropout"], found["--attention-dropout"]) == ("0", "0")
    assert "--dropout" not in options(planned(*words, "--dropout", "0.3", epochs=epochs))
    assert "--dropout" not in options(planned(epochs=1.1))


def test_calibrated_weights_need_no_contrast() -> None:
    assert options(planned(is_calibrated=True)) == {**options(planned()), "--contrast": "0"}


def test_how_long_it_is() -> None:
    plan = planned(epochs=1.5)
    assert (plan.updates, plan.epochs) == (330, 1.5)
    assert planned("--max-update", "55").epochs == 0.25
    assert planned("--max-epoch", "2").epochs == 2.0


@pytest.mark.parametrize(
    ("freqs", "epochs", "updates"),
    [("4,2", 1.0, 110), ("4,2", 1.5, 220), ("[4, 2]", 0.5, 55), ("4,2,1", 2.25, 440)],
)
def test_epochs_of_different_updates(freqs: str, epochs: float, updates: int) -> None:
    """As fairseq takes ``--update-freq``: one for each of the first epochs, the last one for all that follow."""
    plan = planned("--update-freq", freqs, epochs=epochs)
    assert (plan.updates, plan.epochs) == (updates, epochs)
    given = planned("--update-freq", freqs, "--max-update", str(updates))
    assert (given.updates, given.epochs) == (updates, epochs)


def test_gpus_share_an_update() -> None:
    """So it is the same training on one and on several."""
    on_four = options(planned(device=replace(H100, gpus=4)))
    assert (on_four["--max-tokens"], on_four["--max-update"], "--update-freq" in on_four) == ("2048", "660", False)
    in_two = options(planned("--distributed-world-size", "2"))
    assert (in_two["--max-tokens"], in_two["--max-update"], "--update-freq" in in_two) == ("4096", "660", False)
    assert options(planned("--max-tokens", "8192", device=replace(H100, gpus=4)))["--max-update"] == "165"


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("--lr", "1e-6"), {"--lr": None}),
        (("--lr=1e-6",), {"--lr": None}),
        (
            ("--max-update", "50"),
            {**NO_DROPOUT, "--max-update": None, "--total-num-update": "50", "--warmup-updates": "5",
             "--save-interval-updates": "5", "--log-interval": "1"},
        ),
        (
            ("--max-epoch", "1"),
            {**NO_DROPOUT, "--max-update": None, "--total-num-update": "220", "--warmup-updates": "22",
             "--save-interval-updates": "22", "--log-interval": "5"},
        ),
        (("--max-tokens", "4096"), {"--max-tokens": None, "--update-freq": None, "--max-update": "1320",
                                    "--total-num-update": "1320", "--warmup-updates": "132",
                                    "--save-interval-updates": "132", "--log-interval": "27"}),
        (("--update-freq", "4"), {"--update-freq": None, "--max-update": "330", "--total-num-update": "330",
                                  "--warmup-updates": "33", "--save-interval-updates": "33", "--log-interval": "7"}),
        (("--update-freq", "4,2"), {"--update-freq": None, "--max-update": "550", "--total-num-update": "550",
                                    "--warmup-updates": "55", "--save-interval-updates": "55",
                                    "--log-interval": "11"}),
        (("--max-epoch", "1", "--max-update", "500"),
         {**NO_DROPOUT, "--max-update": None, "--total-num-update": "220", "--warmup-updates": "22",
          "--save-interval-updates": "22", "--log-interval": "5"}),
        (("--optimizer", "sgd"), {"--optimizer": None, "--adam-betas": None, "--adam-eps": None,
                                  "--weight-decay": None}),
        (("--lr-scheduler", "fixed"), {"--lr-scheduler": None, "--warmup-updates": None, "--total-num-update": None}),
        (("--memory-efficient-fp16",), {"--optimizer": "adam"}),
        (("--restore-file", "other.pt"), {"--finetune-from-model": None}),
        (("--disable-validation",), {"--best-checkpoint-metric": None, "--maximize-best-checkpoint-metric": None}),
        (("--best-checkpoint-metric", "loss"),
         {"--best-checkpoint-metric": None, "--maximize-best-checkpoint-metric": None}),
        (("--batch-size", "10"), {"--max-tokens": None, "--update-freq": None, "--max-update": "1656",
                                  "--total-num-update": "1656", "--warmup-updates": "166",
                                  "--save-interval-updates": "166", "--log-interval": "34"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_was_given_stays_and_the_rest_follows(words: tuple[str, ...], changed: dict[str, str | None]) -> None:
    """``None``: it is not among what is decided any more."""
    before, plan = options(planned()), planned(*words)
    after = options(plan)
    assert {name: after.get(name) for name in {**before, **after} if before.get(name) != after.get(name)} == changed
    assert plan.command[-len(words) :] == list(words)


@pytest.mark.parametrize(("watched", "has_valid"), [(True, True), (False, False)])
def test_no_validation_where_somebody_else_does_it_or_nothing_is_there(watched: bool, has_valid: bool) -> None:
    found = options(planned(watched=watched, facts=replace(CLOTH, has_valid=has_valid)))
    assert found["--disable-validation"] == "" and "--best-checkpoint-metric" not in found


def test_other_families_have_the_other_name() -> None:
    assert options(planned(facts=replace(CLOTH, family="bert")))["--arch"] == "cloze_lm"


def test_a_short_training_has_an_update() -> None:
    found = options(planned(epochs=0.0001))
    assert [
        found[f"--{name}"] for name in ("max-update", "warmup-updates", "save-interval-updates", "log-interval")
    ] == (["1"] * 4)


def test_the_same_with_another_seed() -> None:
    plan = planned()
    other = with_save_dir(plan, Path("seed2"), 2)
    assert options(other) == {**options(plan), "--seed": "2", "--save-dir": "seed2"}
    assert other.save_dir == Path("seed2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--save-dir", "x"), "--save-dir: checkpoints lie in --out; leave it out, or take fairseq-train itself"),
        (("--task=other",), "--task: it is cloze_ranking; leave it out, or take fairseq-train itself"),
        (("--max-update", "many"), "--max-update: expected a number from 1, found 'many'"),
        (("--max-tokens", "0"), "--max-tokens: expected a number from 1, found '0'"),
        *(
            (
                ("--update-freq", text),
                "--update-freq: expected a number from 1, or one for each of the first epochs with commas between "
                f"them, as 4,2, found '{text}'",
            )
            for text in ("", "x", "4,", "4,0", "4,2.5")
        ),
    ],
)
def test_what_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ClozeError) as error:
        planned(*words)
    assert str(error.value) == message
