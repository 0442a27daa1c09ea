"""Options of fairseq-train: every one is in the table and does what the table says; contradictions are refused."""

from __future__ import annotations

import argparse
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_cloze import register
from fairseq_cloze.errors import ClozeError

from ..support.commands import ROOT, TRAIN_OPTIONS, run
from ..support.option_table import IDLE, REFUSED, TABLE, WORKS, Row, Seen

register()

from fairseq import options as fairseq_options  # noqa: E402
from fairseq.dataclass.utils import convert_namespace_to_omegaconf, gen_parser_from_dataclass  # noqa: E402
from fairseq.optim import OPTIMIZER_REGISTRY  # noqa: E402
from fairseq.optim.bmuf import FairseqBMUF  # noqa: E402
from fairseq.optim.lr_scheduler import LR_SCHEDULER_REGISTRY  # noqa: E402
from fairseq.optim.lr_scheduler.manual_lr_scheduler import ManualSchedule  # noqa: E402

from fairseq_cloze.plugin.options import configure, prepare, refuse_contradictions, without_effect  # noqa: E402

ROWS = [row for rows in TABLE.values() for row in rows]
EVERYDAY = "--arch cloze_roberta --finetune-from-model WEIGHTS --max-tokens 1024 --max-update 4 --no-epoch-checkpoints"


def configured(words: str) -> Any:
    """The configuration that fairseq-train makes of a command line, without looking at it."""
    parser = fairseq_options.get_training_parser("cloze_ranking")
    command = ["data", "--task", "cloze_ranking", "--criterion", "cloze_ranking", *shlex.split(words)]
    return convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, command))


@pytest.fixture(scope="module")
def cfg() -> Any:
    """Of the everyday training."""
    return configured(f"{EVERYDAY} --optimizer adam --lr 1e-5")


# -- the table -------------------------------------------------------------------------------------------------------


def options_of_fairseq() -> set[str]:
    """Every option that fairseq-train takes with this task, model and loss, and any optimizer and schedule."""
    parser = fairseq_options.get_training_parser("cloze_ranking")
    fairseq_options.parse_args_and_arch(
        parser, ["data", "--task", "cloze_ranking", "--criterion", "cloze_ranking", "--arch", "cloze_roberta"]
    )
    more = argparse.ArgumentParser(conflict_handler="resolve")
    FairseqBMUF.add_args(more)
    for kind in (*OPTIMIZER_REGISTRY.values(), *LR_SCHEDULER_REGISTRY.values()):
        if hasattr(kind, "add_args"):
            kind.add_args(more)
        if getattr(kind, "__dataclass", None) is not None:
            gen_parser_from_dataclass(more, kind.__dataclass())
    found = {name for each in (parser, more) for action in each._actions for name in action.option_strings}
    return {name for name in found if name.startswith("--")} - {"--help"}


def test_the_table_has_every_option_and_no_other() -> None:
    """Where this fails, fairseq has a new option: try it, and say in the table what it does."""
    assert {option for row in ROWS for option in row.options} == options_of_fairseq()


def test_every_optimizer_and_schedule_is_in_the_table() -> None:
    tried = {pair for row in ROWS for pair in zip(row.tried.split(), row.tried.split()[1:])}
    assert {name for option, name in tried if option == "--optimizer"} == set(OPTIMIZER_REGISTRY)
    assert {name for option, name in tried if option == "--lr-scheduler"} == set(LR_SCHEDULER_REGISTRY)


def test_the_page_is_the_table() -> None:
    """``python scripts/options_page.py`` writes it anew."""
    page = runpy.run_path(str(ROOT / "scripts" / "options_page.py"))["page"]
    assert (ROOT / "docs" / "training-options.md").read_text() == page()


def test_what_help_shows_is_what_is_declared() -> None:
    """``train --help`` and ``docs/options.md``; the same script writes them anew."""
    script = runpy.run_path(str(ROOT / "scripts" / "options_page.py"))
    assert script["FILE"].read_text() == script["written"]()
    assert (ROOT / "docs" / "options.md").read_text() == script["own_page"]()
    assert len(script["known_options"]()) == 4


