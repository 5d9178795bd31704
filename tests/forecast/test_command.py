"""`python -m jobs.forecast` on somebody's own file: its contract, and a stated outcome for every kind of bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import forecast

Run = Callable[..., tuple[int, pd.DataFrame | None, str]]
DAYS = pd.date_range("2024-01-01", periods=120, freq="D")


def daily(series: str = "a", dates: pd.DatetimeIndex = DAYS, level: float = 20.0, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = level + 5.0 * (dates.dayofweek < 5) + rng.normal(0, 1, len(dates)).round(2)
    return pd.DataFrame({"series_id": series, "ds": dates, "y": y})


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on a frame (or table) and returns exit code, output and what it said."""

    def go(sales: pd.DataFrame | pa.Table, horizon: int = 7, freq: str = "D", future: pd.DataFrame | None = None, known: str = "",
           *more: str) -> tuple[int, pd.DataFrame | None, str]:
        table = sales if isinstance(sales, pa.Table) else pa.Table.from_pandas(sales, preserve_index=False)
        pq.write_table(table, tmp_path / "sales.parquet")
        out = tmp_path / "out.parquet"
        out.unlink(missing_ok=True)
        argv = ["--sales", str(tmp_path / "sales.parquet"), "--freq", freq, "--horizon", str(horizon), "--out", str(out), "--budget", "fast"]
        if known:
            argv += ["--known-columns", known]
        if future is not None:
            pq.write_table(pa.Table.from_pandas(future, preserve_index=False), tmp_path / "future.parquet")
            argv += ["--future", str(tmp_path / "future.parquet")]
        code = forecast.main([*argv, *more])
        return code, pq.read_table(out).to_pandas() if out.exists() else None, capsys.readouterr().err

    return go


def whole(out: pd.DataFrame | None, series: int, horizon: int) -> pd.DataFrame:
    """The output, after checking what every output must be: complete, finite, ordered intervals."""
    assert out is not None and list(out.columns) == ["series_id", "ds", "mean", "lo80", "hi80", "lo95", "hi95", "model"]
    assert len(out) == series * horizon and not out.isna().any().any()
    assert np.isfinite(out[["mean", "lo80", "hi80", "lo95", "hi95"]]).all().all()
    assert (out["lo95"] <= out["lo80"] + 1e-9).all() and (out["lo80"] <= out["mean"] + 1e-9).all()
    assert (out["mean"] <= out["hi80"] + 1e-9).all() and (out["hi80"] <= out["hi95"] + 1e-9).all()
    return out


def test_one_row_a_series_and_future_date(run: Run) -> None:
    code, out, _ = run(pd.concat([daily("a"), daily("b", level=50.0, seed=2)]), 10)
    assert code == 0
    out = whole(out, 2, 10)
    for _, rows in out.groupby("series_id"):
        assert list(rows["ds"]) == list(pd.date_range("2024-04-30", periods=10, freq="D"))
    means = out.groupby("series_id")["mean"].mean()
    assert abs(means["a"] - 23.6) < 1.5 and abs(means["b"] - 53.6) < 1.5
    weekdays = out["ds"].dt.dayofweek < 5
    assert out[weekdays]["mean"].mean() - out[~weekdays]["mean"].mean() == pytest.approx(5.0, abs=1.5)


@pytest.mark.parametrize(("freq", "start", "expected"), [("MS", "2020-01-01", "2024-01-01"), ("W", "2023-01-02", "2023-12-04")])
def test_months_and_weeks_go_on_where_they_end(run: Run, freq: str, start: str, expected: str) -> None:
    dates = pd.date_range(start, periods=48, freq="MS" if freq == "MS" else "7D")
    code, out, _ = run(daily(dates=dates), 3, freq)
    assert code == 0
    assert str(whole(out, 1, 3)["ds"].iloc[0].date()) == expected


def test_levels_are_those_asked_for_and_the_seed_repeats(run: Run) -> None:
    code, out, _ = run(daily(), 5, "D", None, "", "--levels", "50,90", "--seed", "3")
    _, again, _ = run(daily(), 5, "D", None, "", "--levels", "50,90", "--seed", "3")
    assert code == 0 and out is not None and again is not None
    assert list(out.columns) == ["series_id", "ds", "mean", "lo50", "hi50", "lo90", "hi90", "model"]
    pd.testing.assert_frame_equal(out, again)


