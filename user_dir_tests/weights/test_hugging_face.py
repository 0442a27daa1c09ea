"""Weights in and out: logits against transformers, layouts of fairseq's releases, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForMultipleChoice,
    RobertaForSequenceClassification,
)

from fairseq_cloze import register
from fairseq_cloze.data.fairseq_files import FAIRSEQ_FILES
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import CheckpointError, ClozeError
from fairseq_cloze.files import alone_in
from fairseq_cloze.weights.families import FAMILIES
from fairseq_cloze.weights.hugging_face import export_hf, import_hf, read_hf

from ..support.commands import PASSAGES, run, train, validate
from ..support.families import save_with_its_own
from ..support.models import save_hf

register()

from fairseq_cloze.model.masked_lm import MaskedLM  # noqa: E402
from fairseq_cloze.ranking.ranker import load  # noqa: E402
from fairseq_cloze.weights.checkpoint import Checkpoint  # noqa: E402

TEXT = "It rained for a week, and nobody in the village could remember when the river had last been so high."


def logits(model_pt: Path, tokens: torch.Tensor, head: str | None = None) -> torch.Tensor:
    """Logits of a fairseq checkpoint through this project's model."""
    [member] = load(model_pt).members
    with torch.inference_mode():
        return member.model(tokens)[0]


def batch(vocabulary: Vocabulary, mask: int | None = None) -> torch.Tensor:
    """Two rows of real text, the second padded, some masks."""
    ids = vocabulary.encode([TEXT])[0].tolist()
    row = [0, *ids, 2]
    row[5] = row[20] = vocabulary.mask
    short = [0, *ids[:12], 2]
    return torch.tensor([row, short + [1] * (len(row) - len(short))])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer_norm_eps": 1e-5, "num_hidden_layers": 1},
        {"tie_word_embeddings": False},
        {"max_position_embeddings": 66, "num_attention_heads": 2},
    ],
)
def test_logits_equal_transformers(tmp_path: Path, vocabulary: Vocabulary, options: dict[str, Any]) -> None:
    model = save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM, **options).eval()
    path = import_hf(str(tmp_path / "hf"), tmp_path / "out")
    tokens = batch(vocabulary)[:, :60]
    with torch.inference_mode():
        expected = model(tokens, attention_mask=tokens.ne(1).long()).logits
    found = logits(path, tokens)
    real = tokens.ne(1)
    assert (found - expected)[real].abs().max() < 1e-4
    assert expected[real].std() > 0.5  # there is something to compare


def test_imported_files_and_architecture(pretrained: Path, vocabulary: Vocabulary) -> None:
    assert sorted(path.name for path in pretrained.iterdir()) == sorted([*FAIRSEQ_FILES, "model.pt"])
    imported = Vocabulary.load(pretrained)
    assert (imported.dictionary_digest, imported.tokenizer_digest) == (
        vocabulary.dictionary_digest,
        vocabulary.tokenizer_digest,
    )
    state = Checkpoint.read(pretrained / "model.pt").state
    assert vars(Checkpoint(state, pretrained).architecture) == {
        "encoder_layers": 2,
        "encoder_embed_dim": 48,
        "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 4,
        "max_positions": 126,
        "activation_fn": "gelu",
        "layer_norm_eps": 1e-12,
        "untie_weights_roberta": False,
        "pooler_activation_fn": "tanh",
        "family": "roberta",
        "embedding_dim": 0,
        "shared_layers": False,
        "norm_first": False,
        "gated": False,
        "without_biases": False,
        "rotary_base": 0.0,
        "local_rotary_base": 0.0,
        "local_attention": 0,
        "global_every": 1,
    }
    assert {value.dtype for value in state["model"].values()} == {torch.float32}


def test_token_type_row_is_folded_into_the_positions(hf_folder: Path, pretrained: Path) -> None:
    model = RobertaForMaskedLM.from_pretrained(hf_folder)
    embeddings = model.roberta.embeddings
    assert embeddings.token_type_embeddings.weight.abs().max() > 0.1
    weights = Checkpoint.read(pretrained / "model.pt").weights
    folded = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight
    assert weights["encoder.sentence_encoder.embed_positions.weight"].equal(folded.detach())


