"""Options: which of fairseq-train's options contradict each other, cannot work here, or do nothing, said beforehand.

``docs/training-options.md`` has every option of fairseq-train with what it does for this task.
"""

import ast
import importlib.util
import logging
import math
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass.configs import FairseqConfig
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from ..errors import ClozeError
from ..ranking.sharing import find_place
from ..runs.names import LAST_CHECKPOINT
from .names import TASK_NAME

logger = logging.getLogger(__name__)

#: Figures that a checkpoint can be the best by, and whether more is better.
FIGURES = {"loss": False, "accuracy": True, "mrr": True, "accuracy_one_token": True, "accuracy_multi_token": True}

_FLOAT = "leave it out; --autocast computes in bfloat16"
_FORMAT = "a data-bin of 'fairseq-cloze prepare' is one of its own"
_SHARDED = "models are not sharded here; take --ddp-backend legacy_ddp"

#: Options that cannot work for this task: their values, all but the default where none is given, and why.
IMPOSSIBLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "common.memory_efficient_bf16": ((), f"fairseq's bfloat16 is for TPUs; {_FLOAT}"),
    "common.bf16": ((), f"fairseq's bfloat16 is for TPUs; {_FLOAT}"),
    "common.tpu": ((), "TPUs are not supported; leave it out"),
    "common.model_parallel_size": ((), "models are not split over devices; leave it out"),
    "common.quantization_config_path": ((), "models are not quantized; leave it out"),
    "common.use_plasma_view": ((), "a data-bin is mapped into memory already; leave it out"),
    "common.suppress_crashes": ((), "a training that fails would end with exit status 0; leave it out"),
    "distributed_training.ddp_backend": (("fully_sharded", "slowmo"), _SHARDED),
    "distributed_training.zero_sharding": (("os",), _SHARDED),
    "distributed_training.cpu_offload": ((), _SHARDED),
    "distributed_training.pipeline_model_parallel": ((), "models are not split over devices; leave it out"),
    "checkpoint.checkpoint_suffix": ((), "checkpoints keep their names; leave it out and pass another --save-dir"),
    "checkpoint.write_checkpoints_asynchronously": (
        (),
        "fairseq writes no checkpoint_last.pt and no checkpoint_best.pt then; leave it out",
    ),
    "ema.store_ema": ((), "it cannot start from weights; leave it out, 'fairseq-cloze average' averages checkpoints"),
    "optimizer": (("composite",), "it has an optimizer for each group of parameters; take --optimizer adam"),
    "lr_scheduler": (("pass_through",), "it needs --optimizer composite; take --lr-scheduler fixed"),
    "optimizer.relative_step": ((), "fairseq passes --lr beside it, and adafactor takes one of them; leave it out"),
    "optimizer.warmup_init": ((), "it needs --relative-step, which cannot be used; leave it out"),
    "optimizer.fp16_adam_stats": ((), "it needs apex's FusedAdamV1, which is no more; leave it out"),
}

#: Options of numbers: the least and the greatest value; ``None`` is always right.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("common.log_interval", "checkpoint.save_interval", "dataset.validate_interval"), (1, math.inf)),
    **dict.fromkeys(("dataset.max_tokens", "dataset.batch_size"), (1, math.inf)),
    **dict.fromkeys(("dataset.max_tokens_valid", "dataset.batch_size_valid"), (1, math.inf)),
    **dict.fromkeys(("dataset.num_workers", "dataset.curriculum", "dataset.max_valid_steps"), (0, math.inf)),
    **dict.fromkeys(("dataset.validate_interval_updates", "dataset.validate_after_updates"), (0, math.inf)),
    "dataset.data_buffer_size": (0, math.inf),
    **dict.fromkeys(("optimization.max_epoch", "optimization.max_update"), (0, math.inf)),
    **dict.fromkeys(("optimization.stop_time_hours", "optimization.clip_norm"), (0, math.inf)),
    **dict.fromkeys(("optimization.update_freq", "checkpoint.checkpoint_shard_count"), (1, math.inf)),
    **dict.fromkeys(("checkpoint.save_interval_updates", "lr_scheduler.warmup_updates"), (0, math.inf)),
    "lr_scheduler.total_num_update": (1, math.inf),
    **dict.fromkeys(("optimizer.weight_decay", "optimizer.adam_eps"), (0, math.inf)),
    **dict.fromkeys(("ema.ema_decay", "model.dropout", "model.attention_dropout"), (0, 1)),
    **dict.fromkeys(("model.activation_dropout", "model.pooler_dropout", "model.encoder_layerdrop"), (0, 1)),
    **dict.fromkeys(("task.chance_patience", "task.max_oom"), (0, math.inf)),
    "criterion.ranking_margin": (0, 1e9),
    "task.contrast": (0, 1),
}


