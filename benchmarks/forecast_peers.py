"""The peers that forecasts are measured beside: statsforecast's models and a direct global LightGBM, each as its users would run it.

LightGBM's settings are tuned on the window before the first origin (one horizon long), never on a test window.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from forecast_data import Data

LEVELS = (80, 95)
STATISTICAL = ("AutoETS", "AutoTheta", "CES")


@dataclass(frozen=True)
class Made:
    """Forecasts: (series, horizon) arrays in the order of the sorted series ids; bounds by level, none where there are none; seconds of CPU."""

    mean: np.ndarray
    bounds: dict[int, tuple[np.ndarray, np.ndarray]]
    seconds: float


def statistical(data: Data, history: pd.DataFrame) -> dict[str, Made]:
    """Every statistical peer, one process, one core after another."""
    from statsforecast import StatsForecast
    from statsforecast.models import (
        MFLES,
        MSTL,
        AutoCES,
        AutoETS,
        AutoTheta,
        SeasonalExponentialSmoothingOptimized,
        SeasonalNaive,
    )
    from statsforecast.utils import ConformalIntervals

    s, h = data.season, data.horizon
    shortest = history.groupby("series_id").size().min()
    conformal = ConformalIntervals(h=h, n_windows=2) if shortest > 2 * h + 2 * s + 2 else None
    models = {
        "AutoETS": AutoETS(season_length=s), "AutoTheta": AutoTheta(season_length=s), "CES": AutoCES(season_length=s),
        "MSTL+AutoETS": MSTL(season_length=s, trend_forecaster=AutoETS(model="ZZN")),
        "MFLES": MFLES(season_length=s, prediction_intervals=conformal), "SeasonalNaive": SeasonalNaive(season_length=s),
        "SeasonalES": SeasonalExponentialSmoothingOptimized(season_length=s, prediction_intervals=conformal),
    }
    if s == 1:
        models = {k: v for k, v in models.items() if k in ("AutoETS", "AutoTheta", "CES", "SeasonalNaive")}
    frame = history.rename(columns={"series_id": "unique_id"})[["unique_id", "ds", "y"]]
    freq = {"D": "D", "W": "7D", "MS": "MS"}[data.freq]
    found = {}
    for name, model in models.items():
        model.alias = name
        started = time.process_time()
        levels = list(LEVELS) if name not in ("MFLES", "SeasonalES") or conformal else None
        out = StatsForecast(models=[model], freq=freq, n_jobs=1, fallback_model=SeasonalNaive(season_length=s)).forecast(df=frame, h=h, level=levels)
        seconds = time.process_time() - started
        out = out.sort_values(["unique_id", "ds"])
        bounds = {
            level: (out[f"{name}-lo-{level}"].to_numpy().reshape(-1, h), out[f"{name}-hi-{level}"].to_numpy().reshape(-1, h))
            for level in LEVELS if f"{name}-lo-{level}" in out
        }
        found[name] = Made(out[name].to_numpy().reshape(-1, h), bounds, seconds)
    return found


def _features(data: Data, whole: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(series, dates) y with NaN before the start, (series, dates, k) known columns, (dates, c) calendar, (series,) ids."""
    wide = whole.pivot(index="series_id", columns="ds", values="y")
    known = np.stack([whole.pivot(index="series_id", columns="ds", values=c).to_numpy(float) for c in data.known], -1) if data.known else np.zeros((*wide.shape, 0))
    dates = pd.DatetimeIndex(wide.columns)
    calendar = np.stack([dates.dayofweek, dates.day, dates.month, dates.isocalendar().week.to_numpy(int), dates.dayofyear, dates.year], -1).astype(float)
    return wide.to_numpy(float), known, calendar, wide.index.to_numpy()


