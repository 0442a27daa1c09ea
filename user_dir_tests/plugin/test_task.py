"""What stops a run before the first update, word for word, as fairseq-train prints it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from fairseq_cloze import register
from fairseq_cloze.data.encoding import EncodingOptions
from fairseq_cloze.data.fairseq_files import DICTIONARY_FILE, MERGES_FILE
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import CheckpointError, ClozeError, DataBinError
from fairseq_cloze.ranking.calibration import calibrate
from fairseq_cloze.weights.hugging_face import import_hf

from ..support.commands import PASSAGES, start, train, validate
from ..support.models import build, save_hf
from ..support.texts import write_passage
from ..support.warm import FAIRSEQ

register()


from fairseq_cloze.model.scores import candidate_scores  # noqa: E402
from fairseq_cloze.plugin.criterion import ClozeRankingCriterion  # noqa: E402
from fairseq_cloze.plugin.task import ClozeRankingConfig, ClozeRankingTask, make_dictionary  # noqa: E402
from fairseq_cloze.weights.checkpoint import Checkpoint  # noqa: E402


def stopped(data_bin: Path, save_dir: Path, *options: Any) -> str:
    """Run fairseq-train to its early end; its last line."""
    ran = train(data_bin, save_dir, "--arch", "cloze_roberta", "--max-tokens", "1024", *options, code=1)
    assert "Traceback" not in ran.text
    assert "| train_inner |" not in ran.text
    return ran.text.splitlines()[-1]


# -- weights ---------------------------------------------------------------------------------------------------------


def test_no_weights_asked_for(tmp_path: Path, data_bin: Path) -> None:
    assert stopped(data_bin, tmp_path) == (
        "Error: no pretrained weights: pass --finetune-from-model MODEL.PT (made by 'fairseq-cloze import-hf', or "
        "a RoBERTa of fairseq), or --from-scratch to start from random weights on purpose"
    )


def test_wrong_path(tmp_path: Path, data_bin: Path) -> None:
    path = tmp_path / "gone" / "model.pt"
    assert stopped(data_bin, tmp_path, "--finetune-from-model", path) == (
        f"Error: --finetune-from-model {path}: no such checkpoint; "
        "training would start from random weights, check the path"
    )


def test_truncated_checkpoint(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes((pretrained / "model.pt").read_bytes()[:100_000])
    line = stopped(data_bin, tmp_path, "--finetune-from-model", path)
    assert line.startswith(f"Error: {path}: cannot be read as a checkpoint, 100,000 bytes (")
    assert line.endswith("); the file is truncated, damaged or no PyTorch file, copy it again")


def test_wrong_dictionary(tmp_path: Path, data_bin: Path, pretrained: Path, vocabulary: Vocabulary) -> None:
    """The same tokenizer, two rows of the dictionary exchanged: nothing but the digest can tell."""
    rows = vocabulary.fairseq_files()[DICTIONARY_FILE].decode().splitlines()
    rows[10], rows[11] = rows[11], rows[10]
    other = Vocabulary({**vocabulary.fairseq_files(), DICTIONARY_FILE: "\n".join(rows).encode()}, "test")
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    prepare({s: [PASSAGES / s] for s in ("train", "valid")}, tmp_path / "other", tmp_path / "bin", workers=1)
    line = stopped(tmp_path / "bin", tmp_path / "save", "--finetune-from-model", pretrained / "model.pt")
    assert line == (
        f"Error: the dictionary of data-bin {tmp_path / 'bin'} does not belong to {pretrained / 'model.pt'}: expected "
        f"digest {vocabulary.dictionary_digest[:12]}, found {other.dictionary_digest[:12]}; prepare the data with "
        "--pretrained and the folder of this checkpoint"
    )
    ran = validate(tmp_path / "bin", pretrained / "model.pt", "--batch-size", "8", code=1)
    assert ran.text.splitlines()[-1] == line.replace(str(pretrained / "model.pt"), "the checkpoint")


def test_validation_compares_what_lies_beside_the_checkpoint(
    tmp_path: Path, data_bin: Path, pretrained: Path, vocabulary: Vocabulary
) -> None:
    """Weights that carry no vocabulary, as fairseq's own releases."""
    state = {key: value for key, value in Checkpoint.read(pretrained / "model.pt").state.items() if key != "task_state"}
    torch.save(state, tmp_path / "model.pt")
    ran = validate(data_bin, tmp_path / "model.pt", "--batch-size", "8")
    assert f"it and the tokenizer could not be compared, {tmp_path / 'model.pt'} came without" in ran.text
    vocabulary.save(tmp_path)
    rows = vocabulary.fairseq_files()[DICTIONARY_FILE].decode().splitlines()
    (tmp_path / DICTIONARY_FILE).write_text("\n".join([rows[1], rows[0], *rows[2:]]))
    ran = validate(data_bin, tmp_path / "model.pt", "--batch-size", "8", code=1)
    assert ran.text.splitlines()[-1].startswith(
        f"Error: the dictionary of data-bin {data_bin} does not belong to {tmp_path / 'model.pt'}: expected digest "
    )


