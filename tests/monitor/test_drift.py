"""Drift tests against independent oracles, planted drifts, and quiet nights."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nightmarket.monitor import drift
from nightmarket.shop import Drift
from tests.monitor import quiet
from tests.monitor.quiet import Night

RULES = Drift()


def test_stability_index_by_hand() -> None:
    # smoothed: 10.5/21 = 0.5 and 5.25.. by hand: now (10, 10) -> 0.5, 0.5; before (30, 10) -> 30.5/41, 10.5/41
    p, q = (0.5, 0.5), (30.5 / 41, 10.5 / 41)
    by_hand = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert drift.stability_index(np.array([10, 10]), np.array([30, 10])) == pytest.approx(by_hand)
    assert drift.stability_index(np.array([5, 7]), np.array([5, 7])) == 0.0


def test_q_values_agree_with_scipy() -> None:
    p = np.random.default_rng(3).random(40) ** 3
    assert drift.q_values(list(p)) == pytest.approx(stats.false_discovery_control(p))
    assert list(drift.q_values([])) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_values_are_never_below_p_values_and_keep_their_order(p: list[float]) -> None:
    q = drift.q_values(p)
    assert all(b >= a or b == pytest.approx(a) for a, b in zip(p, q, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(q[order]) >= -1e-12).all()


def test_false_alarms_stay_at_the_stated_share() -> None:
    """500 families of 20 true nulls: at a false discovery rate of 5 % at most 5 % of families have an alarm (within chance)."""
    rng = np.random.default_rng(8)
    alarms = sum((drift.q_values(list(rng.random(20))) <= 0.05).any() for _ in range(500))
    assert alarms <= stats.binom.ppf(0.999, 500, 0.05)


def test_numbers_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    now, before = rng.normal(0.3, 1, 200), rng.normal(0, 1, 800)
    (found,) = drift.numeric("feature", "x", now, before, RULES)
    want = stats.ks_2samp(now, before, method="asymp")
    assert (found.statistic, found.p_value) == (pytest.approx(want.statistic), pytest.approx(want.pvalue))
    assert drift.numeric("feature", "x", now[:10], before, RULES) == [], "too few rows are not judged"


def test_categories_agree_with_scipy() -> None:
    now, before = {"a": 20, "b": 30, "c": 10}, {"a": 200, "b": 200, "c": 100}
    omnibus, one = drift.categorical("feature", "x", now, before, RULES)
    want = stats.chi2_contingency([[20, 30, 10], [200, 200, 100]], correction=False)
    assert (omnibus.statistic, omnibus.p_value) == (pytest.approx(want.statistic), pytest.approx(want.pvalue))
    b = stats.fisher_exact([[30, 30], [200, 300]])
    assert one.test == "share of b" and one.p_value == pytest.approx(min(1.0, 3 * b.pvalue))


def test_few_labels_are_tested_exactly() -> None:
    (found,) = drift.categorical("feature", "x", {"True": 4}, {"False": 95, "True": 5}, drift.replace_minimum(RULES, 1))
    want = stats.fisher_exact([[0, 4], [95, 5]])
    assert found.p_value == pytest.approx(want.pvalue)
    assert drift.categorical("feature", "x", {"True": 4}, {"False": 95, "True": 5}, RULES) == []


def test_rows_of_a_day_by_hand() -> None:
    """Two weeks of 100 a day, but 50 and 200 on the weekday before last: its mean of logs is that of 100."""
    window = [100] * 28
    window[0], window[7] = 50 - 1, 200 - 1  # both are of tonight's weekday: ln(50), ln(200), ln(101), ln(101)
    (found,) = drift.volume("events.rows", 49, window, RULES)
    same = np.log([50, 200, 101, 101])
    spread = math.sqrt(((same - same.mean()) ** 2).sum() / 21)
    want = (math.log(50) - same.mean()) / (spread * math.sqrt(1 + 1 / 4))
    assert found.statistic == pytest.approx(want)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(want), 21))
    assert found.effect == pytest.approx(1 - 50 / math.exp(same.mean()))
    assert drift.volume("events.rows", 49, window[:13], RULES) == [], "less than two weeks tell no weekday"


def test_one_row_a_visit_and_a_visit_once_for_each_value() -> None:
    frame = pd.DataFrame({"event_id": list("abcdef"), "session_id": ["s", "s", "s", "t", None, None], "kind": list("xxyxxz")})
    drawn = drift.one_row_a_cluster(frame, "session_id", "event_id")
    assert sorted(drawn["session_id"].fillna("-")) == ["-", "-", "s", "t"]
    shuffled = drift.one_row_a_cluster(frame.sample(frac=1, random_state=2), "session_id", "event_id")
    assert set(drawn["event_id"]) == set(shuffled["event_id"]), "which row is drawn does not depend on the order of rows"
    assert drift.units_by_value(frame, "session_id", "event_id", "kind") == {"x": 3, "y": 1, "z": 1}


def test_hit_rate_agrees_with_scipy_and_only_a_loss_counts() -> None:
    (found,) = drift.hit_rate(5, 60, 300, 1000, 0.2, RULES)
    assert found.p_value == pytest.approx(stats.fisher_exact([[5, 55], [300, 700]], alternative="less").pvalue)
    assert found.effect == pytest.approx(1 - (5 / 60) / 0.3)
    assert drift.judged([found], RULES)[0].drifted
    (better,) = drift.hit_rate(40, 60, 300, 1000, 0.2, RULES)
    assert not drift.judged([better], RULES)[0].drifted
    assert drift.hit_rate(0, 10, 300, 1000, 0.2, RULES) == []


def _prices(night: Night) -> Night:
    night["events"]["unit_price"] *= 1.15
    night["orders"]["amount"] *= 1.15
    return night


def _category(night: Night) -> Night:
    kept = night["events"]["item_id"].map(quiet.category_of()) != "beauty"
    night["events"] = night["events"][kept].reset_index(drop=True)
    return night


def _halved(night: Night) -> Night:
    night["events"] = night["events"].iloc[::2].reset_index(drop=True)
    return night


def _views_lost(night: Night) -> Night:
    events = night["events"]
    lost = (events["event_type"] == "cart") & (np.arange(len(events)) % 10 > 0)
    night["events"] = events[~lost].reset_index(drop=True)
    return night


def _flipped(night: Night) -> Night:
    known = night["orders"]["is_fraud"].notna()
    night["orders"].loc[known, "is_fraud"] = ~night["orders"].loc[known, "is_fraud"].astype(bool)
    return night


def _no_orders(night: Night) -> Night:
    night["orders"] = night["orders"].iloc[:0]
    return night


def _referrer_lost(night: Night) -> Night:
    night["events"]["referrer"] = None
    return night


def _unpriced(night: Night) -> Night:
    night["events"]["unit_price"] = np.nan
    return night


PLANTED: dict[str, tuple[Callable[[Night], Night], set[str]]] = {
    "all prices 15 % up": (_prices, {"events.price_to_usual"}),
    "a category vanishes": (_category, {"events.category"}),
    "a tracking bug halves events": (_halved, {"events.rows"}),
    "a tracking bug loses nine carts of ten": (_views_lost, {"events.event_type"}),
    "a tracking bug loses where visits come from": (_referrer_lost, {"events.referrer"}),
    "a tracking bug loses what things cost": (_unpriced, {"events.unit_price_known"}),
    "not one order": (_no_orders, {"orders.rows"}),
}
NIGHTS = (40, 55, 63, 77, 88)


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("day", NIGHTS)
def test_planted_drift_is_caught_in_the_night_it_occurs(name: str, day: int) -> None:
    spoil, wanted = PLANTED[name]
    found = set(drift.drifted(quiet.findings(day, spoil=spoil)))
    assert wanted <= found, [f for f in quiet.findings(day, spoil=spoil) if f.feature in wanted]


@pytest.mark.parametrize("day", NIGHTS)
def test_a_label_flip_is_caught_in_the_night_it_occurs(day: int) -> None:
    """In a shop of ten times the demo's size, without a screener; of the demo's own few labels tests/monitor/test_labels.py tells."""
    found = quiet.findings(day, world=quiet.BUSY, spoil=_flipped)
    assert {"orders.is_fraud", "quality.labels"} <= set(drift.drifted(found)), [f for f in found if f.feature in ("orders.is_fraud", "quality.labels")]


def test_sixty_quiet_nights_have_three_false_alarms_at_most(record_property: Callable[[str, object], None]) -> None:
    alarms = [(day, name) for day in range(30, 90) for name in drift.drifted(quiet.findings(day))]
    record_property("false_alarms", str(alarms))
    assert len(alarms) <= 3, alarms
