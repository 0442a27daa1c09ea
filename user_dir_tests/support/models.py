"""Small models, made as transformers and as fairseq make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fairseq_cloze.data.fairseq_files import DICTIONARY_FILE, ENCODER_FILE, MERGES_FILE


def save_hf(folder: Path, vocabulary: Any, config_class: Any, model_class: Any, **options: Any) -> Any:
    """Write a small random model and its tokenizer files; return the model."""
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


def build(data_bin: Path, save_dir: Path, **options: Any) -> Any:
    """Task and model as fairseq-train builds them."""
    from argparse import Namespace

    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.tasks import setup_task

    from fairseq_cloze import register

    register()

    model = {key: options.pop(key) for key in list(options) if key.startswith("encoder_") or key == "arch"}
    args = Namespace(
        task="cloze_ranking",
        data=str(data_bin),
        save_dir=str(save_dir),
        criterion="cloze_ranking",
        **{"arch": "cloze_roberta", **model},
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
    )
    cfg = convert_namespace_to_omegaconf(args)
    task = setup_task(cfg.task)
    return task, task.build_model(cfg.model)


class FailingOptimizer:
    """Backward passes that run out of memory when they are done; some of them."""

    def __init__(self, model: Any, fails: list[int]) -> None:
        self.parameters, self.fails, self.calls = list(model.parameters()), fails, 0

    def backward(self, loss: Any) -> None:
        loss.backward()
        self.calls += 1
        if self.calls in self.fails:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def fairseq_ids(folder: Path) -> Any:
    """Text → embedding rows through fairseq's own GPT-2 BPE and dictionary."""
    from fairseq.data import Dictionary
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig

    bpe = GPT2BPE(GPT2BPEConfig(gpt2_encoder_json=str(folder / ENCODER_FILE), gpt2_vocab_bpe=str(folder / MERGES_FILE)))
    dictionary = Dictionary.load(str(folder / DICTIONARY_FILE))
    dictionary.add_symbol("<mask>")

    def encode(text: str) -> list[int]:
        return dictionary.encode_line(bpe.encode(text), append_eos=False, add_if_not_exist=False).tolist()

    return encode, dictionary


def tiny_vocabulary() -> Any:
    """256 bytes and four merges, a row without a word, and the special symbols."""
    from fairseq_cloze.data.vocabulary import Vocabulary

    letters = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]]
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n")]
    return Vocabulary.build([*letters, *(left + right for left, right in merges), "madeupword0000"], merges, "tiny")


def tiny_state() -> dict[str, Any]:
    """A checkpoint of one small layer with :func:`tiny_vocabulary`, as an import makes it."""
    from fairseq_cloze.model.architecture import Architecture
    from fairseq_cloze.model.masked_lm import MaskedLM
    from fairseq_cloze.weights.carried import pretrained_state

    torch.manual_seed(1)
    vocabulary, architecture = tiny_vocabulary(), Architecture(1, 8, 8, 2, max_positions=14)
    weights = MaskedLM(architecture, len(vocabulary)).state_dict()
    return pretrained_state({name: value.clone() for name, value in weights.items()}, architecture, vocabulary)


def save_tiny_hf(folder: Path) -> None:
    """:func:`tiny_state` as Hugging Face's files, ``tokenizer.json`` and ``added_tokens.json`` among them."""
    from tokenizers import ByteLevelBPETokenizer

    from fairseq_cloze.weights.checkpoint import Checkpoint
    from fairseq_cloze.weights.hugging_face import export_hf

    export_hf(Checkpoint(tiny_state(), "tiny.pt"), folder)
    tokenizer = ByteLevelBPETokenizer.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "added_tokens.json").write_text(json.dumps({"<mask>": 265}))