def configure(plain: Callable[[Any], Any], args: Any, training: bool) -> Any:
    """fairseq's configuration, which *plain* makes of a command line's *args*, where it can work.

    Raises:
        ClozeError: see :func:`refuse_contradictions`; or an option lacks its value
    """
    if getattr(args, "update_epoch_batch_itr", None) not in (None, True, False, "True", "False"):
        raise ClozeError(f"--update-epoch-batch-itr: expected True or False, found {args.update_epoch_batch_itr}")
    log = logging.getLogger("fairseq.dataclass.utils")
    log.disabled = True  # it would list all options
    try:
        cfg = plain(args)
    except ConfigCompositionException as error:
        found = re.search(r"override (\w+)\.(\w+)=(.*)", str(error))
        if found is None:
            raise
        group, name, value = found.groups()
        part = f"{flag(group)} {getattr(args, group, '')}"
        text = f"is missing, {part} needs it" if value == "null" else f"{value} does not fit {part}"
        raise ClozeError(f"{flag(name)} {text}") from error
    finally:
        log.disabled = False
    if value_in(cfg, "task") == TASK_NAME:
        if training:
            refuse_contradictions(cfg)
        else:
            _refuse_validation(cfg)
    return cfg


def prepare(cfg: Any) -> None:
    """Look at the configuration of a training that begins; say what has no effect; make plain data of all of it.

    fairseq keeps the options of older parts in an ``argparse.Namespace``.  In a checkpoint, plain ``torch.load``
    refuses that.

    Raises:
        ClozeError: see :func:`refuse_contradictions`
    """
    if value_in(cfg, "task") != TASK_NAME:
        return
    refuse_contradictions(cfg)
    for part in ("optimizer", "lr_scheduler"):
        options = getattr(cfg, part)
        if isinstance(options, Namespace):
            cfg[part] = OmegaConf.create(vars(options))
    if cfg.distributed_training.distributed_rank in (0, None):
        tell_what_is_idle(cfg)


def refuse_contradictions(cfg: Any) -> None:
    """Refuse a training that fairseq's configuration *cfg* asks for where it could only fail, or go wrong quietly.

    Raises:
        ClozeError: says which option, and what to pass instead
    """
    for problem in _problems(cfg):
        raise ClozeError(problem)


def _refuse_validation(cfg: Any) -> None:
    path, data = cfg.common_eval.path, cfg.task.data
    if path is None:
        raise ClozeError("--path is missing: pass the checkpoint to validate, such as checkpoints/checkpoint_best.pt")
    if ":" in path and not Path(path).exists():
        raise ClozeError(
            f"--path {path}: fairseq-validate takes one checkpoint; 'fairseq-cloze evaluate {path} {data}' averages "
            "several"
        )
    for problem in _of_batches(cfg):
        raise ClozeError(problem)


def tell_what_is_idle(cfg: Any) -> None:
    """Log, in one line, the options that were given and that have no effect."""
    idle = [f"{flag(option)} ({why})" for option, why in without_effect(cfg)]
    if idle:
        logger.warning("options without effect: %s", "; ".join(idle))


def flag(option: str) -> str:
    """What the command line calls an option of the configuration."""
    return f"--{option.rsplit('.', 1)[-1].replace('_', '-')}"


def value_in(cfg: Any, option: str) -> Any:
    """An option's value in fairseq's configuration; of a part such as ``optimizer`` its name, ``None`` without."""
    group, _, name = option.partition(".")
    part = getattr(cfg, group, None)
    if not name:
        return part if isinstance(part, str | None) else getattr(part, "_name", None)
    return getattr(part, name, None)


def two_betas(value: Any) -> tuple[float, float]:
    """The two numbers of ``--adam-betas``; a :class:`ClozeError` says what was found instead."""
    try:
        first, second = ast.literal_eval(value) if isinstance(value, str) else value
        betas = float(first), float(second)
    except (TypeError, ValueError, SyntaxError):
        betas = (-1.0, -1.0)
    if not all(0 <= beta < 1 for beta in betas):
        raise ClozeError(
            f"--adam-betas: expected two numbers from 0 to below 1, such as '(0.9, 0.98)', found '{value}'"
        )
    return betas


