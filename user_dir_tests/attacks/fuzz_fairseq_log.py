"""Logs of fairseq: whatever stands in a line, its figures are numbers that a report can show."""

import math

from fairseq_cloze.runlog.fairseq_log import read_lines
from fairseq_cloze.runs.curves import MOST_UPDATES, History

STAMP = b"2026-11-24 03:17:26 | INFO | "


def seeds() -> list[bytes]:
    bar = "epoch 001:  57%|█████▋    | 4/7 [00:05<00:03,  1.00it/s, loss=1.25, accuracy=30, num_updates=4]"
    return [
        STAMP + b'valid | {"epoch": 2, "valid_loss": "1.5", "valid_accuracy": "20.5", "valid_num_updates": "16"}\n',
        b"[default0]:" + STAMP + b"train_inner | epoch 002:      9 / 12 loss=1.25, ppl=nan, num_updates=21, lr=1e-05\n",
        STAMP + b"dev | epoch 002 | valid on 'dev' subset | loss 1.5 | accuracy 20.5 | num_updates 21\n",
        b'[2026-11-24 03:17:26,123][train][INFO] - {"train_loss": 1, "train_num_updates": 4}\n',
        STAMP + b"fairseq_cli.train | {'_name': None, 'task': {'data': 'bin', 'view': full, 'lr': [1e-05, inf]}}\n",
        f"\r{bar}\r\x1b[K{bar}\r\x1b[A\r\n".encode(),
        b"# folder: /home/me\n",
    ]


def attack(data: bytes) -> None:
    history = History()
    read_lines(data.splitlines(keepends=True), history)
    for points in (history.updates, history.epochs, *history.validations.values()):
        updates = [point.update for point in points]
        assert updates == sorted(set(updates))
        for point in points:
            assert 0 <= point.update < MOST_UPDATES and math.isfinite(point.epoch)
            assert all(math.isfinite(value) for value in point.values.values())
    assert isinstance(history.settings, dict) and "\n" not in history.folder