def test_mask_anywhere_in_the_dictionary(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Some of the family number <mask> as 4; the import sorts the rows, and the logits follow."""
    model = save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM).eval()
    tokens = json.loads((tmp_path / "hf" / "vocab.json").read_text())
    order = {
        row: row + 1 if 4 <= row < vocabulary.mask else 4 if row == vocabulary.mask else row for row in tokens.values()
    }
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps({token: order[row] for token, row in tokens.items()}))
    path = import_hf(str(tmp_path / "hf"), tmp_path / "out")
    imported = Vocabulary.load(tmp_path / "out")
    assert imported.symbols == vocabulary.symbols
    theirs = batch(vocabulary).apply_(lambda row: order[row])
    with torch.inference_mode():
        expected = model(theirs, attention_mask=theirs.ne(1).long()).logits
    found = logits(path, batch(vocabulary))
    columns = torch.tensor([order[row] for row in range(len(vocabulary))])
    real = theirs.ne(1)
    assert (found - expected[..., columns])[real].abs().max() < 1e-4


def test_tokenizer_json_alone(tmp_path: Path, hf_folder: Path, vocabulary: Vocabulary) -> None:
    shutil.copytree(hf_folder, tmp_path / "hf")
    AutoTokenizer.from_pretrained(hf_folder, use_fast=True).save_pretrained(tmp_path / "fast")
    (tmp_path / "hf" / "vocab.json").unlink()
    (tmp_path / "hf" / "merges.txt").unlink()
    shutil.copy(tmp_path / "fast" / "tokenizer.json", tmp_path / "hf")
    import_hf(str(tmp_path / "hf"), tmp_path / "out")
    imported = Vocabulary.load(tmp_path / "out")
    assert (imported.dictionary_digest, imported.tokenizer_digest) == (
        vocabulary.dictionary_digest,
        vocabulary.tokenizer_digest,
    )


def test_gpt2_bpe_folder_and_pytorch_bin(tmp_path: Path, hf_folder: Path, pretrained: Path) -> None:
    model = RobertaForMaskedLM.from_pretrained(hf_folder)
    (tmp_path / "hf").mkdir()
    shutil.copy(hf_folder / "config.json", tmp_path / "hf")
    torch.save(model.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    path = import_hf(str(tmp_path / "hf"), tmp_path / "out", gpt2_bpe=pretrained)
    one, two = Checkpoint.read(path).state["model"], Checkpoint.read(pretrained / "model.pt").state["model"]
    assert one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def test_gpt2_bpe_over_a_tokenizer(tmp_path: Path, hf_folder: Path, pretrained: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        import_hf(str(hf_folder), tmp_path / "out", gpt2_bpe=pretrained)
    assert str(error.value) == (
        f"{hf_folder}: has tokenizer files of its own (vocab.json), which belong to the weights; leave --gpt2-bpe out"
    )


def test_padding_elsewhere(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Hugging Face counts positions from behind the padding row."""
    save_hf(tmp_path, vocabulary, RobertaConfig, RobertaForMaskedLM, pad_token_id=0, bos_token_id=1)
    with pytest.raises(CheckpointError) as error:
        import_hf(str(tmp_path), tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path}: expected pad_token_id 1, as RoBERTa has, found 0; such a model cannot be imported"
    )


