"""Fixtures: a small real model, real example passages, optional local data.  What tests import lies in ``support``."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from .support.commands import FINETUNE, PASSAGES, share_warm_processes, train
from .support.local import existing, local, unpack
from .support.once import made_once
from .support.texts import write_passage

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What a change has to pass says the same each time; new examples are looked for by test.sh --all.  How long an example
# takes says nothing where several processes share a core.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure(config: pytest.Config) -> None:
    """Importing torch and fairseq takes seconds: once for all workers, not once in each."""
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        share_warm_processes()


def pytest_collection_finish() -> None:
    """What is there now stays to the end: nobody looks through it for circles again."""
    gc.freeze()


@pytest.fixture
def passage(tmp_path: Path) -> Callable[..., Path]:
    """Writer of passage files into a fresh folder: ``passage("a.json", article, options, answers)``."""

    def write(name: str, *args: Any, **kwargs: Any) -> Path:
        return write_passage(tmp_path / "passages" / name, *args, **kwargs)

    return write


# -- a small model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vocabulary() -> Any:
    """A byte-level BPE of 600 rows, learned from the example passages."""
    from fairseq_cloze.data.prepare import passage_texts
    from fairseq_cloze.data.vocabulary import Vocabulary

    return Vocabulary.learn(passage_texts([PASSAGES / "train"]), 600)


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory, vocabulary: Any) -> Path:
    """A small random RobertaForMaskedLM as transformers saves it, tokenizer included; 126 positions."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    from .support.models import save_hf

    return made_once(
        tmp_path_factory, "hf", lambda folder: save_hf(folder, vocabulary, RobertaConfig, RobertaForMaskedLM)
    )


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BertForMaskedLM as transformers saves it, tokenizer included; 126 positions."""
    from .support.families import save_with_its_own

    return made_once(tmp_path_factory, "bert", lambda folder: save_with_its_own(folder, "bert"))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, hf_folder: Path) -> Path:
    """The small model, imported."""
    from fairseq_cloze.weights.hugging_face import import_hf

    return made_once(tmp_path_factory, "pretrained", lambda folder: import_hf(str(hf_folder), folder))


@pytest.fixture(scope="session")
def data_bin(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    """The example passages, prepared for the small model."""
    from fairseq_cloze.data.prepare import prepare

    splits = {split: [PASSAGES / split] for split in ("train", "valid", "test")}
    made = made_once(tmp_path_factory, "data", lambda folder: prepare(splits, pretrained, folder / "bin", workers=1))
    return made / "bin"


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, data_bin: Path) -> Path:
    """Save folder of a short joint training, from scratch as users start it."""

    def make(folder: Path) -> None:
        best = ("--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric")
        options = (*FINETUNE, *best, "--finetune-from-model", pretrained / "model.pt")
        ran = train(data_bin, folder, *options, "--tensorboard-logdir", folder / "tensorboard", real=True)
        (folder / "log.txt").write_text(ran.text)

    return made_once(tmp_path_factory, "finetuned", make)


# -- optional local data ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cloth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLOTH, unpacked: ``train`` and ``valid``."""
    archive = existing(local("data", "cloth.tar.xz"))
    return made_once(tmp_path_factory, "cloth", lambda folder: unpack(archive, folder)) / "cloth"


@pytest.fixture(scope="session")
def roberta6() -> Path:
    """A 6-layer RoBERTa in Hugging Face's format."""
    return existing(local("models", "roberta6"))


@pytest.fixture(scope="session")
def gpt2_bpe() -> Path:
    """RoBERTa's own dictionary and BPE."""
    return existing(local("models", "gpt2_bpe"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, roberta6: Path, gpt2_bpe: Path) -> Path:
    """That RoBERTa, imported."""
    from fairseq_cloze.weights.hugging_face import import_hf

    return made_once(tmp_path_factory, "roberta6", lambda folder: import_hf(str(roberta6), folder, gpt2_bpe))