def test_ids_and_dates_keep_their_types(run: Run) -> None:
    frame = daily()
    table = pa.table({"series_id": pa.array([7] * 120, pa.int32()), "ds": pa.array(frame["ds"].dt.date, pa.date32()), "y": frame["y"].to_numpy()})
    code, out, _ = run(table, 2)
    assert code == 0 and whole(out, 1, 2)["series_id"].tolist() == [7, 7]
    assert str(out["ds"].iloc[0]) == "2024-04-30"


def test_a_series_of_one_point_is_repeated(run: Run) -> None:
    code, out, _ = run(daily().head(1), 3)
    assert code == 0
    assert np.allclose(whole(out, 1, 3)["mean"], daily()["y"].iloc[0])
    assert (out["lo95"] < out["mean"]).all() and (out["lo95"] >= 0).all()


def test_all_zeros_stay_zero(run: Run) -> None:
    code, out, _ = run(daily().assign(y=0.0))
    assert code == 0
    assert (whole(out, 1, 7)[["mean", "lo95", "hi95"]] == 0).all().all() and set(out["model"]) == {"zero"}


def test_a_constant_is_continued(run: Run) -> None:
    code, out, _ = run(daily().assign(y=4.0))
    assert code == 0
    assert np.allclose(whole(out, 1, 7)["mean"], 4.0, atol=0.05)


def test_after_a_jump_the_new_level_counts(run: Run) -> None:
    frame = daily()
    frame.loc[frame.index >= 60, "y"] += 100.0
    code, out, _ = run(frame)
    assert code == 0 and whole(out, 1, 7)["mean"].between(112, 136).all()


def test_an_infinite_value_is_refused_with_its_series_and_date(run: Run) -> None:
    frame = daily()
    frame.loc[5, "y"] = np.inf
    code, out, told = run(frame)
    assert code == 3 and out is None and "series a on 2024-01-06" in told and "infinite" in told


def test_missing_values_and_dates_are_unknown_not_zero(run: Run) -> None:
    frame = daily()
    frame.loc[[10, 50], "y"] = np.nan
    code, out, told = run(frame.drop(index=[20, 21]))
    assert code == 0 and whole(out, 1, 7)["mean"].min() > 15
    assert "no y given, taken as unknown" in told and "missing dates taken as unknown" in told and "series=a" in told


def test_a_list_of_sales_is_zero_where_it_lists_nothing(run: Run) -> None:
    frame = pd.concat([daily("every day"), daily("now and then").iloc[::5].assign(y=3.0)])
    code, out, told = run(frame)
    out = whole(out, 2, 7)
    rare = out[out["series_id"] == "now and then"]
    assert code == 0 and "a list of sales" in told
    assert rare["mean"].mean() < 1.5 and list(rare["ds"]) == list(out[out["series_id"] == "every day"]["ds"])


def test_forty_years_of_nothing_are_forgotten(run: Run) -> None:
    old = daily(dates=pd.date_range("1984-01-01", periods=100, freq="D"), level=1000.0)
    code, out, told = run(pd.concat([old, daily()]))
    assert code == 0 and whole(out, 1, 7)["mean"].max() < 40 and "history before a gap of more than 730 periods dropped" in told


def test_the_same_row_twice_counts_once_and_a_contradiction_is_refused(run: Run) -> None:
    code, out, told = run(pd.concat([daily(), daily().iloc[[3]]]))
    _, clean, _ = run(daily())
    assert code == 0 and "the same row twice" in told
    pd.testing.assert_frame_equal(whole(out, 1, 7), clean)
    code, out, told = run(pd.concat([daily(), daily().iloc[[3]].assign(y=1.0)]))
    assert code == 3 and out is None and "series a on 2024-01-04" in told and "differ" in told


def test_the_order_of_rows_does_not_matter(run: Run) -> None:
    frame = pd.concat([daily("a"), daily("b", level=50.0)])
    code, out, told = run(frame.sample(frac=1.0, random_state=0))
    _, sorted_out, _ = run(frame)
    assert code == 0 and "dates out of order, sorted" in told
    pd.testing.assert_frame_equal(whole(out, 2, 7), sorted_out)