def test_a_normalizer(tmp_path: Path, hf_folder: Path) -> None:
    """A RoBERTa's texts may be changed before they are cut, which fairseq's three files have no place for."""
    shutil.copytree(hf_folder, tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(hf_folder).backend_tokenizer
    found = []
    for number, kind in enumerate((normalizers.Sequence([]), normalizers.Lowercase())):
        tokenizer.normalizer = kind
        tokenizer.save(str(tmp_path / "hf" / "tokenizer.json"))
        import_hf(tmp_path / "hf", tmp_path / str(number), announce=lambda line: None)  # which compares token ids
        vocabulary = Vocabulary.load(tmp_path / str(number))
        texts = vocabulary.encode([" The Ferry", " the ferry"])
        found.append((vocabulary.is_fairseqs, texts[0].tolist() == texts[1].tolist()))
    assert found == [(True, False), (False, True)]


def test_half_precision_weights_become_float32(tmp_path: Path, vocabulary: Vocabulary) -> None:
    model = save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM).half()
    model.save_pretrained(tmp_path / "hf")
    path = import_hf(str(tmp_path / "hf"), tmp_path / "out")
    tokens = batch(vocabulary)
    with torch.inference_mode():
        expected = model.float().eval()(tokens, attention_mask=tokens.ne(1).long()).logits
    assert (logits(path, tokens) - expected)[tokens.ne(1)].abs().max() < 1e-4


