"""The doctor names what was broken.  Faults of trained weights need optional local data, see conftest."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_cloze.data.fairseq_files import DICTIONARY_FILE, ENCODER_FILE, FAIRSEQ_FILES, MERGES_FILE
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.doctor import examination
from fairseq_cloze.doctor.diagnosis import Diagnosis
from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.model.names import ENCODER, LM_HEAD
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import PASSAGES, ROOT, run

#: A small model that was really trained: the doctor finds it fit.
MINI = ROOT / "examples" / "pretrained" / "mini"

NAMES = [
    *("numbers", "architecture", "layers", "encoder", "embeddings", "LM head", "tied weights", "positions"),
    *("vocabulary", "tokenizer", "casing", "rows", "loading", "half precision", "arrangement", "special rows"),
    *("masked-LM loss", "accuracy", "ties"),
]
State = dict[str, Any]
Broken = Callable[..., Path]


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example passages, prepared for mini."""
    folder = tmp_path_factory.mktemp("doctor") / "bin"
    prepare({"valid": [PASSAGES / "valid"]}, MINI, folder, workers=1)
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    """Writer of a changed mini: ``broken(edit, **files)``; with files, these lie beside it and it carries none."""
    folder = tmp_path / "broken"
    folder.mkdir()

    def write(edit: Callable[[State], Any], **files: bytes) -> Path:
        state = Checkpoint.read(MINI / "model.pt").state
        state["model"] = dict(state["model"])
        edit(state)
        if files:
            del state["task_state"]
            for name in FAIRSEQ_FILES:
                (folder / name).write_bytes(files.get(name.split(".")[0], (MINI / name).read_bytes()))
        torch.save(state, folder / "model.pt")
        return folder / "model.pt"

    return write


def doctor(checkpoint: Path, data_bin: Path | None = None) -> Diagnosis:
    return examination.examine(Checkpoint.read(checkpoint), data_bin)


def verdicts(result: Diagnosis) -> dict[str, str]:
    assert [check.name for check in result.checks] == NAMES
    return {check.name: check.verdict for check in result.checks if check.verdict not in ("ok", "skipped")}


def line_of(result: Diagnosis, name: str) -> str:
    return next(check.line() for check in result.checks if check.name == name)


def initialise(state: State, prefix: str) -> None:
    """As fairseq does: normal with deviation 0.02, biases 0, norms 1."""
    generator = torch.Generator().manual_seed(3)
    for name, value in state["model"].items():
        if name.startswith(prefix) and name != f"{LM_HEAD}weight":
            fresh = torch.full_like(value, float(name.endswith("norm.weight")))
            state["model"][name] = fresh.normal_(0, 0.02, generator=generator) if value.dim() == 2 else fresh


# -- a healthy checkpoint --------------------------------------------------------------------------------------------


def test_healthy(tmp_path: Path, examples: Path) -> None:
    done = run("fairseq-cloze", "doctor", MINI / "model.pt", examples, "--json", tmp_path / "out.json")
    lines = [line for line in done.text.splitlines() if "tensorboardX" not in line]
    content = json.loads((tmp_path / "out.json").read_text())
    values = {check["name"]: check.pop("values") for check in content["checks"]}
    assert [check["verdict"] for check in content["checks"]] == ["ok"] * 19
    assert [line[:25] for line in lines[:-1]] == [f"ok       {name:16}" for name in NAMES]
    assert lines[-1] == "fit"
    assert (content["verdict"], content["faults"], content["doubts"]) == ("ok", [], [])
    assert (content["checkpoint"], content["data_bin"]) == (str(MINI / "model.pt"), str(examples))
    assert min(values["encoder"]["spectral_ratios"]) > 2.5
    assert values["rows"]["cosine"] == pytest.approx(0.342, abs=0.005)
    assert values["rows"]["frequency_order"] == pytest.approx(1, abs=0.005)
    assert values["masked-LM loss"]["gain"] > 3.5
    assert values["accuracy"]["blanks"] == 102
    assert values["layers"] == {"layers": [0, 1, 2, 3], "configured": 4}
    assert values["tokenizer"]["tokens_per_word"] < 1.4