@pytest.mark.parametrize(("dates", "freq", "told"), [
    (pd.date_range("2020-01-01", periods=24, freq="MS"), "D", "use --freq MS"),
    (pd.date_range("2020-01-06", periods=24, freq="7D"), "D", "use --freq W"),
    (DAYS[:60].append(pd.date_range("2024-04-01", periods=12, freq="MS")), "D", "in a part of its history"),
    (pd.date_range("2020-01-06", periods=24, freq="7D").append(pd.DatetimeIndex(["2021-01-01"])), "W", "weeks on two weekdays"),
    (pd.date_range("2020-01-31", periods=24, freq="ME"), "MS", "a month starts on its 1st"),
])
def test_mixed_frequencies_are_refused(run: Run, dates: pd.DatetimeIndex, freq: str, told: str) -> None:
    code, out, said = run(daily(dates=dates), 3, freq)
    assert code == 3 and out is None and told in said and "a" in said


def test_a_leap_day_is_a_day(run: Run) -> None:
    code, out, _ = run(daily(dates=pd.date_range("2023-11-01", "2024-02-27", freq="D")), 3)
    assert code == 0 and [str(d.date()) for d in whole(out, 1, 3)["ds"]] == ["2024-02-28", "2024-02-29", "2024-03-01"]


def test_days_over_a_change_of_clocks_are_local_days(run: Run) -> None:
    dates = pd.date_range("2024-01-01", "2024-03-29", freq="D", tz="Europe/Berlin")
    frame = daily(dates=dates)
    table = pa.table({"series_id": ["a"] * len(dates), "ds": pa.array(dates, pa.timestamp("us", "Europe/Berlin")), "y": frame["y"].to_numpy()})
    code, out, told = run(table, 4)
    assert code == 0 and "unknown" not in told
    assert [str(d) for d in whole(out, 1, 4)["ds"]] == [f"{d} 00:00:00{z}" for d, z in (
        ("2024-03-30", "+01:00"), ("2024-03-31", "+01:00"), ("2024-04-01", "+02:00"), ("2024-04-02", "+02:00"))]


def test_returns_are_kept_and_only_they_allow_negative_forecasts(run: Run) -> None:
    frame = daily(level=1.0)
    code, out, told = run(frame.assign(y=frame["y"] - 30.0))
    assert code == 0 and whole(out, 1, 7)["mean"].max() < 0 and "negative y kept as returns" in told
    _, out, _ = run(frame.assign(y=np.maximum(frame["y"] - 4.0, 0.0)))
    assert (whole(out, 1, 7)[["mean", "lo80", "lo95"]] >= 0).all().all()


def test_a_horizon_longer_than_history_is_forecast_with_wide_intervals(run: Run) -> None:
    code, out, _ = run(daily().head(10), 60)
    out = whole(out, 1, 60)
    wide = out["hi95"] - out["lo95"]
    assert code == 0 and out["mean"].between(10, 40).all() and wide.iloc[-1] > wide.iloc[0]


