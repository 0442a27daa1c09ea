"""Every option of fairseq-train, tried for this task: what ``docs/training-options.md`` is made of.

``scripts/options_page.py`` writes the page; ``plugin/test_options.py`` holds that all options are here, and runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .commands import Ran

WORKS, REFUSED, IDLE = "works", "refused", "no effect"


class Seen:
    """A training that was tried, and the same training *without* the options."""

    def __init__(self, ran: Ran, folder: Path, without: Seen | None = None) -> None:
        self.text, self.folder, self.code = ran.text, folder, ran.code
        self.updates = ran.metrics("train_inner")
        self.epochs, self.validations = ran.metrics("train"), ran.metrics("valid")
        self.without = without or self

    @property
    def losses(self) -> list[float]:
        """Of the updates."""
        return [row["loss"] for row in self.updates]

    @property
    def rates(self) -> list[float]:
        """Learning rates of the updates."""
        return [row["lr"] for row in self.updates]

    @property
    def files(self) -> set[str]:
        """In the save-dir, events and locks aside."""
        return {path.name for path in self.folder.iterdir()} - {"metrics.jsonl", "run.json"}

    @property
    def state(self) -> dict[str, Any]:
        """``checkpoint_last.pt``, read as plain data."""
        import torch

        state: dict[str, Any] = torch.load(self.folder / "checkpoint_last.pt", weights_only=True)
        return state

    def same(self) -> bool:
        """Whether the options changed no figure."""
        figures = [
            [row["loss"] for row in seen.updates] + [(row["loss"], row["accuracy"]) for row in seen.validations]
            for seen in (self, self.without)
        ]
        return figures[0] == figures[1]

    def other(self) -> bool:
        """Whether the options changed the losses."""
        return len(self.losses) > 1 and self.losses != self.without.losses

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight of the encoder."""
        return tuple(self.state["model"][f"encoder.sentence_encoder.{name}"].shape)

    def option(self, name: str) -> Any:
        """An option as the checkpoint has it."""
        value: Any = self.state["cfg"]
        for part in name.split("."):
            value = value[part]
        return value


class Row(NamedTuple):
    """Options, as they were tried, and what they do."""

    tried: str  #: ``TMP`` is a folder, ``WEIGHTS`` the weights that the training starts from
    verdict: str
    note: str
    seen: Callable[[Seen], bool] = lambda seen: seen.same()
    but: str = ""  #: options of the everyday command that are left out, or of *tried* that have rows of their own

    @property
    def options(self) -> list[str]:
        """Options that the row is about."""
        return [word for word in self.tried.split() if word.startswith("--") and word not in self.but.split()]


def _of(names: str, verdict: str, note: str, value: str = "") -> list[Row]:
    return [Row(f"--{name} {value}".strip(), verdict, note) for name in names.split()]


def _trained(seen: Seen) -> bool:
    return len(seen.losses) == 4 and seen.losses[0] == seen.without.losses[0]


_OPTIMIZER = "checkpoints are plain data with it, too"

