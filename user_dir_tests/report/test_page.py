"""The page of ``fairseq-cloze report``; what needs a browser is in test_report_page.py."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.ranking.answers import PassagePrediction, write_predictions
from fairseq_cloze.ranking.origin import read_origin
from fairseq_cloze.report.answer_figures import calibration, confusion
from fairseq_cloze.report.page import embed, report
from fairseq_cloze.report.run_figures import smoothed
from fairseq_cloze.report.texts import open_passages
from fairseq_cloze.statistics import chance_interval, wilson_interval

from ..support.commands import PASSAGES, run
from ..support.reported import (
    CHANCE,
    CONFIG,
    ORIGIN,
    SOURCE,
    answer,
    figures,
    hostile,
    log_text,
    training_events,
    write_events,
)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory, data_bin: Path) -> Path:
    path = tmp_path_factory.mktemp("predictions") / "before.json"
    write_predictions(path, answer(DataBin(data_bin)))
    return path


@pytest.fixture
def save_dir(tmp_path: Path, data_bin: Path) -> Path:
    """What a training with 'run' and 'watch' leaves behind, without the checkpoints."""
    folder = tmp_path / "a" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "a.log").write_text(log_text())
    (folder / "run.json").write_text(json.dumps({"logs": [str(tmp_path / "a.log")], "data": str(data_bin)}))
    scores = [
        {"checkpoint": f"checkpoint_1_{n}.pt", "split": "valid", "updates": n, "accuracy": acc, "chance": 25.0}
        for n, acc in ((2, 48.0), (3, 55.25))
    ]
    lines = [json.dumps({**score, "n_blanks": 400, "data_bin": str(data_bin)}) for score in scores]
    lines.append(json.dumps({"checkpoint": "checkpoint_1_4.pt", "error": "cannot be read", "attempts": 3}))
    (folder / "validation.jsonl").write_text("\n".join(lines) + '\n{"torn": ')
    write_predictions(folder / "predictions_valid.json", answer(DataBin(data_bin), seed=2))
    return folder


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_save_dir(save_dir: Path, tmp_path: Path, data_bin: Path) -> None:
    """Log, watch and predictions of a run; every figure of its row."""
    [found] = report([save_dir]).data["runs"]
    low, high = chance_interval(25.0, 400)
    assert found == {
        "label": "checkpoints",
        "files": [
            str(tmp_path / "a.log"),
            str(save_dir / "validation.jsonl"),
            str(save_dir / "predictions_valid.json"),
        ],
        "known": True,
        "none": [],
        "sources": [
            {
                **{"split": "valid", "name": "checkpoint_1_3.pt", "path": "checkpoint_1_3.pt", "digest": ""},
                **{"updates": 3, "weight": 1.0, "logs": [], "data": str(data_bin), "run": None},
            }
        ],
        "format": "view joint, scorer mean, contrast 0.7, text norm standard",
        "model": "cloze_roberta, 6 layers of 768, from weights/model.pt",
        "updates": 4,
        "lr": "1e-05, polynomial decay, warm-up 10",
        "batch": "8 passages, 4,096 tokens, 4 batches per update, 2 workers",
        "train": {"accuracy": 31.5, "update": 4, "of": "epoch mean"},
        "valid": {
            **{"split": "valid", "accuracy": 55.25, "update": 3, "blanks": 400, "chance": 25.0, "of": "watch"},
            **{"low": low, "high": high, "interval": [50.35, 60.05]},
        },
        "others": [],
        "curves": {
            "loss": [
                {"kind": "train", "name": "training", "points": [[2, 1.3], [4, 1.1]]},
                {"kind": "valid", "name": "valid", "points": [[2, 1.4], [4, 1.4]]},
            ],
            "accuracy": [
                {"kind": "train", "name": "training", "points": [[2, 22.0], [4, 24.0]]},
                {"kind": "valid", "name": "valid", "points": [[2, 50.0], [4, 49.0]]},
                {"kind": "watch", "name": "valid, by watch", "points": [[2, 48.0], [3, 55.25]]},
            ],
        },
        "notices": [],
        "notes": [
            f"{save_dir / 'validation.jsonl'}, line 4: cannot be used (expected JSON, found a mistake in line 1, "
            "column 9 (Expecting value)); it is passed over, and stays there.",
            "The watch gave up on checkpoint_1_4.pt: cannot be read",
        ],
    }


def test_both_formats_of_the_log_say_the_same(tmp_path: Path) -> None:
    paths = [tmp_path / "json.log", tmp_path / "simple.log"]
    for path in paths:
        path.write_text(log_text(path.stem == "json"))
    a, b = report(paths).data["runs"]
    assert a["curves"]["accuracy"][1]["points"] == [[2, 50.0], [4, 49.0]]
    assert {**a, "label": "", "files": []} == {**b, "label": "", "files": []}


def test_no_contrast_is_said(tmp_path: Path) -> None:
    """As those of calibrated weights have none: 0 is a choice, too."""
    path = tmp_path / "a.log"
    path.write_text(log_text().replace("'contrast': 0.7", "'contrast': 0.0"))
    [found] = report([path]).data["runs"]
    assert found["format"] == "view joint, scorer mean, contrast 0"


def test_a_real_training(finetuned: Path, data_bin: Path) -> None:
    """A save-dir with the events of its training."""
    made = report([finetuned])
    [found] = made.data["runs"]
    assert found["files"] == [str(finetuned / "metrics.jsonl")]
    assert found["format"] == "view joint, scorer mean, contrast 0.7, text norm standard"
    assert found["model"].startswith("cloze_roberta, 2 layers of 48, from ") and found["batch"] == "1,024 tokens"
    assert found["lr"] == "0.001, fixed" and found["updates"] == found["curves"]["loss"][0]["points"][-1][0]
    assert [curve["kind"] for curve in found["curves"]["accuracy"]] == ["train", "valid"]
    assert found["valid"]["blanks"] == DataBin(data_bin).open("valid").blanks
    assert made.data["sets"] == [] and made.data["human"] == {"value": 85.9, "name": "human on CLOTH"}


def test_the_best_run_is_marked_if_runs_can_be_compared(tmp_path: Path) -> None:
    for name, best in (("a", 40.0), ("b", 60.0), ("c", 50.0)):
        (tmp_path / f"{name}.log").write_text(log_text(best=best))
    paths = [tmp_path / f"{name}.log" for name in "abc"]
    made = report(paths).data
    assert [one["label"] for one in made["runs"]] == ["a", "b", "c"] and made["best"] == 1
    assert made["levels"]["chance"] == 25.0 and made["levels"]["loss"] == pytest.approx(math.log(4), abs=1e-4)
    paths[2].write_text(paths[2].read_text().replace('"valid_n_blanks": "400"', '"valid_n_blanks": "300"'))
    made = report(paths).data
    assert made["best"] is None
    assert re.search("different blanks .(400, 300|300, 400) of them., so", made["notes"][0])


def test_a_run_at_chance(tmp_path: Path) -> None:
    write_events(tmp_path / "low.jsonl", training_events(best=27.0) + [CHANCE])
    write_events(tmp_path / "rose.jsonl", training_events() + [CHANCE])
    (tmp_path / "silent.log").write_text(log_text(best=27.0))
    low, rose, silent = (one["notices"] for one in report(sorted(tmp_path.iterdir())).data["runs"])
    guessing = "{:.1f} to {:.1f}%".format(*chance_interval(25.0, 400))
    text = "No better than guessing: at best 27.0% of 400 blanks of 'valid', where guessing gives "
    text += f"{guessing} in 95 of 100 cases."
    said = "The training said: updates 1 to 4 are at chance: accuracy is 25.0%."
    causes = [
        "1. the learning rate is too high <b>",
        "2. no English",
        "Proved: weights are those of model.pt; dictionary is the same",
    ]
    assert low == [{"at_chance": True, "text": f"{text} {said}", "causes": causes}]
    assert rose == [{"at_chance": False, "text": said, "causes": causes}]
    assert silent == [
        {"at_chance": True, "text": f"{text} No causes were named; docs/chance.md has the usual ones.", "causes": []}
    ]


def test_events_say_what_the_log_says(tmp_path: Path, save_dir: Path) -> None:
    """As a file, beside the log that 'run' keeps, and in the save-dir, where the log is not read then."""
    write_events(tmp_path / "run" / "x.events.jsonl", training_events())
    (tmp_path / "run" / "x.log").write_text("# folder: /home\nnothing of interest\n")
    (tmp_path / "y.log").write_text(log_text())
    paths = [tmp_path / "run" / "x.events.jsonl", tmp_path / "run" / "x.log", tmp_path / "y.log"]
    first, second, third = ({**one, "label": "", "files": []} for one in report(paths).data["runs"])
    torn = first.pop("notes"), second.pop("notes")
    assert [note.split(": ")[0] for notes in torn for note in notes] == [f"{paths[0]}, line 1"] * 2
    assert third.pop("notes") == [] and first == second == third
    by_log = report([save_dir]).data["runs"][0]
    write_events(save_dir / "metrics.jsonl", training_events())
    (tmp_path / "a.log").unlink()
    by_events = report([save_dir]).data["runs"][0]
    assert by_events.pop("notes")[0].startswith(f"{save_dir / 'metrics.jsonl'}, line 1: cannot be used")
    by_log.pop("notes")
    assert by_events == {**by_log, "files": [str(save_dir / "metrics.jsonl"), *by_log["files"][1:]]}


#: A line of a watch.
SCORE = {
    **{"checkpoint": "a.pt", "data_bin": "bin", "split": "valid", "updates": 2},
    **{"accuracy": 48.0, "chance": 25.0, "n_blanks": 400},
}


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    paths = [tmp_path / place / "checkpoints" / "validation.jsonl" for place in ("a", "b")]
    paths += [tmp_path / "c" / "other.log", tmp_path / "c" / "other.log"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(log_text())
    for path in paths[:2]:
        path.write_text(json.dumps(SCORE) + "\n")
    labels = [one["label"] for one in report(paths).data["runs"]]
    parts = "/".join((tmp_path / "c" / "other").parts[1:])
    assert labels == ["a/checkpoints", "b/checkpoints", f"{parts} (1)", f"{parts} (2)"]


def test_the_logs_of_a_resumed_training_are_one(save_dir: Path, tmp_path: Path) -> None:
    later = figures("train_inner", 4, loss=1.0, accuracy=44) + figures("train_inner", 6, loss=0.9, accuracy=46)
    (tmp_path / "b.log").write_text(later)
    logs = [str(tmp_path / name) for name in ("a.log", "gone.log", "b.log")]
    (save_dir / "run.json").write_text(json.dumps({"logs": logs}))
    [found] = report([save_dir]).data["runs"]
    assert found["files"][:2] == [logs[0], logs[2]] and found["updates"] == 6
    assert f"Of its logs, {logs[1]} is gone." in found["notes"]
    [curve] = [one for one in found["curves"]["accuracy"] if one["kind"] == "train"]
    assert curve["points"] == [[2, 22.0], [4, 44.0], [6, 46.0]]


ONE = {"p": PassagePrediction(["A", "B"], ["A", "C"]), "q": PassagePrediction(["D"], ["D"])}


def test_answers_that_say_where_they_come_from(tmp_path: Path) -> None:
    """Every figure of the row: of the checkpoint and of its training, which is another row."""
    write_events(tmp_path / "save" / "metrics.jsonl", training_events())
    path = str(tmp_path / "save" / "checkpoint_best.pt")
    origin = read_origin({**ORIGIN, "checkpoints": [{**SOURCE, "path": path}]})
    write_predictions(tmp_path / "after.json", ONE, origin)
    _, found = report([tmp_path / "save", tmp_path / "after.json"]).data["runs"]
    low, high = wilson_interval(2, 3)
    assert found == {
        "label": "after",
        "files": [str(tmp_path / "after.json")],
        "known": True,
        "none": ["train"],
        "sources": [
            {
                **{"split": "test", "name": "checkpoint_best.pt", "path": path, "digest": "0" * 64, "updates": 3},
                **{"weight": 1.0, "logs": ["/runs/a/metrics.jsonl"], "data": "/data/bin", "run": 0},
            }
        ],
        "format": "view full, other blanks mask, text norm none, language fr, sentence case",
        "model": "cloze_roberta, 6 layers of 768, from weights/model.pt",
        "updates": 3,
        "lr": "1e-05, polynomial decay, warm-up 10",
        "batch": "8 passages, 4,096 tokens, 4 batches per update, 2 workers",
        "train": None,
        "valid": {
            **{"split": "test", "accuracy": pytest.approx(200 / 3), "update": 3, "blanks": 3, "chance": None},
            **{"of": "predictions", "low": None, "high": None},
            "interval": [pytest.approx(100 * low, rel=1e-4), pytest.approx(100 * high, rel=1e-4)],
        },
        "others": [],
        "curves": {"loss": [], "accuracy": []},
        "notices": [],
        "notes": [],
    }


def test_answers_of_pretrained_weights_and_of_an_average(tmp_path: Path) -> None:
    pretrained = {**SOURCE, "epoch": None, "updates": 0, "logs": [], "training": {"model": CONFIG["model"]}}
    for name, sources in (("zero", [pretrained]), ("mean", [SOURCE, {**SOURCE, "updates": 5, "weight": 0.25}])):
        write_predictions(tmp_path / f"{name}.json", ONE, read_origin({**ORIGIN, "checkpoints": sources}))
    write_predictions(tmp_path / "old.json", ONE)
    paths = [tmp_path / f"{name}.json" for name in ("zero", "mean", "old")]
    zero, mean, old = report(paths).data["runs"]
    assert zero["none"] == ["train", "updates", "lr", "batch"] and zero["valid"]["update"] is None
    assert (zero["model"], zero["lr"], zero["batch"]) == ("cloze_roberta, 6 layers of 768", None, None)
    assert mean["model"].startswith("average of 2 checkpoints, cloze_roberta") and mean["updates"] == 5
    assert [source["weight"] for source in mean["sources"]] == [1.0, 0.25] and mean["valid"]["update"] is None
    assert (old["known"], old["sources"], old["model"]) == (False, [], None)


def origin_in(place: Path) -> dict[str, Any]:
    return {**ORIGIN, "data_bin": str(place)}


def test_a_file_names_its_data_bin(tmp_path: Path, data_bin: Path) -> None:
    """Its passages are found there; if it is gone, or was raw passages, the page says what to give."""
    made = answer(DataBin(data_bin), "test")
    for name, place in (("here", data_bin), ("gone", Path("/gone"))):
        write_predictions(tmp_path / f"{name}.json", made, read_origin(origin_in(place)))
    raw = {name: value for name, value in ORIGIN.items() if name not in ("data_bin", "split")}
    write_predictions(tmp_path / "raw.json", made, read_origin({**raw, "inputs": ["/exams/a", "/exams/b"]}))
    [found] = report([tmp_path / "here.json"]).data["sets"]
    assert found["name"] == f"split 'test' of {data_bin}"
    other = answer(DataBin(data_bin))
    write_predictions(tmp_path / "other.json", {"x": other.popitem()[1]}, read_origin(origin_in(data_bin)))
    [other_found] = report([tmp_path / "other.json"]).data["sets"]
    assert not other_found["texts"] and other_found["why_not"].startswith(
        f"other.json has answers for other passages than those of split 'test' of {data_bin}: passage 'x' is not "
        "there, so blanks are shown without their text. "
    )
    gone, raw_found = (report([tmp_path / f"{name}.json"]).data["sets"][0]["why_not"] for name in ("gone", "raw"))
    assert gone == (
        "The passages of gone.json are no longer in /gone, so blanks are shown without their text. Make the report "
        "again with --passages and the data-bin or the passages themselves."
    )
    assert raw_found == (
        "The passages of raw.json came from /exams/a and /exams/b, so blanks are shown without their text. Make the "
        "report again with --passages and the data-bin or the passages themselves."
    )


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["a.jsonl", "a.log"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ClozeError, match=rf"{name}: .*cannot be read \((is a pipe,|it is) no file\)"):
        report([tmp_path / name])


def test_what_is_missing_is_said(tmp_path: Path, predictions: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"logs": ["/gone/a.log"], "data": "/gone/bin"}')
    shutil.copy(predictions, folder / "predictions_valid.json")
    late = figures("train_inner", 900, loss=1.0, accuracy=50)
    (tmp_path / "late.log").write_text(late)
    made = report([folder, tmp_path / "late.log"]).data
    assert [one["notes"] for one in made["runs"]] == [
        [
            "Of its logs, /gone/a.log is gone.",
            "Neither metrics.jsonl nor a log was found, so there are no training curves. If the log is elsewhere, give "
            "it as another RUN.",
        ],
        [
            "Its log has no configuration, which would name data format, model, LR and batch.",
            "Its figures begin at update 900; what was before stands in an earlier log, which can be given as another "
            "RUN.",
            "There was no validation.",
        ],
    ]
    [found] = made["sets"]
    assert (
        not found["texts"] and "are no longer in /gone/bin, so" in found["why_not"] and "--passages" in found["why_not"]
    )
    assert len(found["passages"][0]) == 2  # id and gold


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.log", None, "no such file or folder"),
        ("empty.log", "", "expected the log of a training"),
        ("other.log", "hello\n" * 5, "expected the log of a training"),
        ("validation.jsonl", '{"torn', "expected lines of 'fairseq-cloze watch'"),
        ("a.json", "[1, 2", "expected JSON"),
        ("b.json", "{}", "expected predictions, found no passage"),
        ("c.json", '{"x": {"answers": ["A", "7"]}}', "passage 'x', blank 2, field 'answers'"),
        ("folder", "", "expected a save-dir with metrics.jsonl or a log"),
    ],
)
def test_damaged_input_is_named(tmp_path: Path, name: str, content: str | None, problem: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ClozeError, match=re.escape(str(path))) as error:
        report([path])
    assert problem in str(error.value)


# -- figures ---------------------------------------------------------------------------------------------------------


HUGE = "9" * 400
LIES: list[tuple[str, list[str]]] = [  # what a line of events says, and the notes that come of it
    (f'{{"type": "update", "update": {HUGE}, "loss": 1}}', ["Its training has told no figures yet."]),
    ('{"type": "update", "update": -1, "loss": 1}', ["Its training has told no figures yet."]),
    (f'{{"type": "update", "update": 1, "loss": NaN, "accuracy": Infinity, "lr": {HUGE}, "epoch": "x"}}', []),
    ('{"type": "validation", "update": 1, "subset": "valid", "accuracy": 50, "chance": 1e300, "n_blanks": NaN}', []),
    (
        f'{{"type": "validation", "update": 1, "subset": "valid", "accuracy": 1e99, "chance": -5, "n_blanks": {HUGE}}}',
        [],
    ),
]


@pytest.mark.parametrize(("line", "notes"), LIES)
def test_lying_events(tmp_path: Path, line: str, notes: list[str]) -> None:
    """Figures that cannot be are not known; the page can always be read."""
    settings = {
        "common": {"log_interval": "often"},
        "task": {"view": "joint", "contrast": "x", "data": "\0" + "x" * 5000},
        "optimization": {"lr": ["fast", None, 1e-5], "update_freq": 7},
        "dataset": {"max_tokens": [1], "batch_size": {}},
        "distributed_training": "many",
    }
    started = {"type": "started", "update": 0, "settings": settings, "folder": ["x"]}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(started)}\n{line}\n")
    [found] = json.loads(embed(report([tmp_path]).data))["runs"]
    assert found["lr"] == "1e-05" and found["format"] == "view joint"
    assert set(notes) <= set(found["notes"])
    assert found["valid"] is None or found["valid"]["low"] is None


def test_lying_lines_of_a_watch_are_named(tmp_path: Path) -> None:
    lies: list[dict[str, Any]] = [{"accuracy": 4800.0}, {"chance": float("nan")}, {"n_blanks": 0.5}, {"updates": "2"}]
    lies += [{"split": 7}, {"n_blanks": 10**400}]
    path = tmp_path / "validation.jsonl"
    path.write_text("".join(json.dumps({**SCORE, **lie}) + "\n" for lie in [{}, *lies]))
    [found] = report([path]).data["runs"]
    assert found["valid"]["accuracy"] == 48.0
    assert [note.split(": ")[0] for note in found["notes"]] == [f"{path}, line {number}" for number in range(2, 8)]


@pytest.mark.parametrize("record", ['{"logs": 5}', '{"logs": [5, null, "\\u0000"]}', "[" * 100_000, "\udcff"])
def test_a_lying_record_of_a_run(tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record, errors="surrogateescape")
    (tmp_path / "x.log").write_text(log_text())
    [found] = report([tmp_path]).data["runs"]
    assert found["valid"]["accuracy"] == 50.0


def test_smoothed_by_hand() -> None:
    few = [(n, float(n)) for n in range(40)]
    assert smoothed(few) == few
    many = [(n, float(n % 2)) for n in range(100)]  # reach 2: five points, three at the ends
    found = smoothed(many)
    assert [update for update, _ in found] == list(range(100))
    assert found[0][1] == pytest.approx(1 / 3) and found[50][1] == pytest.approx(2 / 5) == found[98 - 48][1]
    assert found[51][1] == pytest.approx(3 / 5)


def test_confusion_and_calibration_by_hand() -> None:
    made = {
        "x": PassagePrediction(["A", "B"], ["A", "C"], [[0.95, 0.03, 0.02], [0.2, 0.45, 0.35]]),
        "y": PassagePrediction(["B", "C", "A"], ["B", "C", None], [[0.0, 1.0], [0.3, 0.29, 0.41], [0.5, 0.5]]),
    }
    assert confusion(made) == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert calibration(made) == [[43.0, 50.0, 2], [97.5, 100.0, 2]]


def test_answers_of_a_file(predictions: Path, data_bin: Path) -> None:
    data = DataBin(data_bin)
    made = report([predictions], data_bin).data
    [found] = made["sets"]
    [file] = found["files"]
    expected = answer(data)
    right = sum(a == g for one in expected.values() for a, g in zip(one.answers, one.gold))
    blanks = data.open("valid").blanks
    assert (file["right"], file["blanks"], file["label"]) == (right, blanks, "before")
    assert file["interval"] == pytest.approx([100 * bound for bound in wilson_interval(right, blanks)], rel=1e-4)
    assert file["answers"] == ["".join(one.answers) for one in expected.values()]
    assert file["probabilities"] == [
        [[round(1000 * p) for p in row] for row in one.probabilities or ()] for one in expected.values()
    ]
    assert (
        sum(map(sum, file["confusion"])) == blanks and sum(row[i] for i, row in enumerate(file["confusion"])) == right
    )
    classes = file["breakdown"]["token class"]
    assert sum(row[3] for row in classes.values()) == blanks
    assert sum(row[0] * row[3] for row in classes.values()) == pytest.approx(100 * right, rel=1e-4)
    assert made["runs"][0]["valid"]["accuracy"] == pytest.approx(100 * right / blanks)


# -- passages --------------------------------------------------------------------------------------------------------


def test_texts_of_a_data_bin_are_those_of_the_passages(data_bin: Path, predictions: Path) -> None:
    """Decoded and raw texts agree but for white space and normalised punctuation."""
    decoded, raw = (report([predictions], place).data["sets"][0] for place in (data_bin, PASSAGES / "valid"))
    assert len(decoded["passages"]) == len(raw["passages"]) == len(DataBin(data_bin).open("valid"))
    squeeze = lambda text: re.sub(r"\s", "", text)  # noqa: E731
    for (a, gold_a, text_a, options_a), (b, gold_b, text_b, options_b) in zip(
        decoded["passages"], raw["passages"], strict=False
    ):
        assert (a, gold_a, options_a) == (b, gold_b, options_b)
        assert [squeeze(part) for part in text_a] == [squeeze(part) for part in text_b]
    assert decoded["name"] == f"split 'valid' of {data_bin}" and raw["name"] == str(PASSAGES / "valid")
    assert decoded["files"][0]["breakdown"] and not raw["files"][0]["breakdown"]


def test_files_for_the_same_blanks_are_one_set(tmp_path: Path, data_bin: Path, predictions: Path) -> None:
    data = DataBin(data_bin)
    write_predictions(tmp_path / "after.json", dict(reversed(list(answer(data, seed=5).items()))))
    write_predictions(tmp_path / "test.json", answer(data, "test"))
    first, second = report([predictions, tmp_path / "test.json", tmp_path / "after.json"], data_bin).data["sets"]
    assert [file["label"] for file in first["files"]] == ["before", "after"]
    assert [file["run"] for file in first["files"]] == [0, 2]
    names = [entry[0] for entry in first["passages"]]
    after = answer(data, seed=5)
    assert first["files"][1]["answers"] == ["".join(after[name].answers) for name in names]
    assert [file["label"] for file in second["files"]] == ["test"] and second["name"].startswith("split 'test'")


def test_some_of_the_passages(tmp_path: Path, data_bin: Path) -> None:
    made = dict(list(answer(DataBin(data_bin)).items())[1:3])
    write_predictions(tmp_path / "some.json", made)
    [found] = report([tmp_path / "some.json"], data_bin).data["sets"]
    assert [entry[0] for entry in found["passages"]] == list(made)
    blanks = sum(len(one.answers) for one in made.values())
    assert sum(row[3] for row in found["files"][0]["breakdown"]["token class"].values()) == blanks


def test_a_lone_file_borrows_the_data_bin_of_another_run(save_dir: Path, predictions: Path, tmp_path: Path) -> None:
    [found] = report([save_dir, predictions]).data["sets"]
    assert found["texts"] and [file["label"] for file in found["files"]] == ["checkpoints", "before"]
    write_predictions(tmp_path / "foreign.json", {"x": PassagePrediction(["A"], ["B"])})
    sets = report([save_dir, tmp_path / "foreign.json"]).data["sets"]
    assert [one["texts"] for one in sets] == [True, False]


def _change(made: dict[str, PassagePrediction], name: str, **fields: Any) -> None:
    one = made[name]
    made[name] = PassagePrediction(**{**{"answers": one.answers, "gold": one.gold}, **fields})


def test_predictions_of_other_passages(tmp_path: Path, data_bin: Path) -> None:
    made = answer(DataBin(data_bin))
    second = list(made)[1]
    gold, answers = list(made[second].gold), made[second].answers
    wrong = "B" if gold[1] != "B" else "A"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"gold": [gold[0], wrong, *gold[2:]]}, f", blank 2, has the right answer {gold[1]} there and {wrong} in"),
        ({"answers": answers[:-1], "gold": gold[:-1]}, f" has {len(gold)} blanks there and {len(gold) - 1} in"),
        ({"answers": ["Z", *answers[1:]]}, ", blank 1, has 4 options there and the answer Z"),
        (
            {
                **{"probabilities": [[0.5, 0.5, 0.0]] * len(gold), "answers": ["A"] * len(gold)},
                "gold": [None] * len(gold),
            },
            ", blank 1, has 4 options there and 3 in the predictions",
        ),
    ]
    path = tmp_path / "a.json"
    for fields, problem in cases:
        changed = dict(made)
        _change(changed, second, **fields)
        write_predictions(path, changed)
        with pytest.raises(ClozeError) as error:
            report([path], data_bin)
        assert str(error.value).startswith(
            f"{path}: these are predictions for other passages than those of split 'valid'"
        )
        assert f"passage '{second}'{problem}" in str(error.value) and "--passages" in str(error.value)
    write_predictions(path, {**made, "unheard/of": made[second]})
    with pytest.raises(ClozeError, match="split 'valid' of .*: passage 'unheard/of' is not there"):
        report([path], data_bin)


def test_gold_that_only_the_passages_know(tmp_path: Path, data_bin: Path, predictions: Path) -> None:
    """A file of another system, with answers alone, is scored and joins the set of the others."""
    bare = {
        key: PassagePrediction(one.answers, [None] * len(one.gold)) for key, one in answer(DataBin(data_bin)).items()
    }
    write_predictions(tmp_path / "bare.json", bare)
    made = report([tmp_path / "bare.json", predictions], data_bin).data
    [found] = made["sets"]
    a, b = found["files"]
    assert a["right"] == b["right"] > 0 and a["confusion"] == b["confusion"] and a["probabilities"] is None
    assert [one["valid"]["blanks"] for one in made["runs"]] == [b["blanks"]] * 2
    assert "-" not in "".join(entry[1] for entry in found["passages"])


def test_zero_article_and_equal_options(tmp_path: Path) -> None:
    passage = {"article": "I saw _ dog,\nand  _.", "options": [["a", "/", "an"], ["so", "so", "no"]], "answers": [1, 1]}
    (tmp_path / "a.json").write_text(json.dumps(passage))
    [passages] = open_passages(tmp_path / "a.json")
    text = passages["a"]
    assert text.segments == ["I saw ", " dog,\nand  ", "."]
    assert text.candidates == [["a", "", "an"], ["so", "so", "no"]] and text.gold == [1, 0]


# -- the file --------------------------------------------------------------------------------------------------------


class Parsed(HTMLParser):
    """Elements of a page with their text, in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("", {}, ""))

    def handle_data(self, data: str) -> None:
        tag, attributes, text = self.elements[-1] if self.elements else ("", {}, "")
        self.elements[-1:] = [(tag, attributes, text + data)]

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]


