"""Always-valid tests: against the published formula, and by simulation where looking every night would mislead."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import NormalIndPower

from nightmarket.online.sequential import MISMATCH_LEVEL, always_valid, best_ratio, mismatch, sample_size


def test_the_likelihood_ratio_is_the_published_one() -> None:
    """Johari et al. (2022), two streams of known variance: sqrt(2s / (2s + n t)) exp(n² t d² / (4 s (2s + n t)))."""
    s, n, planned, level = 1.7, 400, 900, 0.05
    d = np.array([0.21])
    t = best_ratio(level) * 2 * s / planned  # prior variance of the effect
    published = math.sqrt(2 * s / (2 * s + n * t)) * math.exp(n**2 * t * d[0] ** 2 / (4 * s * (2 * s + n * t)))
    found = always_valid(d, np.array([2 * s / n]), np.array([n / planned]), level)
    assert found.p_value[0] == pytest.approx(1 / published)


@given(z=st.floats(-6, 6), information=st.floats(0.01, 3), level=st.sampled_from([0.01, 0.05, 0.2]))
def test_the_interval_and_the_p_value_say_the_same(z: float, information: float, level: float) -> None:
    found = always_valid(np.array([z]), np.array([1.0]), np.array([information]), level)
    outside = found.low[0] > 0 or found.high[0] < 0
    if abs(found.p_value[0] - level) > 1e-9:
        assert outside == (found.p_value[0] < level)


def test_a_p_value_never_rises_and_nothing_is_said_before_enough_was_seen() -> None:
    found = always_valid(np.array([5.0, 5.0, 0.0]), np.ones(3), np.full(3, 0.5), 0.05, np.array([False, True, True]))
    assert found.p_value[0] == 1 and found.p_value[1] < 0.001 and found.p_value[2] == found.p_value[1]
    assert np.isinf(found.low[0]) and np.isinf(found.high[0]) and np.isfinite(found.low[1:]).all()


def test_looking_every_night_keeps_the_level() -> None:
    """4,000 streams without effect, 200 looks: the fixed test is wrong in every third, the always-valid one in at most one of twenty."""
    rng = np.random.default_rng(17)
    n = np.arange(1, 201) * 25
    mean = np.cumsum(rng.normal(0, math.sqrt(25), (4000, 200)), axis=1) / n
    variance = np.broadcast_to(1 / n, mean.shape)
    found = always_valid(mean, variance, np.broadcast_to(n / 2500, mean.shape), 0.05)
    wrong = (found.p_value[:, -1] <= 0.05).mean()
    fixed = (np.abs(mean) / np.sqrt(variance) > 1.96).any(axis=1).mean()
    assert wrong <= 0.05 and fixed > 0.3
    # and the sequence holds the truth at all looks together
    covered = ((found.low <= 0) & (found.high >= 0)).all(axis=1).mean()
    assert covered >= 0.95


def test_an_effect_of_the_planned_size_is_found_with_the_planned_power() -> None:
    size = sample_size(0.2, 0.4, 0.1, 0.05, 0.8)
    rng = np.random.default_rng(3)
    looks, runs = 20, 2000
    n = size.always * np.arange(1, looks + 1) / looks
    variance = 2 * 0.16 / n
    step = size.always / looks
    mean = np.cumsum(rng.normal(0.02 * step, math.sqrt(2 * 0.16 * step), (runs, looks)), axis=1) / n
    found = always_valid(mean, np.broadcast_to(variance, mean.shape), np.broadcast_to(n / size.always, mean.shape), 0.05)
    assert (found.low > 0).any(axis=1).mean() >= 0.79


@pytest.mark.parametrize(("effect", "level", "power", "share"), [(0.1, 0.05, 0.8, 0.5), (0.03, 0.01, 0.9, 0.5), (0.1, 0.05, 0.8, 0.2)])
def test_the_fixed_sample_is_the_textbooks(effect: float, level: float, power: float, share: float) -> None:
    """statsmodels counts the first group; a standardised effect is effect x mean / deviation."""
    oracle = NormalIndPower().solve_power(effect * 2.0 / 5.0, alpha=level, power=power, ratio=(1 - share) / share)
    assert sample_size(2.0, 5.0, effect, level, power, share).once == pytest.approx(oracle, abs=1.5)


def test_cuped_takes_its_part_of_the_sample_away() -> None:
    plain, less = sample_size(2, 5, 0.05, 0.05, 0.8), sample_size(2, 5, 0.05, 0.05, 0.8, explained=0.4)
    assert less.once == pytest.approx(0.6 * plain.once, abs=2) and less.always == pytest.approx(0.6 * plain.always, abs=2)
    assert 1.5 < plain.always / plain.once < 2.2


@pytest.mark.parametrize("wrong", [(0, 1, 0.1), (1, 0, 0.1), (1, 1, 0)])
def test_no_sample_would_do(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="each above 0"):
        sample_size(*wrong, 0.05, 0.8)


def test_the_chi_square_of_the_arms() -> None:
    found = mismatch(np.array([[300, 340], [5000, 5400]]), (0.5, 0.5))
    oracle = stats.chisquare([5000, 5400], [5200, 5200])
    assert (found.chi_square, found.p_once) == pytest.approx((oracle.statistic, oracle.pvalue))
    assert not found.found
    assert mismatch(np.zeros((1, 2)), (0.5, 0.5)).p_always == 1


def test_a_broken_split_is_found_and_a_right_one_is_not_at_any_look() -> None:
    rng = np.random.default_rng(5)
    shares = np.array([0.5, 0.3, 0.2])
    right = np.cumsum(rng.multinomial(300, shares, (2000, 40)), axis=1)
    assert np.mean([mismatch(c, list(shares)).found for c in right]) <= MISMATCH_LEVEL * 2
    lost = shares * np.array([1, 0.85, 1])  # 15 % of one arm's exposures are not logged
    broken = np.cumsum(rng.multinomial(300, lost / lost.sum(), (200, 40)), axis=1)
    assert np.mean([mismatch(c, list(shares)).found for c in broken]) > 0.9