def test_hub_name(tmp_path: Path, hf_folder: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the hub is looked up by huggingface_hub, here in its cache."""
    snapshot = tmp_path / "hub" / "models--our--small" / "snapshots" / "0123456789abcdef"
    shutil.copytree(hf_folder, snapshot)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    env = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = run("fairseq-cloze", "import-hf", "our/small", "--out", tmp_path / "out", env=env)
    assert re.fullmatch(
        r"our/small: \d+ token ids as in its tokenizer, logits as in transformers [\d.]+ "
        r"\(largest difference \de[+-]0\d\)\n"
        rf"wrote {tmp_path / 'out' / 'model.pt'}\n",
        done.text,
    )
    one, two = (Checkpoint.read(folder / "model.pt").weights for folder in (tmp_path / "out", pretrained))
    assert all(one[name].equal(two[name]) for name in two)
    missing = run("fairseq-cloze", "import-hf", "our/other", "--out", tmp_path / "o", env=env, code=1)
    assert missing.text.startswith("Error: our/other: no such folder, and not to be had from the Hugging Face hub (")
    assert missing.text.endswith("); check the name and the network\n")


# -- refusals --------------------------------------------------------------------------------------------------------


def refuse(folder: Path, out: Path, **kwargs: Any) -> str:
    with pytest.raises(ClozeError) as error:
        import_hf(str(folder), out, **kwargs)
    assert not out.exists()
    return str(error.value).replace(str(folder), "SRC")


def test_another_activation(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """The LM head of Hugging Face's RoBERTa is gelu whatever the encoder is; fairseq's follows the encoder."""
    save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM, hidden_act="relu")
    assert refuse(tmp_path / "hf", tmp_path / "out") == (
        "SRC: expected hidden_act gelu, as RoBERTa has, found relu; such a model cannot be imported"
    )


def test_a_roberta_with_another_bpe(tmp_path: Path, hf_folder: Path) -> None:
    """Some RoBERTas (of Vietnamese, of tweets) have a fastBPE vocabulary."""
    shutil.copytree(hf_folder, tmp_path / "hf")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "hf" / name).unlink()
    (tmp_path / "hf" / "generation_config.json").unlink(missing_ok=True)
    for name in ("vocab.txt", "bpe.codes"):
        (tmp_path / "hf" / name).write_text("a b\n")
    assert refuse(tmp_path / "hf", tmp_path / "out") == (
        "SRC: expected the files of a tokenizer (tokenizer.json, vocab.json and merges.txt, vocab.txt, or "
        "sentencepiece.bpe.model or spiece.model), found bpe.codes, config.json, vocab.txt; for a RoBERTa without them "
        "pass --gpt2-bpe and a folder with encoder.json, vocab.bpe and dict.txt"
    )


def test_no_lm_head(tmp_path: Path, vocabulary: Vocabulary) -> None:
    save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForSequenceClassification)
    assert refuse(tmp_path / "hf", tmp_path / "out") == (
        "SRC: expected the weights of RobertaForMaskedLM, found no LM head (lm_head.dense.weight); "
        "take the masked-LM release of the model"
    )


def test_vocabulary_of_another_size(tmp_path: Path, hf_folder: Path) -> None:
    other = Vocabulary.learn(["some other text, to learn a few more merges from"], 280)
    (tmp_path / "bpe").mkdir()
    other.save(tmp_path / "bpe")
    (tmp_path / "hf").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(hf_folder / name, tmp_path / "hf")
    assert refuse(tmp_path / "hf", tmp_path / "out", gpt2_bpe=tmp_path / "bpe") == (
        f"{tmp_path / 'bpe'}: expected a dictionary of 600 rows, as the embedding of SRC has, found {len(other)}; "
        "give the files that belong to the model"
    )


def test_damaged_sources(tmp_path: Path, hf_folder: Path) -> None:
    shutil.copytree(hf_folder, tmp_path / "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    text = refuse(tmp_path / "hf", tmp_path / "out")
    assert text.startswith("SRC/model.safetensors: cannot be read (")
    assert text.endswith("; copy or download the file again")
    weights.unlink()
    assert refuse(tmp_path / "hf", tmp_path / "out") == (
        "SRC: expected model.safetensors or pytorch_model.bin, found neither; copy or download the whole folder"
    )
    (tmp_path / "hf" / "config.json").unlink()
    assert refuse(tmp_path / "hf", tmp_path / "out") == (
        "SRC: expected a Hugging Face model, found no config.json; copy or download it again"
    )


@pytest.mark.parametrize("layers", [1, 3, 10**9])
def test_other_layers_than_configured(tmp_path: Path, hf_folder: Path, layers: int) -> None:
    shutil.copytree(hf_folder, tmp_path / "hf")
    config = json.loads((hf_folder / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    assert refuse(tmp_path / "hf", tmp_path / "out") == (
        f"SRC: config.json says num_hidden_layers {layers}, the weights have 2; they are of two models, or cut down: "
        "copy or download both again"
    )


# -- fairseq's own releases ------------------------------------------------------------------------------------------


def release(state: dict[str, Any], folder: Path, heads: bool = False) -> Path:
    """A checkpoint in the layout of fairseq's 2019 tarballs, as far as it is known from the code that upgrades it."""
    old: dict[str, torch.Tensor] = {}
    for name, value in state["model"].items():
        name = name.replace("encoder.", "decoder.", 1).replace(".layernorm_embedding.", ".emb_layer_norm.")
        if ".k_proj." in name or ".v_proj." in name or name.endswith(".version"):
            continue
        if ".q_proj." in name:
            parts = [
                state["model"][name.replace("decoder.", "encoder.", 1).replace("q_proj", p)]
                for p in ("q_proj", "k_proj", "v_proj")
            ]
            old[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        else:
            old[name] = value
    if heads:
        width = state["args"].encoder_embed_dim
        for part, rows in (("dense", width), ("out_proj", 3)):
            old[f"classification_heads.mnli.{part}.weight"] = torch.randn(rows, width)
            old[f"classification_heads.mnli.{part}.bias"] = torch.randn(rows)
    args = Namespace(
        **{k: v for k, v in vars(state["args"]).items() if k not in {"layer_norm_eps", "untie_weights_roberta"}}
    )
    args.arch, args.max_positions = "roberta_base", state["args"].max_positions
    checkpoint = {**{k: v for k, v in state.items() if k != "task_state"}, "args": args, "model": old}
    torch.save(checkpoint, folder / "model.pt", _use_new_zipfile_serialization=False)
    return folder / "model.pt"


@pytest.mark.parametrize("heads", [False, True])
def test_layout_of_the_releases(tmp_path: Path, vocabulary: Vocabulary, heads: bool) -> None:
    model = save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM, layer_norm_eps=1e-5).eval()
    path = import_hf(str(tmp_path / "hf"), tmp_path / "new")
    state = Checkpoint.read(path).state
    (tmp_path / "old").mkdir()
    old = release(state, tmp_path / "old", heads)
    vocabulary.save(tmp_path / "old")
    assert Checkpoint.read(old).architecture == Checkpoint(state, path).architecture
    tokens = batch(vocabulary)
    with torch.inference_mode():
        expected = model(tokens, attention_mask=tokens.ne(1).long()).logits
    assert (logits(old, tokens) - expected)[tokens.ne(1)].abs().max() < 1e-4
    assert load(old).notes == (["heads of the checkpoint that are not used: mnli"] if heads else [])
    export_hf(Checkpoint.read(old), tmp_path / "exported")
    exported = RobertaForMaskedLM.from_pretrained(tmp_path / "exported").eval()
    with torch.inference_mode():
        again = exported(tokens, attention_mask=tokens.ne(1).long()).logits
    assert (again - expected)[tokens.ne(1)].abs().max() < 1e-5


@pytest.mark.slow
def test_a_release_is_trained_and_validated(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """fairseq's own code loads the old names, and the proof of load knows them; the head of MNLI goes with a note."""
    old = release(Checkpoint.read(pretrained / "model.pt").state, tmp_path, heads=True)
    Vocabulary.load(pretrained).save(tmp_path)
    options = ("--arch", "cloze_roberta", "--batch-size", 8, "--max-update", 1, "--no-save", "--disable-validation")
    ran = train(data_bin, tmp_path / "save", *options, "--finetune-from-model", old)
    assert f"weights are those of {old} (encoder " in ran.text
    assert "deleting classification head (mnli) from checkpoint" in ran.text
    [row] = validate(data_bin, old, "--batch-size", 8).metrics("valid")
    assert row["n_blanks"] == 102
    done = run("fairseq-cloze", "predict", old, PASSAGES / "test", "--out", tmp_path / "answers.json")
    assert "heads of the checkpoint that are not used: mnli" in done.text


def test_no_vocabulary_beside_a_release(tmp_path: Path, pretrained: Path) -> None:
    old = release(Checkpoint.read(pretrained / "model.pt").state, tmp_path)
    with pytest.raises(CheckpointError) as error:
        load(old)
    assert str(error.value) == (
        f"{old}: carries no vocabulary and none lies beside it; put dict.txt, encoder.json, vocab.bpe into {tmp_path} "
        "(for fairseq's own releases, encoder.json and vocab.bpe are at "
        "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/)"
    )


@pytest.mark.slow
def test_fairseq_alone_loads_the_import(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Without this plugin: fairseq's hub interface builds the model and fills a mask."""
    model = save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM, layer_norm_eps=1e-5).eval()
    import_hf(str(tmp_path / "hf"), tmp_path / "out")
    script = f"""
import argparse, torch
torch.serialization.add_safe_globals([argparse.Namespace])
from fairseq.models.roberta import RobertaModel
hub = RobertaModel.from_pretrained(r"{tmp_path / "out"}", "model.pt", r"{tmp_path / "out"}",
    gpt2_encoder_json=r"{tmp_path / "out" / "encoder.json"}", gpt2_vocab_bpe=r"{tmp_path / "out" / "vocab.bpe"}").eval()
tokens = torch.tensor({batch(vocabulary).tolist()})
with torch.inference_mode():
    torch.save(hub.model(tokens)[0], r"{tmp_path / "logits.pt"}")
"""
    (tmp_path / "script.py").write_text(script)
    run("python", tmp_path / "script.py", cwd=tmp_path)
    tokens = batch(vocabulary)
    with torch.inference_mode():
        expected = model(tokens, attention_mask=tokens.ne(1).long()).logits
    assert (torch.load(tmp_path / "logits.pt") - expected)[tokens.ne(1)].abs().max() < 1e-4


# -- export ----------------------------------------------------------------------------------------------------------


def test_export_of_an_import_is_the_source(
    tmp_path: Path, hf_folder: Path, pretrained: Path, vocabulary: Vocabulary
) -> None:
    before = os.umask(0o022)
    assert export_hf(Checkpoint.read(pretrained / "model.pt"), tmp_path / "hf") == "RobertaForMaskedLM"
    os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "hf").iterdir()} == dict.fromkeys(
        ("README.md", "config.json", "merges.txt", "model.safetensors", "tokenizer_config.json", "vocab.json"), "0o644"
    )
    one = RobertaForMaskedLM.from_pretrained(hf_folder).eval()
    two = RobertaForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    tokens = batch(vocabulary)
    mask = tokens.ne(1).long()
    with torch.inference_mode():
        assert (one(tokens, attention_mask=mask).logits - two(tokens, attention_mask=mask).logits).abs().max() < 1e-5
    assert two.config.layer_norm_eps == 1e-12
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer(f"{TEXT} <mask>.")["input_ids"] == [
        0,
        *vocabulary.encode([TEXT])[0].tolist(),
        vocabulary.mask,
        *vocabulary.encode(["."])[0].tolist(),
        2,
    ]
    again = import_hf(str(tmp_path / "hf"), tmp_path / "again")
    old, new = Checkpoint.read(pretrained / "model.pt").state["model"], Checkpoint.read(again).state["model"]
    assert all(old[name].equal(new[name]) for name in old)