@pytest.mark.slow
def test_other_weights_are_healthy(weights: Path) -> None:
    """Those of a RoBERTa with the official vocabulary."""
    result = doctor(weights / "model.pt")
    values = {check.name: check.values for check in result.checks}
    assert result.verdict_line() == "fit"
    assert values["rows"]["cosine"] == pytest.approx(0.532, abs=0.005)
    assert values["rows"]["frequency_order"] == pytest.approx(0.624, abs=0.001)
    assert values["layers"] == {"layers": [0, 1, 2, 3, 4, 5], "configured": 6}


# -- each fault, named -----------------------------------------------------------------------------------------------


def test_random_encoder(broken: Broken) -> None:
    result = doctor(broken(lambda state: initialise(state, f"{ENCODER}layers.")))
    assert verdicts(result) == {"encoder": "unfit", "masked-LM loss": "unfit"}
    assert result.verdict_line() == "unfit: random encoder"
    assert line_of(result, "encoder").endswith(
        ", biases 0 and norms 1 as initialised (expected above 1.15, random weights have 1); random encoder: these "
        "weights were never trained or never loaded; start again from the pretrained checkpoint with "
        "--finetune-from-model"
    )
    assert line_of(result, "masked-LM loss").endswith("; follows from random encoder")


def test_random_layers(broken: Broken) -> None:
    """Two layers of four: a load that stopped half-way."""

    def edit(state: State) -> None:
        initialise(state, f"{ENCODER}layers.2.")
        initialise(state, f"{ENCODER}layers.3.")

    assert doctor(broken(edit)).verdict_line() == "unfit: random layers 2, 3"


def test_random_embeddings(broken: Broken) -> None:
    def edit(state: State) -> None:
        initialise(state, f"{ENCODER}embed_tokens")
        state["model"][f"{LM_HEAD}weight"] = state["model"][f"{ENCODER}embed_tokens.weight"]

    result = doctor(broken(edit))
    assert verdicts(result) == {"embeddings": "unfit", "masked-LM loss": "unfit"}
    assert result.verdict_line() == "unfit: random embeddings"
    assert line_of(result, "rows") == "skipped  rows            the embeddings are random"


def test_random_lm_head(broken: Broken) -> None:
    result = doctor(broken(lambda state: initialise(state, LM_HEAD)))
    assert verdicts(result) == {"LM head": "unfit", "masked-LM loss": "unfit"}
    assert result.verdict_line() == "unfit: random LM head"
    assert "biases 0 and norms 1 as initialised" in line_of(result, "LM head")


def test_a_random_lm_head_beside_a_ranking_head(broken: Broken) -> None:
    """It may never have been needed."""

    def edit(state: State) -> None:
        initialise(state, LM_HEAD)
        width = state["model"][f"{LM_HEAD}dense.weight"].size(0)
        head = torch.nn.ModuleDict({"dense": torch.nn.Linear(width, width), "out_proj": torch.nn.Linear(width, 1)})
        for name, value in head.state_dict().items():
            state["model"][f"classification_heads.cloze_ranking.{name}"] = value

    result = doctor(broken(edit))
    assert verdicts(result) == {"LM head": "doubt", "masked-LM loss": "doubt"}
    for name in ("arrangement", "special rows"):  # they would compare what a random head says
        assert line_of(result, name) == f"skipped  {name:15} random LM head comes first"
    assert result.verdict_line() == "fit, in doubt: random LM head, no language model"


def shuffled_lines(content: bytes, first: int = 0) -> bytes:
    lines = content.decode().splitlines()
    order = np.random.default_rng(0).permutation(len(lines) - first) + first
    return ("\n".join([*lines[:first], *(lines[index] for index in order)]) + "\n").encode()


def test_shuffled_dictionary(broken: Broken) -> None:
    dictionary = shuffled_lines((MINI / DICTIONARY_FILE).read_bytes())
    result = doctor(broken(lambda state: None, dict=dictionary))
    assert verdicts(result) == {"rows": "unfit", "masked-LM loss": "unfit"}
    assert result.verdict_line() == "unfit: shuffled rows"
    assert line_of(result, "rows").startswith(
        "unfit    rows            cosine 0.00 of 1,729 pairs like ' send' and 'send', 0.00 of others; rows and the "
        "tokenizer's order correlate by -0.00 (expected clearly closer; above 0.1); shuffled rows: rows of the "
        "embedding hold other words than the vocabulary says; take its files, with fairseq all three, from where the "
        "weights came from"
    )


