"""From passages to a fine-tuned model in one command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fairseq_cloze.cli.prepare import command as prepare_command
from fairseq_cloze.cli.train import command as train_command
from fairseq_cloze.data.encoding import EncodingOptions
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.files import alone_in
from fairseq_cloze.ranking.calibration import calibrate
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.training.facts import find_device, gather_facts
from fairseq_cloze.training.inputs import make_materials, read_inputs
from fairseq_cloze.training.known_options import known_options
from fairseq_cloze.training.plan import Device, Given, make_plan
from fairseq_cloze.training.train import _fitting, train
from fairseq_cloze.views.settings import PartialSettings

from ..support.commands import PASSAGES, PLUGIN, run

#: As somebody would write the line by hand for the passages of the tests and the small model.
BY_HAND = """
fairseq-train out/data-bin --user-dir PLUGIN --task cloze_ranking --criterion cloze_ranking --arch cloze_roberta
    --finetune-from-model out/calibrated.pt --contrast 0 PRECISION
    --optimizer fused_adamw --adam-betas '(0.9, 0.98)' --adam-eps 1e-6 --weight-decay 0.01
    --clip-norm 1.0 --lr 0.0003 --lr-scheduler polynomial_decay --warmup-updates 1
    --total-num-update 13 --max-update 13 --max-tokens 1024 --save-dir SAVE --save-interval-updates 2
    --keep-interval-updates 2 --no-epoch-checkpoints --best-checkpoint-metric accuracy
    --maximize-best-checkpoint-metric --log-format simple --log-interval 1 --dropout 0 --attention-dropout 0