def test_the_page_holds_its_data_and_nothing_else(tmp_path: Path) -> None:
    folder = hostile(tmp_path)
    made = report([folder / "<b>x<b>.json"], folder / "passages.jsonl")
    page = made.html()
    parsed = Parsed(page)
    data, code = parsed.all("script")
    assert data[0] == {"type": "application/json", "id": "data"} and json.loads(data[1]) == made.data
    assert not set("<>&\u2028\u2029") & set(data[1])
    assert json.loads(data[1])["sets"][0]["passages"][0][2][1].count("<script>") == 1
    [(_, style)] = parsed.all("style")
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, code[1])]
    [policy] = [attributes["content"] for attributes, _ in parsed.all("meta") if "http-equiv" in attributes]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    names = {name for name, _, _ in parsed.elements}
    assert not names & {"img", "link", "iframe", "object", "base"}
    assert not [value for _, a, _ in parsed.elements for key, value in a.items() if key in ("src", "style", "onclick")]
    assert re.findall(r"https?://[^\s\"']*", code[1] + style) == ["http://www.w3.org/2000/svg"]
    assert "innerHTML" not in code[1] and "insertAdjacentHTML" not in code[1] and "document.write" not in code[1]


def test_embed_takes_what_is_no_text() -> None:
    assert json.loads(embed({"a\udcff": "</script>"})) == {"a?": "</script>"}


