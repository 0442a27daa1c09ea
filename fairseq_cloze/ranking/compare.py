"""Compare two models by their predictions for the same blanks."""

import json
from dataclasses import asdict, dataclass

from ..errors import ClozeError
from ..files import PathLike
from ..statistics import mcnemar, paired_interval, sign_flip
from .answers import Predictions, read_predictions

#: Differences that chance alone makes more often than this may be luck.
LEVEL = 0.05

_SAME = "score the same passages with both models"
_FEWEST = 6  # with fewer differing passages no sign-flip test comes below 0.05


@dataclass(frozen=True)
class Comparison:
    """Two prediction files on the labelled blanks of the same passages."""

    a: str
    b: str
    n_passages: int
    n_blanks: int  #: labelled ones
    n_unlabelled: int
    accuracy_a: float  #: percent
    accuracy_b: float
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    difference: float  #: accuracy of *b* less that of *a*, in points, with its 95% interval: :func:`paired_interval`
    interval_low: float
    interval_high: float
    n_passages_differ: int  #: passages with more blanks right in one file than in the other
    p_blanks: float  #: :func:`mcnemar` test over blanks
    p_passages: float  #: :func:`sign_flip` test over passages

    def to_json(self) -> str:
        """The result as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """The result as a table, and what it says as a sentence."""
        out = [
            f"A {self.a}",
            f"B {self.b}",
            f"{'':24}{'accuracy %':>10}{'blanks':>10}",
            f"{'A':24}{self.accuracy_a:10.2f}{self.n_blanks:10,}",
            f"{'B':24}{self.accuracy_b:10.2f}{self.n_blanks:10,}",
        ]
        counts = (self.both_right, self.only_a, self.only_b, self.both_wrong)
        for name, count in zip(("both right", "only A right", "only B right", "both wrong"), counts):
            out.append(f"{name:24}{100.0 * count / self.n_blanks:10.2f}{count:10,}")
        interval = f"95% interval {self.interval_low:+.2f} to {self.interval_high:+.2f}"
        out.append(f"B - A {self.difference:+.2f} points, {interval}")
        out.append(f"McNemar's exact test over {self.only_a + self.only_b:,} blanks: {_p(self.p_blanks)}")
        out.append(f"exact sign-flip test over {self.n_passages_differ:,} passages: {_p(self.p_passages)}")
        if self.n_unlabelled:
            out.append(f"{self.n_unlabelled:,} blanks are unlabelled and count for nothing above")
        return [*out, self.verdict()]

    @property
    def may_be_luck(self) -> bool:
        """Whether equally good models differ as much often enough, by the test over passages."""
        return self.p_passages >= LEVEL

    def verdict(self) -> str:
        """Whether the difference may be luck, judged by the test over passages."""
        if self.only_a == self.only_b:
            return "A and B have the same number of blanks right."
        better = "B" if self.only_b > self.only_a else "A"
        lucky = self.may_be_luck
        share = "fewer than 0.01%" if self.p_passages < 0.0001 else f"{100.0 * self.p_passages:.3g}%"
        found = "ahead, but it may be luck" if lucky else "better, and hardly by luck"
        text = f"{better} is {found}: two equally good models would differ as much in {share} of comparisons."
        if lucky and self.n_passages_differ < _FEWEST:
            text += f" Only {self.n_passages_differ} passages differ, too few to tell: take more."
        return text


def compare(a: PathLike, b: PathLike) -> Comparison:
    """Compare two prediction files, see :mod:`fairseq_cloze.ranking.answers`.

    Raises:
        ClozeError: a file cannot be read, passages, blanks or gold differ, or no blank is labelled
    """
    first, second = read_predictions(a), read_predictions(b)
    _check_same(a, first, b, second)
    return compare_predictions(str(a), first, str(b), second)


def compare_predictions(a: str, first: Predictions, b: str, second: Predictions) -> Comparison:
    """Compare predictions, called *a* and *b*, for the same passages with the same gold, some of it known."""
    cells = {(right_a, right_b): 0 for right_a in (True, False) for right_b in (True, False)}
    differences = []  # per passage, blanks right in b less those right in a
    for key, entry in first.items():
        blanks = [blank for blank in zip(entry.answers, second[key].answers, entry.gold) if blank[2] is not None]
        for answer, other, gold in blanks:
            cells[answer == gold, other == gold] += 1
        differences.append(sum((other == gold) - (answer == gold) for answer, other, gold in blanks))
    total = sum(cells.values())
    both, only_a, only_b, neither = cells.values()
    low, high = paired_interval(only_a, only_b, total)
    return Comparison(
        a=a,
        b=b,
        n_passages=len(first),
        n_blanks=total,
        n_unlabelled=sum(len(entry.gold) for entry in first.values()) - total,
        accuracy_a=100.0 * (both + only_a) / total,
        accuracy_b=100.0 * (both + only_b) / total,
        both_right=both,
        only_a=only_a,
        only_b=only_b,
        both_wrong=neither,
        difference=100.0 * (only_b - only_a) / total,
        interval_low=100.0 * low,
        interval_high=100.0 * high,
        n_passages_differ=sum(difference != 0 for difference in differences),
        p_blanks=mcnemar(only_a, only_b),
        p_passages=sign_flip(differences),
    )


def _check_same(a: PathLike, first: Predictions, b: PathLike, second: Predictions) -> None:
    for path, other, mine, theirs in ((b, a, second, first), (a, b, first, second)):
        missing = [key for key in theirs if key not in mine]
        if missing:
            raise ClozeError(
                f"{path}: expected the {len(theirs):,} passages of {other}, found {len(missing):,} of them missing, "
                f"first '{missing[0]}'; {_SAME}"
            )
    for path, predictions in ((a, first), (b, second)):
        if not any(letter for entry in predictions.values() for letter in entry.gold):
            raise ClozeError(
                f"{path}: expected gold beside the answers, found none; write it from labelled passages with "
                "'fairseq-cloze predict --scores' or 'fairseq-cloze evaluate --predictions'"
            )
    for key, entry in first.items():
        other_entry, where = second[key], f"{b}: passage '{key}'"
        blanks, found = len(entry.answers), len(other_entry.answers)
        if found != blanks:
            raise ClozeError(f"{where}: expected {blanks} blanks as in {a}, found {found}; {_SAME}")
        for number, (gold, other_gold) in enumerate(zip(entry.gold, other_entry.gold), 1):
            if gold != other_gold:
                difference = f"expected {gold or 'none'} as in {a}, found {other_gold or 'none'}"
                raise ClozeError(f"{where}, blank {number}, field 'gold': {difference}; {_SAME}")


def _p(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"