"""


def losses(save_dir: Path) -> list[float]:
    events = map(json.loads, (save_dir / "metrics.jsonl").read_text().splitlines())
    return [event["loss"] for event in events if event["type"] == "update"]


def by_hand(save_dir: str) -> list[str]:
    precision = "--autocast" if find_device(Given([])).has_bfloat16 else ""
    line = BY_HAND.replace("PLUGIN", str(PLUGIN)).replace("SAVE", save_dir).replace("PRECISION", precision)
    return shlex.split(line)


def printed(text: str) -> list[str]:
    """The words of the ``fairseq-train`` line among others, which goes on as long as lines end in a backslash."""
    lines = text[text.index("fairseq-train out") :].splitlines()
    last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    return shlex.split(" ".join(line.removesuffix("\\") for line in lines[: last + 1]))


def test_it_is_the_line_by_hand(tmp_path: Path, pretrained: Path) -> None:
    """To the last digit of the losses."""
    words = ("fairseq-cloze", "train", PASSAGES, "--pretrained", pretrained, "--out", "out", "--epochs", "0.4")
    ran = run(*words, cwd=tmp_path)
    assert printed(ran.text) == by_hand("out/checkpoints")
    again = tmp_path / "again.pt"
    calibrate(pretrained / "model.pt", tmp_path / "out" / "data-bin", again)
    assert again.read_bytes() == (tmp_path / "out" / "calibrated.pt").read_bytes()
    run(*by_hand("by-hand"), cwd=tmp_path)
    found = losses(tmp_path / "out" / "checkpoints")
    assert len(found) == 13 and found == losses(tmp_path / "by-hand")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["split"], result["n_blanks"]) == ("test", 98)
    before, after = f"{result['pretrained']:10.2f}", f"{result['mean']:10.2f}"
    lines = ran.text.splitlines()
    steps = [line.split(", ")[0] for line in lines[lines.index("the log of fairseq-train: out/train.log") :]][1:-7]
    assert steps[-1] == "update 13 of 13"
    assert set(steps) <= {f"update {number} of 13" for number in range(14)}  # not a word of fairseq's own
    assert '"valid" subset' in (tmp_path / "out" / "train.log").read_text()
    *_, title, chance, zero_shot, tuned, difference, checkpoint, page = lines
    assert title == "test, 98 blanks                   accuracy %   95% interval"
    assert chance == f"{'chance':34}     25.00"
    assert zero_shot.startswith(f"{'pretrained':34}{before}   ")
    assert tuned.startswith(f"{'fine-tuned':34}{after}   ")
    assert difference.startswith(f"fine-tuned - pretrained: {result['differences'][0]['points']:+.2f} points, p ")
    assert [checkpoint, page] == ["fine-tuned: out/checkpoints/checkpoint_best.pt", "report: out/report.html"]
    shown = (tmp_path / "out" / "report.html").read_text()
    assert shown.startswith("<!DOCTYPE html>") and "pretrained-answers" in shown


def test_a_given_contrast_holds_for_the_pretrained_weights_too(
    tmp_path: Path, pretrained: Path, data_bin: Path
) -> None:
    words = ("fairseq-cloze", "train", data_bin, "--pretrained", pretrained, "--out", "out", "--max-update", "1")
    ran = run(*words, "--contrast", "0.3", cwd=tmp_path)
    assert ran.text.startswith("the LM head is not calibrated: --contrast 0.3 was given\n")
    found = json.loads((tmp_path / "out" / "pretrained-answers.json").read_text())
    for contrast, same in ((0.3, True), (None, False)):
        path = tmp_path / "answers.json"
        evaluate(pretrained / "model.pt", data_bin, "test", PartialSettings(contrast=contrast), predictions_path=path)
        assert (json.loads(path.read_text()) == found) is same


@pytest.mark.slow
def test_seeds(tmp_path: Path, pretrained: Path) -> None:
    """Each into a folder of its own, from the same data; what is done is not done again."""
    words = ("fairseq-cloze", "train", PASSAGES, "--pretrained", pretrained, "--out", "out", "--epochs", "0.1")
    run(*words, "--seeds", "2", cwd=tmp_path)
    first, second = (losses(tmp_path / "out" / f"seed{number}" / "checkpoints") for number in (1, 2))
    assert len(first) == len(second) == 3 and first != second
    ran = run(*words, "--seeds", "3", "--against", "out/seed1/answers.json", cwd=tmp_path)
    assert [losses(tmp_path / "out" / f"seed{number}" / "checkpoints") for number in (1, 2)] == [first, second]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    accuracies = [each["accuracy"] for each in result["runs"]]
    assert len(accuracies) == 3 and result["mean"] == pytest.approx(sum(accuracies) / 3)
    assert (
        f"mean of 3 seeds                   {result['mean']:10.2f}   ± {result['spread']:.2f} between seeds" in ran.text
    )
    own = tmp_path / "own.json"
    evaluate(tmp_path / "out" / "average.pt", tmp_path / "out" / "data-bin", "test", predictions_path=own)
    answers = [json.loads(path.read_text()) for path in (own, tmp_path / "out" / "average-answers.json")]
    assert answers[0] == answers[1]
    assert f"average of their weights          {result['average']['accuracy']:10.2f}   " in ran.text
    assert ran.text.splitlines()[-2] == "average of their weights: out/average.pt"
    [_, against] = result["differences"]
    assert against["name"] == "fine-tuned - out/seed1/answers.json"
    assert against["points"] == pytest.approx(result["mean"] - accuracies[0])


@pytest.mark.slow
def test_exit_statuses_pass(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """What fairseq-train says with its own; then nothing is judged."""
    words = ("fairseq-cloze", "train", data_bin, "--pretrained", pretrained, "--out", "out")
    ran = run(*words, "--lr", "1e-9", "--chance-patience", "20", "--stop-at-chance", cwd=tmp_path, code=4)
    assert "WARNING | fairseq_cloze.plugin" in ran.text and "are at chance: accuracy is" in ran.text
    assert "  1. " in ran.text and "--stop-at-chance asks for" in ran.text
    assert ran.text.endswith("fairseq-train has ended with status 4; its log is out/train.log\n")
    assert not (tmp_path / "out" / "result.json").exists()
    run(*words, "--no-such-option", cwd=tmp_path, code=2)


@pytest.mark.slow
def test_what_fits_is_measured_once(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """On a CPU here, whose memory is measured in the same way."""
    given, device = Given([]), Device("CPU", 1, True)
    facts = gather_facts(data_bin, pretrained / "model.pt", given)
    paths = {"data_bin": data_bin, "weights": pretrained / "model.pt", "save_dir": tmp_path, "user_dir": PLUGIN}
    plan = make_plan(facts, device, given, **paths)
    said: list[str] = []
    for _ in range(2):
        assert _fitting(plan, device, 1024, tmp_path / "fit.json", said.append) >= 1024
    assert [line for line in said if line.startswith("measuring")] == ["measuring what fits into the memory of CPU"]
    assert list(tmp_path.iterdir()) == [tmp_path / "fit.json"]


# -- what is refused before anything is done -------------------------------------------------------------------------


def said(*words: Any) -> tuple[int, str]:
    """Exit status and last line of the command line, in this process."""
    ended = CliRunner().invoke(train_command, [str(word) for word in words])
    return ended.exit_code, str(ended.exception) if ended.exit_code == 1 else ended.output.splitlines()[-1]


def test_data_come_first(tmp_path: Path) -> None:
    found = said("--update-freq", "2", PASSAGES, "--pretrained", "w", "--out", tmp_path / "out")
    assert found == (
        2,
        "Error: expected DATA-BIN or PASSAGES first, found --update-freq; other options go behind it",
    )


def test_what_does_not_go_together(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, message in (
        (("--seeds", "2", "--seed", "3"), "--seeds and --seed: expected one of them"),
        (("--save-dir", "x"), "--save-dir: checkpoints lie in --out; leave it out, or take fairseq-train itself"),
        (
            ("--watch", "cuda:77"),
            f"device cuda:77 cannot be used (there are {torch.cuda.device_count()} CUDA devices); take cpu, cuda, or "
            "cuda:N",
        ),
        (("--against", tmp_path / "nix"), f"{tmp_path}/nix: no such prediction file; check the path"),
    ):
        assert said(PASSAGES, "--pretrained", "w", "--out", out, *words) == (1, message)
    code, message = said(PASSAGES, "--pretrained", "w", "--out", out, "--watch", "nowhere")
    assert code == 1 and message.startswith("device nowhere cannot be used (")
    assert not out.exists()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with alone_in(tmp_path / "out"), pytest.raises(ClozeError) as error:
        train(PASSAGES, "w", tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path}/out: another command is writing there; wait for it, or choose another folder"
    )
    assert not (tmp_path / "out" / "inputs.txt").exists()


def test_a_data_bin_without_a_split_to_train_on(tmp_path: Path, pretrained: Path) -> None:
    prepare({"valid": [PASSAGES / "valid"]}, pretrained, tmp_path / "bin", workers=1)
    with pytest.raises(ClozeError) as error:
        train(tmp_path / "bin", str(pretrained), tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path}/bin: expected a split 'train', found valid; prepare it with passages to train on"
    )


def test_a_watch_without_anything_to_score(tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(ClozeError) as error:
        train(PASSAGES / "valid", str(pretrained), tmp_path / "out", watch="cpu")
    assert str(error.value) == (
        "--watch: there are no answers in a split 'valid' to score; give --valid, or leave it out"
    )


def test_what_prepare_can_train_can() -> None:
    """In one place, so that neither is forgotten."""
    prepare_has, train_has = (
        {name for each in one.params for name in each.opts} for one in (prepare_command, train_command)
    )
    assert prepare_has - train_has == {"--train", "--overwrite"}


def test_passages_are_prepared_as_was_said(tmp_path: Path, pretrained: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"article": "Ein [B] .", "options": [["Haus", "Hut"]], "answers": ["A"]}\n{}\n')
    said: list[str] = []
    options = EncodingOptions("none", True, "fr")
    how = {"options": options, "blank": r"\[B\]", "on_error": "skip", "workers": 1}
    inputs = read_inputs(tmp_path / "p.jsonl", str(pretrained), preparing=how)
    data_bin, _ = make_materials(inputs, tmp_path / "out", said.append)
    manifest = json.loads((data_bin / "manifest.json").read_text())
    assert manifest["encoding"] == options.to_dict() and manifest["splits"]["train"]["skipped"] == 1
    assert said[:2] == ["preparing passages", "train: 2 passages, 1 blanks, 1 skipped"]


def test_help_shows_every_group() -> None:
    text = CliRunner().invoke(train_command, ["--help"]).output
    for title, options in known_options().items():
        assert f"\n{title}:\n" in text
        assert [option.name for option in options if f"  {option.name}" not in text] == []
