"""Picture: learning curves as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SetupError
from .curves import History

#: Okabe and Ito's palette, which most colour-blind people can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

Curve = Sequence[tuple[float, float]]


def curves_png(
    curves: Mapping[str, Curve], chance: float | None = None, human: float | None = None, title: str = ""
) -> bytes:
    """Draw accuracy over updates.

    Args:
        curves: (update, percent) pairs by name
        chance, human: percent, drawn as lines where they are given
        title: above the picture

    Returns:
        a PNG of 800 x 450 pixels

    Raises:
        SetupError: matplotlib is missing
    """
    figure, (axes,) = _figure(1, title)
    _draw(axes, curves, "accuracy, %")
    _draw_levels(axes, chance, human)
    return _png(figure)


def history_png(history: History, title: str = "") -> bytes | None:
    """Draw loss and, where there is any, accuracy of a run over updates.

    Returns:
        a PNG, 1200 x 450 pixels with accuracy and 800 x 450 without; ``None`` where it has no figures

    Raises:
        SetupError: matplotlib is missing
    """
    parts = {metric: curves for metric in ("loss", "accuracy") if (curves := history.curves(metric))}
    if not parts:
        return None
    figure, all_axes = _figure(len(parts), title)
    for axes, (metric, curves) in zip(all_axes, parts.items()):
        _draw(axes, curves, "accuracy, %" if metric == "accuracy" else metric)
        if metric == "accuracy":
            chances = [point.values["chance"] for point in history.points if "chance" in point.values]
            _draw_levels(axes, chances[-1] if chances else None, None)
    return _png(figure)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, so many inches of 100 pixels.

    Raises:
        SetupError: matplotlib is missing
    """
    try:
        from matplotlib.figure import Figure  # without pyplot there is no global state, and no display is looked for
    except ImportError as error:
        raise SetupError(f"pictures need matplotlib ({error}): pip install 'fairseq-cloze[plot]'") from error

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _figure(parts: int, title: str) -> tuple[Any, list[Any]]:
    figure = new_figure(8.0 if parts == 1 else 12.0, 4.5)
    if title:
        figure.suptitle(title.replace("$", r"\$"))
    return figure, [figure.add_subplot(1, parts, number + 1) for number in range(parts)]


def _draw(axes: Any, curves: Mapping[str, Curve], label: str) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        points = [(x, y) for x, y in curve]
        colour = COLOURS[number % len(COLOURS)]
        marker = "o" if len(points) <= 60 and name != "training" else None
        axes.plot(*zip(*points), color=colour, marker=marker, markersize=4, linewidth=1.5, label=name)
    axes.set_xlabel("updates")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if any(curves.values()):
        axes.legend(frameon=False)


def _draw_levels(axes: Any, chance: float | None, human: float | None) -> None:
    for name, level in (("chance", chance), ("human", human)):
        if level is not None:
            axes.axhline(level, color="#777777", linewidth=1, linestyle="--")
            axes.annotate(
                f"{name} {level:g}%",
                (0.995, level),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color="#555555",
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
            )


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
