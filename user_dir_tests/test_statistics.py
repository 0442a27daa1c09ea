from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.statistics import chance_interval, mcnemar, paired_interval, sign_flip, wilson_interval


def test_chance_interval_by_hand() -> None:
    assert chance_interval(25.0, 10_000) == pytest.approx((25 - 1.959964 * 0.4330127, 25 + 1.959964 * 0.4330127))
    assert chance_interval(50.0, 1) == (0.0, 100.0)


def test_guessing_stays_inside_in_95_of_100_cases() -> None:
    hits = np.random.default_rng(1).binomial(1000, 0.25, size=20_000) / 10.0
    low, high = chance_interval(25.0, 1000)
    assert np.mean((hits >= low) & (hits <= high)) == pytest.approx(0.95, abs=0.01)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=50))
def test_mean_chance_never_makes_the_interval_narrower(options: list[int]) -> None:
    """Blanks with different numbers of candidates: the exact variance is the sum of p(1-p)."""
    p = [1 / count for count in options]
    low, high = chance_interval(100.0 * sum(p) / len(p), len(p))
    exact = 195.9963984540054 * math.sqrt(sum(q * (1 - q) for q in p)) / len(p)
    mean = 100.0 * sum(p) / len(p)
    assert low <= max(mean - exact, 0.0) + 1e-9 and high >= min(mean + exact, 100.0) - 1e-9


def test_wilson_by_hand() -> None:
    """The interval holds the shares p with |share - p| <= z * sqrt(p * (1 - p) / n)."""
    assert wilson_interval(0, 10) == (0.0, pytest.approx(1.959964**2 / (10 + 1.959964**2)))
    assert wilson_interval(10, 10) == (pytest.approx(10 / (10 + 1.959964**2)), 1.0)
    assert wilson_interval(5, 10) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson_interval(50, 100) == (pytest.approx(0.403832, abs=1e-6), pytest.approx(0.596168, abs=1e-6))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_wilson_solves_its_equation(pair: tuple[int, int]) -> None:
    right, blanks = pair
    share = right / blanks
    low, high = wilson_interval(right, blanks)
    assert low <= share <= high
    assert wilson_interval(blanks - right, blanks) == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert abs(share - low) == pytest.approx(1.959964 * math.sqrt(low * (1 - low) / blanks), rel=1e-4, abs=1e-7)


def test_mcnemar_by_hand() -> None:
    """Tosses of a coin: both tails of C(n, k) / 2^n."""
    assert mcnemar(0, 0) == mcnemar(3, 3) == mcnemar(3, 4) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 256)
    assert mcnemar(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 4096)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_against_whole_numbers(only_a: int, only_b: int) -> None:
    number = only_a + only_b
    tail = Fraction(sum(math.comb(number, count) for count in range(min(only_a, only_b) + 1)), 2**number)
    assert mcnemar(only_a, only_b) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_mcnemar_of_very_many() -> None:
    """A million blanks: as the normal distribution with continuity correction says; and no overflow at the far end."""
    z = (1000 - 1) / math.sqrt(1_000_000)
    assert mcnemar(499_500, 500_500) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar(0, 1_000_000) == 0.0


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_sign_flip_against_every_way_to_flip(differences: list[int]) -> None:
    found = abs(sum(differences))
    flips = [
        abs(sum(sign * step for sign, step in zip(signs, differences))) >= found
        for signs in product((1, -1), repeat=len(differences))
    ]
    assert sign_flip(differences) == pytest.approx(sum(flips) / len(flips))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_passages_of_one_blank_are_mcnemars_case(only_a: int, only_b: int, same: int) -> None:
    assert sign_flip([-1] * only_a + [1] * only_b + [0] * same) == pytest.approx(mcnemar(only_a, only_b))


def test_paired_interval_by_hand() -> None:
    """10 and 20 of 100: with half a blank in each cell, 10 of 102 to either side of the difference."""
    difference = 10 / 102
    margin = 1.959964 * math.sqrt(31 / 102 - difference**2) / math.sqrt(102)
    assert paired_interval(10, 20, 100) == pytest.approx((difference - margin, difference + margin), rel=1e-6)
    assert paired_interval(20, 10, 100) == pytest.approx((-difference - margin, -difference + margin), rel=1e-6)
    low, high = paired_interval(0, 3, 3)
    assert -1 <= low <= high <= 1


def test_the_interval_holds_what_it_promises() -> None:
    """Of 1,000 samples of 200 blanks with known shares, about 95 of 100 intervals hold the true difference."""
    rng = random.Random(1)
    held = 0
    for _ in range(1000):
        draws = [rng.random() for _ in range(200)]
        low, high = paired_interval(sum(x < 0.1 for x in draws), sum(0.1 <= x < 0.25 for x in draws), 200)
        held += low <= 0.05 <= high
    assert 930 <= held <= 970
