"""Logs of fairseq, whatever stands in them."""

from __future__ import annotations

import io

from fairseq_cloze.report.fairseq_log import read_lines
from fairseq_cloze.runs.curves import History

_TIME = b"2026-11-24 03:12:00 | INFO | "
_HYDRA = b"[2026-11-24 03:12:00,123][train_inner][INFO] - "
_FIGURES = b'{"epoch": 1, "update": 0.5, "loss": "1.386", "accuracy": "25.1", "num_updates": "10", "lr": "1e-05"}\n'
_SIMPLE = b"epoch 001 | valid on 'valid' subset | loss 1.386 | accuracy 25.1 | num_updates 10\n"


def seeds() -> list[bytes]:
    return [
        _TIME + b"train_inner | " + _FIGURES,
        _HYDRA + _FIGURES,
        _TIME + b"train_inner | epoch 001:     10 / 20 loss=1.386, accuracy=25.1, num_updates=10\n",
        _TIME + b"valid | " + _SIMPLE,
        _TIME + b"fairseq_cli.train | {[]: 1}\n",
        _TIME + b"fairseq_cli.train | {'task': {'_name': 'x', 'data': None}, 'model': Namespace(a=[1, 2.5], b=inf)}\n",
        b"# folder: /runs/a\n\rnoise\x1b[2K\r" + _TIME + b"valid | " + _FIGURES.replace(b'"epoch"', b'"valid_epoch"'),
    ]


def attack(data: bytes) -> None:
    history = History()
    read_lines(io.TextIOWrapper(io.BytesIO(data), "utf-8", "replace", newline="\n"), history)
    assert isinstance(history.settings, dict)
