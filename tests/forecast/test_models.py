"""Candidates against hand calculations and independent implementations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nightmarket.forecast import (
    boosted,
    combining,
    forecaster,
    intermittent,
    intervals,
    regression,
    seasonal,
    smoothing,
)
from nightmarket.forecast.closed import closed
from nightmarket.forecast.diagnosis import decompose, diagnose
from nightmarket.forecast.series import Freq, Panel

RNG = np.random.default_rng(5)


def panel_of(y: np.ndarray, freq: Freq = "D", horizon: int = 7, end: str = "2024-06-30", known: np.ndarray | None = None, names: tuple[str, ...] = ()) -> Panel:
    y = np.atleast_2d(np.asarray(y, float))
    known = np.zeros((len(y), y.shape[1] + horizon, 0)) if known is None else known
    return Panel(tuple(f"s{i}" for i in range(len(y))), freq, np.full(len(y), np.datetime64(end, "D")), y, known, names, (False,) * len(names))


def test_simple_smoothing_is_its_recursion() -> None:
    y = RNG.normal(10, 2, (3, 30))
    paths = smoothing.run(y, 1, (smoothing.Setting(0.3, 0.0),), np.array([20, 30]), 4)
    for row, made in zip(y, paths.values[:, 0], strict=True):
        level = row[:8].mean()  # where the bank starts: the mean of the first eight
        levels = []
        for value in row:
            level += 0.3 * (value - level)
            levels.append(level)
        assert np.allclose(made[0], levels[19]) and np.allclose(made[1], levels[29])


def test_holt_winters_is_that_of_statsmodels() -> None:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    season, alpha, beta, gamma, phi = 4, 0.3, 0.2, 0.1, 0.9
    y = 50 + np.tile([5.0, -3.0, 1.0, -3.0], 12) + RNG.normal(0, 1, 48)
    start, seasons = smoothing._initial(y[None], np.array([0]), np.array([16]), season)
    made = smoothing.run(y[None], season, (smoothing.Setting(alpha, gamma, beta, phi),), np.array([48]), 6).values[0, 0, 0]
    model = ETSModel(y, error="add", trend="add", damped_trend=True, seasonal="add", seasonal_periods=season, initialization_method="known",
                     initial_level=start[0], initial_trend=0.0, initial_seasonal=seasons[0])
    # ETS(A,Ad,A): its parameters are alpha, alpha beta*, (1 - alpha) gamma
    fitted = model.smooth([alpha, alpha * beta, (1 - alpha) * gamma, phi])
    assert np.allclose(made, fitted.forecast(6), atol=1e-8)


def test_an_unknown_value_leaves_the_level() -> None:
    y = np.array([[4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, np.nan, np.nan]])
    assert np.allclose(smoothing.run(y, 1, (smoothing.Setting(0.5, 0.0),), np.array([10]), 3).values, 4.0)


def test_a_series_that_has_not_begun_has_no_forecast() -> None:
    y = np.array([[np.nan, np.nan, 3.0, 3.0]])
    made = smoothing.run(y, 1, (smoothing.Setting(0.5, 0.0),), np.array([1, 4]), 2).values
    assert np.isnan(made[0, 0, 0]).all() and np.allclose(made[0, 0, 1], 3.0)


def test_an_initial_state_does_not_forecast_what_it_has_seen() -> None:
    y = np.arange(40.0)[None]  # season 4: the state is made of 16 periods
    values = smoothing.run(y, 4, (smoothing.Setting(0.5, 0.1),), np.array([10, 15, 16, 40]), 2).values[0, 0]
    assert np.isnan(values[:2]).all() and np.isfinite(values[2:]).all()


def test_last_year_and_a_level_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    weeks = np.arange(140)
    year = np.where(weeks % 52 == 47, 30.0, 0.0)  # one week a year is another
    y = (10.0 + year + np.where(weeks >= 100, 5.0, 0.0))[None]
    made = seasonal.last_year(y, 52, np.array([70, 80, 90, 120, 130, 140]), 12)
    assert np.isnan(seasonal.last_year(y, 52, np.array([40, 140]), 4)[0]).all()
    ahead = np.where((140 + np.arange(12)) % 52 == 47, 45.0, 15.0)
    assert made.shape == (6, 1, 12) and np.allclose(made[-1, 0], ahead, atol=1.5)
    monkeypatch.setattr(seasonal, "_CELLS", 1)  # one series after another
    apart = seasonal.last_year(np.concatenate([y, 2 * y]), 52, np.array([70, 80, 90, 120, 130, 140]), 12)
    assert np.allclose(apart[:, :1], made, equal_nan=True) and np.allclose(apart[:, 1:], 2 * made, equal_nan=True)


def test_stl_puts_the_season_back_as_statsmodels_does() -> None:
    from statsmodels.tsa.seasonal import STL

    y = 20 + np.tile([4.0, 0.0, -1.0, -3.0], 15) + RNG.normal(0, 0.5, 60)
    made = seasonal.stl(np.stack([y, np.where(np.arange(60) < 54, np.nan, y)]), 4, False, np.arange(30, 61, 5), np.array([40, 60]), 4)
    wave = np.asarray(STL(y, period=4, seasonal=11).fit(inner_iter=2, outer_iter=0).seasonal)
    assert np.ptp(made[1, 0] - wave[-4:]) < 1e-9  # season of the last year, and one level
    assert np.isnan(made[:, 1]).all()  # six periods are less than two seasons
    before = seasonal.stl(np.where(np.arange(60) < 40, y, 1e6)[None], 4, False, np.arange(30, 61, 5), np.array([40]), 4)
    assert np.allclose(before[0, 0], made[0, 0])  # what came later is not looked at


def test_the_median_of_a_year_is_of_what_is_known() -> None:
    y = np.array([[1.0, 5.0, 2.0, np.nan, 9.0], [np.nan] * 5, [3.0, 3.0, 4.0, 8.0, 1.0]])
    made = forecaster._year_median(y, 4, np.array([0, 1, 3, 5]), 2)[:, :, 1]
    assert np.array_equal(made, [[np.nan] * 3, [1.0, np.nan, 3.0], [2.0, np.nan, 3.0], [5.0, np.nan, 3.5]], equal_nan=True)


def test_the_seasonal_naive_goes_back_to_the_newest_known_value_of_its_season() -> None:
    y = np.arange(21.0)[None].copy()
    y[0, 18] = np.nan  # five days before the end: the week before stands in
    made = forecaster._naive(panel_of(y, horizon=9), y, np.array([3, 21]))
    assert made[1, 0].tolist() == [14, 15, 16, 17, 11, 19, 20, 14, 15]
    assert made[0, 0].tolist() == [1.0] * 4 + [0, 1, 2, 1.0, 1.0]  # days of the season that are not known yet: the mean so far


def test_drift_follows_the_trend_line() -> None:
    y = np.arange(40.0)[None]
    whole, half = (smoothing.run(y, 1, (smoothing.Setting(0.9, 0.0, drift=d),), np.array([40]), 5).values[0, 0, 0] for d in (1.0, 0.5))
    assert np.allclose(np.diff(whole), 1.0) and np.allclose(np.diff(half), 0.5)


def test_croston_and_tsb_are_those_of_statsforecast() -> None:
    from statsforecast.models import TSB, CrostonClassic

    y = np.where(RNG.random((4, 80)) < 0.25, RNG.integers(1, 9, (4, 80)), 0).astype(float)
    y[:, 0] = 3.0
    end = np.array([80])
    for row in range(4):
        theirs = CrostonClassic().forecast(y[row], h=1)["mean"][0]
        ours = intermittent._croston(y[row][None], end, 0.1)[0, 0] / (1 - 0.1 / 2)
        assert ours == pytest.approx(theirs, rel=1e-6)
        theirs = TSB(alpha_d=0.1, alpha_p=0.2).forecast(y[row], h=1)["mean"][0]
        # ours starts the chance of selling at a half, theirs at 1: after 80 periods the start is forgotten
        assert intermittent._tsb(y[row][None], end, 0.1, 0.2)[0, 0] == pytest.approx(theirs, rel=1e-4)


def test_adida_of_a_regular_series_is_its_mean() -> None:
    y = np.tile([0.0, 0.0, 6.0], 20)[None]
    assert intermittent.adida(y, np.array([60]))[0, 0] == pytest.approx(2.0)


def test_regression_of_one_series_is_least_squares() -> None:
    x = np.concatenate([np.ones((1, 200, 1)), RNG.normal(0, 1, (1, 200, 4))], axis=2)
    beta = np.array([3.0, 0.5, -2.0, 1.0, 0.0])
    z = x @ beta + RNG.normal(0, 0.1, (1, 200))
    found = regression.fit(x, z, half_life=1e9)
    assert np.allclose(found[0], np.linalg.lstsq(x[0], z[0], rcond=None)[0], atol=0.05)


def test_a_short_series_borrows_the_profile_of_the_others() -> None:
    weekday = np.arange(210) % 7
    profile = np.array([3.0, 1.0, 0.0, 0.0, 1.0, -2.0, -3.0])
    y = 10 + profile[weekday][None, :] + RNG.normal(0, 2.0, (30, 210))
    y[0, :-12] = np.nan
    panel = panel_of(y)
    beta = regression.fit(regression.design(panel).x[:, :210], y, 700.0)
    made = regression.predict(regression.design(panel).x[:1, 210:, 2:], beta[:1, 2:])[0]
    alone = regression.fit(regression.design(panel).x[:1, :210], y[:1], 700.0)
    lonely = regression.predict(regression.design(panel).x[:1, 210:, 2:], alone[:, 2:])[0]
    truth = profile[(210 + np.arange(7)) % 7] - profile.mean()
    assert np.abs(made - made.mean() - truth).mean() < 0.5 * np.abs(lonely - lonely.mean() - truth).mean()


def test_trading_days_count_weekends() -> None:
    months = np.array([["2023-01-01", "2023-02-01", "2024-02-01"]], "M8[D]")  # 5 + 4, 4 + 4 and 4 + 4 weekend days
    weekend, leap = regression.trading_days(months)
    assert np.allclose(weekend[0] * 30, [9 - 62 / 7, 8 - 8, 8 - 58 / 7])
    assert np.allclose(leap[0] * 30, [0, -0.25, 0.75])


def test_members_are_weighed_by_errors_known_at_the_origin() -> None:
    y = np.zeros((1, 12))
    paths = np.stack([np.zeros((1, 3, 2)), np.ones((1, 3, 2))], axis=1)  # a perfect member and one that is always 1 off
    made = combining.sequential(paths, y, np.array([6, 7, 10]), 2)
    assert np.allclose(made[0], 0.5) and np.allclose(made[1], 0.5)  # no error is complete before 8
    assert (made[2] < 1e-3).all()


def test_closed_days_are_told_from_the_data() -> None:
    panel = panel_of(RNG.integers(1, 9, (6, 140)).astype(float), end="2024-06-30")
    weekday = (panel.dates().astype(np.int64) + 3) % 7
    y = np.where(weekday[:, :140] == 5, 0.0, panel.y)
    y[:, 60] = 0.0  # a day on which nobody sold
    shut = closed(panel_of(y, end="2024-06-30"))
    assert (shut[:, :140][weekday[:, :140] == 5]).all() and (shut[:, 140:] == (weekday[:, 140:] == 5)).all()
    assert shut[:, 60].all() and shut[:, :140].sum() == (weekday[:, :140] == 5).sum() + 6 * (weekday[0, 60] != 5)


def test_a_column_that_says_closed_is_believed() -> None:
    rng = np.random.default_rng(0)
    opened = (rng.random((5, 107)) > 0.2).astype(float)
    y = np.where(opened[:, :100] > 0, rng.integers(5, 9, (5, 100)), 0)
    shut = closed(panel_of(y, horizon=7, known=opened[:, :, None], names=("open",)))
    assert (shut == (opened == 0)).all()


def test_rare_sales_are_not_closed_days() -> None:
    y = (np.random.default_rng(1).random((1, 200)) < 0.05).astype(float)
    assert not closed(panel_of(y)).any()


def test_diagnosis_of_each_kind() -> None:
    t = 200
    y = np.zeros((5, t))
    y[0] = 10 + RNG.normal(0, 1, t)
    y[1, ::4] = 5.0
    y[2] = np.exp(RNG.normal(0, 1.2, t))
    y[3, ::3] = np.exp(RNG.normal(0, 1.2, len(y[3, ::3])))
    found = diagnose(panel_of(y, "MS"))
    assert found.kind == ("smooth", "intermittent", "erratic", "lumpy", "empty")
    assert found.interval[1] == pytest.approx(4.0) and found.interval[4] == np.inf and found.variation[1] == pytest.approx(0.0)


def test_a_break_and_outliers_are_found_where_they_are() -> None:
    y = 100 + np.random.default_rng(3).uniform(-1, 1, (2, 120))  # bounded noise: nothing is an outlier by chance
    y[0, 70:] += 80
    y[1, [40, 90]] = 500
    found = diagnose(panel_of(y, "MS"))
    assert abs(found.breaks[0] - 70) <= 1 and found.breaks[1] == -1
    assert 2 <= found.outliers[1] <= 3  # the two, and at most a neighbour of the same month that they pull along


def test_decomposition_adds_up_and_measures_strength() -> None:
    t = np.arange(140)
    y = 50 + 0.2 * t + 10 * np.sin(2 * np.pi * t / 7) + RNG.normal(0, 0.5, 140)
    parts = decompose(np.r_[np.nan, y], "D")
    assert np.allclose((parts.trend + parts.seasons[7] + parts.remainder)[1:], y)
    assert parts.season_strength[7] > 0.95 and parts.trend_strength > 0.9
    with pytest.raises(ValueError, match="more than two seasons of 7"):
        decompose(y[:10], "D")


def test_features_see_nothing_at_or_after_the_origin() -> None:
    y = RNG.normal(20, 3, (3, 120))
    panel = panel_of(y)
    other = y.copy()
    other[:, 100:] = -1e6
    origins, steps = np.array([90, 100]), np.arange(1, 8)
    hints = np.zeros((2, 3, 7, 1))
    shut = np.zeros((3, 127), bool)
    one = boosted.rows(panel, y, shut, origins, hints, steps)
    two = boosted.rows(panel_of(other), other, shut, origins, hints, steps)
    assert np.array_equal(one.x, two.x, equal_nan=True) and np.array_equal(one.level, two.level)
    assert one.x.shape == (2 * 3 * 7, len(one.names))


def test_a_season_is_told_from_noise() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(100, 10, (200, 140))
    waves = noise + np.tile([20.0, -20.0, 0.0, 0.0, 0.0, 0.0, 0.0], 20)
    dull, seasonal_ones = diagnose(panel_of(noise)), diagnose(panel_of(waves))
    # seven means explain about 7 / 140 of the variance of noise, of which a mean of seven leaves 6 / 7; the wave's variance is 2 * 400 / 7
    wave, rest = 2 * 400 / 7, 100 * 6 / 7
    assert dull.season.mean() == pytest.approx(0.05, abs=0.02) and dull.seasonal.mean() < 0.1
    assert seasonal_ones.season.mean() == pytest.approx(1 - rest * 0.95 / (wave + rest), abs=0.03) and seasonal_ones.seasonal.all()
    short = diagnose(panel_of(noise[:3, :14]))
    assert np.isnan(short.season).all() and short.seasonal.all()  # too short to tell: nothing is left out


def test_the_diagnosis_decides_which_candidates_run() -> None:
    rng = np.random.default_rng(6)
    y = rng.normal(100, 5, (4, 480)) + np.tile([40.0, -40.0, 0.0, 0.0, 0.0, 0.0, 0.0], 69)[:480]
    y[1, 300:] += 300  # the level of the last year is not that of the year before
    y[2] = rng.normal(100, 5, 480)  # no season
    panel = panel_of(y, "D", 14)
    found = diagnose(panel)
    assert list(found.seasonal) == [True, True, False, True] and list(found.steady(480, 364)) == [True, False, True, True]
    plan = replace(forecaster.BUDGETS["balanced"], learner=(5_000, 10, 0.1, 7))
    test = forecaster.backtest(panel, closed(panel), found, plan, 17)
    ran = {name: np.isfinite(test.forecasts[test.names.index(name), -1]).all(axis=1) for name in ("stl", "last_year", "smoothing")}
    assert list(ran["stl"]) == [True, True, False, True] and list(ran["last_year"]) == [True, False, True, True]
    assert ran["smoothing"].all()
    weight = combining.weights(test, found.rare)
    assert np.allclose(weight.sum(axis=1), 1.0) and weight[2, test.names.index("stl")] == 0.0 and weight[1, test.names.index("last_year")] == 0.0


def test_each_origin_may_have_steps_of_its_own() -> None:
    y = RNG.gamma(2.0, 10.0, (3, 120))
    panel = panel_of(y)
    shut = np.zeros((3, 127), bool)
    origins, steps = np.array([80, 90]), np.array([[1, 4, 7], [2, 3, 5]])
    hints = RNG.normal(20, 1, (2, 3, 3, 1))
    both = boosted.rows(panel, y, shut, origins, hints, steps)
    for k in (0, 1):
        one = boosted.rows(panel, y, shut, origins[[k]], hints[[k]], steps[k])
        part = slice(9 * k, 9 * k + 9)
        assert np.array_equal(both.x[part], one.x, equal_nan=True) and np.array_equal(both.target[part], one.target)
        assert np.allclose((both.target * both.level)[part].reshape(3, 3), y[:, origins[k] + steps[k] - 1])


def test_with_closed_days_both_open_and_all_days_are_covered_as_claimed() -> None:
    rng = np.random.default_rng(3)
    shut = np.zeros((9, 400, 10), bool)
    shut[:, :, [3, 8]] = True  # a fifth of the days
    actual = np.where(shut, 0.0, rng.normal(50.0, 5.0, (9, 400, 10)))
    truth = actual[-1].copy()
    actual[-1] = np.nan
    made = np.where(shut, 0.0, 50.0)
    test = forecaster.Backtest(10 * np.arange(9), ("fifty",), made[None], actual, shut, np.full(400, 5.0), np.ones(400))
    for level, open_too in ((80, 78.0), (95, 94.5)):  # level - (100 - level) / 5 / 2
        low, high = intervals.conformal(test, made, (80, 95), np.ones(400, bool))[level]
        inside = (truth >= low) & (truth <= high)
        assert 100 * inside[~shut[-1]].mean() == pytest.approx(open_too, abs=1.5)
        assert 100 * inside.mean() == pytest.approx(20 + 0.8 * open_too, abs=1.5)
        assert (high[shut[-1]] == 0).all()


@pytest.mark.parametrize(("first", "last"), [(2.0, 1.0), (1.0, 2.0)])
def test_intervals_are_as_wide_as_the_newest_errors(first: float, last: float) -> None:
    """Errors that all series share shrink or grow from year to year; the next year is like the last. Old and new alike would cover 94 or 66 %."""
    rng = np.random.default_rng(7)
    size = np.r_[np.linspace(first, last, 8), last]
    noise = rng.normal(0, 1, (9, 300, 12)) * size[:, None, None]
    actual = np.concatenate([noise[:-1], np.full((1, 300, 12), np.nan)])
    nothing = np.zeros(noise.shape)
    test = forecaster.Backtest(12 * np.arange(9), ("zero",), nothing[None], actual, nothing.astype(bool), np.ones(300), np.ones(300))
    low, high = intervals.conformal(test, nothing, (80,), np.zeros(300, bool))[80]
    assert ((noise[-1] >= low) & (noise[-1] <= high)).mean() == pytest.approx(0.80, abs=0.035)


@pytest.mark.parametrize(("series", "apart", "horizon"), [(16, 2, 4), (12, 8, 28)])
def test_intervals_of_few_series_cover_on_average(series: int, apart: int, horizon: int) -> None:
    """Backtests that share days, as those of short histories do; the next horizon is of the same noise."""
    rng = np.random.default_rng(11)
    origins = np.arange(8) * apart
    inside = {80: 0.0, 95: 0.0}
    runs = 40
    for _ in range(runs):
        noise = rng.normal(0, rng.uniform(0.5, 2.0, (series, 1)), (series, origins[-1] + 2 * horizon))
        windows = np.stack([noise[:, o : o + horizon] for o in [*origins, origins[-1] + horizon]])
        actual = windows.copy()
        actual[-1] = np.nan
        nothing = np.zeros(windows.shape)
        test = forecaster.Backtest(np.r_[origins, origins[-1] + horizon], ("zero",), nothing[None], actual, nothing.astype(bool),
                                   np.ones(series), np.ones(series))
        for level, (low, high) in intervals.conformal(test, nothing, (80, 95), np.zeros(series, bool)).items():
            inside[level] += ((windows[-1] >= low) & (windows[-1] <= high)).mean() / runs
    assert inside[80] == pytest.approx(0.80, abs=0.03) and inside[95] == pytest.approx(0.95, abs=0.02)


@pytest.mark.tensorflow
def test_the_network_learns_a_weekly_profile() -> None:
    from nightmarket.forecast import network

    profile = np.array([9.0, 4.0, 4.0, 5.0, 6.0, 12.0, 14.0])
    levels = np.linspace(1.0, 3.0, 12)[:, None]
    y = levels * profile[np.arange(200) % 7][None, :] * (1 + 0.02 * RNG.normal(0, 1, (12, 200)))
    panel = panel_of(y)
    shut = np.zeros((12, 207), bool)
    shape = network.shape_of(panel)
    model = network.fit(network.windows(panel, y, shut, np.arange(60, 193, 3), shape), shape, seed=1, epochs=15)
    made = network.predict(model, network.windows(panel, y, shut, np.array([200]), shape))
    truth = levels * profile[(200 + np.arange(7)) % 7][None, :]
    assert (np.diff(made, axis=2) >= 0).all()
    assert np.abs(made[:, :, 1] - truth).mean() < 0.1 * truth.mean()
