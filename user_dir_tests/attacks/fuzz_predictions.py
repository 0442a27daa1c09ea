"""Prediction files, and what a report makes of them."""

from __future__ import annotations

import json

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.ranking.answers import parse_predictions
from fairseq_cloze.ranking.origin import read_origin
from fairseq_cloze.report.answer_figures import calibration, confusion, count_right

from ..support.reported import ORIGIN


def seeds() -> list[bytes]:
    """With and without gold and probabilities, as an object and as lines."""
    one = {"answers": ["A", "C"], "gold": ["A", None], "probabilities": [[0.61, 0.2, 0.19], [0.1, 0.2, 0.7]]}
    two = {"high/high1": one, "high/high2": {"answers": ["B"]}}
    lines = "".join(json.dumps({"id": key, **entry}) + "\n" for key, entry in two.items())
    whole = json.dumps({**two, "fairseq_cloze": ORIGIN}).encode()
    return [json.dumps(two, indent=1).encode(), whole, b"{}", lines.encode()]


def attack(data: bytes) -> None:
    """What is accepted has an answer, and gold or none, for every blank; a refusal is one line."""
    try:
        predictions = parse_predictions(data, "p.json")
    except ClozeError as error:
        assert str(error).startswith(("p.json: ", "p.json, line ")) and "\n" not in str(error)
        return
    if predictions.origin is not None:
        again = json.loads(json.dumps(predictions.origin.to_dict()))
        assert read_origin(again) == predictions.origin
    for one in predictions.values():
        assert len(one.answers) == len(one.gold)
        assert all(0.0 <= value <= 1.0 for row in one.probabilities or [] for value in row)
    right, labelled, chance = count_right(predictions)
    assert 0 <= right <= labelled and (chance is None or 0 < chance <= 50)
    confusion(predictions), calibration(predictions)
