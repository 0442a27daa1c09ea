"""Statistics: how far a share may be off, and whether a difference may be luck."""

import math
from collections.abc import Sequence

import numpy as np

#: 97.5% quantile of the normal distribution.
Z95 = 1.959963984540054


def chance_interval(chance: float, blanks: int) -> tuple[float, float]:
    """Range, in percent, of the accuracy that guessing reaches in 95 of 100 cases, by the normal approximation.

    The mean chance stands for each blank's own, which is exact where all have as many candidates, and makes the range
    wider rather than narrower elsewhere.

    Args:
        chance: probability that a random candidate is right, mean over the blanks, in percent
        blanks: number of labelled blanks, at least 1
    """
    margin = Z95 * math.sqrt(chance * (100.0 - chance) / blanks)
    return max(chance - margin, 0.0), min(chance + margin, 100.0)


def wilson_interval(right: int, blanks: int) -> tuple[float, float]:
    """95% interval of the share of *blanks*, at least one, that are *right*, as fractions; takes them as independent.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    share, z2 = right / blanks, Z95**2
    middle = (share + z2 / (2 * blanks)) / (1 + z2 / blanks)
    margin = Z95 * math.sqrt(share * (1 - share) / blanks + z2 / (4 * blanks**2)) / (1 + z2 / blanks)
    return max(0.0, min(share, middle - margin)), min(1.0, max(share, middle + margin))


def paired_interval(only_a: int, only_b: int, blanks: int) -> tuple[float, float]:
    """95% interval of the difference between two shares of the same blanks, B less A, as fractions.

    Wald's interval after adding half a blank to each of the four cells: Agresti and Min, "Simple improved confidence
    intervals for comparing matched proportions", Statistics in Medicine 24 (2005).  It takes blanks as independent.
    *only_a* and *only_b* are the blanks that one of them has right.
    """
    total = blanks + 2
    difference = (only_b - only_a) / total
    margin = Z95 * math.sqrt((only_a + only_b + 1) / total - difference**2) / math.sqrt(total)
    return max(-1.0, difference - margin), min(1.0, difference + margin)


def mcnemar(only_a: int, only_b: int) -> float:
    """p of McNemar's exact test, two-sided, of the blanks that one of two has right: were each a coin's toss.

    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", Psychometrika
    12 (1947), with the binomial distribution in place of its approximation.
    """
    number, fewer = only_a + only_b, min(only_a, only_b)
    if 2 * fewer >= number - 1:  # both tails together are everything
        return 1.0
    log_choose = math.lgamma(number + 1) - math.lgamma(fewer + 1) - math.lgamma(number - fewer + 1)
    term = math.exp(log_choose - number * math.log(2.0))
    total = 0.0
    for count in range(fewer, -1, -1):
        total += term
        if term <= total * 1e-18:  # what follows is smaller still
            break
        term *= count / (number - count + 1)
    return min(1.0, 2.0 * total)


def sign_flip(differences: Sequence[int]) -> float:
    """p of the exact sign-flip (randomisation) test, two-sided, on whole passages: no draws.

    Were both models equally good, each passage could as well have come out the other way round.  p is the share of all
    2^passages ways to swap the models within passages whose total differs from 0 as much as the one found, or more.
    Blanks of a passage need not be independent of each other.  Fisher, The Design of Experiments (1935), section 21.

    Args:
        differences: per passage, blanks right in one file less those right in the other
    """
    found, reach = abs(sum(differences)), sum(map(abs, differences))
    if found == 0:
        return 1.0
    chances = np.zeros(2 * reach + 1)  # of each total, -reach to reach
    chances[reach] = 1.0
    for step in filter(None, differences):
        chances = 0.5 * (np.roll(chances, step) + np.roll(chances, -step))
    return min(1.0, float(2.0 * chances[reach + found :].sum()))