@pytest.mark.parametrize("family", FAMILIES)
def test_export_and_import_in_turns(family: str, tmp_path: Path) -> None:
    """Of each family: byte by byte the same, and transformers finds classes, weights and tokens by itself.

    A RoBERTa's rows have fairseq's order.
    """
    model, tokenizer = save_with_its_own(tmp_path / "hub", family)
    export_hf(read_hf(tmp_path / "hub"), tmp_path / "one", name="mine")
    export_hf(read_hf(tmp_path / "one"), tmp_path / "two", name="mine")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    back = AutoModelForMaskedLM.from_pretrained(tmp_path / "one").eval()
    assert type(back) is type(model)
    own = AutoTokenizer.from_pretrained(tmp_path / "one")
    found, expected = (each(TEXT, return_tensors="pt")["input_ids"] for each in (own, tokenizer))
    assert own.convert_ids_to_tokens(found[0]) == tokenizer.convert_ids_to_tokens(expected[0])
    with torch.inference_mode():
        assert (back(found).logits.sort()[0] - model(expected).logits.sort()[0]).abs().max() < 1e-5


def test_how_to_score_and_dropout_go_along(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """There and back; what cannot be a setting is refused, by its name."""
    save_hf(tmp_path / "hub", vocabulary, RobertaConfig, RobertaForMaskedLM, hidden_dropout_prob=0.3)
    given = {"view": "joint", "scorer": "l2r", "other_blanks": "mask", "contrast": 0.25, "text_norm": "none"}
    given |= {"sentence_case": True, "language": "fr"}
    config = tmp_path / "hub" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "fairseq_cloze": given}))
    export_hf(Checkpoint.read(import_hf(tmp_path / "hub", tmp_path / "weights")), tmp_path / "back")
    exported = json.loads((tmp_path / "back" / "config.json").read_text())
    assert exported["fairseq_cloze"] == given
    assert (exported["hidden_dropout_prob"], exported["attention_probs_dropout_prob"]) == (0.3, 0.1)
    ranker = load(tmp_path / "back")
    assert (ranker.members[0].settings.scorer, ranker.members[0].settings.contrast) == ("l2r", 0.25)
    assert (ranker.encoding.text_norm, ranker.encoding.language) == ("none", "fr")
    known = "text_norm, sentence_case, language, view, scorer, other_blanks, contrast"
    newer = "export it again, or use a newer fairseq-cloze"
    for wrong, problem in [
        ([], f"expected values of {known}, found a list; {newer}"),
        ({"sentence_case": 1}, f"expected values of {known}, found sentence_case 1; {newer}"),
        ({"contrast": True}, f"expected values of {known}, found contrast True; {newer}"),
        ({"depth": 3}, f"expected values of {known}, found depth 3; {newer}"),
        ({"contrast": 2}, "--contrast: expected a number from 0 to 1, found 2"),
        ({"view": "full", "scorer": "l2r"}, "--view full needs --scorer mean or head, found --scorer l2r"),
        ({"language": "xx"}, "language: expected one of en, fr, zh, found 'xx'"),
    ]:
        config.write_text(json.dumps({**content, "fairseq_cloze": wrong}))
        with pytest.raises(CheckpointError) as error:
            read_hf(tmp_path / "hub")
        assert str(error.value) == f"{tmp_path}/hub: config.json: fairseq_cloze: {problem}"