@cache
def _defaults() -> dict[str, Any]:
    """fairseq's groups of options, with what they are where nothing is given; of a part, its name."""
    groups = {entry.name: entry.default() for entry in fields(FairseqConfig) if isinstance(entry.default, type)}
    return {**groups, "scoring": "bleu", "lr_scheduler": "fixed"}


def _default(option: str) -> Any:
    group, _, name = option.partition(".")
    default = _defaults().get(group)
    return getattr(default, name, None) if name else default


def _given(cfg: Any, option: str) -> bool:
    """Whether an option has another value than where it is left out."""
    value = value_in(cfg, option)
    return value is not None and value is not False and value != _default(option)


def _problems(cfg: Any) -> Iterator[str]:
    yield from _of_batches(cfg)
    yield from _impossible(cfg)
    yield from _out_of_range(cfg)
    yield from _of_rates(cfg)
    yield from _of_start(cfg)
    yield from _of_choice(cfg)
    yield from _of_devices(cfg)


def _of_batches(cfg: Any) -> Iterator[str]:
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        yield "--max-tokens is missing: pass --max-tokens 8192, or --batch-size 8"


def _impossible(cfg: Any) -> Iterator[str]:
    if value_in(cfg, "optimizer") is None:
        yield "--optimizer is missing: pass --optimizer adam"
    for option, (values, why) in IMPOSSIBLE.items():
        value = value_in(cfg, option)
        if value in values if values else _given(cfg, option):
            yield f"{flag(option)}{'' if value is True else f' {value}'} cannot be used: {why}"
    for name, package in (("cpu_adam", "deepspeed"), ("lamb", "apex")):
        if value_in(cfg, "optimizer") == name and importlib.util.find_spec(package) is None:
            yield f"--optimizer {name} needs {package}, which is not installed; take --optimizer adam or fused_adamw"


def _out_of_range(cfg: Any) -> Iterator[str]:
    for option, (least, most) in RANGES.items():
        value = value_in(cfg, option)
        for number in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(number, int | float) and not least <= number <= most:
                wanted = f"at least {least}" if most == math.inf else f"from {least} to {most:g}"
                yield f"{flag(option)}: expected a number {wanted}, found {number}"


def _of_rates(cfg: Any) -> Iterator[str]:
    """Learning rates and their schedule."""
    optimizer, schedule = (value_in(cfg, part) for part in ("optimizer", "lr_scheduler"))
    rates, least = list(cfg.optimization.lr), cfg.optimization.stop_min_lr
    if not all(0 < rate < math.inf for rate in rates):
        yield f"--lr: expected numbers above 0, such as 1e-5, found {', '.join(map(str, rates))}"
    if rates == _default("optimization.lr") and optimizer in ("adam", "fused_adamw", "adamax"):
        yield f"--lr {rates[0]}, which is fairseq's default, ruins any weights with {optimizer}: pass --lr 1e-5"
    if rates[0] <= least:
        yield f"--stop-min-lr {least}: a training at --lr {rates[0]} ends before its first update; pass a smaller one"
    if optimizer in ("adam", "fused_adamw"):
        two_betas(value_in(cfg, "optimizer.adam_betas"))
    if schedule == "tri_stage":
        steps = ("warmup_steps", "hold_steps", "decay_steps")
        given = any(value_in(cfg, f"lr_scheduler.{name}") for name in steps)
        if not given and not (value_in(cfg, "lr_scheduler.phase_ratio") and cfg.optimization.max_update > 0):
            yield (
                "--lr-scheduler tri_stage needs --warmup-steps, --hold-steps and --decay-steps, or --phase-ratio "
                "'(0.1, 0.4, 0.5)' and --max-update"
            )
    if schedule == "manual":
        tables = [_table(value_in(cfg, f"lr_scheduler.{name}") or "{}") for name in ("epoch2lr", "update2lr")]
        if None in tables or not any(tables):
            yield (
                "--lr-scheduler manual needs --epoch2lr or --update2lr, a dictionary from numbers in quotation marks "
                "to rates, such as --epoch2lr \"{'1': 1e-5, '2-9': 1e-6}\""
            )


def _table(text: str) -> dict[Any, Any] | None:
    """A dictionary as an option has it; ``None`` where it is none, or where its keys are no text."""
    try:
        table = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return table if isinstance(table, dict) and all(isinstance(key, str) for key in table) else None