def test_embeddings_of_another_order(broken: Broken) -> None:
    """The vocabulary is in order, but the rows are of other weights."""

    def edit(state: State) -> None:
        rows = state["model"][f"{ENCODER}embed_tokens.weight"]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
        state["model"].update({f"{ENCODER}embed_tokens.weight": rows, f"{LM_HEAD}weight": rows})

    assert doctor(broken(edit)).verdict_line() == "unfit: rows of other weights"


def test_a_dictionary_beside_that_is_not_the_carried_one(tmp_path: Path, pretrained: Path) -> None:
    """'prepare --pretrained' would take it."""
    folder = shutil.copytree(pretrained, tmp_path / "copy")
    (folder / DICTIONARY_FILE).write_bytes(shuffled_lines((folder / DICTIONARY_FILE).read_bytes()))
    result = doctor(folder / "model.pt")
    assert "another dictionary" in result.faults("unfit")
    assert line_of(result, "vocabulary").startswith(
        f"unfit    vocabulary      the dictionary of {folder} does not belong to {folder / 'model.pt'}: expected "
    )


@pytest.mark.parametrize(
    "wrong",
    ["numbers", "order of merges", "merges", "both files"],
)
def test_wrong_tokenizer(broken: Broken, vocabulary: Vocabulary, wrong: str) -> None:
    merges, numbers = ((MINI / name).read_bytes() for name in (MERGES_FILE, ENCODER_FILE))
    if wrong == "numbers":
        table = json.loads(numbers)
        order = np.random.default_rng(0).permutation(len(table)).tolist()
        files = {"encoder": json.dumps(dict(zip(table, order))).encode()}
    elif wrong == "order of merges":
        files = {"vocab": shuffled_lines(merges, 1)}
    elif wrong == "merges":
        files = {"encoder": vocabulary.fairseq_files()[ENCODER_FILE]}
    else:
        files = {"encoder": vocabulary.fairseq_files()[ENCODER_FILE], "vocab": vocabulary.fairseq_files()[MERGES_FILE]}
    result = doctor(broken(lambda state: None, **files))
    # numbers are in no order then, as rows are of a shuffled dictionary: no file carries both
    assert result.verdict_line() == ("unfit: shuffled rows" if wrong == "numbers" else "unfit: wrong tokenizer")
    found = verdicts(result)
    if wrong == "merges":
        assert "vocab.bpe and encoder.json do not belong together" in line_of(result, "vocabulary")
        assert line_of(result, "loading") == "skipped  loading         no vocabulary that can be used"
    if wrong == "order of merges":
        assert set(found) <= {"tokenizer", "masked-LM loss"}  # each token means what it should, there are other ones


def keep_layers(state: State, layers: list[int], renumber: bool) -> None:
    for name in [name for name in state["model"] if name.startswith(f"{ENCODER}layers.")]:
        number, rest = name[len(f"{ENCODER}layers.") :].split(".", 1)
        value = state["model"].pop(name)
        if int(number) in layers:
            number = str(layers.index(int(number))) if renumber else number
            state["model"][f"{ENCODER}layers.{number}.{rest}"] = value


@pytest.mark.parametrize("layers", [[0, 2], [0, 1]])
def test_half_the_layers_missing(broken: Broken, layers: list[int]) -> None:
    result = doctor(broken(lambda state: keep_layers(state, layers, renumber=False)))
    assert result.verdict_line() == "unfit: layers missing"
    assert line_of(result, "layers") == (
        f"unfit    layers          2 layers, numbers {', '.join(map(str, layers))} (expected 4 as configured); layers "
        "missing: the file was cut down or converted in part; take the original file"
    )


def test_half_the_layers_missing_and_nothing_says_so(broken: Broken) -> None:
    """Numbers and configuration were put right: what is left is a model that does not do its work well."""

    def edit(state: State) -> None:
        keep_layers(state, [3], renumber=True)
        state["args"].encoder_layers = 1

    result = doctor(broken(edit))
    assert verdicts(result)["masked-LM loss"] in ("doubt", "unfit")
    assert "layers missing" in line_of(result, "masked-LM loss")


