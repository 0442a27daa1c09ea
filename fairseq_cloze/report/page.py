"""Report: runs side by side on one page that needs no network."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike, write_text
from ..passages.markers import compile_marker
from ..version import __version__
from .answer_figures import set_figures
from .differences import MOST, differences
from .run_figures import levels, run_figures
from .sources import read_runs
from .texts import make_sets

#: Accuracy of people on CLOTH (Xie et al., "Large-scale cloze test dataset created by teachers", EMNLP 2018), percent.
HUMAN_ON_CLOTH = {"value": 85.9, "name": "human on CLOTH"}


@dataclass(frozen=True)
class Report:
    """What a report shows, as the page's script reads it."""

    data: dict[str, Any]

    def html(self) -> str:
        """The page: one file, with a policy that keeps it from asking for anything."""
        style, page = _template("page.css"), _template("page.html")
        script = "".join(map(_template, ("base.js", "runs.js", "passages.js")))
        policy = (
            f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": embed(self.data)}
        for name, part in parts.items():  # data last, as anything may stand there
            before, after = page.split(f"@{name}@")
            page = before + part + after
        return page

    @property
    def summary(self) -> str:
        """What is in it, in a line."""
        passages = sum(len(found["passages"]) for found in self.data["sets"])
        blanks = sum(len(passage[1]) for found in self.data["sets"] for passage in found["passages"])
        runs = len(self.data["runs"])
        return f"{runs} run{'s' if runs != 1 else ''}, {passages:,} passages, {blanks:,} blanks"


def report(
    runs: Sequence[PathLike],
    passages: PathLike | None = None,
    human: float | None = None,
    blank: str | None = None,
) -> Report:
    """Gather what a report shows.

    Args:
        runs: save-dirs, logs, ``validation.jsonl`` or prediction files, see :mod:`fairseq_cloze.report.sources`
        passages: data-bin or raw passages of the prediction files; by default what the runs name
        human: accuracy of people in percent, drawn in; by default :data:`HUMAN_ON_CLOTH`
        blank: regular expression of what stands for a blank in raw passages; runs of underscores by default

    Raises:
        ClozeError: something cannot be read, holds nothing, or does not belong together
    """
    if not runs:
        raise ClozeError("expected at least one RUN; give a save-dir, a log, a validation.jsonl or a prediction file")
    if human is not None and not 0 <= human <= 100:
        raise ClozeError(f"--human: expected a percentage from 0 to 100, found {human:g}")
    marker = compile_marker(blank)
    found = read_runs(runs)
    sets = make_sets(found, Path(passages) if passages is not None else None, marker)
    figures = [run_figures(run, found) for run in found]
    counts = {run["valid"]["blanks"] for run in figures if run["valid"]}
    files = [file for run in found for file in run.prediction_files]
    data = {
        "made": datetime.now(UTC).isoformat(timespec="minutes"),
        "version": __version__,
        "human": {"value": human, "name": "human"} if human is not None else HUMAN_ON_CLOTH,
        "levels": levels(figures, [run.history for run in found]),
        "best": _best(figures, counts),
        "runs": figures,
        "sets": [set_figures(one) for one in sets],
        "differences": differences(files),
        "notes": _notes(counts, passages is not None and not sets, len(files)),
    }
    return Report(data)


def write_report(made: Report, path: PathLike) -> None:
    """Write the page whole or not at all."""
    write_text(path, made.html())


def embed(data: Any) -> str:
    """JSON that can stand in a ``script`` element: nothing in it can end the element or begin another.

    >>> embed("</script> & <mask>")
    '"\\\\u003c/script\\\\u003e \\\\u0026 \\\\u003cmask\\\\u003e"'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode()  # file names may hold what is no text


def _best(runs: Sequence[dict[str, Any]], counts: set[int | None]) -> int | None:
    """Number of the run with the highest validation accuracy, where all were validated on as many blanks."""
    rated = {number: run["valid"]["accuracy"] for number, run in enumerate(runs) if run["valid"]}
    return max(rated, key=rated.__getitem__) if len(rated) > 1 and len(counts) == 1 else None


def _notes(counts: set[int | None], unused: bool, files: int) -> list[str]:
    notes = []
    if len(counts) > 1:
        found = ", ".join("an unknown number" if count is None else f"{count:,}" for count in counts)
        notes.append(f"The runs were validated on different blanks ({found} of them), so their accuracies cannot be "
                     "compared and none is marked as the best.")  # fmt: skip
    if files > MOST:
        notes.append(f"Of {files:,} prediction files, the first {MOST} are compared with each other.")
    return notes + ["--passages was given, but no run has a prediction file."] * unused


def _template(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