TABLE: dict[str, list[Row]] = {
    "What is trained": [
        Row("--task cloze_ranking", WORKS, "this project's task"),
        Row("--criterion cloze_ranking", WORKS, "this project's loss; others are refused"),
        Row(
            "--arch cloze_roberta",
            WORKS,
            "also `cloze_roberta_base`, `cloze_roberta_large`, fairseq's `roberta_base` and `roberta_large`",
        ),
        Row("--user-dir fairseq_cloze", WORKS, "given twice, the last one counts"),
        Row("--view full", WORKS, "see [Views](training.md#views)", lambda s: s.option("task.view") == "full"),
        Row(
            "--scorer kmask --max-tokens 9999", WORKS, "see [Scorers](training.md#scorers)", Seen.other, "--max-tokens"
        ),
        Row(
            "--view full --other-blanks mask --max-tokens 9999",
            WORKS,
            "what stands in the other blanks of view `full`",
            Seen.other,
            "--view --max-tokens",
        ),
        Row("--contrast 0", WORKS, "see [Scorers](training.md#scorers)", Seen.other),
        Row("--ranking-loss margin", WORKS, "see [Losses](training.md#losses)", Seen.other),
        Row("--ranking-loss binary", WORKS, "see [Losses](training.md#losses)", Seen.other),
        Row(
            "--ranking-loss margin --ranking-margin 3",
            WORKS,
            "see [Losses](training.md#losses)",
            Seen.other,
            "--ranking-loss",
        ),
        Row(
            "--from-scratch --encoder-layers 1 --encoder-embed-dim 24 --encoder-ffn-embed-dim 30 "
            "--encoder-attention-heads 3 --max-positions 130 --activation-fn relu --layer-norm-eps 1e-3 "
            "--pooler-activation-fn relu --untie-weights-roberta",
            WORKS,
            "the shape of a model from random weights; one that starts from a checkpoint has its shape",
            lambda s: (
                s.option("model.encoder_layers") == 1
                and s.option("model.activation_fn") == "relu"
                and s.state["model"]["encoder.lm_head.dense.weight"].shape == (24, 24)
                and s.state["model"]["encoder.sentence_encoder.layers.0.fc1.weight"].shape == (30, 24)
                and s.state["model"]["encoder.sentence_encoder.embed_positions.weight"].shape[0] == 132
            ),
            "--finetune-from-model",
        ),
        Row(
            "--from-scratch --arch cloze_lm --encoder-layers 2 --encoder-embed-dim 24 --encoder-ffn-embed-dim 30 "
            "--encoder-attention-heads 3 --max-positions 130 --family modernbert --norm-first --gated --without-biases "
            "--rotary-base 1e4 --local-rotary-base 1e3 --local-attention 8 --global-every 2",
            WORKS,
            "parts of ModernBERT; a model that starts from a checkpoint has its parts",
            lambda s: (
                s.state["model"]["encoder.sentence_encoder.layers.1.fc1.weight"].shape == (60, 24)
                and "encoder.sentence_encoder.embed_positions.weight" not in s.state["model"]
                and s.option("model.local_attention") == 8
            ),
            "--finetune-from-model --arch",
        ),
        Row(
            "--from-scratch --arch cloze_lm --encoder-layers 3 --encoder-embed-dim 24 --encoder-ffn-embed-dim 30 "
            "--encoder-attention-heads 3 --max-positions 130 --family albert --shared-layers --embedding-dim 12",
            WORKS,
            "parts of ALBERT",
            lambda s: (
                s.state["model"]["encoder.sentence_encoder.project_in_dim.weight"].shape == (24, 12)
                and "encoder.sentence_encoder.layers.1.fc1.weight" not in s.state["model"]
                and s.option("model.encoder_layers") == 3
            ),
            "--finetune-from-model --arch",
        ),
        *(
            Row(f"--{name} 0.4", WORKS, "drawn anew for each update", Seen.other)
            for name in ("dropout", "attention-dropout", "activation-dropout", "encoder-layerdrop")
        ),
        Row(
            "--view neighbors --scorer head --pooler-dropout 0.4 --max-tokens 9999",
            WORKS,
            "of the ranking head",
            lambda s: s.option("model.pooler_dropout") == 0.4,
            "--view --scorer --max-tokens",
        ),
        Row("--autocast", WORKS, "see [Speed](training.md#speed)", Seen.other),
        Row(
            "--checkpoint-activations",
            WORKS,
            "the same figures with less memory",
            lambda s: max(abs(a - b) for a, b in zip(s.losses, s.without.losses)) < 1e-3,
        ),
        Row("--compile", WORKS, "see [Speed](training.md#speed)", lambda s: len(s.losses) == 4),
        Row("--seed 5", WORKS, "another order of passages, another dropout", Seen.other),
    ],
    "What it starts from": [
        Row("--finetune-from-model WEIGHTS", WORKS, "how to start"),
        Row(
            "--restore-file WEIGHTS --reset-optimizer --reset-dataloader --reset-meters --reset-lr-scheduler",
            WORKS,
            "with the four resets as `--finetune-from-model`; not both",
            but="--finetune-from-model",
        ),
        Row(
            "--continue-once WEIGHTS --reset-optimizer --reset-dataloader --reset-meters --reset-lr-scheduler",
            WORKS,
            "with the four resets as `--finetune-from-model`; not both",
            but="--finetune-from-model --reset-optimizer --reset-dataloader --reset-meters --reset-lr-scheduler",
        ),
        Row("--optimizer-overrides {'lr':1e-5}", WORKS, "counts when a training is resumed", Seen.same),
        *_of("load-checkpoint-on-all-dp-ranks", IDLE, "for several processes"),
    ],
    "Length": [
        Row("--max-update 2", WORKS, "updates", lambda s: len(s.losses) == 2),
        Row("--max-epoch 1 --max-update 0", WORKS, "epochs", lambda s: len(s.epochs) == 1, "--max-update"),
        Row(
            "--stop-time-hours 0.0000001",
            WORKS,
            "ends after the update in which the time is over",
            lambda s: len(s.losses) == 1,
        ),
        Row(
            "--lr-scheduler polynomial_decay --total-num-update 2 --stop-min-lr 1e-4 --max-update 0 --batch-size 64 "
            "--max-epoch 9",
            WORKS,
            "ends after the epoch in which the rate falls to it",
            lambda s: len(s.epochs) == 1,
            "--lr-scheduler --total-num-update --max-update --batch-size --max-epoch",
        ),
        Row(
            "--patience 1 --lr 1e-9 --save-interval-updates 1",
            WORKS,
            "ends when as many validations in a row are no better",
            lambda s: len(s.losses) < 4,
            "--lr --save-interval-updates",
        ),
        Row("--stop-at-chance --chance-patience 3", WORKS, "see [chance.md](chance.md)", lambda s: s.code in (0, 4)),
    ],
    "Batches": [
        Row("--max-tokens 2000", WORKS, "see [Batches](training.md#batches)", Seen.other),
        Row("--batch-size 2", WORKS, "see [Batches](training.md#batches)", Seen.other),
        Row("--max-sentences 2", WORKS, "another name of `--batch-size`", Seen.other),
        Row("--max-tokens-valid 200", WORKS, "of validation; by default `--max-tokens`", Seen.same),
        Row("--batch-size-valid 1", WORKS, "of validation; by default `--batch-size`", Seen.same),
        Row("--max-sentences-valid 1", WORKS, "another name of `--batch-size-valid`", Seen.same),
        Row(
            "--update-freq 2",
            WORKS,
            "batches in an update",
            lambda s: s.updates[0]["n_blanks"] > 1.5 * s.without.updates[0]["n_blanks"],
        ),
        Row("--num-workers 1", WORKS, "processes that load batches"),
        Row("--data-buffer-size 2", WORKS, "batches loaded ahead"),
        Row("--curriculum 2", WORKS, "epochs at the beginning with batches in order of length", Seen.other),
        Row("--update-ordered-indices-seed", WORKS, "another order of batches", Seen.other),
        Row("--update-epoch-batch-itr True", WORKS, "batches are cut anew in each epoch, as they are without it"),
        Row(
            "--skip-remainder-batch --update-freq 3 --max-epoch 1 --max-update 0",
            WORKS,
            "leaves out what is too little for a whole update: not every passage is trained on in each epoch",
            lambda s: sum(row["n_blanks"] for row in s.updates) < 405,
            "--update-freq --max-epoch --max-update",
        ),
        Row("--max-oom 3", WORKS, "see [Memory](training.md#memory)"),
        *_of("required-batch-size-multiple", IDLE, "every size of a batch will do", "64"),
        *_of("required-seq-len-multiple", IDLE, "rows are not padded", "64"),
        *_of("skip-invalid-size-inputs-valid-test", IDLE, "no passage is too long, none is left out"),
        *_of("grouped-shuffling", IDLE, "for several processes"),
        *_of("sentence-avg", IDLE, "the loss of an update is its mean over blanks"),
    ],
    "Data": [
        Row("--train-subset valid", WORKS, "a split of the data-bin; one that is missing is refused", Seen.other),
        Row(
            "--valid-subset test,valid",
            WORKS,
            "splits with commas between them; the first one chooses the best checkpoint",
            lambda s: '"test_loss"' in s.text and s.losses == s.without.losses,
        ),
        *_of("dataset-impl", IDLE, "a data-bin has a format of its own", "raw"),
        *_of("combine-valid-subsets combine-val ignore-unused-valid-subsets", IDLE, "a data-bin has one `valid`"),
        *_of("gen-subset", IDLE, "for fairseq-generate", "valid"),
        Row("--num-shards 2 --shard-id 1", IDLE, "for fairseq-generate"),
        *_of("bpe", IDLE, "passages are encoded in the data-bin", "gpt2"),
        *_of("tokenizer", IDLE, "passages are encoded in the data-bin", "space"),
        *_of("scoring", IDLE, "answers are right or wrong", "wer"),
        Row("--pad 1 --eos 2 --unk 3", WORKS, "fairseq's rows of special tokens; leave them as they are"),
    ],
    "Validation": [
        Row(
            "--disable-validation",
            WORKS,
            "no `checkpoint_best.pt`, and nothing that needs one",
            lambda s: not s.validations and "checkpoint_best.pt" not in s.files,
        ),
        Row(
            "--validate-interval 2 --max-epoch 2 --max-update 0 --batch-size 64",
            WORKS,
            "epochs between validations",
            lambda s: len(s.validations) == 1,
            "--max-epoch --max-update --batch-size",
        ),
        Row("--validate-interval-updates 1", WORKS, "updates between validations", lambda s: len(s.validations) == 4),
        Row(
            "--validate-after-updates 3 --validate-interval-updates 1",
            WORKS,
            "none before so many updates",
            lambda s: len(s.validations) == 2,
            "--validate-interval-updates",
        ),
        Row(
            "--max-valid-steps 1 --batch-size-valid 1",
            WORKS,
            "validates on the first batches alone: so many and one",
            lambda s: s.validations[0]["n_blanks"] < s.without.validations[0]["n_blanks"],
            "--batch-size-valid",
        ),
        Row(
            "--nval 1 --batch-size-valid 1",
            WORKS,
            "another name of `--max-valid-steps`",
            lambda s: s.validations[0]["n_blanks"] < s.without.validations[0]["n_blanks"],
            "--batch-size-valid",
        ),
        *_of("fixed-validation-seed", IDLE, "validation draws nothing at random", "3"),
        Row(
            "--best-checkpoint-metric accuracy --maximize-best-checkpoint-metric",
            WORKS,
            "`loss`, `accuracy`, `mrr`, `accuracy_one_token`, `accuracy_multi_token`; refused where it would keep the "
            "worst",
            lambda s: s.state["extra_state"]["best"] > 5,
        ),
    ],
    "Optimizers and rates": [
        *(
            Row(f"--optimizer {name}", WORKS, _OPTIMIZER, _trained)
            for name in ("adam", "fused_adamw", "sgd", "nag", "adagrad", "adadelta", "adamax", "adafactor")
        ),
        *(
            Row(f"--optimizer {name}", REFUSED, note)
            for name, note in (
                ("composite", "needs groups of parameters"),
                ("cpu_adam", "needs deepspeed"),
                ("lamb", "needs apex"),
            )
        ),
        Row("--lr 1e-4", WORKS, "refused with adam where it is left out: fairseq's default is 0.25", Seen.other),
        Row("--adam-betas (0.5,0.9)", WORKS, "of adam and fused_adamw", Seen.other),
        Row("--adam-eps 0.1", WORKS, "of adam and fused_adamw", Seen.other),
        Row("--weight-decay 9", WORKS, "of all optimizers", Seen.other),
        Row(
            "--wd 9 --optimizer sgd --lr 0.1",
            WORKS,
            "another name of `--weight-decay` in some optimizers",
            lambda s: s.option("optimizer.weight_decay") == 9,
            "--optimizer --lr",
        ),
        Row("--use-old-adam", WORKS, "fairseq's own loop instead of apex's"),
        *_of("fp16-adam-stats", REFUSED, "needs a part of apex that is no more"),
        Row("--clip-norm 0.01", WORKS, "0 does not clip", Seen.other),
        Row(
            "--optimizer adadelta --adadelta-rho 0.5 --adadelta-eps 1e-3 --anneal-eps",
            WORKS,
            "of adadelta",
            _trained,
            "--optimizer",
        ),
        Row(
            "--optimizer adafactor --adafactor-eps (1e-30,1e-2) --clip-threshold 0.5 --decay-rate -0.5 --beta1 0.5 "
            "--scale-parameter",
            WORKS,
            "of adafactor",
            _trained,
            "--optimizer",
        ),
        Row("--optimizer adafactor --relative-step", REFUSED, "fairseq passes `--lr` beside it", but="--optimizer"),
        Row("--optimizer adafactor --warmup-init", REFUSED, "needs `--relative-step`", but="--optimizer"),
        Row(
            "--optimizer adamax --adamax-betas (0.5,0.9) --adamax-eps 0.1 --no-bias-correction",
            WORKS,
            "of adamax",
            _trained,
            "--optimizer",
        ),
        Row("--optimizer lamb --lamb-betas (0.5,0.9) --lamb-eps 0.1", REFUSED, "needs apex", but="--optimizer"),
        Row("--optimizer nag --momentum 0.5", WORKS, "of nag and sgd", _trained, "--optimizer"),
        Row(
            "--optimizer composite --groups {}",
            REFUSED,
            "of composite; fairseq's parser takes no value",
            but="--optimizer",
        ),
        Row("--optimizer composite --dynamic-groups", REFUSED, "of composite", but="--optimizer"),
        Row("--lr-scheduler fixed --lr-shrink 0.5 --force-anneal 1", WORKS, "of fixed", _trained),
        Row(
            "--lr-scheduler fixed --warmup-updates 4",
            WORKS,
            "of most schedules",
            lambda s: s.rates[0] < s.rates[2],
            "--lr-scheduler",
        ),
        Row(
            "--lr-scheduler polynomial_decay --total-num-update 8 --end-learning-rate 1e-4 --power 2",
            WORKS,
            "`--total-num-update` has to be given",
            lambda s: s.rates[0] > s.rates[2] > 1e-4,
            "--lr-scheduler",
        ),
        Row(
            "--lr-scheduler inverse_sqrt --warmup-updates 2 --warmup-init-lr 1e-6",
            WORKS,
            "",
            lambda s: s.rates[0] < s.rates[1] > s.rates[3],
            "--lr-scheduler --warmup-updates",
        ),
        Row(
            "--lr-scheduler cosine --lr-period-updates 4 --min-lr 1e-5 --t-mult 1",
            WORKS,
            "",
            lambda s: s.rates[0] > s.rates[2] >= 1e-5,
            "--lr-scheduler",
        ),
        Row(
            "--lr-scheduler triangular --max-lr 1e-2 --lr-period-updates 4 --shrink-min",
            WORKS,
            "`--max-lr` has to be given",
            lambda s: s.rates[0] < s.rates[1],
            "--lr-scheduler --lr-period-updates",
        ),
        Row(
            "--lr-scheduler step --lr-deacy-period 2 --lr-decay 0.5",
            WORKS,
            "",
            lambda s: s.rates[0] > s.rates[3],
            "--lr-scheduler",
        ),
        Row(
            "--lr-scheduler tri_stage --warmup-steps 1 --hold-steps 1 --decay-steps 2 --init-lr-scale 0.1 "
            "--final-lr-scale 0.1",
            WORKS,
            "the steps, or `--phase-ratio`, have to be given",
            lambda s: s.rates[0] > s.rates[3],
            "--lr-scheduler",
        ),
        Row(
            "--lr-scheduler tri_stage --phase-ratio (0.2,0.4,0.4)",
            WORKS,
            "needs `--max-update`",
            _trained,
            "--lr-scheduler",
        ),
        Row(
            "--lr-scheduler manual --epoch2lr {'1':1e-4} --update2lr {'2':1e-5}",
            WORKS,
            "one of them has to be given",
            lambda s: s.rates[0] == 1e-4 and s.rates[3] == 1e-5,
            "--lr-scheduler",
        ),
        Row(
            "--lr-scheduler reduce_lr_on_plateau --lr-threshold 0.1 --lr-patience 0",
            WORKS,
            "needs validation",
            _trained,
            "--lr-scheduler",
        ),
        Row("--lr-scheduler pass_through", REFUSED, "needs `--optimizer composite`"),
        Row(
            "--use-bmuf --block-lr 1 --block-momentum 0.5 --global-sync-iter 2 --warmup-iterations 1 --use-nbm "
            "--average-sync",
            WORKS,
            "of several processes that train apart and meet",
            _trained,
        ),
    ],
    "Precision and devices": [
        Row("--cpu", WORKS, "no GPU, even where there is one"),
        *_of("fp16 memory-efficient-fp16 amp", REFUSED, "without a CUDA GPU; `--autocast` needs none"),
        *_of("bf16 memory-efficient-bf16 tpu", REFUSED, "for TPUs; take `--autocast`"),
        *_of("fp16-no-flatten-grads on-cpu-convert-precision debug-param-names", IDLE, "without `--fp16`"),
        *_of(
            "fp16-init-scale fp16-scale-window fp16-scale-tolerance min-loss-scale threshold-loss-scale",
            IDLE,
            "without `--fp16`",
            "1",
        ),
        *_of("amp-batch-retries amp-init-scale amp-scale-window", IDLE, "without `--amp`", "1"),
        *_of("empty-cache-freq", IDLE, "without a GPU", "1"),
        *_of("device-id", IDLE, "with one process", "1"),
        *_of("model-parallel-size", REFUSED, "models are not split over devices", "2"),
        *_of("quantization-config-path", REFUSED, "models are not quantized", "TMP"),
        *_of("use-plasma-view", REFUSED, "a data-bin is mapped into memory already"),
        *_of("plasma-path", IDLE, "without `--use-plasma-view`", "TMP"),
        *_of("pipeline-model-parallel", REFUSED, "models are not split over devices"),
        *_of(
            "pipeline-balance pipeline-devices pipeline-encoder-balance pipeline-encoder-devices "
            "pipeline-decoder-balance pipeline-decoder-devices",
            IDLE,
            "models are not split over devices",
            "[1]",
        ),
        *_of("pipeline-chunks", IDLE, "models are not split over devices", "1"),
        *_of("pipeline-checkpoint", IDLE, "models are not split over devices", "always"),
    ],
    "Several processes": [
        *_of("distributed-world-size", REFUSED, "without as many GPUs; `torchrun` starts the processes", "2"),
        *_of("distributed-rank", REFUSED, "in a training of one process", "1"),
        *_of(
            "distributed-init-method",
            REFUSED,
            "without a GPU and without `--distributed-no-spawn`",
            "tcp://127.0.0.1:29711",
        ),
        Row(
            "--distributed-no-spawn",
            WORKS,
            "for launchers of your own, see [Several processes](training.md#several-processes)",
        ),
        Row("--distributed-port 29712", WORKS, "for SLURM with a process per node"),
        Row(
            "--distributed-num-procs 1 --local_rank 0 --nprocs-per-node 1 --heartbeat-timeout 60",
            WORKS,
            "fairseq and launchers set them",
        ),
        *(Row(f"--ddp-backend {name}", IDLE, "with one process") for name in ("legacy_ddp", "no_c10d")),
        *(Row(f"--ddp-backend {name}", REFUSED, "models are not sharded") for name in ("fully_sharded", "slowmo")),
        *_of("zero-sharding", REFUSED, "models are not sharded", "os"),
        *_of("cpu-offload", REFUSED, "models are not sharded"),
        *_of(
            "no-reshard-after-forward fp32-reduce-scatter use-sharded-state not-fsdp-flatten-parameters",
            IDLE,
            "models are not sharded",
        ),
        *_of("slowmo-momentum localsgd-frequency", IDLE, "without `--ddp-backend slowmo`", "1"),
        *_of("slowmo-base-algorithm", IDLE, "without `--ddp-backend slowmo`", "sgp"),
        *_of("ddp-comm-hook", IDLE, "with one process", "fp16"),
        *_of("bucket-cap-mb", IDLE, "with one process", "1"),
        *_of("distributed-backend", IDLE, "with one process", "gloo"),
        *_of(
            "fix-batches-to-gpus find-unused-parameters gradient-as-bucket-view fast-stat-sync broadcast-buffers",
            IDLE,
            "with one process",
        ),
        *_of("all-gather-list-size", IDLE, "torch sends what processes exchange", "99"),
    ],
    "Checkpoints": [
        Row("--save-dir TMP", WORKS, "give each training its own"),
        Row(
            "--no-epoch-checkpoints",
            WORKS,
            "keeps `checkpoint1.pt` and so on from being written",
            lambda s: "checkpoint1.pt" not in s.files,
        ),
        Row(
            "--save-interval 2 --max-epoch 1 --max-update 0",
            WORKS,
            "epochs between checkpoints",
            lambda s: not s.files,
            "--max-epoch --max-update",
        ),
        Row(
            "--save-interval-updates 2",
            WORKS,
            "also where it falls on the end of an epoch",
            lambda s: {"checkpoint_1_2.pt", "checkpoint_1_4.pt"} <= s.files,
        ),
        Row(
            "--save-interval-updates 1 --keep-interval-updates 1",
            WORKS,
            "keeps the latest of them",
            lambda s: "checkpoint_1_4.pt" in s.files and "checkpoint_1_1.pt" not in s.files,
            "--save-interval-updates",
        ),
        Row(
            "--save-interval-updates 1 --keep-interval-updates 1 --keep-interval-updates-pattern 2",
            WORKS,
            "and every so many",
            lambda s: {"checkpoint_1_2.pt", "checkpoint_1_3.pt"} <= s.files,
            "--save-interval-updates --keep-interval-updates",
        ),
        Row(
            "--keep-last-epochs 1 --max-epoch 2 --max-update 0 --batch-size 64",
            WORKS,
            "nothing with `--no-epoch-checkpoints`",
            lambda s: "checkpoint2.pt" in s.files and "checkpoint1.pt" not in s.files,
            "--max-epoch --max-update --batch-size --no-epoch-checkpoints",
        ),
        Row(
            "--keep-best-checkpoints 1 --save-interval-updates 1",
            WORKS,
            "needs validation",
            lambda s: len([name for name in s.files if name.startswith("checkpoint.best_loss_")]) == 1,
            "--save-interval-updates",
        ),
        Row("--no-save", WORKS, "writes no checkpoint", lambda s: not s.files),
        Row(
            "--no-last-checkpoints",
            WORKS,
            "such a training cannot be resumed",
            lambda s: "checkpoint_last.pt" not in s.files,
        ),
        Row(
            "--no-save-optimizer-state",
            WORKS,
            "smaller checkpoints, from which no training goes on as it was",
            lambda s: "last_optimizer_state" not in s.state,
        ),
        *_of("write-checkpoints-asynchronously save-async", REFUSED, "fairseq writes no `checkpoint_last.pt` then"),
        *_of("checkpoint-suffix", REFUSED, "checkpoints keep their names", "_x"),
        *_of("checkpoint-shard-count", IDLE, "checkpoints are single files", "2"),
        *_of("store-ema", REFUSED, "cannot start from weights; `fairseq-cloze average` averages checkpoints"),
        *_of("ema-decay", IDLE, "there is no `--store-ema`", "0.5"),
        *_of("ema-start-update ema-update-freq", IDLE, "there is no `--store-ema`", "5"),
        *_of("ema-seed-model", IDLE, "there is no `--store-ema`", "WEIGHTS"),
        *_of("ema-fp32", IDLE, "there is no `--store-ema`"),
    ],
    "Logs": [
        Row(
            "--log-format none",
            WORKS,
            "no line per update; `metrics.jsonl` has them",
            lambda s: not s.losses and '"type":"update"' in (s.folder / "metrics.jsonl").read_text(),
        ),
        Row("--log-interval 2", WORKS, "updates between lines", lambda s: len(s.losses) == 2),
        Row("--no-progress-bar", WORKS, "lines instead of a bar, where no `--log-format` is given"),
        Row(
            "--log-file TMP/log",
            WORKS,
            "settings and epochs in a file as well; `metrics.jsonl` has the figures",
            lambda s: "end of epoch 1" in (s.folder / "log").read_text(),
        ),
        Row(
            "--tensorboard-logdir TMP/board",
            WORKS,
            "needs tensorboardX, and warns where it is missing",
            lambda s: {path.name for path in (s.folder / "board").iterdir()} >= {"train_inner", "valid"},
        ),
        Row(
            "--wandb-project x",
            WORKS,
            "needs wandb, and warns where it is missing",
            lambda s: "wandb not found" in s.text,
        ),
        Row(
            "--aim-repo TMP/aim --aim-run-hash x",
            WORKS,
            "needs aim, and warns where it is missing",
            lambda s: "Aim not found" in s.text,
        ),
        Row(
            "--azureml-logging",
            WORKS,
            "needs azureml, and warns where it is missing",
            lambda s: "azureml.core not found" in s.text,
        ),
        *_of("profile", REFUSED, "without a CUDA GPU"),
        *_of("reset-logging", IDLE, "for fairseq-hydra-train"),
        *_of("suppress-crashes", REFUSED, "a training that fails would end with exit status 0"),
    ],
}
