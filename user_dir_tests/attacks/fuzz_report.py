"""Reports of damaged and lying events, validations, logs, predictions: a page whose data is plain JSON, or an error."""

import json

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.report.page import embed, report

from ..support.reported import CONFIG, ORIGIN, STAMP
from .scratch import written


def seeds() -> list[bytes]:
    settings = {**CONFIG, "task": {**CONFIG["task"], "data": "bin"}}
    figures = {"loss": 1.4, "accuracy": 26.0, "chance": 25.0, "n_blanks": 400}
    events = [
        {"type": "started", "update": 0, "epoch": 1, "settings": settings, "folder": "/home"},
        {"type": "update", "update": 2, "epoch": 1, "loss": 1.3, "accuracy": 22, "lr": 1e-5},
        {"type": "validation", "subset": "valid", "update": 4, "epoch": 1, **figures},
        {"type": "chance", "update": 4, "text": "at chance", "causes": [{"text": "a"}, "b"], "proved": ["c"]},
        {"type": "epoch", "update": 4, "epoch": 1, **figures},
    ]
    score = {"checkpoint": "c.pt", "split": "valid", "data_bin": "bin", "updates": 2, "accuracy": 48.0, "chance": 25.0}
    score["n_blanks"] = 400
    log = f"{STAMP}fairseq_cli.train | {settings}\n{STAMP}valid | " + json.dumps(
        {f"valid_{name}": value for name, value in {**figures, "num_updates": 4}.items()}
    )
    lines = (
        "".join(json.dumps(entry) + "\n" for entry in entries)
        for entries in (events, [score, {"checkpoint": "d.pt", "error": "x"}])
    )
    answers = {"x": {"answers": ["A", "B"], "gold": ["A", None]}, "fairseq_cloze": {**ORIGIN, "data_bin": "bin"}}
    return [*(text.encode() for text in lines), log.encode(), json.dumps(answers).encode()]


def attack(data: bytes) -> None:
    for name in ("metrics.jsonl", "run.log", "answers.json"):
        path = written(data, name)
        try:
            made = report([path])
        except ClozeError:
            continue
        finally:
            path.unlink()
        text = embed(made.data)
        assert "<" not in text and json.loads(text)["runs"][0]["label"]