def _of_start(cfg: Any) -> Iterator[str]:
    """What a training starts from."""
    checkpoint = cfg.checkpoint
    starts = ["--restore-file"] if checkpoint.restore_file != LAST_CHECKPOINT else []
    starts += [flag(name) for name in ("continue_once", "finetune_from_model") if getattr(checkpoint, name)]
    if len(starts) > 1:
        yield f"{' and '.join(starts)} name two checkpoints to start from: leave one out"
    resets = [f"reset_{part}" for part in ("optimizer", "lr_scheduler", "meters", "dataloader")]
    given = [flag(name) for name in resets if getattr(checkpoint, name)]
    if checkpoint.finetune_from_model and given:
        last = Path(checkpoint.save_dir, LAST_CHECKPOINT)
        out = f"leave --finetune-from-model out, {last} is resumed without it" if last.exists() else "leave them out"
        yield f"--finetune-from-model does not go with {', '.join(given)}: {out}"
    if _table(checkpoint.optimizer_overrides) is None:
        yield (
            "--optimizer-overrides: expected a dictionary such as \"{'lr': 1e-5}\", found "
            f"'{checkpoint.optimizer_overrides}'"
        )


def _of_choice(cfg: Any) -> Iterator[str]:
    """Which checkpoint is the best, and when a training ends."""
    checkpoint, figure = cfg.checkpoint, cfg.checkpoint.best_checkpoint_metric
    if figure not in FIGURES:
        yield f"--best-checkpoint-metric {figure}: no such figure; {', '.join(FIGURES)}"
        return
    if checkpoint.maximize_best_checkpoint_metric != FIGURES[figure]:
        wrong, mend = (
            ("without", "add that option")
            if FIGURES[figure]
            else ("with", "leave that option out, or pass --best-checkpoint-metric accuracy")
        )
        yield (
            f"--best-checkpoint-metric {figure} {wrong} --maximize-best-checkpoint-metric would keep the worst "
            f"checkpoint as checkpoint_best.pt: {mend}"
        )
    if cfg.dataset.disable_validation:
        needs = [flag(name) for name in ("patience", "keep_best_checkpoints") if getattr(checkpoint, name) > 0]
        needs += ["--lr-scheduler reduce_lr_on_plateau"] * (value_in(cfg, "lr_scheduler") == "reduce_lr_on_plateau")
        if needs:
            yield f"{needs[0]} needs validation: leave --disable-validation out"
    gap = [flag("no_epoch_checkpoints")] * checkpoint.no_epoch_checkpoints
    gap += [flag("save_interval")] * (checkpoint.save_interval > 1)
    if gap and checkpoint.save_interval_updates > 0 and checkpoint.no_last_checkpoints and not checkpoint.no_save:
        yield (
            "--save-interval-updates with --no-last-checkpoints would leave out checkpoints that fall on the end of an "
            f"epoch: leave out that, or {gap[0]}"
        )


def _of_devices(cfg: Any) -> Iterator[str]:
    """Devices and processes."""
    distributed, gpus = cfg.distributed_training, 0 if cfg.common.cpu else torch.cuda.device_count()
    half = [name for name in ("memory_efficient_fp16", "fp16", "amp") if getattr(cfg.common, name)]
    if half and not gpus:
        found = "--cpu" if cfg.common.cpu else "none"
        yield f"{flag(half[0])} needs a CUDA GPU, found {found}; {_FLOAT}, on CPUs as well"
    if cfg.common.profile and not torch.cuda.is_available():
        yield "--profile needs a CUDA GPU, found none; leave it out"
    if cfg.common.fp16 and cfg.common.amp:
        yield "--fp16 and --amp are two ways to half precision: leave one out"
    size, started = distributed.distributed_world_size, find_place() is not None or distributed.distributed_port > 0
    if started or distributed.distributed_no_spawn:
        return
    if size > max(gpus, 1) and distributed.distributed_init_method is None:
        yield (
            f"--distributed-world-size {size}: this machine has {gpus} GPUs; to train in {size} processes start "
            f"torchrun --nproc-per-node {size} $(which fairseq-train) with the other options"
        )
    if distributed.distributed_init_method is not None and not gpus:
        yield (
            "--distributed-init-method starts a process for each GPU, and there is none: add --distributed-no-spawn, "
            "or start torchrun instead"
        )
    if distributed.distributed_init_method is None and distributed.distributed_rank >= max(size, 1):
        yield f"--distributed-rank {distributed.distributed_rank} of --distributed-world-size {size}: leave it out"


_When = Callable[[Any], bool]


def _always(cfg: Any) -> bool:
    return True


def _no_gpu(cfg: Any) -> bool:
    return bool(cfg.common.cpu or not torch.cuda.is_available())


def _one_process(cfg: Any) -> bool:
    return bool(cfg.distributed_training.distributed_world_size == 1)


