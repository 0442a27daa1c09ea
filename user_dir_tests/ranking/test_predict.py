from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze import load
from fairseq_cloze.errors import ClozeError, DataBinError
from fairseq_cloze.passages.passage import LETTERS
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.ranking.answers import read_predictions
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.ranking.predict import predict
from fairseq_cloze.ranking.ranker import Ranker
from fairseq_cloze.report.page import report
from fairseq_cloze.views.settings import PartialSettings

from ..support.commands import PASSAGES, environment, run

FOUR = ["calm", "cold", "old", "odd"]


def test_predict_command(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    """Raw passages answered as the data-bin's are; ids from the files' names; accuracy where there are answers."""
    checkpoint = finetuned / "checkpoint_last.pt"
    done = run("fairseq-cloze", "predict", checkpoint, PASSAGES / "test", "--out", tmp_path / "answers.json")
    answers = json.loads((tmp_path / "answers.json").read_text())
    passages = list(read_passages([PASSAGES / "test"]))
    assert list(answers) == [passage.id for passage in passages]
    hits = sum(
        letter == LETTERS[gold] for passage in passages for letter, gold in zip(answers[passage.id], passage.gold)
    )
    result = evaluate(checkpoint, data_bin, "test")
    assert hits == round(result.accuracy * 98 / 100)
    lines = [line for line in done.text.splitlines() if "tensorboardX" not in line]
    assert lines == [
        f"8 passages, 98 blanks, 0 skipped; wrote {tmp_path / 'answers.json'}",
        f"accuracy {100 * hits / 98:.2f}% of 98 labelled blanks, chance 25.00%",
    ]


def test_predict_with_probabilities(tmp_path: Path, finetuned: Path, passage: Callable[..., Path]) -> None:
    """Unlabelled, with repeated options, 'nothing', and numbers of options that differ."""
    passage("deep/one.json", "She _ to _ school .", [["went", "go", "went"], ["/", "the", "a", "\\", "an"]])
    path = passage("two.json", "No _ .", [FOUR])
    folder = path.parent
    done = run(
        "fairseq-cloze", "predict", finetuned / "checkpoint_last.pt", folder, "--out", tmp_path / "a.json", "--scores"
    )
    answers = json.loads((tmp_path / "a.json").read_text())
    assert list(answers) == ["deep/one", "two", "fairseq_cloze"]
    del answers["fairseq_cloze"]
    one = answers["deep/one"]
    assert [len(row) for row in one["probabilities"]] == [3, 5]
    for letters, rows in ((entry["answers"], entry["probabilities"]) for entry in answers.values()):
        for letter, row in zip(letters, rows):
            assert sum(row) == pytest.approx(1.0, abs=1e-5)
            assert LETTERS.index(letter) < len(row)
    first, second = one["probabilities"]
    assert first[0] == first[2] and second[0] == second[3]
    assert one["answers"][0] != "C" and one["answers"][1] != "D"  # the first of equal options wins
    assert "accuracy" not in done.text  # nothing is labelled


def test_predict_uses_the_training_encoding(tmp_path: Path, finetuned: Path) -> None:
    """A checkpoint trained on raw text reads raw text; --text-norm changes that, and nothing else."""

    def variant(name: str, encoding: dict[str, Any]) -> Path:
        state = torch.load(finetuned / "checkpoint_last.pt", weights_only=True)
        state["task_state"]["fairseq_cloze"]["encoding"] = encoding
        torch.save(state, tmp_path / name)
        return tmp_path / name

    raw = variant("raw.pt", {"text_norm": "none", "sentence_case": True})
    standard = variant("standard.pt", {"text_norm": "standard", "sentence_case": True})
    spaced, clean = tmp_path / "spaced.jsonl", tmp_path / "clean.jsonl"
    fields = {"article": "It rained. _ , we stayed, and it was _ .", "options": [["then", "now"], FOUR]}
    clean.write_text(json.dumps({**fields, "id": "one"}))
    spaced.write_text(json.dumps({**fields, "id": "one", "article": fields["article"].replace(" ", "  \n ")}))

    def answers(checkpoint: Path, source: Path, **options: Any) -> Any:
        return predict(checkpoint, [source], with_probabilities=True, **options).answers

    expected = answers(standard, clean)
    assert answers(standard, spaced) == expected
    assert answers(raw, spaced) != expected
    assert answers(raw, spaced, text_norm="standard") == expected
    assert answers(finetuned / "checkpoint_last.pt", clean) != expected  # "Then" is not "then"
    run("fairseq-cloze", "predict", raw, spaced, "--scores", "--text-norm", "standard", "--out", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"one": written["one"]} == expected


def test_predict_uses_the_language_of_the_training(tmp_path: Path, finetuned: Path) -> None:
    """A checkpoint of Chinese reads blanks without spaces; --language changes that; an old one is English."""

    def variant(name: str, **encoding: Any) -> Path:
        state = torch.load(finetuned / "checkpoint_last.pt", weights_only=True)
        state["task_state"]["fairseq_cloze"]["encoding"] = {"text_norm": "standard", "sentence_case": False, **encoding}
        torch.save(state, tmp_path / name)
        return tmp_path / name

    chinese, old = variant("zh.pt", language="zh"), variant("old.pt")
    source, close = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    options = [["看", "买到"], ["好", "坏"]]
    source.write_text(json.dumps({"id": "a", "article": "他 _ 了 一本 书 ， 很 _ 。", "options": options}))
    close.write_text(json.dumps({"id": "a", "article": "他_了一本书，很_。", "options": options}))

    def answers(checkpoint: Path, source: Path, **options: Any) -> Any:
        return predict(checkpoint, [source], with_probabilities=True, **options).answers

    expected = answers(old, close)
    assert answers(chinese, source) == answers(chinese, close) == expected
    assert answers(old, source) != expected and answers(old, source) == answers(
        finetuned / "checkpoint_last.pt", source
    )
    assert answers(old, source, language="zh") == expected
    [ranked] = load(old, language="zh").rank_many([{"article": "他 _ 了 一本 书 ， 很 _ 。", "options": options}])
    assert [[round(p, 6) for p in one.probabilities] for one in ranked] == expected["a"]["probabilities"]
    command = ("fairseq-cloze", "predict", old, source, "--scores", "--language", "zh", "--out", tmp_path / "out.json")
    run(*command)
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"a": written["a"]} == expected


