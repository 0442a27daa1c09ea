"""What fairseq builds from a file: nothing that would run text of it as code."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_cloze import register
from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import validate

register()

from fairseq.checkpoint_utils import load_model_ensemble_and_task  # noqa: E402
from fairseq.dataclass.utils import convert_namespace_to_omegaconf  # noqa: E402
from fairseq.models.roberta import RobertaModel  # noqa: E402

from fairseq_cloze.plugin.task import ClozeRankingConfig, ClozeRankingTask  # noqa: E402


def hostile(pretrained: Path, layout: str, **parts: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint whose configuration says otherwise, in fairseq's older or newer layout."""
    state = dict(Checkpoint.read(pretrained / "model.pt").state)
    if layout == "args":
        state["args"] = Namespace(**vars(state["args"]))
        for values in parts.values():
            vars(state["args"]).update(values)
        return state
    cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(state["args"]), resolve=True, enum_to_str=True)
    assert isinstance(cfg, dict)
    cfg["task"] = {"_name": "cloze_ranking", "data": ""}
    return {**state, "args": None, "cfg": {**cfg, **parts}}


def hostile_values(marker: Path) -> list[Any]:
    code = f"open({str(marker)!r}, 'w').close() or "
    fconv = {"encoder_embed_dim": 8, "encoder_layers": f"{code}[(8, 3)]", "decoder_embed_dim": 8, "dropout": 0.1}
    fconv.update(decoder_layers="[(8, 3)]", decoder_attention="True", decoder_out_embed_dim=8)
    fconv.update(encoder_embed_path=None, decoder_embed_path=None, share_input_output_embed=False)
    fconv.update(max_source_positions=64, max_target_positions=64)
    known = "cloze_roberta*, roberta, roberta_base, roberta_large, xlm"
    tasks = "cloze_ranking, masked_lm, multilingual_masked_lm, sentence_prediction, sentence_ranking"
    why = "; others are not built from a file, as fairseq may run text of it as code"
    option = (
        "its option encoder_xformers_att_config is not read, as fairseq would run it as code; take a checkpoint "
        "without it"
    )
    attention = {"encoder_xformers_att_config": f"{code}None"}
    ours = {"task": "cloze_ranking"}
    return [
        ("args", ours, {"model": {"arch": "fconv", **fconv}}, f"expected the architecture {known}, found fconv{why}"),
        ("cfg", ours, {"model": {"_name": "fconv", **fconv}}, f"expected the architecture {known}, found fconv{why}"),
        ("cfg", {}, {"model": {"arch": "fconv", **fconv}}, f"expected the architecture {known}, found fconv{why}"),
        ("cfg", {}, {"model": {"fconv": {"_name": "fconv"}}}, None),
        ("args", ours, {"model": {"arch": "roberta_base", **attention}}, option),
        ("cfg", ours, {"model": {"_name": "roberta", **attention}}, option),
        (
            *("args", {}, {"task": {"task": "multilingual_translation", "left_pad_source": f"{code}True"}}),
            f"expected the task {tasks}, found multilingual_translation{why}",
        ),
        (
            *("cfg", {}, {"task": {"_name": "cloze_ranking", "task": "multilingual_translation"}}),
            f"expected the task {tasks}, found multilingual_translation{why}",
        ),
        (
            *("cfg", {}, {"task": {"_name": "masked_lm"}, "criterion": {"_name": "ctc", "wer_args": f"{code}None"}}),
            "expected the criterion cloze_ranking, masked_lm, sentence_prediction, sentence_ranking, cross_entropy, "
            f"found ctc{why}",
        ),
    ]


@pytest.mark.parametrize("number", range(9))
def test_no_code_of_a_checkpoint_runs(tmp_path: Path, pretrained: Path, data_bin: Path, number: int) -> None:
    marker = tmp_path / "marker"
    layout, overrides, parts, message = hostile_values(marker)[number]
    torch.save(hostile(pretrained, layout, **parts), tmp_path / "strange.pt")
    with pytest.raises(CheckpointError) as error:
        load_model_ensemble_and_task([str(tmp_path / "strange.pt")], {"data": str(data_bin), **overrides})
    if message is not None:
        assert str(error.value) == f"{tmp_path / 'strange.pt'}: {message}"
    assert not marker.exists()


def test_a_shard_of_a_checkpoint_is_looked_at_in_its_place(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """fairseq prefers checkpoint-shard0.pt to checkpoint.pt."""
    marker = tmp_path / "marker"
    shutil.copy(pretrained / "model.pt", tmp_path / "model.pt")
    torch.save(hostile(pretrained, "args", **hostile_values(marker)[0][2]), tmp_path / "model-shard0.pt")
    with pytest.raises(CheckpointError, match="found fconv; others are not built"):
        load_model_ensemble_and_task([str(tmp_path / "model.pt")], {"data": str(data_bin), "task": "cloze_ranking"})
    assert not marker.exists()


def test_the_task_builds_no_strange_model_either(tmp_path: Path, data_bin: Path) -> None:
    marker = tmp_path / "marker"
    task = ClozeRankingTask(ClozeRankingConfig(data=str(data_bin), update_freq=[1]))
    model = Namespace(_name="fconv", **hostile_values(marker)[0][2]["model"])
    with pytest.raises(CheckpointError, match="^the checkpoint: expected the architecture .*, found fconv; others"):
        task.build_model(model, from_checkpoint=True)
    assert not marker.exists()


@pytest.mark.parametrize("layout", ["args", "cfg"])
def test_checkpoints_of_the_family_are_built(tmp_path: Path, pretrained: Path, data_bin: Path, layout: str) -> None:
    torch.save(hostile(pretrained, layout), tmp_path / "plain.pt")
    models, _, task = load_model_ensemble_and_task(
        [str(tmp_path / "plain.pt")], {"data": str(data_bin), "task": "cloze_ranking"}
    )
    assert isinstance(task, ClozeRankingTask) and type(models[0]) is RobertaModel


def test_validation_refuses_a_strange_checkpoint(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    marker = tmp_path / "marker"
    torch.save(hostile(pretrained, "args", **hostile_values(marker)[0][2]), tmp_path / "strange.pt")
    ran = validate(data_bin, tmp_path / "strange.pt", "--batch-size", "8", code=1)
    assert ran.text.splitlines()[-1].startswith(f"Error: {tmp_path / 'strange.pt'}: expected the architecture ")
    assert not marker.exists()
