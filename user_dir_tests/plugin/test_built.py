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
from fairseq_cloze.errors import CheckpointError, ClozeError
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
    known = "cloze_roberta*, cloze_lm, roberta, roberta_base, roberta_large, xlm"
    sizes = "its options do not fit its weights: expected"
    tasks = "cloze_ranking, masked_lm, multilingual_masked_lm, sentence_prediction, sentence_ranking"
    why = "; others are not built from a file, as fairseq may run text of it as code"
    option = (
        "its option encoder_xformers_att_config is not read, as fairseq would run it as code; take a checkpoint "
        "without it"
    )
    attention = {"encoder_xformers_att_config": f"{code}None"}
    ours, other = {"task": "cloze_ranking"}, "; take another checkpoint"
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
        ("args", ours, {"bpe": {"bpe": "sentencepiece"}}, f"expected the bpe none, gpt2, found sentencepiece{why}"),
        (
            *("cfg", ours, {"tokenizer": {"_name": "moses"}}),
            f"expected the tokenizer none, found moses{why}",
        ),
        ("args", ours, {"model": {"encoder_layers": 10**9}}, f"{sizes} encoder_layers 2, found 1000000000{other}"),
        ("cfg", ours, {"model": {"encoder_layers": "2"}}, None),
        ("args", ours, {"model": {"max_positions": 10**12}}, f"{sizes} max_positions 126, found 1000000000000{other}"),
        (
            *("args", ours, {"model": {"max_positions": None, "tokens_per_sample": 10**12}}),
            f"{sizes} tokens_per_sample of at most 126, found 1000000000000{other}",
        ),
        (
            *("args", {}, {"task": {"task": "sentence_prediction", "num_classes": 10**12}}),
            f"{sizes} num_classes of at most 600, found 1000000000000{other}",
        ),
        ("args", ours, {"model": {"encoder_embed_dim": [48]}}, f"{sizes} encoder_embed_dim 48, found [48]{other}"),
        (
            "args",
            ours,
            {"model": {"encoder_ffn_embed_dim": True}},
            f"{sizes} encoder_ffn_embed_dim 96, found True{other}",
        ),
    ]


@pytest.mark.parametrize("number", range(18))
def test_no_code_of_a_checkpoint_runs(tmp_path: Path, pretrained: Path, data_bin: Path, number: int) -> None:
    marker = tmp_path / "marker"
    layout, overrides, parts, message = hostile_values(marker)[number]
    torch.save(hostile(pretrained, layout, **parts), tmp_path / "strange.pt")
    with pytest.raises(CheckpointError) as error:
        load_model_ensemble_and_task([str(tmp_path / "strange.pt")], {"data": str(data_bin), **overrides})
    if message is not None:
        assert str(error.value) == f"{tmp_path / 'strange.pt'}: {message}"
    assert not marker.exists()


#: What fairseq may read as a number, a name, a list or code.
VALUES = ("open('marker', 'w')", 10**12, -1, 0, None, [], [1], {}, True, 1e300, "", "${oc.env:HOME}", "\udcff")


@pytest.mark.parametrize("layout", ["args", "cfg"])
@pytest.mark.slow
def test_no_value_of_any_option_runs_or_ends_in_a_traceback(
    tmp_path: Path, pretrained: Path, data_bin: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option of a checkpoint as code and as another kind of value: it loads, or a line says why not."""
    monkeypatch.chdir(tmp_path)
    overrides = {"data": str(data_bin), "task": "cloze_ranking"}
    names = {*vars(hostile(pretrained, "args")["args"]), *_roberta_options()}
    loaded = 0
    for number, name in enumerate(sorted(names - {"data", "task"})):
        for value in (VALUES[0], VALUES[1 + number % (len(VALUES) - 1)]):
            parts = {"model": {name: value}} if layout == "args" else {}
            state = hostile(pretrained, layout, **parts)
            if layout == "cfg":
                for part in ("model", "criterion"):
                    options = state["cfg"][part] or {}
                    options = vars(options) if isinstance(options, Namespace) else options
                    state["cfg"][part] = {**options, name: value}
            torch.save(state, tmp_path / "strange.pt")
            try:
                load_model_ensemble_and_task([str(tmp_path / "strange.pt")], dict(overrides))
                loaded += 1
            except ClozeError as error:
                assert "\n" not in str(error)
            assert not (tmp_path / "marker").exists(), (name, value)
    assert loaded > 20


def _roberta_options() -> set[str]:
    import argparse

    parser = argparse.ArgumentParser()
    RobertaModel.add_args(parser)
    return {action.dest for action in parser._actions}


def test_all_shards_are_looked_at(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    marker = tmp_path / "marker"
    shutil.copy(pretrained / "model.pt", tmp_path / "model_part0.pt")
    torch.save(hostile(pretrained, "args", **hostile_values(marker)[0][2]), tmp_path / "model_part1.pt")
    with pytest.raises(CheckpointError, match=r"model_part1.pt: expected .*, found fconv; others are not built"):
        load_model_ensemble_and_task(
            [str(tmp_path / "model.pt")], {"data": str(data_bin), "task": "cloze_ranking"}, strict=False, num_shards=2
        )
    assert not marker.exists()


def test_a_state_that_was_read_already_is_looked_at(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    marker = tmp_path / "marker"
    state = hostile(pretrained, "args", **hostile_values(marker)[0][2])
    with pytest.raises(CheckpointError, match="found fconv; others are not built"):
        load_model_ensemble_and_task([str(pretrained / "model.pt")], {"data": str(data_bin)}, state=state)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ({"args": [1]}, "expected the options of a training under 'args', found list; take another checkpoint"),
        ({"args": None, "cfg": "x"}, "expected the options of a training under 'cfg', found str; take another"),
        ({"args": None, "cfg": None}, "expected the options of a training under 'cfg', found NoneType; take another"),
        ({"optimizer_history": 3}, "fairseq cannot load it (TypeError: 'int' object is not subscriptable); check it"),
        ({"extra_state": None}, "fairseq cannot load it (TypeError: argument of type 'NoneType' is not iterable)"),
    ],
)
def test_what_lies_is_refused_in_a_line(
    tmp_path: Path, pretrained: Path, data_bin: Path, damage: dict[str, Any], line: str
) -> None:
    torch.save({**hostile(pretrained, "args"), **damage}, tmp_path / "strange.pt")
    with pytest.raises(CheckpointError) as error:
        load_model_ensemble_and_task([str(tmp_path / "strange.pt")], {"data": str(data_bin), "task": "cloze_ranking"})
    assert str(error.value).startswith(f"{tmp_path / 'strange.pt'}: {line}")


def test_a_scorer_that_is_no_more(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    """As evaluate says it, and --scorer helps here, too."""
    state = torch.load(finetuned / "checkpoint_last.pt", weights_only=True)
    state["cfg"]["task"]["scorer"] = state["task_state"]["fairseq_cloze"]["scorer"] = "sum"
    torch.save(state, tmp_path / "old.pt")
    with pytest.raises(ClozeError) as error:
        load_model_ensemble_and_task([str(tmp_path / "old.pt")], {"data": str(data_bin)})
    assert str(error.value) == (
        "--scorer: expected one of mean, kmask, l2r, head, found 'sum', which the checkpoint was trained with; choose "
        "one, such as --scorer mean"
    )
    _, _, task = load_model_ensemble_and_task([str(tmp_path / "old.pt")], {"data": str(data_bin), "scorer": "mean"})
    assert task.settings.scorer == "mean"


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