def test_an_export_replaces_an_export_and_no_other_model(tmp_path: Path, hf_folder: Path, pretrained: Path) -> None:
    """transformers prefers ``tokenizer.json``, so one of an earlier export would stand for the new tokenizer."""
    checkpoint, folder = Checkpoint.read(pretrained / "model.pt"), tmp_path / "hf"
    export_hf(checkpoint, folder)
    written = sorted(path.name for path in folder.iterdir())
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "notes.md").write_text("mine")
    assert (folder / "tokenizer.json").exists() and (folder / "special_tokens_map.json").exists()
    export_hf(checkpoint, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*written, "notes.md"])
    RobertaForMaskedLM.from_pretrained(folder).save_pretrained(folder)  # now it is a model of its own
    for other in (folder, shutil.copytree(hf_folder, tmp_path / "other")):
        before = {path.name: path.read_bytes() for path in other.iterdir()}
        with pytest.raises(ClozeError) as error:
            export_hf(checkpoint, other)
        assert str(error.value).startswith(f"{other}: holds config.json, model.safetensors, ")
        assert str(error.value).endswith(
            ", which 'fairseq-cloze export-hf' did not write, and which would be lost; choose another folder"
        )
        assert before == {path.name: path.read_bytes() for path in other.iterdir()}


def test_an_export_of_another_family_replaces_all_files_of_the_tokenizer(tmp_path: Path, pretrained: Path) -> None:
    """Of a RoBERTa and of a BERT, in turns: tokenizers are read from whatever files are there."""
    save_with_its_own(tmp_path / "bert", "bert")
    checkpoints = {"vocab.json": Checkpoint.read(pretrained / "model.pt"), "tokenizer.json": read_hf(tmp_path / "bert")}
    (tmp_path / "out").mkdir()
    for name in ("vocab.json", "tokenizer.json", "vocab.json"):
        export_hf(checkpoints[name], tmp_path / "out")
        (tmp_path / "out" / "vocab.txt").write_text("of a tokenizer that was saved over it")
        export_hf(checkpoints[name], tmp_path / "out")
        there = {path.name for path in (tmp_path / "out").glob("*")}
        expected = {"vocab.json", "merges.txt"} if name == "vocab.json" else {"tokenizer.json"}
        assert there == {"README.md", "config.json", "model.safetensors", "tokenizer_config.json", *expected}
        assert read_hf(tmp_path / "out").require_vocabulary().digests == checkpoints[name].require_vocabulary().digests