def test_fp16_overflow(broken: Broken) -> None:
    """Queries a million times larger, keys as much smaller: in float32 nothing changes."""

    def edit(state: State) -> None:
        state["model"] = {name: value.float() for name, value in state["model"].items()}
        for part, factor in (("q", 1e6), ("k", 1e-6)):
            for kind in ("weight", "bias"):
                name = f"{ENCODER}layers.3.self_attn.{part}_proj.{kind}"
                state["model"][name] = state["model"][name] * factor

    result = doctor(broken(edit))
    assert verdicts(result) == {"half precision": "unfit"}
    assert result.verdict_line() == "unfit: fp16 overflow"
    assert ", in encoder.sentence_encoder.layers.3.self_attn.q_proj (expected" in line_of(result, "half precision")


def test_weights_that_are_no_numbers(broken: Broken) -> None:
    def edit(state: State) -> None:
        name = f"{ENCODER}layers.2.fc1.weight"
        state["model"][name] = (state["model"][name] * 1e6).half()  # where a conversion overflows

    result = doctor(broken(edit))
    assert verdicts(result) == {"numbers": "unfit"}
    assert result.verdict_line() == "unfit: weights are no numbers (fp16 overflow?)"
    assert f"weights are NaN or beyond 1e+09, first in {ENCODER}layers.2.fc1.weight" in line_of(result, "numbers")
    assert line_of(result, "masked-LM loss") == "skipped  masked-LM loss  the model could not be loaded"


def test_untied_weights(broken: Broken) -> None:
    def edit(state: State) -> None:
        rows = state["model"][f"{LM_HEAD}weight"].clone()
        rows[100:200] += 0.01
        state["model"][f"{LM_HEAD}weight"] = rows

    result = doctor(broken(edit))
    assert verdicts(result) == {"tied weights": "unfit"}
    assert "LM head and embeddings differ in 100 of 16,000 rows (expected the same" in line_of(result, "tied weights")
    assert result.verdict_line() == "unfit: untied weights"


def test_layers_in_reverse_order(broken: Broken, examples: Path) -> None:
    """Every part is sound, the whole is not."""

    def edit(state: State) -> None:
        layers = {name: value for name, value in state["model"].items() if name.startswith(f"{ENCODER}layers.")}
        for name, value in layers.items():
            number, rest = name[len(f"{ENCODER}layers.") :].split(".", 1)
            state["model"][f"{ENCODER}layers.{3 - int(number)}.{rest}"] = value

    result = doctor(broken(edit), examples)
    assert verdicts(result)["masked-LM loss"] in ("doubt", "unfit")
    assert verdicts(result)["accuracy"] in ("doubt", "unfit")


def test_constant_scores(broken: Broken, examples: Path) -> None:
    """An LM head that says zero to everything."""

    def edit(state: State) -> None:
        for name in ("layer_norm.weight", "layer_norm.bias", "bias"):
            state["model"][LM_HEAD + name] = torch.zeros_like(state["model"][LM_HEAD + name])

    result = doctor(broken(edit), examples)
    assert verdicts(result) == {"masked-LM loss": "unfit", "accuracy": "unfit", "ties": "unfit"}
    assert "102 of 102 blanks have two best candidates" in line_of(result, "ties")
    assert result.verdict_line() == "unfit: no language model"


# -- the small random model ------------------------------------------------------------------------------------------


