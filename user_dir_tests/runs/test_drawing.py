from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairseq_cloze.errors import SetupError
from fairseq_cloze.runs.drawing import curves_png, history_curves, history_png
from fairseq_cloze.runs.history import History, Point


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def share(png: bytes, colour: str) -> int:
    """Number of pixels that have about a colour."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.abs(pixels(png) - wanted).max(axis=2) < 40).sum())


def point(tag: str, update: int, **values: float) -> Point:
    return Point(tag, update, 1.0, values)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SetupError) as error:
        curves_png({"valid": [(1, 20.0)]})
    assert str(error.value) == (
        "pictures need matplotlib (import of matplotlib.figure halted; None in sys.modules): "
        "pip install 'fairseq-cloze[plot]'"
    )


def test_a_curve_per_name_in_a_colour_of_its_own() -> None:
    png = curves_png({"valid": [(1, 20.0), (5, 60.0)], "test": [(1, 60.0), (5, 20.0)]}, title="<mask> costs $5 or $6")
    assert pixels(png).shape == (450, 800, 3)
    assert share(png, "#0072b2") > 300 and share(png, "#d55e00") > 300
    assert share(curves_png({"valid": [(1, 20.0), (5, 60.0)]}), "#d55e00") == 0


def test_chance_and_human_level_are_lines() -> None:
    plain = curves_png({"valid": [(1, 20.0), (5, 60.0)]})
    for levels in ({"chance": 25.0}, {"human": 55.0}):
        assert share(curves_png({"valid": [(1, 20.0), (5, 60.0)]}, **levels), "#777777") > share(plain, "#777777") + 300


def test_training_by_line_before_training_by_epoch() -> None:
    points = [point("train_inner", 2, loss=1.5), point("train", 4, loss=1.0), point("valid", 4, loss=1.2, accuracy=30)]
    assert history_curves(History(points), "loss") == {"training": [(2.0, 1.5)], "valid": [(4.0, 1.2)]}
    assert history_curves(History(points[1:]), "loss") == {"training": [(4.0, 1.0)], "valid": [(4.0, 1.2)]}
    assert history_curves(History(points), "accuracy") == {"valid": [(4.0, 30.0)]}


@pytest.mark.parametrize(
    "values, width", [({"loss": 1.0}, 800), ({"loss": 1.0, "accuracy": 30.0, "chance": 25.0}, 1200)]
)
def test_a_part_per_metric_that_the_log_has(values: Any, width: int) -> None:
    png = history_png(History([point("valid", 2, **values), point("valid", 4, **values)]), "run")
    assert png is not None and pixels(png).shape == (450, width, 3)


def test_no_figures_no_picture() -> None:
    assert history_png(History()) is None
