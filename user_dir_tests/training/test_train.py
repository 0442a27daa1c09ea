"""From passages to a fine-tuned model in one command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ..support.commands import PASSAGES, PLUGIN, run

#: As somebody would write the line by hand for the passages of the tests and the small model.
BY_HAND = """
fairseq-train out/data-bin --user-dir PLUGIN --task cloze_ranking --criterion cloze_ranking --arch cloze_roberta
    --finetune-from-model WEIGHTS --optimizer fused_adamw --adam-betas '(0.9, 0.98)' --adam-eps 1e-6
    --weight-decay 0.01 --clip-norm 1.0 --lr 0.0003 --lr-scheduler polynomial_decay --warmup-updates 1
    --total-num-update 9 --max-update 9 --max-tokens 3133 --save-dir SAVE --save-interval-updates 1
    --keep-interval-updates 2 --no-epoch-checkpoints --best-checkpoint-metric accuracy
    --maximize-best-checkpoint-metric --log-format simple --log-interval 1
"""


def losses(save_dir: Path) -> list[float]:
    events = map(json.loads, (save_dir / "metrics.jsonl").read_text().splitlines())
    return [event["loss"] for event in events if event["type"] == "update"]


def by_hand(save_dir: str, pretrained: Path) -> list[str]:
    words = BY_HAND.replace("PLUGIN", str(PLUGIN)).replace("WEIGHTS", str(pretrained / "model.pt"))
    return shlex.split(words.replace("SAVE", save_dir))


def printed(text: str) -> list[str]:
    """The words of the ``fairseq-train`` line among others, which goes on as long as lines end in a backslash."""
    lines = text[text.index("fairseq-train out") :].splitlines()
    last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    return shlex.split("\n".join(lines[: last + 1]))


def test_it_is_the_line_by_hand(tmp_path: Path, pretrained: Path) -> None:
    """To the last digit of the losses."""
    words = ("fairseq-cloze", "train", PASSAGES, "--pretrained", pretrained, "--out", "out", "--epochs", "0.4")
    ran = run(*words, cwd=tmp_path)
    assert printed(ran.text) == by_hand("out/checkpoints", pretrained)
    run(*by_hand("by-hand", pretrained), cwd=tmp_path)
    found = losses(tmp_path / "out" / "checkpoints")
    assert len(found) == 9 and found == losses(tmp_path / "by-hand")
    assert ran.text.splitlines()[-7:] == []
