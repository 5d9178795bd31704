"""Assignment: the same everywhere, as large as the shares, apart within a layer, and never changed by a canary that rises."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nightmarket.online.assignment import Split, position

SPLIT = Split("colours", "page", (0.0, 1.0), {"control": 0.5, "red": 0.3, "blue": 0.2}, "shop")
UNITS = [f"u{n}" for n in range(20_000)]


def test_a_position_is_the_stated_formula() -> None:
    said = int(hashlib.sha256(b"shop/page\x1fu7").hexdigest()[:16], 16) >> 11
    assert position("shop/page", "u7") == said / 2**53


def test_positions_are_uniform_and_salts_are_independent() -> None:
    one, two = (np.array([position(s, u) for u in UNITS]) for s in ("shop/page", "shop/page/colours"))
    assert stats.kstest(one, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_arms_are_as_large_as_their_shares() -> None:
    arms = [SPLIT.arm(u) for u in UNITS]
    counts = [arms.count(a) for a in SPLIT.arms]
    assert sum(counts) == len(UNITS)
    assert stats.chisquare(counts, [len(UNITS) * s for s in SPLIT.arms.values()]).pvalue > 0.001


@given(st.text(min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_who_takes_part_stays_in_their_arm_while_the_share_rises(unit: str, one: float, two: float) -> None:
    early, late = SPLIT.arm(unit, min(one, two)), SPLIT.arm(unit, max(one, two))
    assert early in (None, late) and SPLIT.arm(unit) is not None
    assert late in (None, SPLIT.arm(unit))


def test_at_an_enrolment_every_arm_has_its_share_of_it() -> None:
    arms = [SPLIT.arm(u, 0.1) for u in UNITS]
    counts = [arms.count(a) for a in SPLIT.arms]
    assert sum(counts) == pytest.approx(2000, abs=150)
    assert stats.chisquare(counts, [sum(counts) * s for s in SPLIT.arms.values()]).pvalue > 0.001


def test_experiments_of_a_layer_share_nobody_and_layers_are_independent() -> None:
    two = {"control": 0.5, "new": 0.5}
    left, right = Split("left", "page", (0, 0.4), two, "shop"), Split("right", "page", (0.4, 1), two, "shop")
    other = Split("other", "mail", (0, 0.5), two, "shop")
    held = np.array([[s.arm(u) is not None for s in (left, right, other)] for u in UNITS])
    assert (held[:, 0] ^ held[:, 1]).all()
    assert held[:, 0].mean() == pytest.approx(0.4, abs=0.015)
    assert held[held[:, 0], 2].mean() == pytest.approx(held[~held[:, 0], 2].mean(), abs=0.03)
