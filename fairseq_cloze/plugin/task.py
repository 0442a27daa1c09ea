"""Task: ties data, view, model and criterion to fairseq, and proves that the pretrained weights were loaded."""

import logging
import os
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from fairseq import utils
from fairseq.checkpoint_utils import checkpoint_paths
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum
from fairseq.file_io import PathManager
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.tasks import register_task
from omegaconf import II, MISSING
from torch import nn

from ..data.databin import DataBin
from ..data.vocabulary import Vocabulary
from ..errors import ClozeError, DataBinError, Exit
from ..files import UNFINISHED
from ..model.architecture import BASE
from ..model.names import HEAD_NAME
from ..runs.lock import RUN_FILE, RunLock
from ..runs.names import LAST_CHECKPOINT
from ..views.making import make_view
from ..views.settings import CARRIED, OTHER_BLANKS, SCORERS, VIEWS, Settings
from ..weights.carried import carried_state, compare_vocabularies, read_carried
from ..weights.checkpoint import Checkpoint
from . import stopping
from .built import check_model
from .chance import Beginning, ChanceWatch, Finding, Stretch
from .criterion import ClozeRankingCriterionConfig
from .dataset import ClozeDataset
from .distributed import rank, refuse_independent_processes
from .ending import end_run
from .epochs import Cut, EpochBatches
from .events import figures
from .model import DROPOUTS, ClozeRobertaModel, fill_config, rest_lm_head, set_layer_norm_eps
from .names import CRITERION_NAME, TASK_NAME, option
from .recovery import RecoveringTask, RecoveryConfig
from .resuming import MEMORY, Memory
from .source import find_source, fit_model, prove_everywhere, value_of
from .sums import Sums

logger = logging.getLogger(__name__)


@dataclass
class ClozeRankingConfig(RecoveryConfig):
    """Options of ``--task cloze_ranking``."""

    data: str = option(
        MISSING, "data-bin of 'fairseq-cloze prepare'; several with colons between them are shards, one per epoch"
    )
    view: ChoiceEnum(VIEWS) = option(  # type: ignore[valid-type]
        Settings.view,
        "how a passage becomes input. joint: the passage once, every blank a mask; full: the passage with one "
        "candidate filled in; neighbors: from the previous blank to the next one, candidate filled in",
    )
    scorer: ChoiceEnum(SCORERS) = option(  # type: ignore[valid-type]
        Settings.scorer,
        "how the LM head scores a candidate of several tokens. mean: over the tokens, at one mask; kmask: as many "
        "masks as tokens; l2r: and the tokens before filled in; head: a new ranking head instead of the LM head (views "
        "full and neighbors, which else need mean)",
    )
    other_blanks: ChoiceEnum(OTHER_BLANKS) = option(  # type: ignore[valid-type]
        Settings.other_blanks, "what stands in the other blanks of view full"
    )
    contrast: float = option(
        Settings.contrast,
        "share of a candidate's mean score at the passage's other blanks that its score is reduced by (view joint)",
    )
    from_scratch: bool = option(False, "start from random weights; otherwise a run without pretrained weights stops")
    chance_patience: int = option(
        200, "say so, with the likely causes, when as many updates are no better than guessing; 0: never"
    )
    stop_at_chance: bool = option(False, "then end the run as well, with exit status 4 (see --chance-patience)")
    # What the proof of load and the batches need to know of the other groups.
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    max_tokens_valid: Optional[int] = II("dataset.max_tokens_valid")
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    continue_once: Optional[str] = II("checkpoint.continue_once")
    path: Optional[str] = II("common_eval.path")
    save_interval_updates: int = II("checkpoint.save_interval_updates")
    keep_interval_updates: int = II("checkpoint.keep_interval_updates")
    keep_interval_updates_pattern: int = II("checkpoint.keep_interval_updates_pattern")