def _rows(data: Data, y: np.ndarray, known: np.ndarray, calendar: np.ndarray, origins: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direct multi-horizon rows at each origin (number of columns known): features, normalised target, scale."""
    s, h = data.season, data.horizon
    lags = max(2 * s, 14)
    xs, ts, ks = [], [], []
    for o in origins:
        past = y[:, :o]
        window = past[:, -lags:] if o >= lags else np.pad(past, ((0, 0), (lags - o, 0)), constant_values=np.nan)
        with np.errstate(all="ignore"):
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                scale = np.nanmean(np.abs(past[:, -4 * max(s, 7):]), axis=1)
                whole = np.nanmean(np.abs(past), axis=1)
                means = np.stack([np.nanmean(past[:, -w:], axis=1) for w in (s, 2 * s, 4 * s)], -1)
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, whole)  # shut for so long: as large as it was
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
        for step in range(h):
            at = o + step
            same = np.stack([past[:, at - s * k] if 0 <= at - s * k < o else np.full(len(y), np.nan) for k in range(-(-(step + 1) // s), -(-(step + 1) // s) + 3)], -1)
            block = [window / scale[:, None], means / scale[:, None], same / scale[:, None], np.log1p(scale)[:, None], np.full((len(y), 1), step),
                     np.repeat(calendar[at][None], len(y), 0), known[:, at], np.arange(len(y))[:, None]]
            xs.append(np.concatenate(block, axis=1))
            ts.append(y[:, at] / scale if at < y.shape[1] else np.full(len(y), np.nan))
            ks.append(scale)
    return np.concatenate(xs), np.concatenate(ts), np.concatenate(ks)


def lightgbm(data: Data, history: pd.DataFrame, future: pd.DataFrame, settings: dict[str, object], levels: tuple[int, ...] = LEVELS) -> Made:
    """A direct global LightGBM with calendar and known covariates; intervals by quantile models of the same settings."""
    import lightgbm as lgb

    started = time.process_time()
    whole = pd.concat([history, future.assign(y=np.nan)], ignore_index=True)
    y, known, calendar, _ = _features(data, whole)
    h = data.horizon
    end = y.shape[1] - h
    y = np.where(np.arange(y.shape[1]) < end, y, np.nan)
    stride = max(1, h // 8)
    origins = list(range(end - h, min(max(2 * data.season, 14), (end - h) // 2), -stride))[:40]  # two seasons of lags, half of a short history
    x, t, _ = _rows(data, y, known, calendar, origins)
    keep = np.isfinite(t)
    x, t = x[keep], t[keep]
    if len(x) > 300_000:
        picked = np.sort(np.random.default_rng(0).choice(len(x), 300_000, replace=False))
        x, t = x[picked], t[picked]
    test, _, scale = _rows(data, y, known, calendar, [end])

    def fit(**objective: object) -> np.ndarray:
        model = lgb.LGBMRegressor(**{"n_estimators": 300, "learning_rate": 0.05, "num_leaves": 31, "min_child_samples": 20, "verbose": -1, "random_state": 0,
                                     "n_jobs": 1} | settings | objective)
        model.fit(x, t, categorical_feature=[x.shape[1] - 1])
        return (model.predict(test) * scale).reshape(h, len(y)).T

    mean = fit()
    seconds = time.process_time() - started
    bounds = {level: (fit(objective="quantile", alpha=(100 - level) / 200), fit(objective="quantile", alpha=(100 + level) / 200)) for level in levels}
    return Made(mean, bounds, seconds)


GRID: tuple[dict[str, object], ...] = (
    {"objective": "regression_l1"}, {"objective": "regression"}, {"objective": "regression_l1", "num_leaves": 63, "learning_rate": 0.1},
    {"objective": "tweedie"},
)


def tuned(data: Data, score: Callable[[np.ndarray, pd.DataFrame, pd.DataFrame], float]) -> dict[str, object]:
    """LightGBM's settings with the lowest MASE on the horizon before the first origin."""
    first = data.origins()[0]
    history = data.rows[data.rows["ds"] <= first]
    dates = sorted(history["ds"].unique())
    cut = dates[-1 - data.horizon]
    before, window = history[history["ds"] <= cut], history[history["ds"] > cut]
    counts = before.groupby("series_id").size()
    long = counts.index[counts > data.season + 1]
    before, window = before[before["series_id"].isin(long)], window[window["series_id"].isin(long)]
    grid = [g for g in GRID if g["objective"] != "tweedie" or (before["y"] >= 0).all()]
    scores = []
    for settings in grid:
        made = lightgbm(data, before, window.drop(columns="y"), settings, levels=())
        scores.append(score(made.mean, before, window))
    return grid[int(np.argmin(scores))]