def command(row: Row, folder: Path, weights: Path) -> list[str]:
    """Words of a row, for a training into *folder*."""
    words = f"{EVERYDAY} {row.tried}".replace("TMP", str(folder)).replace("WEIGHTS", str(weights)).split()
    for option in row.but.split():
        if option in EVERYDAY and option not in row.tried:
            at = words.index(option)
            del words[at : at + (1 if option == "--no-epoch-checkpoints" else 2)]
    return words


def trained(row: Row, folder: Path, data_bin: Path, weights: Path, code: int = 0) -> Seen:
    words = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", folder, *command(row, folder, weights))
    return Seen(run(*words, code=code), folder)


@pytest.fixture(scope="module")
def everyday(tmp_path_factory: pytest.TempPathFactory, data_bin: Path, pretrained: Path) -> Seen:
    return trained(Row("", WORKS, ""), tmp_path_factory.mktemp("everyday"), data_bin, pretrained / "model.pt")


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.verdict == WORKS], ids=lambda row: row.tried)
def test_what_works(tmp_path: Path, data_bin: Path, pretrained: Path, everyday: Seen, row: Row) -> None:
    seen = trained(row, tmp_path, data_bin, pretrained / "model.pt")
    seen.without = everyday
    assert row.seen(seen), seen.text
    assert "without effect" not in seen.text


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.verdict == REFUSED], ids=lambda row: row.tried)
def test_what_is_refused(tmp_path: Path, data_bin: Path, pretrained: Path, row: Row) -> None:
    by_parser = "--groups" in row.tried
    seen = trained(row, tmp_path / "save", data_bin, pretrained / "model.pt", code=2 if by_parser else 1)
    beginning = "fairseq-train: error: argument --" if by_parser else "Error: --"
    assert seen.text.splitlines()[-1].startswith(beginning)
    assert not seen.losses and "Traceback" not in seen.text


@pytest.mark.slow
def test_what_has_no_effect_changes_no_figure_and_says_so(
    tmp_path: Path, data_bin: Path, pretrained: Path, everyday: Seen
) -> None:
    """All of them in one training."""
    idle = [row for row in ROWS if row.verdict == IDLE]
    together = Row(" ".join(row.tried for row in idle), IDLE, "")
    seen = trained(together, tmp_path, data_bin, pretrained / "model.pt")
    seen.without = everyday
    assert seen.same() and len(seen.losses) == 4
    [line] = [line for line in seen.text.splitlines() if "options without effect: " in line]
    names = {"--combine-val": "--combine-valid-subsets", "--plasma-path": "--plasma-path"}
    missing = [option for row in idle for option in row.options if f"{names.get(option, option)} (" not in line]
    assert not missing


# -- what is refused -------------------------------------------------------------------------------------------------


def problem(cfg: Any, **changed: Any) -> str | None:
    """The refusal of the everyday training with options changed, ``group__name`` each."""
    other = OmegaConf.create(OmegaConf.to_container(cfg))
    for name, value in changed.items():
        OmegaConf.update(other, name.replace("__", "."), value, merge=False)
    try:
        refuse_contradictions(other)
    except ClozeError as error:
        return str(error)
    return None


def worst(figure: str, word: str, mend: str) -> str:
    return (
        f"--best-checkpoint-metric {figure} {word} --maximize-best-checkpoint-metric would keep the worst checkpoint "
        f"as checkpoint_best.pt: {mend}"
    )