def test_special_tokens_in_the_configuration(tmp_path: Path) -> None:
    """As each family's has them, in the numbers of the source."""
    found = {}
    for family in ("bert", "albert", "modernbert", "camembert"):
        save_with_its_own(tmp_path / family, family)
        export_hf(read_hf(tmp_path / family), tmp_path / "back" / family)
        config = json.loads((tmp_path / "back" / family / "config.json").read_text())
        found[family] = {name[:3]: number for name, number in config.items() if name.endswith("_token_id")}
    assert found == {
        "bert": {"pad": 0},
        "albert": {"bos": 2, "pad": 0, "eos": 3},
        "modernbert": {"bos": 717, "pad": 716, "eos": 715, "cls": 717, "sep": 715},
        "camembert": {"bos": 5, "pad": 1, "eos": 6},
    }


def test_two_into_one_folder(tmp_path: Path, pretrained: Path, hf_folder: Path) -> None:
    """The second is refused: files of two models under one roof would be read as one model."""
    with alone_in(tmp_path / "out"):
        for write in (
            lambda: export_hf(Checkpoint.read(pretrained / "model.pt"), tmp_path / "out"),
            lambda: import_hf(hf_folder, tmp_path / "out"),
        ):
            with pytest.raises(ClozeError) as error:
                write()
            assert str(error.value).startswith(f"{tmp_path}/out: another command is writing there; ")
            assert not [*(tmp_path / "out").iterdir()]


