"""Features against plain loops over random rows: what each says as of a row's moment, and that no later row or label moves it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.screen import features
from nightmarket.screen.features import Recipe, build, make_recipe
from nightmarket.screen.table import Roles, Rows
from nightmarket.screen.windows import DAY, NEVER, Fixed, History, Moments

ROLES = Roles("id", "at", "label", None, ("card", "shop"), ("amount",), ("country",), (), ())


def rows_of(times: np.ndarray, card: np.ndarray, shop: np.ndarray, amount: np.ndarray, country: np.ndarray, label: np.ndarray, known_at: np.ndarray) -> Rows:
    import pyarrow as pa

    n = len(times)
    return Rows(ROLES, pa.array(np.arange(n)), times, np.zeros(n, bool), {"card": card, "shop": shop}, {"amount": amount},
                {"country": (country, ["DE", "FR", "IT"])}, {}, {}, np.zeros(n, bool), np.zeros(n, bool), label, known_at, {})


def some(seed: int, n: int = 120, days: int = 40) -> Rows:
    """Times on a coarse grid, so that many rows share a moment."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, days * 4, n)) * (DAY // 4) + 20_000 * DAY
    label = np.where(rng.random(n) < 0.2, np.nan, (rng.random(n) < 0.3).astype(float))
    amount = np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(3, 1, n).round(2))
    return rows_of(times, rng.integers(-1, 5, n), rng.integers(0, 4, n), amount, rng.integers(-1, 3, n), label, times + rng.integers(0, 12, n) * DAY)


def built(rows: Rows, follow: bool = True) -> pd.DataFrame:
    cut = int(rows.times[-1]) + 1
    made = build(rows, make_recipe(rows, follow, cut, 10 * DAY))
    return pd.DataFrame(dict(zip(made.names, made.columns, strict=True)))


