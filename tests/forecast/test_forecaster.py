"""Forecasts as a whole: nothing from the future, coverage, weights, what a failing series does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightmarket.forecast import boosted, combining, forecaster, spread
from nightmarket.forecast.closed import closed
from nightmarket.forecast.diagnosis import diagnose
from nightmarket.forecast.forecaster import BUDGETS, Backtest, Forecast, Weights, backtest, forecast
from nightmarket.forecast.series import Freq, Panel, read_panel, step


def table(y: np.ndarray, start: str = "2024-01-01") -> pa.Table:
    n, length = y.shape
    dates = np.datetime64(start, "D") + np.arange(length)
    return pa.table({"series_id": np.repeat([f"s{i:02d}" for i in range(n)], length), "ds": pa.array(np.tile(dates, n)), "y": y.ravel()})


def shop(n: int = 12, length: int = 160, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    profile = np.array([1.0, 0.9, 1.0, 1.1, 1.3, 1.6, 0.7])
    level = rng.uniform(5, 60, (n, 1)) * np.exp(np.cumsum(rng.normal(0, 0.02, (n, length)), axis=1))
    return np.round(rng.poisson(level * profile[np.arange(length) % 7]), 0).astype(float)


def _panel(y: np.ndarray, freq: Freq, horizon: int) -> Panel:
    n, length = y.shape
    ends = np.full(n, np.datetime64("2024-06-01" if freq == "MS" else "2024-06-30", "D"))
    return Panel(tuple(f"s{i:02d}" for i in range(n)), freq, ends, y, np.zeros((n, length + horizon, 0)))


@pytest.fixture(scope="module")
def made() -> tuple[Panel, Forecast]:
    panel, _ = read_panel(table(shop()), "D", 7)
    return panel, forecast(panel, budget="fast")


@settings(max_examples=5)
@given(back=st.integers(1, 30), noise=st.integers(0, 10_000))
def test_rows_after_the_origin_change_nothing(back: int, noise: int) -> None:
    y = shop(4, 90)
    later = y.copy()
    later[:, 90 - back :] = np.random.default_rng(noise).integers(0, 1000, (4, back))
    whole, _ = read_panel(table(later), "D", 5)
    cut, _ = read_panel(table(y[:, : 90 - back]), "D", 5)
    assert (whole.cut(back).ends == cut.ends).all()
    one, two = forecast(whole.cut(back), budget="fast"), forecast(cut, budget="fast")
    assert np.array_equal(one.mean, two.mean) and np.array_equal(one.bounds[95][1], two.bounds[95][1])


@pytest.mark.parametrize(("freq", "length", "horizon"), [("D", 180, 7), ("W", 140, 6), ("W", 50, 4), ("MS", 60, 12)])
def test_a_backtest_knows_only_what_was_known(freq: Freq, length: int, horizon: int) -> None:
    y = shop(length=length) + 1.0
    if freq == "MS":  # a season, without which nothing is decomposed
        y += 40.0 * (1.0 + np.sin(np.arange(length) * np.pi / 6.0))
    later = y.copy()
    plan = BUDGETS["balanced" if freq != "D" else "fast"]
    one_panel = _panel(y, freq, horizon)
    first = int(forecaster.origins_of(one_panel, plan.origins)[0])
    later[:, first:] = np.random.default_rng(0).integers(1, 500, later[:, first:].shape)
    other = _panel(later, freq, horizon)
    found = diagnose(one_panel)
    one, two = (backtest(p, closed(p), found, plan, 17) for p in (one_panel, other))
    assert one.names == two.names and {"D": "boosted", "W": "mean", "MS": "stl"}[freq] in one.names
    for name, a, b in zip(one.names, one.forecasts[:, 0], two.forecasts[:, 0], strict=True):
        assert np.allclose(a, b, rtol=1e-6, equal_nan=True), name


def test_later_parts_of_the_backtests_know_what_came_before_them_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecaster, "_MANY", 0)
    y = shop(5, 120) + 1.0
    panel = _panel(y, "MS", 6)
    stages = forecaster._stages(forecaster.origins_of(panel, 8), 3)
    middle = stages[1].until
    early, late = y.copy(), y.copy()
    early[:, middle - 1] *= 3.0
    late[:, middle:] *= 3.0
    found = diagnose(panel)
    base, before, after = (backtest(p, closed(p), found, BUDGETS["balanced"], 17) for p in (panel, _panel(early, "MS", 6), _panel(late, "MS", 6)))
    at = list(base.origins).index(middle)
    boosted = base.names.index("boosted")
    for name, a, b in zip(base.names, base.forecasts[:, at], after.forecasts[:, at], strict=True):
        assert np.allclose(a, b, rtol=1e-6, equal_nan=True), name
    assert not np.allclose(base.forecasts[boosted, at], before.forecasts[boosted, at])


def test_backtests_are_parted_in_order() -> None:
    stages = forecaster._stages(np.array([10, 12, 14, 16, 18, 20, 22, 24, 30]), 3)
    assert [(s.until, list(s.asked)) for s in stages] == [(10, [10, 12, 14]), (16, [16, 18, 20]), (22, [22, 24]), (30, [30])]
    assert [s.until for s in forecaster._stages(np.array([10, 12, 14, 30]), 3)] == [10, 30]  # parts of two origins at least
    assert [(s.until, list(s.asked)) for s in forecaster._stages(np.array([30]), 3)] == [(30, [30])]


@pytest.mark.parametrize(("length", "horizon", "apart"), [(942, 42, 15), (300, 28, 4), (200, 48, 8), (60, 7, 1)])
def test_days_to_learn_from_reach_back_and_fall_on_all_weekdays(length: int, horizon: int, apart: int) -> None:
    grid = forecaster._grid(_panel(shop(2, length), "D", horizon), 14)
    # 942: (942 - 42 - 14) // 60 = 14, a multiple of 7, so one more; 48 // 6 = 8 … 48 // 3 = 16, (200 - 48 - 14) // 60 = 2
    assert (np.diff(grid) == apart).all() and grid[-1] == length - horizon and grid[0] > 14


def test_of_many_rows_every_weekday_and_horizon_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[boosted.Rows] = []
    real = boosted.fit

    def spy(data: boosted.Rows, *rest: object, **more: object) -> object:
        seen.append(data)
        return real(data, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(boosted, "fit", spy)
    panel = _panel(shop(10, 300), "D", 28)
    plan = replace(BUDGETS["fast"], learner=(1000, 5, 0.1, 7))
    backtest(panel, closed(panel), diagnose(panel), plan, 17)
    for data in seen:
        for name, all_of in (("weekday", set(range(7))), ("step", set(range(1, 29)))):
            assert set(data.x[:, data.names.index(name)]) == all_of, name


def test_a_day_that_nobody_knows_is_not_a_low_one() -> None:
    y = np.full((2, 80), 200.0)
    y[:, 70:78] = np.nan
    panel = _panel(y, "D", 5)
    test = backtest(panel, closed(panel), diagnose(panel), BUDGETS["fast"], 17)
    assert np.allclose(test.forecasts[test.names.index("smoothing_log"), -1], 200.0)


def test_weeks_are_judged_over_a_year_where_there_is_one() -> None:
    long, short = (forecaster.origins_of(_panel(shop(3, length), "W", 4), 8) for length in (200, 48))
    assert len(long) == len(short) == 9 and (np.diff(long[:-1]) == 7).all() and long[-2] == 196
    # 48 weeks: 20 periods of room before the last origin, less half of history
    assert (np.diff(short[:-1]) == 2).all() and short[-2] == 44


def test_the_seasonal_naive_is_only_weighed_where_nothing_else_is() -> None:
    rng = np.random.default_rng(0)
    actual = np.full((4, 2, 3), np.nan)
    actual[:-1] = rng.normal(10, 1, (3, 2, 3))
    forecasts = np.full((3, 4, 2, 3), 10.0)
    forecasts[0, :-1] = actual[:-1]  # the naive one is perfect
    forecasts[1:, :, 1] = np.nan
    nothing = np.zeros((4, 2, 3), bool)
    test = Backtest(np.array([10, 11, 12, 15]), ("seasonal_naive", "smoothing", "mean"), forecasts, actual, nothing, np.ones(2), np.ones(2))
    made = combining.weights(test, np.zeros(2, bool))
    assert np.allclose(made.sum(axis=1), 1.0) and made[0, 0] == 0.0 and made[1, 0] == 1.0


@pytest.mark.parametrize(("apart", "least", "most"), [(1, 0.17, 0.25), (30, 0.0, 0.05)])
def test_weights_from_few_periods_stay_near_equal_ones(apart: int, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    actual = np.full((4, 2, 3), np.nan)
    actual[:-1] = rng.normal(10, 1, (3, 2, 3))
    forecasts = np.stack([np.nan_to_num(actual, nan=10.0), np.full((4, 2, 3), 20.0)])  # one knows, one is far off
    test = Backtest(10 + apart * np.arange(4), ("smoothing", "mean"), forecasts, actual, np.zeros((4, 2, 3), bool), np.ones(2), np.ones(2))
    made = combining.weights(test, np.zeros(2, bool))
    # origins span 5 periods: 0.4 * (1 - 5 / 40) / 2 = 0.175 of equal weights; or 63
    assert np.allclose(made.sum(axis=1), 1.0) and (made[:, 1] >= least).all() and (made[:, 1] <= most).all()


def test_weights_sum_to_one_and_the_combination_beats_the_naive(made: tuple[Panel, Forecast]) -> None:
    _, f = made
    assert np.allclose(f.weights.sum(axis=1), 1.0) and (f.weights >= 0).all()
    test = f.backtest
    naive = np.abs(test.actual[:-1] - test.forecasts[test.names.index("seasonal_naive"), :-1])
    assert np.nanmean(np.abs(test.actual[:-1] - f.combined[:-1])) < 0.9 * np.nanmean(naive)


def test_intervals_cover_what_they_claim_on_what_follows() -> None:
    y = shop(60, 300, seed=8)
    panel, _ = read_panel(table(y[:, :-7]), "D", 7)
    f = forecast(panel, (50, 80, 95), "fast")
    truth = y[:, -7:]
    for level, slack in ((50, 0.12), (80, 0.08), (95, 0.05)):
        low, high = f.bounds[level]
        assert abs(((truth >= low) & (truth <= high)).mean() - level / 100) < slack
    assert (f.bounds[95][0] <= f.bounds[80][0]).all() and (f.bounds[50][1] <= f.bounds[80][1]).all()
    assert f.bounds[95][0].min() >= 0


def test_series_of_other_ends_go_on_from_their_own() -> None:
    y = shop(2, 60)
    one = table(y)
    kept = one.filter(pa.array([not (s == "s01" and i >= 115) for i, s in enumerate(one["series_id"].to_pylist())]))
    panel, _ = read_panel(kept, "D", 3)
    assert [str(d) for d in panel.ends] == ["2024-02-29", "2024-02-24"]
    assert str(panel.dates()[1, -1]) == "2024-02-27" and panel.y[1, -1] == y[1, 54]


def test_steps_of_months_keep_the_first() -> None:
    assert step(np.array(["2024-01-01"], "M8[D]"), np.array([1, 13]), "MS").astype(str).tolist() == ["2024-02-01", "2025-02-01"]


def test_one_failing_series_is_quarantined_and_the_rest_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    panel, _ = read_panel(table(shop(5, 60)), "D", 7)
    real = spread.forecast

    def breaks(part: Panel, levels: tuple[int, ...], budget: str, seed: int, weights: Weights | None) -> Forecast:
        if "s03" in part.ids:
            raise ValueError("no such thing")
        return real(part, levels, budget, seed, weights)

    monkeypatch.setattr(spread, "forecast", breaks)
    parts = list(spread.forecast_chunks(panel, (80, 95), "fast", 17))
    assert sorted(i for p in parts for i in p.panel.ids) == list(panel.ids)
    bad = [q for p in parts for q in p.quarantined]
    assert [(q.series_id, q.reason) for q in bad] == [("s03", "ValueError: no such thing")]
    (last,) = [p for p in parts if p.quarantined]
    assert last.made.model == ("seasonal_naive",) and np.array_equal(last.made.mean[0], panel.y[3, -7:])


def test_chunks_take_every_series_once() -> None:
    panel, _ = read_panel(table(shop(7, 30)), "D", 2)
    rows = spread.chunks(panel, 3)
    assert sorted(np.concatenate(rows)) == list(range(7)) and max(map(len, rows)) <= 3


@pytest.fixture(scope="module")
def best() -> Iterator[tuple[Panel, Forecast]]:
    panel, _ = read_panel(table(shop(14, 200)), "D", 7)
    yield panel, forecast(panel, budget="best")


@pytest.mark.tensorflow
def test_the_best_budget_has_arima_and_the_network(best: tuple[Panel, Forecast]) -> None:
    _, f = best
    assert {"arima", "network", "boosted", "boosted_mean"} <= set(f.backtest.names)
    for name in ("arima", "network"):
        assert np.isfinite(f.backtest.forecasts[f.backtest.names.index(name)]).all()
