"""Intervals: against the normal theory, in pairs, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from nightmarket.evaluate import bootstrap


def test_interval_of_many_shoppers_is_that_of_the_normal_theory() -> None:
    values = np.random.default_rng(3).normal(0.4, 0.3, 2000)
    found = bootstrap.mean(values, 2000, seed=1)
    error = 1.96 * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert found.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1 * error)
    assert found.users == 2000


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).random(50)
    assert bootstrap.mean(values, 200, seed=1) == bootstrap.mean(values, 200, seed=1)
    assert bootstrap.mean(values, 200, seed=1).low != bootstrap.mean(values, 200, seed=2).low


def test_pairs_see_a_small_difference_that_separate_intervals_would_not() -> None:
    rng = np.random.default_rng(3)
    one = rng.random(400)
    other = one - 0.01 + rng.normal(0, 0.02, 400)
    apart = bootstrap.difference(one, other, 400, seed=1)
    assert apart.low > 0
    assert bootstrap.mean(one, 400, 1).low < bootstrap.mean(other, 400, 1).high


def test_every_resample_draws_as_many_shoppers_as_there_are() -> None:
    blocks = list(bootstrap.draws(7, 120, seed=5))
    assert [len(b) for b in blocks] == [50, 50, 20]
    assert all((b.sum(axis=1) == 7).all() for b in blocks)


def test_other_shoppers_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2 shoppers"):
        bootstrap.difference(np.zeros(3), np.zeros(2), 50, 1)
    with pytest.raises(ValueError, match="no shoppers"):
        bootstrap.mean(np.zeros(0), 50, 1)