def test_max_tokens_too_small(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    line = stopped(data_bin, tmp_path, "--finetune-from-model", pretrained / "model.pt", "--max-tokens", "100")
    assert line.startswith("Error: --max-tokens 100 is too small: passage '")
    assert line.endswith("costs 1 x 126 = 126 tokens; pass --max-tokens 126 or more, or --batch-size instead")


def test_another_criterion(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    options = ("--finetune-from-model", pretrained / "model.pt", "--criterion", "cross_entropy")
    assert stopped(data_bin, tmp_path, *options) == (
        "Error: --task cloze_ranking needs --criterion cloze_ranking, found --criterion cross_entropy"
    )


# -- the same checks without a process of their own ------------------------------------------------------------------


def refused(kind: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(kind) as error:
        build(*args, **kwargs)
    return str(error.value)


def test_wrong_bpe(tmp_path: Path, pretrained: Path, vocabulary: Vocabulary) -> None:
    merges = vocabulary.fairseq_files()[MERGES_FILE].decode().splitlines()
    merges[1], merges[2] = merges[2], merges[1]
    other = Vocabulary({**vocabulary.fairseq_files(), MERGES_FILE: "\n".join(merges).encode()}, "test")
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    prepare({"train": [PASSAGES / "valid"]}, tmp_path / "other", tmp_path / "bin", workers=1)
    text = refused(CheckpointError, tmp_path / "bin", tmp_path, finetune_from_model=pretrained / "model.pt")
    assert text.startswith(
        f"the tokenizer of data-bin {tmp_path / 'bin'} does not belong to {pretrained / 'model.pt'}: expected"
    )


def test_dictionary_of_another_size(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    state = Checkpoint.read(pretrained / "model.pt").state
    weights = {
        name: value[:590] if name.endswith(("embed_tokens.weight", "lm_head.weight", "lm_head.bias")) else value
        for name, value in state["model"].items()
    }
    torch.save({**state, "model": weights}, tmp_path / "model.pt")
    assert refused(CheckpointError, data_bin, tmp_path, finetune_from_model=tmp_path / "model.pt") == (
        f"the dictionary of data-bin {data_bin} does not belong to {tmp_path / 'model.pt'}: expected 590 embedding "
        "rows, found 600; prepare the data with --pretrained and the folder of this checkpoint"
    )


def test_a_checkpoint_without_any_vocabulary(tmp_path: Path, data_bin: Path, pretrained: Path, caplog: Any) -> None:
    """Nothing to compare with but the number of rows; the log says so."""
    state = {key: value for key, value in Checkpoint.read(pretrained / "model.pt").state.items() if key != "task_state"}
    torch.save(state, tmp_path / "model.pt")
    caplog.set_level("INFO")
    build(data_bin, tmp_path, finetune_from_model=tmp_path / "model.pt")
    [record] = [record for record in caplog.records if "dictionary" in record.message]
    assert (record.levelname, record.message) == (
        "WARNING",
        "dictionary has the checkpoint's 600 rows; "
        f"it and the tokenizer could not be compared, {tmp_path / 'model.pt'} came without",
    )


@pytest.mark.parametrize(("contrast", "said"), [(0.7, 1), (0.0, 0)])
def test_calibrated_weights_are_trained_without_contrast(
    contrast: float, said: int, tmp_path: Path, data_bin: Path, pretrained: Path, caplog: Any
) -> None:
    calibrate(pretrained / "model.pt", data_bin, tmp_path / "calibrated.pt")
    build(data_bin, tmp_path, finetune_from_model=tmp_path / "calibrated.pt", contrast=contrast)
    assert caplog.text.count("this training has --contrast 0.7, which takes away the same once more") == said


def test_a_dictionary_beside_the_checkpoint_is_compared(
    tmp_path: Path, data_bin: Path, pretrained: Path, vocabulary: Vocabulary, caplog: Any
) -> None:
    """As in fairseq's tarballs, which have dict.txt and no BPE files."""
    state = {key: value for key, value in Checkpoint.read(pretrained / "model.pt").state.items() if key != "task_state"}
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / DICTIONARY_FILE).write_bytes(vocabulary.fairseq_files()[DICTIONARY_FILE])
    caplog.set_level("INFO")
    build(data_bin, tmp_path, finetune_from_model=tmp_path / "model.pt")
    [record] = [record for record in caplog.records if "dictionary" in record.message]
    assert (record.levelname, record.message) == (
        "WARNING",
        f"dictionary {vocabulary.dictionary_digest[:12]} is the checkpoint's; "
        f"the tokenizer could not be compared, {tmp_path / 'model.pt'} came without",
    )
    rows = vocabulary.fairseq_files()[DICTIONARY_FILE].decode().splitlines()
    (tmp_path / DICTIONARY_FILE).write_text("\n".join([rows[1], rows[0], *rows[2:]]))
    text = refused(CheckpointError, data_bin, tmp_path, finetune_from_model=tmp_path / "model.pt")
    assert text.startswith(
        f"the dictionary of data-bin {data_bin} does not belong to {tmp_path / 'model.pt'}: expected"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "cloze_roberta_base"}, "encoder_layers 2 in the checkpoint, 12 in the model; encoder_embed_dim 48"),
        ({"encoder_layers": 3}, "encoder_layers 2 in the checkpoint, 3 in the model; pass --arch cloze_lm, which"),
        ({"encoder_attention_heads": 8}, "encoder_attention_heads 4 in the checkpoint, 8 in the model; pass --arch"),
    ],
)
def test_another_shape(tmp_path: Path, data_bin: Path, pretrained: Path, options: dict[str, Any], message: str) -> None:
    text = refused(CheckpointError, data_bin, tmp_path, finetune_from_model=pretrained / "model.pt", **options)
    assert text.startswith(f"{pretrained / 'model.pt'} does not fit the model: {message}")


