"""Families of series: who is forecast, who borrows, and that everything adds up, whatever the forecasts."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.forecast.family import Family, added_up, coherent, family, pennies, reconciled
from nightmarket.forecast.publication import check_sums
from tests.forecast.nights import sales, table


@lru_cache(maxsize=1)
def tree() -> Family:
    return family(table(sales()), 14, 40, "GB")


def test_items_that_sell_are_forecast_and_the_others_are_their_categorys_rest() -> None:
    made = tree()
    assert made.panel.ids == ("total/*", "category/books", "category/toys", "country/FR", "country/GB", "item/i0", "item/i2", "item/i4", "item/i6",
                              "item/i8", "rest/toys")
    # i0, i2 … are books and sell; i1, i3 … are toys and hardly do
    assert made.small.ids == ("i1", "i3", "i5", "i7", "i9") and set(made.small.rest) == {10}
    y = sales()
    assert np.array_equal(np.nan_to_num(made.panel.y[10]), y[1::2].sum(axis=0))
    assert np.abs(made.constraints @ np.nan_to_num(made.panel.y)).max() == 0
    assert made.constraints.shape == (4, 11)


def test_a_small_items_rate_is_drawn_to_its_categorys_by_hand() -> None:
    y = np.zeros((4, 60))
    y[0], y[2] = 5, 5
    y[1, 30], y[1, 50] = 3, 3  # 6 units in 30 days, on sale since day 30
    y[3, 0] = 4  # 4 units in 60 days
    made = family(table(y), 7, 20, None)
    usual = (6 + 4) / (30 + 60)
    assert made.small.ids == ("i1", "i3")
    assert made.small.rate == pytest.approx([(6 + 28 * usual) / 58, (4 + 28 * usual) / 88])


def test_what_nobody_knows_is_unknown_and_what_is_out_of_stock_too() -> None:
    y = sales()
    made = family(table(y, missing=(50,), out=((0, 60), (0, 119))), 14, 40, None)
    assert np.isnan(made.panel.y[:, 50]).all()
    i0 = made.panel.ids.index("item/i0")
    assert np.flatnonzero(np.isnan(made.panel.y[i0])).tolist() == [50, 60, 119]
    assert made.stocked_out == {"i0"} and not made.panel.known[0].any(), "the shop keeps no country's holidays"


def test_an_item_out_of_stock_for_long_is_given_up() -> None:
    y = sales()
    made = family(table(y, out=tuple((0, t) for t in range(60, 120))), 14, 40, None)
    own = made.panel.y[made.panel.ids.index("item/i0")]
    assert np.isnan(own[60:88]).all() and (own[88:] == 0).all()


def test_holidays_are_known_ahead_by_country() -> None:
    made = family(table(sales()), 14, 40, "GB")  # 2025-12-02 to 2026-03-31; Good Friday 2026 is on 3 April
    assert made.panel.names == ("holiday",)
    dates = made.panel.dates()[0]
    on = {str(d) for d in dates[made.panel.known[0, :, 0] == 1]}
    assert {"2025-12-25", "2026-01-01", "2026-04-03"} <= on
    france = made.panel.known[made.panel.ids.index("country/FR"), :, 0]
    assert france[list(dates).index(np.datetime64("2026-04-06"))] == 1 and france[list(dates).index(np.datetime64("2026-04-03"))] == 0


def test_reconciling_through_constraints_is_weighted_least_squares() -> None:
    """The same as the textbook's projection (S'W⁻¹S)⁻¹S'W⁻¹ where countries hang on the total alone."""
    made = tree()
    rng = np.random.default_rng(3)
    base, variance = rng.uniform(30, 50, (11, 3)), rng.uniform(0.5, 4, 11)
    base[0] = 200.0
    found = reconciled(made, base, variance)
    assert np.abs(made.constraints @ found).max() < 1e-9
    # free variables: the items and the rest, and one of the two countries
    s = np.zeros((11, 7))
    s[5:, :6] = np.eye(6)
    s[1, :5], s[2, 5], s[0, :6] = 1, 1, 1
    s[3, 6] = 1
    s[4] = s[0] - s[3]
    weighed = s / variance[:, None]
    assert np.allclose(found, s @ np.linalg.solve(weighed.T @ s, weighed.T @ base))


def test_bottom_up_leaves_the_items_and_adds_them_up() -> None:
    made = tree()
    base = np.random.default_rng(3).uniform(30, 50, (11, 3))
    base[5, 0] = -4.0  # no item is forecast below zero
    found = coherent(made, base, np.ones(11), "bottom_up")
    items = np.maximum(base[5:], 0.0)
    assert np.array_equal(found[5:], items) and np.allclose(found[0], items.sum(axis=0))
    assert np.allclose(found[1], items[:5].sum(axis=0)) and np.allclose(found[2], items[5])
    assert np.allclose(found[3] / found[4], base[3] / base[4]) and np.allclose(found[3] + found[4], found[0])
    assert np.array_equal(coherent(made, base, np.ones(11), "minimum_trace"), reconciled(made, base, np.ones(11)))


@given(st.integers(0, 10_000), st.floats(0.0, 1e4))
def test_whatever_is_forecast_adds_up_to_the_last_hundredth(seed: int, size: float) -> None:
    made = tree()
    rng = np.random.default_rng(seed)
    base = rng.normal(size, size + 1.0, (11, 5)) * rng.integers(0, 2, (11, 5))
    added = reconciled(made, base, rng.exponential(3.0, 11))
    assert (added >= 0).all() and np.abs(made.constraints @ added).max() <= 1e-6 * max(1.0, size)
    counted = pennies(made, added)
    assert check_sums(made, counted).passed and (counted.nodes >= 0).all() and (counted.small >= 0).all()
    off = np.abs(counted.nodes[[0, *range(3, 10)]] - 100 * added[[0, *range(3, 10)]])
    assert off.max() <= 1.0 + 1e-6 * max(1.0, size * 100)
    again = added_up(made, added)
    assert np.allclose(again, added)


def test_later_rows_change_no_earlier_family() -> None:
    y = sales(length=120)
    early = family(table(y[:, :100]), 14, 40, "GB")
    later = family(table(y), 14, 40, "GB")
    assert np.array_equal(early.panel.y[0], later.panel.y[0, :100])