@register_task(TASK_NAME, dataclass=ClozeRankingConfig)
class ClozeRankingTask(RecoveringTask):
    """Rank the candidates of each blank of a passage."""

    cfg: ClozeRankingConfig

    def __init__(self, cfg: ClozeRankingConfig, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        self.settings = Settings(**{name: value_of(getattr(cfg, name)) for name in CARRIED})
        self.shards = [DataBin(path) for path in utils.split_paths(cfg.data)]
        self.vocabulary: Vocabulary = self.shards[0].vocabulary
        first, *others = self.shards
        for shard in others:
            other = [] if shard.encoding == first.encoding else ["encoding"]
            if shard.vocabulary.digests != first.vocabulary.digests:
                other.insert(0, "vocabulary")
            if other:
                raise DataBinError(
                    f"{shard.folder}: shards must be prepared alike, its {other[0]} differs from that of "
                    f"{first.folder}; prepare both with the same options"
                )
        self._dictionary = make_dictionary(self.vocabulary)
        self._max_positions: int = BASE.max_positions
        self.source: Checkpoint | None = None  #: what training starts from, until that is proved
        self.memory: Memory | None = None  #: what the run remembers, once it has begun
        self.done = ""  #: what has ended the run before; empty if it goes on
        self._loads_checkpoint = False  # a model was built for a checkpoint that fairseq loads, not for training
        self._beginning = Beginning(self.settings.scorer, self.shards[0].encoding.text_norm, cfg.from_scratch)
        self._watch: ChanceWatch | None = None
        self._run: RunLock | None = None
        #: a worker was told to stop, see :mod:`fairseq_cloze.plugin.stopping`
        self.stopping = False
        self._rate, self._scale = 0.0, None  # learning rate and loss scale of the latest update
        self._sums = Sums()
        self._subset = ""  # that is being validated
        self.state.merge_state_dict(carried_state(self.vocabulary, self.shards[0].encoding, self.settings))

    @property
    def source_dictionary(self) -> Dictionary:
        """The dictionary of the data-bin, ``<mask>`` included."""
        return self._dictionary

    target_dictionary = source_dictionary

    @property
    def mask_idx(self) -> int:
        """The row of ``<mask>``, which fairseq's ``fill_mask`` asks for."""
        return int(self._dictionary.index("<mask>"))

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split; for training, the shard whose turn it is in this epoch, and all must have it."""
        shuffle = split == self.cfg.train_subset
        stores = [shard.open(split) for shard in (self.shards if shuffle else self.shards[:1])]
        store = stores[(epoch - 1) % len(stores)]
        if not (store.columns["gold"] >= 0).any():
            raise DataBinError(
                f"{self.shards[0].folder}: no blank of split '{split}' has an answer; 'fairseq-cloze predict' answers "
                "such passages, training and validation need another split"
            )
        view = make_view(self.settings, store, self.vocabulary, self._max_positions)
        self.datasets[split] = ClozeDataset(view, shuffle, self.cfg.seed, split)
        if not shuffle and self.cfg.max_tokens_valid != self.cfg.max_tokens:
            self.datasets[split].max_tokens_option = "--max-tokens-valid"

    def get_batch_iterator(
        self, dataset: ClozeDataset, max_positions: Any = None, required_batch_size_multiple: int = 1, **kwargs: Any
    ) -> Any:
        """As fairseq's, but no item is dropped: none is too long, and every size of a batch will do."""
        if not dataset.shuffle:
            return super().get_batch_iterator(dataset, max_positions=None, required_batch_size_multiple=1, **kwargs)
        processes, grouped = kwargs.get("num_shards", 1), kwargs.get("grouped_shuffling", False)
        frequencies, epoch = self.cfg.update_freq, kwargs.get("epoch", 1)
        cut = Cut(
            *(kwargs.get("max_tokens"), kwargs.get("max_sentences")),
            update_freq=frequencies[min(epoch, len(frequencies)) - 1],
            processes=processes,
            seed=dataset.seed,
            batch_seed=kwargs.get("seed", 1),
            grouped=grouped,
            # fairseq fills up workers that lack a batch, but forgets all that a worker counted in an update that ends
            # so, and a group of batches that is not full.
            even=max(frequencies) > 1 or grouped,
        )
        return EpochBatches(
            *(dataset, cut, kwargs.get("shard_id", 0)),
            speak=rank() == 0,
            epoch=epoch,
            num_workers=kwargs.get("num_workers", 0),
            buffer_size=kwargs.get("data_buffer_size", 0),
            skip_remainder_batch=kwargs.get("skip_remainder_batch", False),
            reuse_dataloader=True,
        )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model; before a training, make sure that the checkpoint it starts from fits.

        Raises:
            ClozeError: no pretrained weights were given, or they do not belong to the data or the model
        """
        self._loads_checkpoint = from_checkpoint
        if from_checkpoint:
            check_model(cfg)
        name = getattr(cfg, "_name", None)
        if ARCH_MODEL_REGISTRY.get(name) is ClozeRobertaModel:
            ARCH_CONFIG_REGISTRY[name](cfg)  # hydra leaves it to the builder
        if not from_checkpoint:
            refuse_independent_processes()
            self._begin_run()
            self.source = find_source(self.cfg)
            if self.source is not None:
                self._check_vocabulary(self.source)
                self._check_contrast(self.source)
                fit_model(self.source, cfg)
        elif self.cfg.path:  # fairseq-validate
            checkpoint = Checkpoint.read(Path(self.cfg.path))
            checkpoint.require_sound()
            self._check_vocabulary(checkpoint)
            if self.settings.scorer == "head":
                checkpoint.require_ranking_head()
        if ARCH_MODEL_REGISTRY.get(name) is ClozeRobertaModel:
            fill_config(cfg, DROPOUTS)  # what is saved says what it was
        model = super().build_model(cfg, from_checkpoint)
        eps = getattr(cfg, "layer_norm_eps", None)
        if eps is not None and not isinstance(model, ClozeRobertaModel):
            set_layer_norm_eps(model, eps)
        if self.settings.scorer == "head":
            model.register_classification_head(HEAD_NAME, num_classes=1)
            rest_lm_head(model)
        self._max_positions = model.max_positions()
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the criterion; a :class:`ClozeError` says that training with another one was asked for."""
        name = getattr(cfg, "_name", None) or getattr(cfg, "criterion", None)
        if name != CRITERION_NAME:
            if not self._loads_checkpoint:
                raise ClozeError(f"--task {TASK_NAME} needs --criterion {CRITERION_NAME}, found --criterion {name}")
            # A checkpoint of masked-LM pretraining names its own criterion.
            logger.info("the checkpoint's criterion is %s, scoring with %s", name, CRITERION_NAME)
            config = ClozeRankingCriterionConfig()
            cfg = Namespace(criterion=CRITERION_NAME, **{key: getattr(config, key) for key in vars(config)})
        return super().build_criterion(cfg)

    def _check_vocabulary(self, checkpoint: Checkpoint) -> None:
        line, proved = checkpoint.check_vocabulary(self.vocabulary, f"data-bin {self.shards[0].folder}")
        logger.log(logging.INFO if proved else logging.WARNING, "%s", line)
        self._beginning.vocabulary, self._beginning.vocabulary_proved = line, proved

    def _check_contrast(self, checkpoint: Checkpoint) -> None:
        if checkpoint.carried.contrast == 0 and self.settings.contrast and self.settings.view == "joint":
            logger.warning(
                "%s was made to be scored without contrast, as 'fairseq-cloze calibrate' makes weights, and this "
                "training has --contrast %g, which takes away the same once more; pass --contrast 0",
                checkpoint.name,
                self.settings.contrast,
            )

    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        """Before the first update, prove that the model holds the checkpoint's weights, or stop every worker."""
        if self.source is not None:
            self._beginning.weights = prove_everywhere(self.source, model)
            self.source = None
            if rank() == 0:
                logger.info("%s", self._beginning.weights)

    def valid_step(self, sample: dict[str, Any], model: nn.Module, criterion: nn.Module, **kwargs: Any) -> Any:
        """As fairseq's; a worker of ``fairseq-validate`` that lacks a batch adds nothing."""
        self._subset = sample.get("split", self._subset)
        return super().valid_step(sample, model, criterion, **kwargs) if sample else (0.0, 0, {})

    def optimizer_step(self, optimizer: Any, model: nn.Module, update_num: int) -> None:
        """As fairseq's; what events and the chance watch want to know of the update is kept."""
        self._sums.mark()
        super().optimizer_step(optimizer, model, update_num)
        self._scale = getattr(getattr(optimizer, "scaler", None), "loss_scale", None)
        self._rate, self.events.update = float(optimizer.get_lr()), update_num + 1

    def post_validate(self, model: nn.Module, stats: Any, agg: Any) -> None:
        """Called by fairseq with the meters of a validation: tell its figures."""
        self.events.tell("validation", subset=self._subset, **figures(agg))

    def post_save(self, saved: str, updates: int) -> None:
        """Called by fairseq after a save: keep the checkpoint of an interval that falls on the end of an epoch.

        fairseq saves one in the middle of epochs only.
        """
        cfg, folder = self.cfg, self.cfg.save_dir
        kept = os.path.join(folder, f"checkpoint_{self.events.epoch}_{updates}.pt")
        if cfg.save_interval_updates <= 0 or updates % cfg.save_interval_updates or os.path.exists(kept):
            return
        PathManager.copy(saved, kept, overwrite=True)
        every = cfg.keep_interval_updates_pattern
        paths = checkpoint_paths(folder, r"checkpoint_\d+_(\d+)\.pt", keep_match=True)
        paths = [path for path, number in paths if every <= 0 or number % every]
        for path in paths[cfg.keep_interval_updates :] if cfg.keep_interval_updates > 0 else []:
            os.remove(path)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """As fairseq's; after an update, the chance watch looks at the sums over all workers.

        Raises:
            SystemExit: with ``Exit.AT_CHANCE``, if the run is at chance and is to stop then
            Stop: a worker was told to stop, in validation; it is the same in all of them
        """
        sums = self._sums.of(logging_outputs)
        super().reduce_metrics([sums], criterion)
        self.stopping = self.stopping or sums.get(stopping.TOLD, 0) > 0
        if not criterion.training:
            if self.stopping:
                raise stopping.Stop
            return
        self.events.end_update(self._rate, self._scale)
        if self.cfg.chance_patience <= 0:
            return
        if self._watch is None:
            self._watch = ChanceWatch(self.cfg.chance_patience, softmax=criterion.ranking_loss == "softmax")
        update = Stretch.of_update(self.events.update, sums)
        verdict = self._watch.add(update, self._rate, self._scale)
        if verdict is None:
            return
        finding = Finding.of(verdict, self._beginning)
        self.events.tell("chance", **finding.fields())
        if rank() == 0:
            logger.warning("%s", finding.text)
        if self.cfg.stop_at_chance:
            last = Path(self.cfg.save_dir, LAST_CHECKPOINT)
            left = f"{last} stays, look at it with 'fairseq-cloze doctor'" if last.exists() else "Nothing was saved"
            text = f"stopped at update {update.last}, as --stop-at-chance asks for; causes are named above. {left}"
            self.events.tell("stopped", status=int(Exit.AT_CHANCE), text=text)
            end_run(Exit.AT_CHANCE, f"Error: {text}")

    def _begin_run(self) -> None:
        """Say that this process trains into the save-dir, and heed requests to stop."""
        stopping.listen()
        if rank() == 0 and self._run is None:
            try:
                self._run = RunLock(self.cfg.save_dir, data=os.path.abspath(self.shards[0].folder))
                _remove_unfinished(Path(self.cfg.save_dir))
            except OSError as error:  # a disk that is full, or without locks, is no reason not to train
                logger.warning(
                    "%s: cannot say that a training runs (%s); 'fairseq-cloze watch' will not see its end",
                    Path(self.cfg.save_dir, RUN_FILE),
                    error.strerror or error,
                )

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """What fairseq is to save beside its own state."""
        return {MEMORY: self.memory.to_dict()} if self.memory is not None else {}

    def requeued(self) -> None:
        """Record that the run ends to be started again."""
        if self._run is not None:
            self._run.requeue()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the vocabulary of a checkpoint that fairseq loads with the data-bin's; do not take it over."""
        carried = read_carried(state_dict, "the checkpoint")
        if carried is None:
            return
        shard = self.shards[0]
        compare_vocabularies(carried.vocabulary, self.vocabulary, "the checkpoint", f"data-bin {shard.folder}")
        encoding = shard.encoding
        if carried.encoding != encoding:
            logger.warning(
                "the checkpoint's text was encoded with %s, the data-bin's with %s",
                carried.encoding.to_dict(),
                encoding.to_dict(),
            )


def _remove_unfinished(save_dir: Path) -> None:
    """Remove checkpoints that an earlier training was killed in saving; what a watch has just begun stays."""
    for path in save_dir.glob(f"{UNFINISHED}*"):
        if path.is_file() and time.time() - path.stat().st_mtime > 60:
            path.unlink(missing_ok=True)


def make_dictionary(vocabulary: Vocabulary) -> Dictionary:
    """fairseq's dictionary of a vocabulary; the rows are the same."""
    dictionary = Dictionary()
    for symbol in vocabulary.symbols[dictionary.nspecial :]:
        dictionary.add_symbol(symbol)
    return dictionary
