"""Picture: learning curves as PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SetupError
from .curves import History

#: Okabe and Ito's palette, which most colour-blind people can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

Curve = Sequence[tuple[float, float]]


def curves_png(curves: Mapping[str, Curve], chance: float | None = None, title: str = "") -> bytes:
    """Draw accuracy in percent over updates, and chance as a line: a PNG of 800 x 450 pixels.

    Raises:
        SetupError: matplotlib is missing
    """
    return _png({"accuracy": curves}, chance, title)


def history_png(history: History, title: str = "") -> bytes | None:
    """Draw loss and, where there is any, accuracy of a run over updates.

    Returns:
        a PNG, 1200 x 450 pixels with accuracy and 800 x 450 without; ``None`` where it has no figures

    Raises:
        SetupError: matplotlib is missing
    """
    parts = {metric: curves for metric in ("loss", "accuracy") if (curves := history.curves(metric))}
    chances = [point.values["chance"] for point in history.points if "chance" in point.values]
    return _png(parts, chances[-1] if chances else None, title) if parts else None


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


def shown(text: str) -> str:
    """A text that matplotlib shows as it is: no formula, nothing it leaves out, no half characters."""
    text = text.encode("utf-8", "replace").decode().replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def dress(axes: Any, label: str) -> None:
    """What all curves over updates have around them."""
    axes.set_xlabel("updates")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _png(parts: Mapping[str, Mapping[str, Curve]], chance: float | None, title: str) -> bytes:
    figure = new_figure(8.0 if len(parts) == 1 else 12.0, 4.5)
    if title:
        figure.suptitle(shown(title))
    for place, (metric, curves) in enumerate(parts.items(), 1):
        axes = figure.add_subplot(1, len(parts), place)
        for number, (name, curve) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            marker = "o" if len(curve) <= 60 and name != "training" else None
            axes.plot(*zip(*curve), color=colour, marker=marker, markersize=4, linewidth=1.5, label=shown(name))
        dress(axes, "accuracy, %" if metric == "accuracy" else metric)
        axes.legend(frameon=False)
        if metric == "accuracy" and chance is not None:
            axes.axhline(chance, color="#777777", linewidth=1, linestyle="--")
            axes.annotate(f"chance {chance:g}%", (0.995, chance), xycoords=("axes fraction", "data"), ha="right",
                          va="bottom", color="#555555",
                          bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1})  # fmt: skip
    return png_of(figure)


def png_of(figure: Any) -> bytes:
    """A figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