def test_a_random_model(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    done = run("fairseq-cloze", "doctor", pretrained / "model.pt", data_bin, "--json", tmp_path / "o.json", code=3)
    lines = [line for line in done.text.splitlines() if "tensorboardX" not in line]
    assert lines[-1] == "unfit: random encoder, random embeddings, random LM head"
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["verdict"] == "unfit"
    assert content["faults"] == ["random encoder", "random embeddings", "random LM head"]
    assert [check["name"] for check in content["checks"]] == NAMES
    assert [line.split()[0] for line in lines[:-1]] == [check["verdict"] for check in content["checks"]]
    assert next(line for line in lines if " encoder " in line) == (
        "unfit    encoder         spectral ratio of the layers 0.98 to 0.99 (expected above 1.15, random weights have "
        "1); random encoder: these weights were never trained or never loaded; start again from the pretrained "
        "checkpoint with --finetune-from-model"
    )
    assert "follows from random encoder, random embeddings, random LM head" in lines[-3]


def test_without_vocabulary(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    state = Checkpoint.read(pretrained / "model.pt").state
    del state["task_state"]
    torch.save(state, tmp_path / "model.pt")
    result = doctor(tmp_path / "model.pt")
    assert line_of(result, "vocabulary") == (
        "skipped  vocabulary      none in or beside the checkpoint; put dict.txt, encoder.json, vocab.bpe into "
        f"{tmp_path}, or pass DATA-BIN"
    )
    assert [check.name for check in result.checks if check.verdict == "skipped"] == NAMES[7:]
    result = doctor(tmp_path / "model.pt", data_bin)
    assert line_of(result, "vocabulary") == (
        f"ok       vocabulary      600 rows, that of {data_bin}, the checkpoint came without (expected 600 rows as "
        "embeddings)"
    )
    assert f"tokens of text of {data_bin}" in line_of(result, "masked-LM loss")


def test_a_data_bin_of_another_vocabulary(tmp_path: Path, pretrained: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for name in FAIRSEQ_FILES:
        shutil.copy(pretrained / name, folder)
    (folder / DICTIONARY_FILE).write_bytes(shuffled_lines((folder / DICTIONARY_FILE).read_bytes()))
    prepare({"valid": [PASSAGES / "valid"]}, folder, tmp_path / "bin", workers=1)
    result = doctor(pretrained / "model.pt", tmp_path / "bin")
    assert "another dictionary" in result.faults("unfit")
    assert line_of(result, "accuracy") == "skipped  accuracy        DATA-BIN has another vocabulary"


def test_nothing_is_labelled(tmp_path: Path, pretrained: Path, passage: Callable[..., Path]) -> None:
    path = passage("a.json", "It was _ .", [["calm", "cold"]])
    prepare({"test": [path]}, pretrained, tmp_path / "bin", workers=1)
    result = doctor(pretrained / "model.pt", tmp_path / "bin")
    assert line_of(result, "accuracy") == "skipped  accuracy        pass DATA-BIN with labelled passages"


def test_scores_that_are_no_numbers(
    tmp_path: Path, pretrained: Path, data_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights, infinite logits; on a larger model weights below the limit could do that."""
    monkeypatch.setattr("fairseq_cloze.weights.checkpoint.LARGEST", math.inf)
    state = Checkpoint.read(pretrained / "model.pt").state
    state["model"][f"{LM_HEAD}layer_norm.weight"] = torch.full((48,), 3e38)
    torch.save(state, tmp_path / "model.pt")
    result = doctor(tmp_path / "model.pt", data_bin)
    assert verdicts(result)["half precision"] == verdicts(result)["accuracy"] == "unfit"
    assert "expected numbers as scores, found NaN or infinity for" in line_of(result, "accuracy")
    assert "fp16 overflow" in result.verdict_line()
    json.loads(result.to_json())  # without NaN


def test_weights_that_do_not_load(tmp_path: Path, pretrained: Path) -> None:
    state = Checkpoint.read(pretrained / "model.pt").state
    state["model"][f"{ENCODER}layers.1.extra.weight"] = torch.ones(3)
    torch.save(state, tmp_path / "model.pt")
    result = doctor(tmp_path / "model.pt")
    assert verdicts(result)["layers"] == verdicts(result)["loading"] == "unfit"
    assert "layer 1 differs: its weights have other names" in line_of(result, "layers")
    assert (f"weights do not fit the model, {ENCODER}layers.1.extra.weight: expected none, found (3,)") in line_of(
        result, "loading"
    )


def test_what_cannot_be_read(tmp_path: Path, pretrained: Path) -> None:
    whole = (pretrained / "model.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    done = run("fairseq-cloze", "doctor", tmp_path / "half.pt", code=1)
    assert done.text.splitlines()[-1].startswith(f"Error: {tmp_path / 'half.pt'}: cannot be read as a checkpoint")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        doctor(tmp_path / "gone.pt")
