"""PNGs of a report: the same curves and confusions, for papers and mails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import PathLike, cannot_write, replacing
from ..passages.passage import LETTERS
from ..runs.drawing import COLOURS, new_figure

_STYLES: Mapping[str, dict[str, Any]] = {
    "train": {"linestyle": "--", "linewidth": 1.0},
    "valid": {"linestyle": "-", "linewidth": 1.8, "marker": "o", "markersize": 4, "markerfacecolor": "white"},
    "watch": {"linestyle": "", "marker": "D", "markersize": 4},
}
_LABELS = {"loss": "loss, nats per blank", "accuracy": "accuracy, %"}


def write_pngs(data: Mapping[str, Any], folder: PathLike) -> list[Path]:
    """Write ``loss.png``, ``accuracy.png`` and ``confusion.png``, as far as there is something to draw.

    Args:
        data: what a :class:`fairseq_cloze.report.page.Report` holds
        folder: made where it is missing

    Returns:
        the files, 100 pixels per inch

    Raises:
        SetupError: matplotlib is missing
        ClozeError: they cannot be written
    """
    folder = Path(folder)
    figures = {
        metric: _curves(data, metric) for metric in _LABELS if any(run["curves"][metric] for run in data["runs"])
    }
    files = [file for one in data["sets"] for file in one["files"] if file["blanks"]]
    if files:
        figures["confusion"] = _confusions(files)
    written = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        try:
            with replacing(path) as temporary:
                figure.savefig(temporary, format="png")
        except OSError as error:
            raise cannot_write(path, error.strerror or str(error)) from error
        written.append(path)
    return written


def _curves(data: Mapping[str, Any], metric: str) -> Any:
    figure = new_figure(8.0, 4.5)
    axes = figure.add_subplot()
    for number, run in enumerate(data["runs"]):
        for curve in run["curves"][metric]:
            colour = COLOURS[number % len(COLOURS)]
            label = f"{run['label']}, {curve['name']}".replace("$", r"\$")
            axes.plot(*zip(*curve["points"]), color=colour, label=label, **_STYLES[curve["kind"]])
    for name, level in _levels(data, metric):
        axes.axhline(level, color="#777777", linewidth=1, linestyle=":")
        side = "top" if name.startswith("chance") else "bottom"
        axes.annotate(name, (0.995, level), xycoords=("axes fraction", "data"), ha="right", va=side, color="#444444")
    if metric == "accuracy" and data["levels"]["low"] is not None:
        axes.axhspan(data["levels"]["low"], data["levels"]["high"], color="#777777", alpha=0.12, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("updates")
    axes.set_ylabel(_LABELS[metric])
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def _levels(data: Mapping[str, Any], metric: str) -> list[tuple[str, float]]:
    chance, guessing, human = data["levels"]["chance"], data["levels"]["loss"], data["human"]
    if metric == "loss":
        return [] if guessing is None else [(f"guessing {guessing:.3f}", guessing)]
    levels = [(f"{human['name']} {human['value']:g}%", human["value"])]
    return levels if chance is None else [*levels, (f"chance {chance:g}%", chance)]


def _confusions(files: list[Mapping[str, Any]]) -> Any:
    columns = min(len(files), 3)
    rows = -(-len(files) // columns)
    figure = new_figure(4.0 * columns, 4.2 * rows)
    for number, file in enumerate(files):
        counts = file["confusion"]
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for row, line in enumerate(counts):
            for column, count in enumerate(line):
                share = shares[row][column]
                text = f"{count:,}\n{100 * share:.0f}%"
                axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.6 else "black")
        letters = list(LETTERS[: len(counts)])
        axes.set_xticks(range(len(counts)), letters)
        axes.set_yticks(range(len(counts)), letters)
        axes.set_xlabel("answer")
        axes.set_ylabel("right answer")
        axes.set_title(file["label"].replace("$", r"\$"), fontsize="medium")
    return figure