def test_the_command(save_dir: Path, data_bin: Path, tmp_path: Path) -> None:
    out, png = tmp_path / "page.html", tmp_path / "png"
    done = run("fairseq-cloze", "report", save_dir, tmp_path / "a.log", "--out", out, "--png", png, "--human", "90.5")
    store = DataBin(data_bin).open("valid")
    assert done.text.splitlines() == [
        f"wrote {png / 'loss.png'}",
        f"wrote {png / 'accuracy.png'}",
        f"wrote {png / 'confusion.png'}",
        f"wrote {out}: 2 runs, {len(store)} passages, {store.blanks} blanks",
    ]
    data = json.loads(Parsed(out.read_text()).all("script")[0][1])
    assert data["human"] == {"value": 90.5, "name": "human"} and [one["label"] for one in data["runs"]] == [
        "checkpoints",
        "a",
    ]
    for name, size in (("loss", (800, 450)), ("accuracy", (800, 450)), ("confusion", (400, 420))):
        content = (png / f"{name}.png").read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert tuple(int.from_bytes(content[at : at + 4], "big") for at in (16, 20)) == size
    assert sorted(path.name for path in png.iterdir()) == ["accuracy.png", "confusion.png", "loss.png"]


def test_pictures_need_matplotlib(save_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('not here')")
    out = tmp_path / "page.html"
    command = ("fairseq-cloze", "report", save_dir, "--out", out)
    done = run(*command, "--png", tmp_path / "png", code=1, env={"PYTHONPATH": str(tmp_path)})
    assert done.text == "Error: pictures need matplotlib (not here): pip install 'fairseq-cloze[plot]'\n"
    assert not out.exists() and not (tmp_path / "png").exists()
    run(*command, env={"PYTHONPATH": str(tmp_path)})
    assert out.exists()


def test_errors_of_the_command(tmp_path: Path, predictions: Path) -> None:
    done = run("fairseq-cloze", "report", tmp_path / "none", "--out", tmp_path / "page.html", code=1)
    assert done.text == (
        f"Error: {tmp_path / 'none'}: no such file or folder; give a save-dir, a log, a validation.jsonl or a "
        "prediction file as RUN\n"
    )
    done = run("fairseq-cloze", "report", predictions, "--out", tmp_path / "page.html", "--human", "859", code=1)
    assert done.text == "Error: --human: expected a percentage from 0 to 100, found 859\n"
    assert not (tmp_path / "page.html").exists()