CASES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"checkpoint__best_checkpoint_metric": "accuracy"}, worst("accuracy", "without", "add that option")),
    ({"checkpoint__best_checkpoint_metric": "mrr"}, worst("mrr", "without", "add that option")),
    (
        {"checkpoint__maximize_best_checkpoint_metric": True},
        worst("loss", "with", "leave that option out, or pass --best-checkpoint-metric accuracy"),
    ),
    ({"checkpoint__best_checkpoint_metric": "mrr", "checkpoint__maximize_best_checkpoint_metric": True}, None),
    (
        {"checkpoint__best_checkpoint_metric": "acc", "checkpoint__maximize_best_checkpoint_metric": True},
        "--best-checkpoint-metric acc: no such figure; loss, accuracy, mrr, accuracy_one_token, accuracy_multi_token",
    ),
    (
        {"checkpoint__patience": 2, "dataset__disable_validation": True},
        "--patience needs validation: leave --disable-validation out",
    ),
    (
        {
            "checkpoint__save_interval_updates": 10,
            "checkpoint__no_last_checkpoints": True,
            "checkpoint__no_epoch_checkpoints": True,
        },
        "--save-interval-updates with --no-last-checkpoints would leave out checkpoints that fall on the end of an "
        "epoch: leave out that, or --no-epoch-checkpoints",
    ),
    (
        {
            "checkpoint__save_interval_updates": 10,
            "checkpoint__no_last_checkpoints": True,
            "checkpoint__no_epoch_checkpoints": False,
        },
        None,
    ),
    (
        {"dataset__max_tokens": None},
        "--max-tokens is missing: pass --max-tokens 8192, or --batch-size 8",
    ),
    ({"dataset__max_tokens": None, "dataset__batch_size": 1}, None),
    ({"dataset__batch_size": 0}, "--batch-size: expected a number at least 1, found 0"),
    ({"common__log_interval": 0}, "--log-interval: expected a number at least 1, found 0"),
    ({"optimization__update_freq": [2, 0]}, "--update-freq: expected a number at least 1, found 0"),
    ({"dataset__num_workers": -1}, "--num-workers: expected a number at least 0, found -1"),
    ({"model__dropout": 2.0}, "--dropout: expected a number from 0 to 1, found 2.0"),
    ({"model__dropout": float("nan")}, "--dropout: expected a number from 0 to 1, found nan"),
    ({"optimizer": None}, "--optimizer is missing: pass --optimizer adam"),
    ({"optimization__lr": [-1.0]}, "--lr: expected numbers above 0, such as 1e-5, found -1.0"),
    ({"optimization__lr": [float("nan")]}, "--lr: expected numbers above 0, such as 1e-5, found nan"),
    (
        {"optimization__lr": [0.25]},
        "--lr 0.25, which is fairseq's default, ruins any weights with adam: pass --lr 1e-5",
    ),
    (
        {"optimization__stop_min_lr": 1.0},
        "--stop-min-lr 1.0: a training at --lr 1e-05 ends before its first update; pass a smaller one",
    ),
    (
        {"optimizer__adam_betas": "fast"},
        "--adam-betas: expected two numbers from 0 to below 1, such as '(0.9, 0.98)', found 'fast'",
    ),
    (
        {"optimizer__adam_betas": "__import__('os').abort()"},
        "--adam-betas: expected two numbers from 0 to below 1, such as '(0.9, 0.98)', found '__import__('os').abort()'",
    ),
    (
        {"checkpoint__restore_file": "a.pt"},
        "--restore-file and --finetune-from-model name two checkpoints to start from: leave one out",
    ),
    (
        {"checkpoint__reset_meters": True, "checkpoint__reset_optimizer": True},
        "--finetune-from-model does not go with --reset-optimizer, --reset-meters: leave them out",
    ),
    (
        {"checkpoint__optimizer_overrides": "{"},
        "--optimizer-overrides: expected a dictionary such as \"{'lr': 1e-5}\", found '{'",
    ),
    (
        {"common__bf16": True, "common__tpu": True},
        "--bf16 cannot be used: fairseq's bfloat16 is for TPUs; leave it out; --autocast computes in bfloat16",
    ),
    (
        {"distributed_training__ddp_backend": "slowmo"},
        "--ddp-backend slowmo cannot be used: models are not sharded here; take --ddp-backend legacy_ddp",
    ),
    (
        {"distributed_training__distributed_world_size": 99},
        f"--distributed-world-size 99: this machine has {torch.cuda.device_count()} GPUs; to train in 99 processes "
        "start torchrun --nproc-per-node 99 $(which fairseq-train) with the other options",
    ),
    (
        {"common__fp16": True, "common__cpu": True},
        "--fp16 needs a CUDA GPU, found --cpu; leave it out; --autocast computes in bfloat16, on CPUs as well",
    ),
]


