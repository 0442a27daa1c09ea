from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairseq_cloze.errors import SetupError
from fairseq_cloze.runs.curves import History, Point
from fairseq_cloze.runs.drawing import curves_png, history_png, shown


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def share(png: bytes, colour: str) -> int:
    """Number of pixels that have about a colour."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.abs(pixels(png) - wanted).max(axis=2) < 40).sum())


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


def test_chance_is_a_line() -> None:
    plain = curves_png({"valid": [(1, 20.0), (5, 60.0)]})
    assert share(curves_png({"valid": [(1, 20.0), (5, 60.0)]}, 25.0), "#777777") > share(plain, "#777777") + 300


@pytest.mark.parametrize(
    "values, width", [({"loss": 1.0}, 800), ({"loss": 1.0, "accuracy": 30.0, "chance": 25.0}, 1200)]
)
def test_a_part_per_metric_that_the_log_has(values: Any, width: int) -> None:
    png = history_png(History(validations={"valid": [Point(update, 1.0, values) for update in (2, 4)]}), "run")
    assert png is not None and pixels(png).shape == (450, width, 3)


def test_no_figures_no_picture() -> None:
    assert history_png(History()) is None


@pytest.mark.parametrize("name", ["$x_{", "a\\$b$", "\udcff\ud800", "_x", "a\u202e", "\x00\n"])
def test_names_that_matplotlib_would_take_amiss(name: str) -> None:
    """Formulas, half characters, names that are left out."""
    assert curves_png({name: [(1, 40.0), (2, 50.0)]}, 25.0, name).startswith(b"\x89PNG")
    assert shown("_$x$\udcff") == r" _\$x\$?"