def promoted(days: int = 200) -> pd.DataFrame:
    frame = daily(dates=pd.date_range("2024-01-01", periods=days, freq="D"))
    frame["promo"] = (np.arange(days) // 7 % 2).astype(float)
    frame["y"] += 30.0 * frame["promo"]
    return frame


def test_a_known_promotion_is_forecast(run: Run) -> None:
    frame = promoted()
    history, future = frame.iloc[:-14], frame.iloc[-14:]
    code, out, _ = run(history, 14, "D", future[["series_id", "ds", "promo"]], "promo")
    out = whole(out, 1, 14).merge(future, on="ds")
    assert code == 0 and np.abs(out["mean"] - out["y"]).mean() < 3.0


def test_a_shop_that_lacks_half_a_year_goes_on_and_known_closed_days_are_zero(run: Run) -> None:
    days = pd.date_range("2023-01-01", periods=440, freq="D")
    rng = np.random.default_rng(9)
    often = pd.DataFrame({"series_id": "closes", "ds": days, "open": (np.arange(440) % 10 != 4).astype(float)})
    never = pd.DataFrame({"series_id": "rebuilt", "ds": days, "open": 1.0})
    frame = pd.concat([often, never], ignore_index=True)
    frame["y"] = np.where(frame["open"] == 1, (200 + rng.normal(0, 5, len(frame))).round(), 0.0)
    future = frame[frame["ds"] >= days[-14]].drop(columns="y")
    future.loc[(future["series_id"] == "rebuilt") & (future["ds"] == days[-3]), "open"] = 0.0  # its first closed day
    history = frame[frame["ds"] < days[-14]]
    history = history[(history["series_id"] == "closes") | (history["ds"] < days[150]) | (history["ds"] > days[330])]
    code, out, told = run(history, 14, "D", future, "open")
    out = whole(out, 2, 14).merge(future, on=["series_id", "ds"])
    shut = out["open"] == 0
    assert code == 0 and "missing dates taken as unknown" in told and "a list of sales" not in told
    assert shut.sum() == 2 and (out.loc[shut, ["mean", "lo95", "hi95"]] == 0).all().all()
    assert out.loc[~shut, "mean"].between(190, 210).all() and (out.loc[~shut, "lo95"] > 150).all()


def test_a_future_covariate_that_is_missing_is_named(run: Run) -> None:
    frame = promoted()
    future = frame.iloc[-14:][["series_id", "ds", "promo"]].reset_index(drop=True)
    code, out, told = run(frame.iloc[:-14], 14, "D", future.drop(index=3), "promo")
    assert code == 3 and out is None and f"no promo for series a on {future['ds'][3].date()}" in told
    future.loc[3, "promo"] = np.nan
    assert run(frame.iloc[:-14], 14, "D", future, "promo")[0] == 3
    assert run(frame.iloc[:-14], 14, "D", None, "promo")[0] == 2
    code, _, told = run(frame.iloc[:-14], 14, "D", future[["series_id", "ds"]], "promo")
    assert code == 2 and "no column promo" in told


def test_a_million_rows_of_one_series_are_cut_to_what_models_use(run: Run) -> None:
    days = np.arange(-700_000, 300_000).astype("M8[D]")
    table = pa.table({"series_id": pa.repeat("a", len(days)), "ds": pa.array(days.astype("M8[s]")), "y": 10.0 + (np.arange(len(days)) % 7)})
    code, out, told = run(table, 7)
    assert code == 0 and out is not None and len(out) == 7 and "only the last 1826 periods are looked at" in told
    assert np.allclose(sorted(out["mean"]), np.arange(10, 17), atol=0.2)


@pytest.mark.parametrize(("change", "code", "told"), [
    (lambda f: f.drop(columns="y"), 2, "no column y"),
    (lambda f: f.head(0), 3, "no rows"),
    (lambda f: f.assign(y="many"), 2, "column y is"),
    (lambda f: f.assign(ds="yesterday"), 2, "write YYYY-MM-DD"),
    (lambda f: f.assign(ds=[None, *f["ds"][1:]]), 3, "ds is missing"),
    (lambda f: f.assign(series_id=[None, *f["series_id"][1:]]), 3, "series_id is missing in row 1"),
    (lambda f: f.assign(y=np.nan), 3, "no y is known"),
])
def test_what_cannot_be_read_is_told(run: Run, change: Callable[[pd.DataFrame], pd.DataFrame], code: int, told: str) -> None:
    got, out, said = run(change(daily()))
    assert got == code and out is None and told in said and "Traceback" not in said


@pytest.mark.parametrize("argv", [["--horizon", "0"], ["--levels", "80,x"], ["--levels", "0,100"], ["--known-columns", "y"], ["--freq", "H"], ["--budget", "none"]])
def test_arguments_that_cannot_be_are_usage(run: Run, argv: list[str]) -> None:
    code, out, _ = run(daily(), 7, "D", None, "", *argv)
    assert code == 2 and out is None


def test_one_series_that_is_odd_leaves_the_others_alone(run: Run) -> None:
    odd = pd.concat([daily("one").tail(1), daily("zero").assign(y=0.0), daily("constant").assign(y=4.0)])
    code, out, _ = run(pd.concat([daily("a"), odd]))
    out = whole(out, 4, 7)
    assert code == 0 and (out[out["series_id"] == "zero"]["mean"] == 0).all()
    assert out[out["series_id"] == "a"]["mean"].between(17, 30).all()