@pytest.mark.parametrize(("changed", "said"), CASES)
def test_contradictions(cfg: Any, changed: dict[str, Any], said: str | None) -> None:
    assert problem(cfg, **changed) == said


def test_resets_where_a_run_can_be_resumed(cfg: Any, tmp_path: Path) -> None:
    """The advice is that of a resumed run, whose schedule may have to be reset."""
    (tmp_path / "checkpoint_last.pt").touch()
    assert problem(cfg, checkpoint__save_dir=str(tmp_path), checkpoint__reset_lr_scheduler=True) == (
        "--finetune-from-model does not go with --reset-lr-scheduler: leave --finetune-from-model out, "
        f"{tmp_path / 'checkpoint_last.pt'} is resumed without it"
    )


def test_what_has_no_effect_is_found(cfg: Any) -> None:
    assert list(without_effect(cfg)) == []
    other = OmegaConf.create(OmegaConf.to_container(cfg))
    other.bpe = {"_name": "gpt2"}
    other.optimization.sentence_avg = True
    assert [option for option, _ in without_effect(other)] == ["bpe", "optimization.sentence_avg"]


def test_a_value_that_a_schedule_needs() -> None:
    parser = fairseq_options.get_training_parser("cloze_ranking")
    words = f"data --task cloze_ranking --optimizer adam --lr-scheduler polynomial_decay {EVERYDAY}".split()
    args = fairseq_options.parse_args_and_arch(parser, words)
    with pytest.raises(ClozeError) as error:
        configure(convert_namespace_to_omegaconf, args, training=True)
    assert str(error.value) == "--total-num-update is missing, --lr-scheduler polynomial_decay needs it"


def test_the_advice_of_a_schedule_can_be_followed() -> None:
    cfg = configured(f"{EVERYDAY} --lr 1e-5 --optimizer adam --lr-scheduler manual")
    with pytest.raises(ClozeError) as error:
        refuse_contradictions(cfg)
    cfg.lr_scheduler.epoch2lr = str(error.value).split('"')[1]
    refuse_contradictions(cfg)
    assert ManualSchedule.parse_manuallr_args(None, cfg.lr_scheduler.epoch2lr)[5] == 1e-6


def test_validation_takes_one_checkpoint() -> None:
    def refused(*words: str) -> str:
        command = ["data", "--task", "cloze_ranking", *words]
        args = fairseq_options.parse_args_and_arch(fairseq_options.get_validation_parser(), command)
        with pytest.raises(ClozeError) as error:
            configure(convert_namespace_to_omegaconf, args, training=False)
        return str(error.value)

    assert refused("--path", "a.pt:b.pt", "--batch-size", "8") == (
        "--path a.pt:b.pt: fairseq-validate takes one checkpoint; 'fairseq-cloze evaluate a.pt:b.pt data' averages "
        "several"
    )
    assert refused("--batch-size", "8") == (
        "--path is missing: pass the checkpoint to validate, such as checkpoints/checkpoint_best.pt"
    )
    assert refused("--path", "a.pt") == "--max-tokens is missing: pass --max-tokens 8192, or --batch-size 8"


def namespaces(part: Any) -> Iterator[Any]:
    if isinstance(part, argparse.Namespace):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from namespaces(each)


def test_what_a_checkpoint_holds_of_older_parts_is_plain_data() -> None:
    """fairseq keeps them in a namespace, which plain ``torch.load`` refuses."""
    cfg = configured(f"{EVERYDAY} --lr 1e-5 --optimizer adafactor --lr-scheduler manual --epoch2lr {{}}")
    before = OmegaConf.to_container(cfg)
    assert len(list(namespaces(before))) == 2
    cfg.lr_scheduler.epoch2lr = "{'1': 1e-5}"
    options = vars(cfg.optimizer)
    prepare(cfg)
    assert list(namespaces(OmegaConf.to_container(cfg))) == []
    assert dict(cfg.optimizer) == options


def test_another_task_is_none_of_our_business() -> None:
    cfg = configured(f"{EVERYDAY} --optimizer adam")
    cfg.task._name = "masked_lm"
    cfg.common.bf16 = True
    prepare(cfg)
