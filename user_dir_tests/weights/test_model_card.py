"""The model card of an export: what it says, of whom, and that nobody's own card is lost."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runs.curves import history_of
from fairseq_cloze.runs.events import read_events
from fairseq_cloze.statistics import wilson_interval
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.hugging_face import export_hf, read_hf
from fairseq_cloze.weights.model_card import Figure, read_figure

from ..support.commands import run
from ..support.models import save_tiny_hf


@pytest.fixture
def tiny(tmp_path: Path) -> Checkpoint:
    save_tiny_hf(tmp_path / "hub")
    return read_hf(tmp_path / "hub")


def sections(text: str) -> dict[str, str]:
    """Text by heading; before the first one under the empty heading."""
    first, *others = text.split("\n## ")
    return {"": first, **dict(part.split("\n", 1) for part in others)}


def rows(section: str) -> dict[str, str]:
    """The table of a section, without its heading."""
    lines = [line for line in section.splitlines() if re.match(r"\| [^ ]", line)]
    return dict(line.strip("| ").split(" | ", 1) for line in lines)


def test_of_an_import(tiny: Checkpoint, tmp_path: Path) -> None:
    """What is not known is not there; the header is what the hub reads."""
    export_hf(tiny, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["cloze", "fairseq-cloze"],
    }
    found = sections(card.text)
    assert [*found] == ["", "Use", "Results", "Scoring", "Shape"]
    assert found[""].splitlines()[-3:] == [
        "# out",
        "",
        "A RoBERTa, not fine-tuned further. It fills blanks: it ranks the options that are given for each blank of a "
        "text.",
    ]
    assert found["Results"] == "\nThis model was not measured.\n"
    assert f'ranker = fairseq_cloze.load("{tmp_path}/out")' in found["Use"]
    assert rows(found["Scoring"]) == {
        "view": "`joint`",
        "scorer": "`mean`",
        "other blanks": "`remove`",
        "contrast": "`0.7`",
        "text norm": "`standard`",
        "language": "`en`",
    }
    assert rows(found["Shape"])["tokens in the vocabulary"] == "`266`"


def test_of_a_training(finetuned: Path, data_bin: Path, pretrained: Path, tmp_path: Path) -> None:
    """Figures of its own log, with intervals; settings; the command as it was given."""
    checkpoint = Checkpoint.read(finetuned / "checkpoint_last.pt")
    figure = Figure("folder/data-bin", "test", 3, 4, 25.0)
    export_hf(checkpoint, tmp_path / "out", [figure], "me/my_model")
    found = sections((tmp_path / "out" / "README.md").read_text())
    updates = checkpoint.progress.updates
    assert f"# my\\_model\n\nA RoBERTa, fine-tuned on cloze exams with fairseq-cloze ({updates} updates)." in found[""]
    last = history_of(read_events(finetuned / "metrics.jsonl")).validations["valid"][-1]
    assert last.update == updates
    correct, blanks = int(last.values["n_correct"]), int(last.values["n_blanks"])
    low, high = (100 * share for share in wilson_interval(correct, blanks))
    assert [line for line in found["Results"].splitlines() if line.startswith("| `")] == [
        "| `data-bin` | `test` | 4 | 75.00% | 30.06 to 95.44% | 25.00% |",
        f"| `bin` | `valid` | {blanks} | {100 * correct / blanks:.2f}% | {low:.2f} to {high:.2f}% "
        f"| {last.values['chance']:.2f}% |",
    ]
    told = rows(found["Training"])
    assert (told["data"], told["started from"]) == (f"`{data_bin}`", f"`{pretrained / 'model.pt'}`")
    assert (told["learning rate"], told["tokens in a batch, at most"], told["updates"]) == (
        "`0.001`",
        "`1,024`",
        f"`{updates}`",
    )
    assert f"```bash\nfairseq-train {data_bin} --user-dir " in found["Training"]
    assert f" --save-dir {finetuned} " in found["Training"]


def test_figures_of_evaluate(finetuned: Path, data_bin: Path, tmp_path: Path) -> None:
    """Through the commands: what was measured is in the card, of another checkpoint it is refused."""
    run("fairseq-cloze", "evaluate", finetuned / "checkpoint_best.pt", data_bin, "--json", tmp_path / "found.json")
    out = tmp_path / "out"
    done = run(
        *("fairseq-cloze", "export-hf", finetuned / "checkpoint_best.pt", "--out", out),
        *("--figures", tmp_path / "found.json"),
    )
    assert done.text == f"wrote {out}, load it with transformers.RobertaForMaskedLM.from_pretrained\n"
    measured = json.loads((tmp_path / "found.json").read_text())
    assert f" {measured['n_blanks']} | {measured['accuracy']:.2f}% | " in (out / "README.md").read_text()
    other = run(
        *("fairseq-cloze", "export-hf", finetuned / "checkpoint_last.pt", "--out", out),
        *("--figures", tmp_path / "found.json"),
        code=1,
    )
    assert other.text == (
        f"Error: {tmp_path}/found.json: is of {finetuned}/checkpoint_best.pt, not of {finetuned}/checkpoint_last.pt; "
        "give the figures of this one\n"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "expected what 'fairseq-cloze evaluate --json' writes, found no checkpoint; give that file"),
        ("{", "cannot be read (expected JSON, found a mistake in line 1, column 2 (Expecting property name enclosed "
              "in double quotes))"),
        (dict(n_blanks=True), "expected what 'fairseq-cloze evaluate --json' writes, found no n_blanks; give that "
                              "file"),
        (dict(accuracy=None), "expected what 'fairseq-cloze evaluate --json' writes, found no accuracy; give that "
                              "file"),
        (dict(n_blanks=0), "expected an accuracy of labelled blanks, found none; evaluate on a labelled split"),
        (dict(accuracy=101), "expected an accuracy of labelled blanks, found none; evaluate on a labelled split"),
    ],
)  # fmt: skip
def test_files_that_hold_no_figures(tiny: Checkpoint, tmp_path: Path, content: Any, problem: str) -> None:
    good = dict(checkpoint="hub", data_bin="d", split="valid", n_blanks=3, accuracy=100 / 3, chance=25)
    path = tmp_path / "found.json"
    path.write_text(json.dumps(good))
    assert read_figure(path, tiny) == Figure("d", "valid", 1, 3, 25.0)
    path.write_text(content if isinstance(content, str) else json.dumps({**good, **content}))
    with pytest.raises(ClozeError) as error:
        read_figure(path, tiny)
    assert str(error.value) == f"{path}: {problem}"


def test_a_card_that_somebody_made_their_own_stays(tiny: Checkpoint, tmp_path: Path) -> None:
    card, said = tmp_path / "out" / "README.md", list[str]()
    export_hf(tiny, tmp_path / "out", name="one", announce=said.append)
    export_hf(tiny, tmp_path / "out", name="two", announce=said.append)
    assert "\n# two\n" in card.read_text() and not said
    lines = [line for line in card.read_text().splitlines() if "<!--" not in line]
    card.write_text("\n".join([*lines, "and more"]))
    export_hf(tiny, tmp_path / "out", name="three", announce=said.append)
    assert "# two\n" in card.read_text() and card.read_text().endswith("and more")
    assert said == [f"{card} was not written by export-hf, so it stays as it is; remove it to get a model card"]


def test_values_that_would_mean_something_in_markdown(tiny: Checkpoint, tmp_path: Path) -> None:
    """A checkpoint may come from a stranger: what it says stays in its cell, and secrets are left out."""
    token = "hf_" + "a" * 34
    values = {"task": {"data": "x`|\n# y"}, "checkpoint": {"finetune_from_model": f"https://me:1234@host/{token}"}}
    values |= {"optimization": {"lr": [1e-5] * 20}, "criterion": {"ranking_loss": Namespace(a=1)}}
    history = [{**tiny.state["optimizer_history"][0], "num_updates": 7}]
    state = {**tiny.state, "cfg": {"model": vars(tiny.state["args"]), **values}, "args": None}
    folder = shutil.copytree(tmp_path / "hub", tmp_path / "run")
    command = ["/usr/bin/fairseq-train", "a b", "```", "--password=x"]
    (folder / "run.json").write_text(json.dumps({"command": command, "data": values["task"]["data"]}))
    export_hf(Checkpoint({**state, "optimizer_history": history}, folder / "c.pt"), tmp_path / "out", name="a<b>\n# c")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "\n# a\\<b\\> \\# c\n" in text
    told = rows(sections(text)["Training"])
    assert told["data"] == "`x'/ # y`"
    assert told["started from"] == "`https://***@host/***`"
    assert told["learning rate"] == "`1e-05, 1e-05, 1e-05, 1e-05, 1e-05, 1e-05, 1e-05, 1e-05`"
    assert "loss" not in told
    assert "````bash\nfairseq-train 'a b' '```' --password=" in text
