"""Statistics: how far a share may be off, and whether a difference may be luck."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: 97.5% quantile of the normal distribution.
Z95 = 1.959963984540054


def chance_interval(chance: float, blanks: int) -> tuple[float, float]:
    """Range of the accuracy that guessing reaches in 95 of 100 cases, by the normal approximation.

    The variance of the number of right guesses is the sum of :math:`p(1-p)`.  The mean chance stands for each blank's
    own, which is exact where all have as many candidates, and makes the range wider rather than narrower elsewhere.

    Args:
        chance: probability that a random candidate is right, mean over the blanks, in percent
        blanks: number of labelled blanks, at least 1

    Returns:
        lower and upper end, in percent
    """
    margin = Z95 * math.sqrt(chance * (100.0 - chance) / blanks)
    return max(chance - margin, 0.0), min(chance + margin, 100.0)


def wilson_interval(right: int, blanks: int) -> tuple[float, float]:
    """95% interval of a share, as fractions.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).  It takes blanks as
    independent.

    Args:
        right: blanks answered rightly
        blanks: all blanks, at least one
    """
    share, z2 = right / blanks, Z95**2
    middle = (share + z2 / (2 * blanks)) / (1 + z2 / blanks)
    margin = Z95 * math.sqrt(share * (1 - share) / blanks + z2 / (4 * blanks**2)) / (1 + z2 / blanks)
    return max(0.0, min(share, middle - margin)), min(1.0, max(share, middle + margin))


def paired_interval(only_a: int, only_b: int, blanks: int) -> tuple[float, float]:
    """95% interval of the difference between two shares of the same blanks, B less A, as fractions.

    Wald's interval after adding half a blank to each of the four cells: Agresti and Min, "Simple improved confidence
    intervals for comparing matched proportions", Statistics in Medicine 24 (2005).  It takes blanks as independent.

    Args:
        only_a, only_b: blanks that one of them has right
        blanks: all blanks, at least one
    """
    total = blanks + 2
    difference = (only_b - only_a) / total
    margin = Z95 * math.sqrt((only_a + only_b + 1) / total - difference**2) / math.sqrt(total)
    return max(-1.0, difference - margin), min(1.0, difference + margin)


def mcnemar(only_a: int, only_b: int) -> float:
    """p of McNemar's exact test, two-sided: as many blanks or more on one side, were each a coin's toss.

    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", Psychometrika
    12 (1947), with the binomial distribution in place of its approximation.

    Args:
        only_a, only_b: blanks that one of them has right
    """
    number, fewer = only_a + only_b, min(only_a, only_b)
    if 2 * fewer >= number - 1:  # both tails together are everything
        return 1.0
    term = math.exp(_log_choose(number, fewer) - number * math.log(2.0))
    total = 0.0
    for count in range(fewer, -1, -1):
        total += term
        if term <= total * 1e-18:  # what follows is smaller still
            break
        term *= count / (number - count + 1)
    return min(1.0, 2.0 * total)


def _log_choose(number: int, count: int) -> float:
    return math.lgamma(number + 1) - math.lgamma(count + 1) - math.lgamma(number - count + 1)


def sign_flip(differences: Sequence[int]) -> float:
    """p of the exact sign-flip (randomisation) test, two-sided, on whole passages.

    Were both models equally good, each passage could as well have come out the other way round.  p is the share of all
    2^passages ways to swap the models within passages whose total differs from 0 as much as the one found, or more.
    Blanks of a passage need not be independent of each other.  Fisher, The Design of Experiments (1935), section 21.
    The distribution of the total is computed whole, so there are no random draws.

    Args:
        differences: per passage, blanks right in one file less those right in the other
    """
    steps = [abs(difference) for difference in differences if difference]
    found = abs(sum(differences))
    if found == 0:
        return 1.0
    reach = sum(steps)
    chances = np.zeros(2 * reach + 1)  # of each total, -reach to reach
    chances[reach] = 1.0
    for step in steps:
        chances = 0.5 * (np.roll(chances, step) + np.roll(chances, -step))
    return min(1.0, float(2.0 * chances[reach + found :].sum()))