def test_plain_roberta_gets_the_checkpoints_epsilon(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    shape = {"encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96, "encoder_attention_heads": 4}
    options = {"finetune_from_model": pretrained / "model.pt", "arch": "roberta_base", "max_positions": 126, **shape}
    _, model = build(data_bin, tmp_path, **options)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-12] * 6


def test_restore_file_has_to_exist(tmp_path: Path, data_bin: Path) -> None:
    path = tmp_path / "gone.pt"
    assert refused(CheckpointError, data_bin, tmp_path, restore_file=path) == (
        f"--restore-file {path}: no such checkpoint; training would start from random weights, check the path"
    )


@pytest.mark.parametrize("options", [{"finetune_from_model": "model.pt"}, {"restore_file": "model.pt"}])
def test_from_scratch_and_a_checkpoint(tmp_path: Path, data_bin: Path, options: dict[str, Any]) -> None:
    assert refused(CheckpointError, data_bin, tmp_path, from_scratch=True, **options) == (
        "--from-scratch starts from random weights; leave it out, or the checkpoint"
    )


def test_continue_once(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    """fairseq's option for a first start from another checkpoint."""
    task, model = build(data_bin, tmp_path, continue_once=pretrained / "model.pt")
    model.load_state_dict(Checkpoint.read(pretrained / "model.pt").state["model"])
    task.begin_epoch(1, model)
    with pytest.raises(CheckpointError, match="--continue-once .*gone.pt: no such checkpoint; training would start"):
        build(data_bin, tmp_path, continue_once=tmp_path / "gone.pt")


@pytest.mark.parametrize("size", ["0", ""])
def test_an_idle_world_size(tmp_path: Path, data_bin: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    build(data_bin, tmp_path, from_scratch=True)


def test_untied_weights(tmp_path: Path, data_bin: Path, vocabulary: Vocabulary) -> None:
    """Whether embeddings and LM head are one comes from the checkpoint, too."""
    save_hf(tmp_path / "hf", vocabulary, RobertaConfig, RobertaForMaskedLM, tie_word_embeddings=False)
    path = import_hf(str(tmp_path / "hf"), tmp_path / "weights")
    task, model = build(data_bin, tmp_path, finetune_from_model=path)
    model.load_state_dict(Checkpoint.read(path).state["model"])
    task.begin_epoch(1, model)
    assert model.encoder.lm_head.weight is not model.encoder.sentence_encoder.embed_tokens.weight


def test_from_scratch(tmp_path: Path, data_bin: Path, caplog: Any) -> None:
    task, model = build(data_bin, tmp_path, from_scratch=True, encoder_layers=1, encoder_embed_dim=24)
    assert (len(model.encoder.sentence_encoder.layers), model.max_positions()) == (1, 512)
    assert "training starts from random weights, as --from-scratch asks for" in caplog.text
    task.begin_epoch(1, model)  # nothing to prove


def test_hugging_face_weights_are_named(tmp_path: Path, data_bin: Path, hf_folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save({"roberta.x": torch.zeros(1), **load_file(hf_folder / "model.safetensors")}, tmp_path / "model.bin")
    assert refused(CheckpointError, data_bin, tmp_path, finetune_from_model=tmp_path / "model.bin") == (
        f"{tmp_path / 'model.bin'}: expected a checkpoint of fairseq, found Hugging Face weights; "
        "convert them with 'fairseq-cloze import-hf'"
    )


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, data_bin: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": {}, "args": Evil()}, tmp_path / "model.pt")
    text = refused(CheckpointError, data_bin, tmp_path, finetune_from_model=tmp_path / "model.pt")
    assert text.startswith(f"{tmp_path / 'model.pt'}: holds an object of ")
    assert "which is not read as it could run code" in text
    assert not (tmp_path / "ran").exists()


# -- the proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("encoder", "encoder.sentence_encoder.layers.1.fc1.weight"),
        ("encoder", "encoder.sentence_encoder.embed_positions.weight"),
        ("LM head", "encoder.lm_head.dense.bias"),
        ("LM head", "encoder.lm_head.bias"),
    ],
)
def test_a_weight_that_was_not_loaded(tmp_path: Path, data_bin: Path, pretrained: Path, part: str, name: str) -> None:
    task, model = build(data_bin, tmp_path, finetune_from_model=pretrained / "model.pt")
    with pytest.raises(CheckpointError, match="the encoder is not that of"):
        task.begin_epoch(1, model)  # random weights: fairseq has not loaded anything yet
    model.load_state_dict(Checkpoint.read(pretrained / "model.pt").state["model"])
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] += 1e-3
    with pytest.raises(CheckpointError) as error:
        task.begin_epoch(1, model)
    text = str(error.value)
    assert text.startswith(f"the {part} is not that of {pretrained / 'model.pt'}: expected digest ")
    assert text.endswith(f"training would start from other weights than those asked for (first difference: {name})")


def test_the_proof_in_half_precision(tmp_path: Path, data_bin: Path, pretrained: Path, caplog: Any) -> None:
    task, model = build(data_bin, tmp_path, finetune_from_model=pretrained / "model.pt")
    model.half()
    model.load_state_dict(Checkpoint.read(pretrained / "model.pt").state["model"])
    caplog.set_level("INFO")
    task.begin_epoch(1, model)
    assert f"weights are those of {pretrained / 'model.pt'} (encoder " in caplog.text


def test_the_proof_among_workers(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    """One of two workers holds another weight: both stop, with the same words."""
    script = f"""
import sys, torch
from pathlib import Path
from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.checkpoint import Checkpoint
from user_dir_tests.support.models import build
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://{tmp_path / "store"}", rank=rank, world_size=2)
source = Path("{pretrained / "model.pt"}")
task, model = build(Path("{data_bin}"), Path("{tmp_path}"), finetune_from_model=source)
model.load_state_dict(Checkpoint.read(source).state["model"])
if rank == 1:
    torch.nn.init.ones_(model.encoder.lm_head.bias)
try:
    task.begin_epoch(1, model)
except CheckpointError as error:
    print(error)
torch.distributed.destroy_process_group()  # else gloo's threads abort the process now and then
"""
    workers = [start(sys.executable, "-c", script, rank, warm=FAIRSEQ) for rank in (0, 1)]
    texts = [worker.communicate()[0].splitlines()[-1] for worker in workers]
    assert texts[0] == texts[1]
    assert texts[0].startswith("the LM head of worker 1 is not that of worker 0: expected digest ")
    assert texts[0].endswith("; check that all workers read the same checkpoint")


def test_the_proof_is_made_once(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    task, model = build(data_bin, tmp_path, finetune_from_model=pretrained / "model.pt")
    model.load_state_dict(Checkpoint.read(pretrained / "model.pt").state["model"])
    task.begin_epoch(1, model)
    torch.nn.init.zeros_(model.encoder.lm_head.bias)
    task.begin_epoch(2, model)


@pytest.mark.slow
@pytest.mark.parametrize("untied", [False, True])
def test_what_takes_no_part_is_not_trained(tmp_path: Path, data_bin: Path, untied: bool) -> None:
    """Torch's DDP waits for the gradient of every parameter in training: each must get one, whatever scores."""
    for view, scorer in (("joint", "mean"), ("joint", "l2r"), ("full", "mean"), ("full", "head")):
        options = {"from_scratch": True, "encoder_layers": 1, "encoder_embed_dim": 24, "encoder_attention_heads": 2}
        task, model = build(data_bin, tmp_path, view=view, scorer=scorer, untie_weights_roberta=untied, **options)
        task.load_dataset("valid")
        dataset = task.dataset("valid")
        sample = dataset.collater([dataset[0], dataset[1]])
        candidate_scores(model, sample, task.settings).softmax(dim=1)[:, 0].sum().backward()
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        reached = {name for name, value in model.named_parameters() if value.grad is not None}
        assert trained == reached
        assert ("encoder.lm_head.dense.weight" in trained) == (scorer != "head")
        assert "encoder.sentence_encoder.embed_tokens.weight" in trained


# -- data ------------------------------------------------------------------------------------------------------------


def test_joint_has_no_ranking_head(tmp_path: Path, data_bin: Path) -> None:
    assert refused(ClozeError, data_bin, tmp_path, scorer="head", from_scratch=True) == (
        "--view joint needs --scorer mean, kmask or l2r, found --scorer head"
    )


def test_shards_must_be_alike(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    from fairseq_cloze.data.encoding import EncodingOptions

    raw = EncodingOptions(text_norm="none")
    prepare({"train": [PASSAGES / "valid"]}, pretrained, tmp_path / "raw", raw, workers=1)
    assert refused(DataBinError, f"{data_bin}:{tmp_path / 'raw'}", tmp_path, from_scratch=True) == (
        f"{tmp_path / 'raw'}: shards must be prepared alike, its encoding differs from that of {data_bin}; "
        "prepare both with the same options"
    )


def test_a_shard_without_the_training_split(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    """Said before the first epoch, not after it."""
    prepare({"valid": [PASSAGES / "valid"]}, pretrained, tmp_path / "second", workers=1)
    task, _ = build(f"{data_bin}:{tmp_path / 'second'}", tmp_path, from_scratch=True)  # type: ignore[arg-type]
    task.load_dataset("valid")
    with pytest.raises(DataBinError, match="second: no split 'train', found valid; prepare it with"):
        task.load_dataset("train")


def test_the_dictionary_is_fairseqs(data_bin: Path, vocabulary: Vocabulary) -> None:
    dictionary = make_dictionary(vocabulary)
    assert dictionary.symbols == vocabulary.symbols
    assert (dictionary.pad(), dictionary.eos(), dictionary.index("<mask>")) == (1, 2, vocabulary.mask)


def test_a_resumed_checkpoint_that_is_damaged(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    (tmp_path / "checkpoint_last.pt").write_bytes(b"PK\x03\x04 half a file")
    text = refused(CheckpointError, data_bin, tmp_path, finetune_from_model=pretrained / "model.pt")
    assert text.startswith(f"{tmp_path / 'checkpoint_last.pt'}: cannot be read as a checkpoint, 16 bytes (")
    assert text.endswith(
        f"No checkpoint in {tmp_path} is sound: remove {tmp_path / 'checkpoint_last.pt'} to begin anew"
    )


def test_validation_of_a_checkpoint_without_the_head(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    options = ("--batch-size", "8", "--view", "full", "--scorer", "head")
    ran = validate(data_bin, finetuned / "checkpoint_last.pt", *options, code=1)
    assert ran.text.splitlines()[-1] == (
        f"Error: {finetuned / 'checkpoint_last.pt'}: has no ranking head, its scores would be random; "
        "pass --scorer mean, or train one first"
    )


def test_validation_of_a_plain_roberta_without_the_head(pretrained: Path, data_bin: Path) -> None:
    """fairseq itself would fill in a random one."""
    options = ("--batch-size", "8", "--view", "neighbors", "--scorer", "head")
    ran = validate(data_bin, pretrained / "model.pt", *options, code=1)
    assert ran.text.splitlines()[-1] == (
        f"Error: {pretrained / 'model.pt'}: has no ranking head, its scores would be random; "
        "pass --scorer mean, or train one first"
    )


# -- the chance watch ------------------------------------------------------------------------------------------------


def test_the_watch_looks_at_updates_and_not_at_validation(tmp_path: Path, data_bin: Path, caplog: Any) -> None:
    task, _ = build(data_bin, tmp_path, from_scratch=True, encoder_layers=1, encoder_embed_dim=24, chance_patience=3)
    criterion = ClozeRankingCriterion(task, "softmax", 1.0)
    output = {"n_blanks": 500, "n_correct": 125, "chance": 125_000_000, "loss": 690.0, "log_candidates": 693.0}
    for training, said in ((False, 0), (True, 1)):
        criterion.train(training)
        for update in range(3):
            task.events.update, task._rate = update + 1, 1e-5
            task.reduce_metrics([{**output, "ntokens": 1, "nsentences": 1}], criterion)
        assert caplog.text.count("updates 1 to 3 are at chance: accuracy is 25.0% of 1,500 blanks") == said
    assert "1. the weights began at random, as --from-scratch asks for, 3 updates so far" in caplog.text


# -- checkpoints and splits ------------------------------------------------------------------------------------------


def test_an_interval_that_ends_with_an_epoch_has_its_checkpoint(tmp_path: Path, data_bin: Path) -> None:
    """fairseq saves those of intervals in the middle of epochs only; as many are kept as it would keep."""
    options = {"encoder_layers": 1, "encoder_embed_dim": 24}
    task, _ = build(data_bin, tmp_path, from_scratch=True, **options)
    last = tmp_path / "checkpoint_last.pt"
    task.cfg.save_interval_updates, task.cfg.keep_interval_updates, task.events.epoch = 7, 2, 3
    for name in ("1_7", "2_14", "1_8"):
        (tmp_path / f"checkpoint_{name}.pt").write_text(name)
    last.write_text("21 updates")

    def kept() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("checkpoint_*_*.pt"))

    task.post_save(str(last), 20)
    assert kept() == ["checkpoint_1_7.pt", "checkpoint_1_8.pt", "checkpoint_2_14.pt"]
    task.post_save(str(last), 21)
    assert kept() == ["checkpoint_2_14.pt", "checkpoint_3_21.pt"]
    assert (tmp_path / "checkpoint_3_21.pt").read_text() == "21 updates"
    last.write_text("later")
    task.post_save(str(last), 21)  # fairseq has saved it
    assert (tmp_path / "checkpoint_3_21.pt").read_text() == "21 updates"


def test_a_split_without_answers(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    write_passage(tmp_path / "in" / "a.json", "She _ home.", [["went", "go"]], [])
    prepare({"train": [PASSAGES / "test"], "test": [tmp_path / "in"]}, pretrained, tmp_path / "bin", workers=1)
    task, _ = build(tmp_path / "bin", tmp_path, from_scratch=True, encoder_layers=1, encoder_embed_dim=24)
    task.load_dataset("train")
    with pytest.raises(DataBinError) as error:
        task.load_dataset("test")
    assert str(error.value) == (
        f"{tmp_path / 'bin'}: no blank of split 'test' has an answer; 'fairseq-cloze predict' answers such passages, "
        "training and validation need another split"
    )


@pytest.mark.parametrize("part", ["vocabulary", "encoding"])
def test_shards_that_were_prepared_otherwise(tmp_path: Path, data_bin: Path, pretrained: Path, part: str) -> None:
    weights, options = pretrained, EncodingOptions(sentence_case=True)
    if part == "vocabulary":
        weights, options = tmp_path / "weights", EncodingOptions()
        Vocabulary.learn(["another text with other words"], 300).save(weights)
    other = tmp_path / "bin"
    prepare({"train": [PASSAGES / "valid"]}, weights, other, options, workers=1)
    with pytest.raises(DataBinError) as error:
        ClozeRankingTask(ClozeRankingConfig(data=f"{data_bin}:{other}", update_freq=[1]))
    assert str(error.value) == (
        f"{other}: shards must be prepared alike, its {part} differs from that of {data_bin}; prepare both with the "
        "same options"
    )
