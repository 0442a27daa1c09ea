"""Fixtures: a small real model, real example passages, real commands.

Optional local data (CLOTH, weights) are read from the folder named by FAIRSEQ_CLOZE_DATA; tests that need them skip by
name where they are absent.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "fairseq_cloze"
PASSAGES = ROOT / "user_dir_tests" / "support" / "passages"  # a fixed half of the examples
BIN = Path(sys.executable).parent


# -- commands --------------------------------------------------------------------------------------------------------


@dataclass
class Ran:
    """A finished command; ``text`` is its standard output and standard error together."""

    code: int
    text: str

    def metrics(self, tag: str) -> list[dict[str, Any]]:
        """The JSON log lines of a tag (``train_inner``, ``train``, ``valid``): names without it, numbers as numbers."""
        rows = []
        for line in self.text.splitlines():
            parts = line.split(" | ", 3)
            if len(parts) == 4 and parts[2] == tag and parts[3].startswith("{"):
                values = json.loads(parts[3]).items()
                rows.append(
                    {key[len(tag) + 1 :] if key.startswith(f"{tag}_") else key: _number(v) for key, v in values}
                )
        return rows


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def environment(**extra: str) -> dict[str, str]:
    """The environment of every command: one thread, no hub."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": f"{BIN}:{os.environ['PATH']}", **extra}


def start(*command: Any, **kwargs: Any) -> subprocess.Popen[str]:
    """Start a command; its output is one text."""
    env = environment(**kwargs.pop("env", {}))
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        cwd=kwargs.pop("cwd", ROOT),
        **kwargs,
    )


def run(*command: Any, code: int = 0, **kwargs: Any) -> Ran:
    """Run a command to its end and check its exit status."""
    process = start(*command, **kwargs)
    text, _ = process.communicate()
    assert process.returncode == code, f"exit status {process.returncode}: {command}\n{text}"
    return Ran(process.returncode, text)


TRAIN_OPTIONS = (
    *("--user-dir", PLUGIN, "--task", "cloze_ranking", "--criterion", "cloze_ranking"),
    *("--optimizer", "adam", "--lr", "1e-3", "--num-workers", "0", "--log-format", "json", "--log-interval", "1"),
)


def train(data_bin: Path, save_dir: Path, *options: Any, code: int = 0, **kwargs: Any) -> Ran:
    """Run fairseq-train with this plugin."""
    command = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", save_dir, *options)
    return run(*command, code=code, **kwargs)


def validate(data_bin: Path, checkpoint: Path, *options: Any, code: int = 0, **kwargs: Any) -> Ran:
    """Run fairseq-validate with this plugin."""
    command = ("fairseq-validate", data_bin, "--user-dir", PLUGIN, "--task", "cloze_ranking", "--path", checkpoint)
    return run(*command, "--num-workers", "0", "--log-format", "json", *options, code=code, **kwargs)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# -- passages --------------------------------------------------------------------------------------------------------


def write_passage(path: Path, article: str, options: Sequence[Any], answers: Any = None, **fields: Any) -> Path:
    """Write one passage file."""
    record = {"article": article, "options": list(options), **fields}
    if answers is not None:
        record["answers"] = answers
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    return path


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

    folder = tmp_path_factory.mktemp("hf")
    save_hf(folder, vocabulary, RobertaConfig, RobertaForMaskedLM)
    return folder


def save_hf(folder: Path, vocabulary: Any, config_class: Any, model_class: Any, **options: Any) -> Any:
    """Write a small random model and its tokenizer files; return the model."""
    import torch

    torch.manual_seed(7)
    config = config_class(
        **{
            "vocab_size": len(vocabulary),
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 128,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            **options,
        }
    )
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases, norms and the token type must matter, too
            parameter += 0.15 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary.token_rows()), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in vocabulary.merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    return model


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, hf_folder: Path) -> Path:
    """The small model, imported."""
    from fairseq_cloze.weights.hugging_face import import_hf

    folder = tmp_path_factory.mktemp("pretrained")
    import_hf(str(hf_folder), folder)
    return folder


@pytest.fixture(scope="session")
def data_bin(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    """The example passages, prepared for the small model."""
    from fairseq_cloze.data.prepare import prepare

    folder = tmp_path_factory.mktemp("data") / "bin"
    prepare({split: [PASSAGES / split] for split in ("train", "valid", "test")}, pretrained, folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, data_bin: Path) -> Path:
    """Save folder of a short joint training."""
    folder = tmp_path_factory.mktemp("finetuned")
    best = ("--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric")
    options = (*FINETUNE, *best, "--finetune-from-model", pretrained / "model.pt")
    ran = train(data_bin, folder, *options, "--tensorboard-logdir", folder / "tensorboard")
    (folder / "log.txt").write_text(ran.text)
    return folder


FINETUNE = ("--arch", "cloze_roberta", "--max-tokens", "1024", "--max-epoch", "2", "--no-epoch-checkpoints")


# -- optional local data ---------------------------------------------------------------------------------------------


def _local(*parts: str) -> Path:
    folder = Path(os.environ.get("FAIRSEQ_CLOZE_DATA", ROOT.parent / "shared"))
    return folder.joinpath(*parts)


@pytest.fixture(scope="session")
def cloth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLOTH, unpacked: ``train`` and ``valid``."""
    return _unpack(_local("data", "cloth.tar.xz"), tmp_path_factory.mktemp("cloth")) / "cloth"


@pytest.fixture(scope="session")
def roberta6() -> Path:
    """A 6-layer RoBERTa in Hugging Face's format."""
    return _existing(_local("models", "roberta6"))


@pytest.fixture(scope="session")
def gpt2_bpe() -> Path:
    """RoBERTa's own dictionary and BPE."""
    return _existing(_local("models", "gpt2_bpe"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, roberta6: Path, gpt2_bpe: Path) -> Path:
    """That RoBERTa, imported."""
    from fairseq_cloze.weights.hugging_face import import_hf

    folder = tmp_path_factory.mktemp("roberta6")
    import_hf(str(roberta6), folder, gpt2_bpe)
    return folder


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"optional local data: no {path.name} (set FAIRSEQ_CLOZE_DATA)")
    return path


def _unpack(archive: Path, folder: Path) -> Path:
    import tarfile

    with tarfile.open(_existing(archive)) as tar:
        tar.extractall(folder)
    return folder
