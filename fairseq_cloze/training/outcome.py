"""Outcome: what a training is worth, in a table, against the pretrained weights and against other trainings."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..data.databin import DataBin
from ..errors import CheckpointError, ClozeError
from ..files import PathLike
from ..ranking.answers import read_predictions
from ..ranking.compare import LEVEL
from ..ranking.evaluate import evaluate
from ..runs.names import BEST_CHECKPOINT, LAST_CHECKPOINT
from ..statistics import sign_flip, wilson_interval
from ..views.settings import PartialSettings
from ..weights.averaging import average_checkpoints
from ..weights.checkpoint import Checkpoint
from .facts import is_labelled
from .plan import Given

ANSWERS = "answers.json"  #: predictions of a training
BEFORE = "pretrained-answers.json"  #: those of the weights it started from
AVERAGE, OF_AVERAGE = "average.pt", "average-answers.json"  #: mean of the weights of several trainings, and its answers
WATCHED_BEST = "checkpoint_best_accuracy.pt"  #: that a watch chose

_WIDTH = 34


@dataclass(frozen=True)
class Scored:
    """A prediction file and what is right in it."""

    name: str
    path: Path
    blanks: int
    right: int

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100.0 * self.right / self.blanks

    def to_dict(self) -> dict[str, Any]:
        """It in the result."""
        return {"name": self.name, "accuracy": self.accuracy, "predictions": str(self.path)}

    def line(self) -> str:
        """A row of the table."""
        low, high = wilson_interval(self.right, self.blanks)
        return f"{self.name:{_WIDTH}}{self.accuracy:10.2f}   {100 * low:.1f} to {100 * high:.1f}"


@dataclass(frozen=True)
class Difference:
    """Trainings against others, on the same passages."""

    name: str
    points: float  #: mean accuracy of the ones less that of the others
    p: float  #: of the exact sign-flip test over passages

    def line(self) -> str:
        """It as a sentence."""
        verdict = "may be luck" if self.p >= LEVEL else "hardly luck"
        return f"{self.name}: {self.points:+.2f} points, p {'<' if self.p < 0.0001 else '='} " + (
            f"{max(self.p, 0.0001):.4f} (sign-flip test over passages): {verdict}"
        )


@dataclass(frozen=True)
class Outcome:
    """What came of a training, or of several that differ by their seeds."""

    split: str
    chance: float
    before: Scored | None  #: the weights they started from
    runs: list[Scored]
    average: Scored | None  #: one model, the mean of the weights of the runs
    differences: list[Difference]

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracies of the runs."""
        return stdev(run.accuracy for run in self.runs)

    @property
    def all(self) -> list[Scored]:
        """What was scored, the weights they started from first."""
        return [scored for scored in (self.before, *self.runs, self.average) if scored is not None]

    def lines(self) -> list[str]:
        """The table."""
        title = f"{self.split}, {self.runs[0].blanks:,} blanks"
        out = [f"{title:{_WIDTH}}{'accuracy %':>10}   95% interval", f"{'chance':{_WIDTH}}{self.chance:10.2f}"]
        out += [scored.line() for scored in (*([self.before] if self.before else []), *self.runs)]
        if len(self.runs) > 1:
            mean = fmean(run.accuracy for run in self.runs)
            out.append(f"{f'mean of {len(self.runs)} seeds':{_WIDTH}}{mean:10.2f}   ± {self.spread:.2f} between seeds")
        if self.average:
            out.append(self.average.line())
        return out + [difference.line() for difference in self.differences]

    def to_json(self) -> str:
        """The result as JSON."""
        runs, average = [run.to_dict() for run in self.runs], self.average
        mean = {"mean": fmean(run.accuracy for run in self.runs)}
        result = {
            "split": self.split,
            "n_blanks": self.runs[0].blanks,
            "chance": self.chance,
            "pretrained": self.before and self.before.accuracy,
            "runs": runs,
            **({**mean, "spread": self.spread} if len(runs) > 1 else mean),
            **({"average": average.to_dict()} if average else {}),
            "differences": [asdict(difference) for difference in self.differences],
        }
        return json.dumps(result, indent=1, ensure_ascii=False) + "\n"


