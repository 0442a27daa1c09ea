"""Model card: what a reader of an exported model wants to know, as the ``README.md`` that Hugging Face shows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ClozeError
from ..files import PathLike, read_regular
from ..jsontext import parse_json
from ..runs.curves import history_of
from ..runs.events import EVENTS_FILE, read_events
from ..runs.lock import run_record
from ..secrecy import hide_secrets
from ..statistics import wilson_interval
from ..version import __version__
from .checkpoint import Checkpoint
from .families import Family

CARD = "README.md"

#: By this line a card is known as ours, and may be written anew.
_OURS = "<!-- Written by fairseq-cloze export-hf, which writes it anew unless this line is removed. -->"


class Figure(NamedTuple):
    """How often a checkpoint was right on some blanks."""

    data: str  #: a data-bin
    split: str
    correct: int
    blanks: int  #: labelled ones, at least 1
    chance: float  #: in percent


def read_figure(path: PathLike, checkpoint: Checkpoint) -> Figure:
    """What ``evaluate --json`` wrote of a checkpoint.

    Raises:
        ClozeError: it cannot be read, or is of another checkpoint
    """
    try:
        found = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        raise ClozeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    kinds = {"checkpoint": str, "data_bin": str, "split": str, "n_blanks": int, "accuracy": float, "chance": float}
    values = found if isinstance(found, dict) else {}
    for name, kind in kinds.items():
        value = values.get(name)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise ClozeError(
                f"{path}: expected what 'fairseq-cloze evaluate --json' writes, found no {name}; give that file"
            )
    if not (values["n_blanks"] > 0 and 0 <= values["accuracy"] <= 100 and 0 <= values["chance"] <= 100):
        raise ClozeError(f"{path}: expected an accuracy of labelled blanks, found none; evaluate on a labelled split")
    if Path(values["checkpoint"]).name != checkpoint.path.name:
        raise ClozeError(
            f"{path}: is of {values['checkpoint']}, not of {checkpoint.name}; give the figures of this one"
        )
    correct = round(values["accuracy"] * values["n_blanks"] / 100)
    return Figure(values["data_bin"], values["split"], correct, values["n_blanks"], float(values["chance"]))


def own_figures(checkpoint: Checkpoint) -> list[Figure]:
    """What its training measured of a checkpoint, if its ``metrics.jsonl`` lies beside it."""
    events = checkpoint.path.parent / EVENTS_FILE
    if not checkpoint.progress.updates or not events.is_file():
        return []
    data = str(checkpoint.task_options.get("data"))
    out = []
    for subset, points in history_of(read_events(events, lambda line: None)).validations.items():
        for point in points[::-1]:
            values = point.values
            if point.update == checkpoint.progress.updates and values.get("n_blanks") and "n_correct" in values:
                correct, blanks = int(values["n_correct"]), int(values["n_blanks"])
                out.append(Figure(data, subset, correct, blanks, values.get("chance", 0.0)))
                break
    return out


def is_ours(path: Path) -> bool:
    """Whether a card may be written here: there is none, or one that nobody made their own."""
    try:
        return _OURS in read_regular(path).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def model_card(
    checkpoint: Checkpoint,
    family: Family,
    model_class: str,
    name: str,
    settings: Mapping[str, Any],
    figures: Sequence[Figure],
) -> str:
    """The card, in Markdown.

    Args:
        checkpoint: what is exported, as a model of *family* that *model_class* loads
        name: by which it is loaded: of a folder, or on the hub
        settings: how it is scored, and how its text becomes tokens
        figures: what is known of its accuracy
    """
    ranking = model_class == family.multiple_choice
    updates = checkpoint.progress.updates
    trained = (
        f"fine-tuned on cloze exams with fairseq-cloze ({updates:,} updates)" if updates else "not fine-tuned further"
    )
    parts = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {'multiple-choice' if ranking else 'fill-mask'}",
        "tags:",
        "- cloze",
        "- fairseq-cloze",
        "---",
        _OURS,
        f"# {_text(Path(name).name or name)}",
        "",
        f"A {family.name}, {trained}. It fills blanks: it ranks the options that are given for each blank of a text.",
        "",
        *_use(family, model_class, name, ranking),
        *_results(figures, checkpoint),
        *_training(checkpoint),
        "## Scoring",
        "",
        "fairseq-cloze scores with this model so. These settings are in `config.json`, too, under `fairseq_cloze`.",
        "",
        *_table(settings),
        "## Shape",
        "",
        *_table(_shape(checkpoint)),
        f"Exported with fairseq-cloze {__version__}.",
        "",
    ]
    return "\n".join(parts)


def _use(family: Family, model_class: str, name: str, ranking: bool) -> list[str]:
    automatic = "AutoModelForMultipleChoice" if ranking else "AutoModelForMaskedLM"
    quoted = _one_line(json.dumps(name, ensure_ascii=False))
    own = [
        "With fairseq-cloze, which ranks options of any number of tokens:",
        "",
        *_code(
            [
                "import fairseq_cloze",
                "",
                f"ranker = fairseq_cloze.load({quoted})",
                '[blank] = ranker.rank("She _ to school every day.", [["go", "goes", "gone", "going"]])',
                "print(blank.answer, blank.probabilities)",
            ],
            "python",
        ),
    ]
    return [
        "## Use",
        "",
        *([] if ranking else own),
        f"With transformers, as `{model_class}`:",
        "",
        *_code(
            [
                f"from transformers import {automatic}, AutoTokenizer",
                "",
                f"tokenizer = AutoTokenizer.from_pretrained({quoted})",
                f"model = {automatic}.from_pretrained({quoted})",
            ],
            "python",
        ),
    ]


def _results(figures: Sequence[Figure], checkpoint: Checkpoint) -> list[str]:
    if not figures:
        return ["## Results", "", "This model was not measured.", ""]
    rows = ["| data | split | blanks | accuracy | 95% interval | guessing |", "|---|---|---:|---:|---:|---:|"]
    for one in figures:
        low, high = (100 * share for share in wilson_interval(one.correct, one.blanks))
        accuracy = 100 * one.correct / one.blanks
        data = _value(Path(one.data).name or one.data)
        rows.append(
            f"| {data} | {_value(one.split)} | {one.blanks:,} | {accuracy:.2f}% | {low:.2f} to {high:.2f}% "
            f"| {one.chance:.2f}% |"
        )
    note = (
        "Accuracy is the share of blanks whose right option the model ranks first. The interval takes blanks as "
        "independent. "
    )
    if checkpoint.progress.updates:
        note += "If this checkpoint was chosen by its accuracy on a split, that accuracy is a little too high."
    return ["## Results", "", *rows, "", note.rstrip(), ""]


#: What the card tells of a training: words for people, group and name in fairseq's configuration.
_TOLD = (
    ("data", "task", "data"),
    ("started from", "checkpoint", "finetune_from_model"),
    ("architecture", "model", "_name"),
    ("optimizer", "optimizer", "_name"),
    ("learning rate", "optimization", "lr"),
    ("schedule", "lr_scheduler", "_name"),
    ("warm-up updates", "lr_scheduler", "warmup_updates"),
    ("weight decay", "optimizer", "weight_decay"),
    ("tokens in a batch, at most", "dataset", "max_tokens"),
    ("items in a batch, at most", "dataset", "batch_size"),
    ("batches in an update", "optimization", "update_freq"),
    ("processes", "distributed_training", "distributed_world_size"),
    ("loss", "criterion", "ranking_loss"),
    ("dropout", "model", "dropout"),
    ("half precision", "common", "fp16"),
    ("bfloat16", "common", "bf16"),
    ("seed", "common", "seed"),
)


def _training(checkpoint: Checkpoint) -> list[str]:
    """Settings and command of the training, as far as the checkpoint and its folder know them."""
    progress = checkpoint.progress
    if not progress.updates:
        return []
    told = {"updates": progress.updates, "epoch": progress.epoch}
    told |= {words: checkpoint.setting(group, name) for words, group, name in _TOLD}
    record = run_record(checkpoint.path.parent)
    command = record.get("command") if record.get("data") == checkpoint.setting("task", "data") else None
    lines = []
    if command:
        lines = [
            "The command of the latest training in this folder:",
            "",
            *_code([hide_secrets(shlex.join([Path(command[0]).name, *command[1:]]))], "bash"),
        ]
    return ["## Training", "", *_table(told), *lines]


def _shape(checkpoint: Checkpoint) -> dict[str, Any]:
    shape = checkpoint.architecture
    return {
        "layers": shape.encoder_layers,
        "width": shape.encoder_embed_dim,
        "attention heads": shape.encoder_attention_heads,
        "feed-forward width": shape.encoder_ffn_embed_dim,
        "positions": shape.max_positions,
        "tokens in the vocabulary": checkpoint.rows,
    }


def _table(values: Mapping[str, Any]) -> list[str]:
    """A table of what is known; of lists, which fairseq has for epochs, the first entries."""
    rows = []
    for words, value in values.items():
        if isinstance(value, list):
            value = ", ".join(map(str, value[:8]))
        if value is None or value is False or value == "":
            continue
        shown = f"{value:,}" if type(value) is int else "yes" if value is True else str(value)
        rows.append(f"| {words.replace('_', ' ')} | {_value(shown)} |")
    return ["|  |  |", "|---|---|", *rows, ""]


def _code(lines: Sequence[str], language: str) -> list[str]:
    """A block of code, behind more backticks than stand in it."""
    text = [_one_line(line) for line in lines]
    longest = max((len(run) for line in text for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *text, fence, ""]


def _value(text: str) -> str:
    """A value as it may stand in a cell of a table: one line, without secrets, and without a meaning in Markdown."""
    text = hide_secrets(_one_line(text))[:300].replace("`", "'").replace("|", "/").strip()
    return f"`{text}`" if text else ""


def _text(text: str) -> str:
    """A name as a heading may hold it."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", text)