@pytest.mark.parametrize("seed", range(3))
def test_windows_by_hand(seed: int) -> None:
    rows = some(seed)
    found = built(rows)
    t, amount = rows.times, rows.numbers["amount"]
    for i in range(len(rows)):
        for entity, codes in rows.entities.items():
            if codes[i] < 0:
                assert np.isnan(found[f"{entity}.rows.7d"][i])
                continue
            past = (codes == codes[i]) & (t <= t[i])
            week = past & (t >= t[i] - 7 * DAY)
            assert found[f"{entity}.rows.7d"][i] == week.sum()
            assert found[f"{entity}.rows.ever"][i] == past.sum()
            others = past.copy()
            others[i] = False
            assert found[f"{entity}.days_known"][i] == pytest.approx((t[i] - t[past].min()) / DAY)
            last = found[f"{entity}.hours_since_last"][i]
            assert np.isnan(last) if not others.any() else last == pytest.approx((t[i] - t[others].max()) / (DAY / 24))
            known = week & np.isfinite(amount)
            assert found[f"{entity}.mean.7d.amount"][i] == pytest.approx(amount[known].mean(), rel=1e-5) if known.any() else True
            before = others & np.isfinite(amount)
            if before.any() and np.isfinite(amount[i]):
                assert found[f"{entity}.ratio.ever.amount"][i] == pytest.approx(amount[i] / amount[before].mean(), rel=1e-5)
                top = max(amount[before].max(), amount[i])
                assert found[f"{entity}.of_largest.amount"][i] == pytest.approx(amount[i] / top, rel=1e-5)
            other = rows.entities["shop" if entity == "card" else "card"]
            assert found[f"{entity}.different.{'shop' if entity == 'card' else 'card'}"][i] == len(set(other[past & (other >= 0)]))
            habit, country = found[f"{entity}.habit.country"][i], rows.categories["country"][0]
            if not others.any() or country[i] < 0:
                assert np.isnan(habit)
            else:
                assert habit == pytest.approx((others & (country == country[i])).sum() / others.sum(), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_risk_by_hand(seed: int) -> None:
    rows = some(seed)
    found = built(rows)
    t, label, known_at = rows.times, rows.label, rows.known_at
    for i in range(len(rows)):
        known = ~np.isnan(label) & (known_at < t[i])
        recent = known & (known_at >= t[i] - 30 * DAY)
        overall = (label[recent] == 1).sum() / max(recent.sum(), 1)
        for entity, codes in rows.entities.items():
            if codes[i] < 0:
                assert np.isnan(found[f"{entity}.known_bad.7d"][i]) and np.isnan(found[f"{entity}.risk.7d"][i])
                continue
            mine = known & (codes == codes[i])
            week = mine & (known_at >= t[i] - 7 * DAY)
            bad = (label[week] == 1).sum()
            assert found[f"{entity}.known_bad.7d"][i] == bad
            assert found[f"{entity}.risk.7d"][i] == pytest.approx((bad + 5 * overall) / (week.sum() + 5), rel=1e-5)
            for word, value in (("bad", 1), ("good", 0)):
                such = mine & (label == value)
                days = found[f"{entity}.days_since_{word}"][i]
                assert np.isnan(days) if not such.any() else days == pytest.approx((t[i] - t[such].max()) / DAY, rel=1e-5)
            order = sorted(np.flatnonzero(mine), key=lambda k: (known_at[k], t[k], label[k]))
            length = 0
            while length < len(order) and label[order[-1 - length]] == 1:
                length += 1
            assert found[f"{entity}.bad_streak"][i] == length
            if length:
                assert found[f"{entity}.days_bad_streak"][i] == pytest.approx((t[i] - t[order[-length]]) / DAY, rel=1e-5)


def test_without_later_labels_a_row_sees_those_before_its_block_only() -> None:
    rows = some(4)
    cut = int(rows.times[-1]) + 1
    found = features.risk(rows, make_recipe(rows, False, cut, 10 * DAY))
    found = found.columns[found.names.index("card.known_bad.ever")]
    for i in range(len(rows)):
        start = cut - ((cut - 1 - rows.times[i]) // (10 * DAY) + 1) * 10 * DAY
        seen = (rows.label == 1) & (rows.known_at < rows.times[i]) & (rows.times < start) & (rows.entities["card"] == rows.entities["card"][i])
        assert found[i] == seen.sum() if rows.entities["card"][i] >= 0 else np.isnan(found[i])


@given(st.integers(0, 10_000), st.integers(1, 119))
def test_no_later_row_and_no_later_label_moves_a_feature(seed: int, at: int) -> None:
    rows = some(seed)
    moment = int(rows.times[at])
    recipe: Recipe = make_recipe(rows, True, moment, 10 * DAY)
    whole = build(rows, recipe)
    early = rows.times <= moment
    unknown = rows.known_at >= moment
    cut = rows_of(*(a[early] for a in (rows.times, rows.entities["card"], rows.entities["shop"], rows.numbers["amount"], rows.categories["country"][0])),
                  np.where(unknown, 1 - rows.label, rows.label)[early], rows.known_at[early])
    part = build(cut, recipe)
    if whole.names != part.names:
        return  # no bad label is left: there are no features of labels at all
    for name, one, two in zip(whole.names, whole.columns, part.columns, strict=True):
        np.testing.assert_array_equal(one[early], two, err_msg=name)


@given(st.integers(0, 10_000))
def test_the_order_of_rows_moves_no_feature(seed: int) -> None:
    rows = some(seed, 60)
    order = np.random.default_rng(seed).permutation(len(rows))
    other = rows_of(*(a[order] for a in (rows.times, rows.entities["card"], rows.entities["shop"], rows.numbers["amount"], rows.categories["country"][0], rows.label, rows.known_at)))
    recipe = make_recipe(rows, True, int(rows.times.max()) + 1, 10 * DAY)
    for name, one, two in zip(build(rows, recipe).names, build(rows, recipe).columns, build(other, recipe).columns, strict=True):
        np.testing.assert_array_equal(one[order], two, err_msg=name)


def test_provisional_scores_of_others_up_to_the_moment() -> None:
    rows = some(7)
    scores = np.random.default_rng(1).random(len(rows))
    found = features.score_windows(rows, make_recipe(rows, True, int(rows.times[-1]) + 1, DAY), {"suspicion": (scores, ("1d", "7d"))})
    week, largest = (found.columns[found.names.index(f"card.suspicion.{n}")] for n in ("7d", "largest"))
    for i in range(len(rows)):
        mine = (rows.entities["card"] == rows.entities["card"][i]) & (rows.entities["card"][i] >= 0) & (np.arange(len(rows)) != i)
        seen = mine & (rows.times <= rows.times[i]) & (rows.times >= rows.times[i] - 7 * DAY)
        if rows.entities["card"][i] >= 0:
            assert week[i] == pytest.approx(scores[seen].sum(), abs=1e-5)
        earlier = mine & (rows.times < rows.times[i])
        assert np.isnan(largest[i]) if not earlier.any() else largest[i] == pytest.approx(scores[earlier].max(), abs=1e-5)


def test_a_number_that_tells_the_time_is_no_feature() -> None:
    rows = some(3)
    rows = replace(rows, numbers=rows.numbers | {"serial": np.arange(len(rows)) * 3.0 + 7})
    assert make_recipe(rows, True, int(rows.times[-1]) + 1, DAY).numbers == ("amount",)


def test_sums_are_exact_whatever_the_scale() -> None:
    for size in (1e-9, 1.0, 1e9):
        values = np.random.default_rng(0).lognormal(0, 1, 1000) * size
        fixed = Fixed.around(values)
        assert fixed.floats(fixed.integers(values)) == pytest.approx(values, rel=1e-4, abs=fixed.step)
    assert Fixed.around(np.array([np.nan, np.inf])).integers(np.array([np.nan, np.inf, 3.0])).tolist()[:2] == [0, 0]


def test_no_events_at_all() -> None:
    none = np.empty(0, np.int64)
    history = History(none, Moments(none, np.array([5, 6])), np.array([0, -1]))
    assert history.count(None).tolist() == [0, 0] and history.newest(none).tolist() == [NEVER, NEVER]