def test_export_of_weights_that_are_no_numbers(tmp_path: Path, pretrained: Path) -> None:
    checkpoint = Checkpoint.read(pretrained / "model.pt")
    checkpoint.weights["encoder.lm_head.bias"][3] = torch.nan
    with pytest.raises(CheckpointError, match=r": 1 weights are NaN or beyond 1e\+09, first in encoder.lm_head.bias;"):
        export_hf(checkpoint, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_export_of_untied_weights(tmp_path: Path, vocabulary: Vocabulary) -> None:
    model = save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM, tie_word_embeddings=False).eval()
    path = import_hf(str(tmp_path / "hf"), tmp_path / "out")
    assert Checkpoint.read(path).architecture.untie_weights_roberta
    export_hf(Checkpoint.read(path), tmp_path / "back")
    back = RobertaForMaskedLM.from_pretrained(tmp_path / "back").eval()
    tokens = batch(vocabulary)
    mask = tokens.ne(1).long()
    with torch.inference_mode():
        assert (model(tokens, attention_mask=mask).logits - back(tokens, attention_mask=mask).logits).abs().max() < 1e-5


def test_export_of_a_finetuned_checkpoint(
    tmp_path: Path, finetuned: Path, pretrained: Path, vocabulary: Vocabulary
) -> None:
    checkpoint = finetuned / "checkpoint_last.pt"
    done = run("fairseq-cloze", "export-hf", checkpoint, "--out", tmp_path / "hf")
    assert f"wrote {tmp_path / 'hf'}, load it with transformers.RobertaForMaskedLM.from_pretrained\n" in done.text
    tokens = batch(vocabulary)
    with torch.inference_mode():
        theirs = RobertaForMaskedLM.from_pretrained(tmp_path / "hf").eval()(tokens, attention_mask=tokens.ne(1).long())
    assert (logits(checkpoint, tokens) - theirs.logits)[tokens.ne(1)].abs().max() < 1e-4
    assert (logits(pretrained / "model.pt", tokens) - theirs.logits)[tokens.ne(1)].abs().max() > 0.1


def test_export_with_a_ranking_head(tmp_path: Path, pretrained: Path, vocabulary: Vocabulary) -> None:
    """The head scores filled rows as RobertaForMultipleChoice does."""
    from fairseq_cloze.model.names import HEAD_NAME

    checkpoint = Checkpoint.read(pretrained / "model.pt")
    model = MaskedLM(checkpoint.architecture, len(vocabulary), ranking_head=True)
    assert model.load_state_dict(checkpoint.weights, strict=False).unexpected_keys == []  # it has no ranking head
    torch.nn.init.normal_(model.classification_heads[HEAD_NAME].out_proj.weight)
    torch.save({**checkpoint.state, "model": model.state_dict()}, tmp_path / "model.pt")
    assert export_hf(Checkpoint.read(tmp_path / "model.pt"), tmp_path / "hf") == "RobertaForMultipleChoice"
    theirs = RobertaForMultipleChoice.from_pretrained(tmp_path / "hf").eval()
    tokens = batch(vocabulary)
    with torch.inference_mode():
        found = model.eval()(tokens, features_only=True, classification_head_name=HEAD_NAME)[0][:, 0]
        expected = theirs(tokens[None], attention_mask=tokens.ne(1).long()[None]).logits[0]
    assert (found - expected).abs().max() < 1e-4
    checkpoint.state["args"].pooler_activation_fn = "relu"
    torch.save({**checkpoint.state, "model": model.state_dict()}, tmp_path / "relu.pt")
    with pytest.raises(CheckpointError) as error:
        export_hf(Checkpoint.read(tmp_path / "relu.pt"), tmp_path / "relu")
    assert str(error.value) == (
        f"{tmp_path / 'relu.pt'}: pooler_activation_fn relu cannot be exported, the ranking head of Hugging Face's "
        "RoBERTa is always tanh"
    )
