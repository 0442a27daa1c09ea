"""PNGs of a report: the same curves and confusions, for papers and mails."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import PathLike, alone_in, write_bytes
from ..passages.passage import LETTERS
from ..runs.drawing import COLOURS, dress, new_figure, png_of, shown

_STYLES: Mapping[str, dict[str, Any]] = {
    "train": {"linestyle": "--", "linewidth": 1.0},
    "valid": {"linestyle": "-", "linewidth": 1.8, "marker": "o", "markersize": 4, "markerfacecolor": "white"},
    "watch": {"linestyle": "", "marker": "D", "markersize": 4},
}
_LABELS = {"loss": "loss, nats per blank", "accuracy": "accuracy, %"}


def write_pngs(data: Mapping[str, Any], folder: PathLike) -> list[Path]:
    """Write ``loss.png``, ``accuracy.png`` and ``confusion.png`` of a report's data, as far as there is any to draw.

    Returns:
        the files, 100 pixels per inch, in *folder*, which is made where it is missing

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
    with alone_in(folder):
        for name, figure in figures.items():
            write_bytes(folder / f"{name}.png", png_of(figure))
    return [folder / f"{name}.png" for name in figures]


def _curves(data: Mapping[str, Any], metric: str) -> Any:
    figure = new_figure(8.0, 4.5)
    axes = figure.add_subplot()
    for number, run in enumerate(data["runs"]):
        for curve in run["curves"][metric]:
            colour = COLOURS[number % len(COLOURS)]
            label = shown(f"{run['label']}, {curve['name']}")
            axes.plot(*zip(*curve["points"]), color=colour, label=label, **_STYLES[curve["kind"]])
    chance, guessing, human = data["levels"]["chance"], data["levels"]["loss"], data["human"]
    lines = {f"guessing {guessing:.3f}": guessing} if guessing is not None else {}
    if metric == "accuracy":
        lines = {f"{human['name']} {human['value']:g}%": human["value"]}
        lines |= {} if chance is None else {f"chance {chance:g}%": chance}
    for name, level in lines.items():
        axes.axhline(level, color="#777777", linewidth=1, linestyle=":")
        side = "top" if name.startswith("chance") else "bottom"
        axes.annotate(name, (0.995, level), xycoords=("axes fraction", "data"), ha="right", va=side, color="#444444")
    if metric == "accuracy" and data["levels"]["low"] is not None:
        axes.axhspan(data["levels"]["low"], data["levels"]["high"], color="#777777", alpha=0.12, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    dress(axes, _LABELS[metric])
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def _confusions(files: list[Mapping[str, Any]]) -> Any:
    columns = min(len(files), 3)
    rows = -(-len(files) // columns)
    figure = new_figure(4.0 * columns, 4.2 * rows)
    for number, file in enumerate(files, 1):
        counts = file["confusion"]
        letters = LETTERS[: len(counts)]
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for row, line in enumerate(counts):
            for column, count in enumerate(line):
                share = shares[row][column]
                axes.text(column, row, f"{count:,}\n{100 * share:.0f}%", ha="center", va="center",
                          color="white" if share > 0.6 else "black")  # fmt: skip
        axes.set_xticks(range(len(counts)), letters)
        axes.set_yticks(range(len(counts)), letters)
        axes.set_xlabel("answer")
        axes.set_ylabel("right answer")
        axes.set_title(shown(file["label"]), fontsize="medium")
    return figure