def _by_command_line(cfg: Any) -> bool:
    return not HydraConfig.initialized()


def _without(*options: str) -> _When:
    return lambda cfg: not any(_given(cfg, option) for option in options)


def _group(group: str, names: str) -> list[str]:
    return [f"{group}.{name}" for name in names.split()]


#: Options without effect: when, why, and which.
IDLE: list[tuple[_When, str, list[str]]] = [
    (_always, "passages are encoded in the data-bin", ["tokenizer", "bpe"]),
    (_always, "answers are scored as right or wrong", ["scoring"]),
    (_always, "this is for fairseq-generate", _group("dataset", "gen_subset num_shards shard_id")),
    (_always, _FORMAT, _group("dataset", "dataset_impl combine_valid_subsets ignore_unused_valid_subsets")),
    (
        *(_always, "no passage is too long, none is left out, and rows are not padded"),
        _group("dataset", "required_batch_size_multiple required_seq_len_multiple skip_invalid_size_inputs_valid_test"),
    ),
    (_always, "the loss of an update is its mean over blanks", ["optimization.sentence_avg"]),
    (_always, "validation draws nothing at random", ["dataset.fixed_validation_seed"]),
    (_always, "torch sends what processes exchange", ["common.all_gather_list_size"]),
    (_always, "fairseq's checkpoints are single files", ["checkpoint.checkpoint_shard_count"]),
    (_no_gpu, "there is no GPU", ["common.empty_cache_freq"]),
    (
        *(_without("common.fp16"), "without --fp16"),
        _group("common", "fp16_no_flatten_grads fp16_init_scale fp16_scale_window fp16_scale_tolerance")
        + _group("common", "min_loss_scale threshold_loss_scale on_cpu_convert_precision")
        + ["optimization.debug_param_names"],
    ),
    (
        *(_without("common.amp"), "without --amp"),
        _group("common", "amp_batch_retries amp_init_scale amp_scale_window"),
    ),
    (
        *(_one_process, "there is one process"),
        _group("distributed_training", "ddp_backend ddp_comm_hook bucket_cap_mb fix_batches_to_gpus")
        + _group("distributed_training", "find_unused_parameters gradient_as_bucket_view fast_stat_sync")
        + _group("distributed_training", "broadcast_buffers distributed_backend device_id")
        + ["checkpoint.load_checkpoint_on_all_dp_ranks", "dataset.grouped_shuffling"],
    ),
    (
        *(_always, "models are neither sharded nor split over devices"),
        _group("distributed_training", "no_reshard_after_forward fp32_reduce_scatter use_sharded_state")
        + _group("distributed_training", "not_fsdp_flatten_parameters slowmo_momentum slowmo_base_algorithm")
        + _group("distributed_training", "localsgd_frequency pipeline_balance pipeline_devices pipeline_chunks")
        + _group("distributed_training", "pipeline_encoder_balance pipeline_encoder_devices pipeline_checkpoint")
        + _group("distributed_training", "pipeline_decoder_balance pipeline_decoder_devices"),
    ),
    (
        *(_always, "there is no --store-ema"),
        _group("ema", "ema_decay ema_start_update ema_seed_model ema_update_freq ema_fp32"),
    ),
    (
        *(_without("checkpoint.save_interval_updates"), "without --save-interval-updates"),
        _group("checkpoint", "keep_interval_updates"),
    ),
    (
        *(_without("checkpoint.keep_interval_updates"), "without --keep-interval-updates"),
        _group("checkpoint", "keep_interval_updates_pattern"),
    ),
    (
        *(lambda cfg: bool(cfg.checkpoint.no_epoch_checkpoints), "with --no-epoch-checkpoints"),
        ["checkpoint.keep_last_epochs"],
    ),
    (
        *(lambda cfg: bool(cfg.dataset.disable_validation), "with --disable-validation"),
        _group("dataset", "validate_interval validate_interval_updates validate_after_updates max_valid_steps")
        + ["checkpoint.best_checkpoint_metric"],
    ),
    (_without("common.aim_repo"), "without --aim-repo", ["common.aim_run_hash"]),
    (_without("common.use_plasma_view"), "without --use-plasma-view", ["common.plasma_path"]),
    (_by_command_line, "it is for fairseq-hydra-train", ["common.reset_logging"]),
]


def without_effect(cfg: Any) -> Iterator[tuple[str, str]]:
    """Options that were given and have no effect, with the reason."""
    for when, why, options in IDLE:
        if when(cfg):
            for option in options:
                if _given(cfg, option):
                    yield option, why