def test_a_marker_of_blanks(tmp_path: Path, finetuned: Path) -> None:
    """The same answers as with underscores, by command and in Python."""
    checkpoint, source = finetuned / "checkpoint_last.pt", tmp_path / "a.jsonl"
    source.write_text(json.dumps({"id": "a", "article": "It <gap> a_b <gap>.", "options": [["was", "is"], FOUR]}))
    command = ("fairseq-cloze", "predict", checkpoint, source, "--out", tmp_path / "out.json", "--blank", "<gap>")
    run(*command)
    [ranked] = load(checkpoint, blank="<gap>").rank_many(
        [{"article": "It <gap> a_b <gap>.", "options": [["was", "is"], FOUR]}]
    )
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": [LETTERS[one.best] for one in ranked]}
    with pytest.raises(ClozeError, match=r"; the text holds 2 '<gap>': if they stand for blanks, give --blank '<gap>'"):
        predict(checkpoint, [source])


def test_more_than_26_options(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    """Answers go on with AA; they are read back by the report, with the passages."""
    options = [f"word {number}" for number in range(40)]
    lines = [
        {"id": f"p{gold}", "article": "It was _ .", "options": [options], "answers": [LETTERS[gold]]}
        for gold in range(25, 40)
    ]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out.json"
    predicted = predict(finetuned / "checkpoint_last.pt", [tmp_path / "many.jsonl"], with_probabilities=True, out=out)
    read = read_predictions(out)
    assert predicted.counts["n_blanks"] == 15 and [one.gold for one in read.values()] == [
        [LETTERS[n]] for n in range(25, 40)
    ]
    assert all(one.probabilities and len(one.probabilities[0]) == 40 for one in read.values())
    wanted = {one.answers[0] for one in read.values()}
    assert len(wanted) == 1 and wanted <= set(LETTERS[:40])
    page = report([out], passages=tmp_path / "many.jsonl").data
    [found] = page["sets"]
    assert [gold if isinstance(gold, str) else gold[0] for _, gold, *_ in found["passages"]] == list(LETTERS[25:40])
    assert found["files"][0]["right"] == sum(one.answers == one.gold for one in read.values())
    assert len(found["files"][0]["confusion"]) == 40


def test_predict_needs_no_data_bin(tmp_path: Path, finetuned: Path) -> None:
    """The checkpoint alone, in another folder, answers as before: it carries its vocabulary."""
    shutil.copy(finetuned / "checkpoint_last.pt", tmp_path / "alone.pt")
    moved = predict(tmp_path / "alone.pt", [PASSAGES / "test"])
    assert moved.answers == predict(finetuned / "checkpoint_last.pt", [PASSAGES / "test"]).answers


def test_predict_over_many_chunks(pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict(pretrained / "model.pt", [PASSAGES / "train"], with_probabilities=True)
    monkeypatch.setattr("fairseq_cloze.ranking.predict._CHUNK", 5)
    chunked = predict(pretrained / "model.pt", [PASSAGES / "train"], with_probabilities=True)
    assert list(chunked.answers) == list(whole.answers)
    assert chunked.counts == whole.counts
    for key, entry in whole.answers.items():
        assert chunked.answers[key]["answers"] == entry["answers"]
        rows: list[Any] = [pytest.approx(row, abs=2e-6) for row in entry["probabilities"]]
        assert chunked.answers[key]["probabilities"] == rows


def test_predict_skips_and_names(tmp_path: Path, finetuned: Path, passage: Callable[..., Path]) -> None:
    bad = passage("bad.json", "It was _ .", [["one"]])
    empty = passage("empty.json", "No gap.", [])
    good = passage("good.json", "It was _ .", [FOUR])
    options = ("--out", tmp_path / "a.json", "--on-error", "skip")
    done = run("fairseq-cloze", "predict", finetuned / "checkpoint_last.pt", good.parent, *options)
    lines = [line for line in done.text.splitlines() if "tensorboardX" not in line]
    assert lines == [
        f"skipped {bad}: blank 1, field 'options': expected a list of 2 to 127 strings, found 1",
        f"skipped {empty}: no blank: the article holds no underscore",
        f"1 passages, 1 blanks (1 unlabelled), 2 skipped; wrote {tmp_path / 'a.json'}",
    ]
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["good"]


@pytest.mark.parametrize("view", ["joint", "full"])
def test_an_option_too_long_for_the_model(tmp_path: Path, pretrained: Path, view: str) -> None:
    """It costs its passage, and not what else there is, which answers as it does alone."""
    long, short = (
        {"article": "It was _ .", "options": [[text, "odd"]], "answers": ["B"]} for text in ("a " * 130, "a")
    )
    path = tmp_path / "a.jsonl"
    settings = PartialSettings(view, "kmask" if view == "joint" else None)
    path.write_text(json.dumps(short))
    alone = predict(pretrained / "model.pt", [path], settings=settings, with_probabilities=True)
    path.write_text("\n".join(map(json.dumps, (short, long, long))))
    with pytest.raises(DataBinError) as error:
        predict(pretrained / "model.pt", [path], settings=settings)
    problem = "a candidate of 130 tokens does not fit into 126 positions"
    assert str(error.value) == f"passage 'a:2': {problem}; take the passage out, or a model with more positions"
    result = predict(pretrained / "model.pt", [path], settings=settings, with_probabilities=True, on_error="skip")
    assert result.answers == alone.answers and result.counts == alone.counts
    assert result.tally.skipped == [(f"{path}, line {number}", problem) for number in (2, 3)]
    assert result.tally.summary() == "1 passages, 1 blanks, 2 skipped"


# -- streams -----------------------------------------------------------------------------------------------------------


class Conversation:
    """``predict`` between two pipes, in a thread of its own."""

    def __init__(self, checkpoint: Path, **options: Any) -> None:
        (self._input, self._give), (self._take, self._output) = os.pipe(), os.pipe()
        self._lines = os.fdopen(self._take)
        self.error: ClozeError | None = None
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(checkpoint, options), daemon=True)
        self._thread.start()

    def _run(self, checkpoint: Path, options: Any) -> None:
        try:
            given = [f"/dev/fd/{self._input}"]
            self.result = predict(checkpoint, given, out=f"/dev/fd/{self._output}", **options)
        except ClozeError as error:
            self.error = error
        finally:
            os.close(self._output)

    def say(self, text: str) -> None:
        os.write(self._give, text.encode())

    def hear(self) -> Any:
        return json.loads(self._lines.readline())

    def end(self) -> list[Any]:
        """Close, and what was still answered."""
        os.close(self._give)
        rest = [json.loads(line) for line in self._lines]
        self._thread.join(60)
        os.close(self._input)
        self._lines.close()
        return rest


def test_a_passage_is_answered_while_the_next_one_is_waited_for(pretrained: Path) -> None:
    """As they come: not before a line is whole, whatever blank lines and passages without a blank follow it."""
    one = json.dumps({"id": "a", "article": "It was _ .", "options": [FOUR], "answers": ["B"]})
    told: list[tuple[str, str]] = []
    talk = Conversation(pretrained / "model.pt", tell=lambda *skipped: told.append(skipped))
    talk.say(one + "\n")
    first = talk.hear()
    [ranked] = load(pretrained / "model.pt").rank("It was _ .", [FOUR])
    assert first == {"id": "a", "answers": [LETTERS[ranked.best]]}
    talk.say(one.replace('"a"', '"b"') + "\n\n \n" + one[:20])
    assert talk.hear()["id"] == "b"
    talk.say(one[20:] + "\n" + json.dumps({"article": "No gap.", "options": []}) + "\n")
    assert talk.hear() == first  # an id may come again, as nothing is overwritten
    talk.say(one)  # without an end of its line
    assert talk.end() == [first]
    assert talk.error is None
    assert talk.result.tally.summary() == "4 passages, 4 blanks, 1 skipped" and talk.result.answers == {}
    assert [why for _, why in told] == ["no blank: the article holds no underscore"]
    assert talk.result.counts["n_blanks"] == 4


def test_what_came_before_a_mistake_is_answered(pretrained: Path) -> None:
    good = json.dumps({"id": "a", "article": "It was _ .", "options": [FOUR]})
    talk = Conversation(pretrained / "model.pt")
    talk.say(f"{good}\n{good}\n{{\n{good}\n")
    assert [entry["id"] for entry in talk.end()] == ["a", "a"]
    assert talk.error is not None
    assert re.fullmatch(
        r"/dev/fd/\d+, line 3: expected JSON, found a mistake in line 1, column 2 \(.*\); the line ends within "
        "a passage: write each passage in a line of its own; mend the passage, .*",
        str(talk.error),
    )


def test_of_passages_that_share_an_id_the_one_that_does_not_fit_is_left_out(pretrained: Path) -> None:
    short, long = (
        json.dumps({"id": "a", "article": "It was _ .", "options": [[text, "odd"]]}) for text in ("a", "a " * 130)
    )
    talk = Conversation(pretrained / "model.pt", on_error="skip", settings=PartialSettings("joint", "kmask"))
    talk.say(f"{short}\n{long}\n{short}\n")
    assert len(talk.end()) == 2
    [(source, _)] = talk.result.tally.skipped
    assert source.endswith(", line 2")


def test_lists_of_passages_grow(pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answers come early; the answers are those of one list."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"article": "It was _ .", "options": [[f"w{n}", "odd"]]}) + "\n" for n in range(70))
    )
    sizes: list[int] = []
    plain = Ranker.score_stores

    def scored(self: Any, stores: Any, *args: Any) -> Any:
        sizes.extend(map(len, stores))
        return plain(self, stores, *args)

    monkeypatch.setattr(Ranker, "score_stores", scored)
    expected = predict(pretrained / "model.pt", [path]).answers
    predict(pretrained / "model.pt", [path], out=tmp_path / "lines.jsonl")
    read, write = os.pipe()
    predict(pretrained / "model.pt", [path], out=f"/dev/fd/{write}")
    os.close(write)
    with os.fdopen(read) as lines:
        text = lines.read()
    assert sizes == [70, 70, 8, 16, 32, 14]
    assert {entry["id"]: entry["answers"] for entry in map(json.loads, text.splitlines())} == expected
    assert (tmp_path / "lines.jsonl").read_text() == text


def test_a_reader_that_goes_away(pretrained: Path, tmp_path: Path) -> None:
    """As behind ``head``: no word, and the status that a shell gives to what SIGPIPE ends; no file is left anywhere."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"article": "It was _ .", "options": [FOUR]}) + "\n" for _ in range(30_000)))
    script = "cat a.jsonl | fairseq-cloze predict $0 - --scores --out - | head -n 2; echo ${PIPESTATUS[@]}"
    ran = subprocess.run(
        ["bash", "-c", script, pretrained / "model.pt"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    *answers, statuses = ran.stdout.splitlines()
    assert [json.loads(line)["id"] for line in answers] == ["stdin:1", "stdin:2"]
    assert (statuses, ran.stderr) == ("141 141 0", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl"]


def test_standard_input_is_read_once(pretrained: Path) -> None:
    with pytest.raises(ClozeError) as error:
        predict(pretrained / "model.pt", ["-", "/dev/stdin"])
    assert str(error.value) == "-: standard input was given twice, and can be read once; give one of them as a file"


def test_nothing_to_predict(finetuned: Path, passage: Callable[..., Path]) -> None:
    path = passage("empty.json", "No gap.", [])
    with pytest.raises(ClozeError) as error:
        predict(finetuned / "checkpoint_last.pt", [path])
    assert str(error.value) == (
        f"{path}: expected passages with blanks, found none (0 passages, 0 blanks, 1 skipped; skipped {path}: no "
        "blank: the article holds no underscore)"
    )