def find_result(save_dir: Path, watched: bool) -> Path:
    """The checkpoint that a training is judged by; a ``CheckpointError`` where it has saved none."""
    names = (WATCHED_BEST, BEST_CHECKPOINT) if watched else (BEST_CHECKPOINT,)
    for name in (*names, LAST_CHECKPOINT):
        if (save_dir / name).exists():
            return save_dir / name
    raise CheckpointError(f"{save_dir}: the training has left no checkpoint; leave out --no-save to have one")


def average(results: Sequence[Path], given: Given, folder: Path, say: Callable[[str], None]) -> Path | None:
    """One checkpoint of several that differ by their seeds; ``None`` where they have not started from the same weights.

    It is about as good as all of them together (Wortsman et al., "Model soups", ICML 2022).
    """
    if len(results) < 2 or "--from-scratch" in given or given.text("--scorer", "") == "head":
        return None
    try:
        return average_checkpoints(results, folder / AVERAGE)
    except CheckpointError as error:
        say(f"no average of the weights: {error}")
        return None


def score(data_bin: Path, checkpoint: Path, path: Path, split: str, name: str) -> tuple[Scored, float, PartialSettings]:
    """Answer a split, as the checkpoint was trained to, into a prediction file.

    Returns:
        what came of it, chance in percent, and how the checkpoint was trained to score
    """
    trained = Checkpoint.read(checkpoint)
    found = evaluate(trained, data_bin, split, predictions_path=path)
    return read_scored(path, name), found.chance, trained.carried


def score_before(data_bin: Path, weights: Path, settings: PartialSettings, path: Path, split: str) -> Scored | None:
    """The same with weights that a training started from; ``None`` where they cannot score so."""
    before = Checkpoint.read(weights)
    if settings.scorer == "head" and not before.has_ranking_head:
        return None
    evaluate(before, data_bin, split, settings, predictions_path=path)
    return read_scored(path, "pretrained")


def read_scored(path: Path, name: str) -> Scored:
    """Count what is right in a prediction file with gold."""
    counts = _rights(path).values()
    right, blanks = (sum(count[place] for count in counts) for place in (0, 1))
    if not blanks:
        raise ClozeError(f"{path}: expected gold beside the answers, found none; take labelled passages")
    return Scored(name, path, blanks, right)


def split_to_judge(data_bin: Path) -> str | None:
    """``test`` where it has answers, as no checkpoint was chosen by it, else ``valid``, else none."""
    data = DataBin(data_bin)
    return next((split for split in ("test", "valid") if is_labelled(data, split)), None)


def prediction_files(run: PathLike) -> list[Path]:
    """Those of another training, by its ``--out`` folder, or a prediction file itself."""
    path = Path(run)
    if not path.is_dir():
        read_predictions(path)
        return [path]
    found = [path / ANSWERS] if (path / ANSWERS).is_file() else sorted(path.glob(f"seed*/{ANSWERS}"))
    if not found:
        raise ClozeError(f"{path}: expected {ANSWERS} of 'fairseq-cloze train', found none; give its --out folder")
    return found


def difference(name: str, ones: Sequence[Path], others: Sequence[Path]) -> Difference:
    """Compare trainings by the mean accuracy of theirs, each passage with itself.

    Raises:
        ClozeError: they are of other passages
    """
    first, second = ([_rights(path) for path in paths] for paths in (ones, others))
    blanks = {key: count for key, (_, count) in first[0].items()}
    for path, rights in zip((*ones, *others), (*first, *second)):
        if {key: count for key, (_, count) in rights.items()} != blanks:
            raise ClozeError(f"{path}: expected the passages and answers of {ones[0]}, found others; answer the same")
    differences = [
        sum(run[key][0] for run in first) * len(second) - sum(run[key][0] for run in second) * len(first)
        for key in blanks
    ]
    total = sum(blanks.values()) * len(first) * len(second)
    return Difference(name, 100.0 * sum(differences) / total, sign_flip(differences))


def _rights(path: Path) -> dict[str, tuple[int, int]]:
    """Per passage, blanks that are right and blanks that have gold."""
    out = {}
    for key, entry in read_predictions(path).items():
        pairs = [pair for pair in zip(entry.answers, entry.gold) if pair[1]]
        out[key] = (sum(answer == gold for answer, gold in pairs), len(pairs))
    return out
