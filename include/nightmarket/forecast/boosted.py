"""One gradient-boosted model (LightGBM) of all series: direct forecasts at every horizon, on values divided by each series' level.

A row is a series, an origin and a horizon. It sees recent values and means, values of the same season, the calendar and the known
columns of the date itself and around it, and what the statistical models forecast for it from that origin; so it learns where they
err. Rows on closed days are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nightmarket.forecast.series import SEASON, Panel
from nightmarket.learn.strategy import tree_threads

_WINDOWS: dict[str, tuple[int, ...]] = {"D": (7, 14, 28, 91, 364), "W": (4, 8, 13, 26, 52), "MS": (3, 6, 12, 24)}


@dataclass(frozen=True)
class Learner:
    """Settings of a fit."""

    rows: int
    """At most so many are learnt from, drawn evenly."""
    trees: int
    rate: float
    leaves: int
    seed: int


@dataclass(frozen=True)
class Rows:
    """Features of (origins, series, horizon) flattened in that order."""

    x: np.ndarray
    """float32."""
    level: np.ndarray
    """What the target is divided by."""
    target: np.ndarray
    """y / level; NaN where unknown, closed or ahead."""
    names: tuple[str, ...]


def rows(panel: Panel, masked: np.ndarray, shut: np.ndarray, origins: np.ndarray, hints: np.ndarray, steps: np.ndarray) -> Rows:
    """Features at `origins` (periods known, ascending) and `steps` ahead (from 1): (steps,) of them, or (origins, steps) of each origin its own.

    `masked` is y with NaN on closed days; `hints` (origins, n, steps, m) are the statistical forecasts.
    """
    n, freq, season = panel.size, panel.freq, SEASON[panel.freq]
    length = masked.shape[1]
    dates = panel.dates()
    steps = np.broadcast_to(steps, (len(origins), steps.shape[-1]))
    at = origins[:, None] + steps - 1  # (o, s) columns
    filled, counted = np.nan_to_num(masked), np.isfinite(masked).astype(float)
    total = np.concatenate([np.zeros((n, 1)), np.cumsum(filled, axis=1)], axis=1)
    square = np.concatenate([np.zeros((n, 1)), np.cumsum(filled**2, axis=1)], axis=1)
    count = np.concatenate([np.zeros((n, 1)), np.cumsum(counted, axis=1)], axis=1)
    nonzero = np.concatenate([np.zeros((n, 1)), np.cumsum((filled != 0).astype(float), axis=1)], axis=1)

    def mean(table: np.ndarray, width: int) -> np.ndarray:
        """(o, n) over the last `width` periods before each origin; NaN where nothing is known."""
        low = np.maximum(origins - width, 0)
        many = (count[:, origins] - count[:, low]).T
        return np.where(many > 0, (table[:, origins] - table[:, low]).T / np.maximum(many, 1), np.nan)

    windows = _WINDOWS[freq]
    means = [mean(total, w) for w in windows]
    base = np.where(np.isfinite(means[2]), np.abs(means[2]), np.nan)
    long = np.abs(mean(total, length))
    level = np.where(np.isfinite(base) & (base > 0.05 * long), base, long)
    level = np.where(np.isfinite(level) & (level > 0), level, 1.0)  # (o, n)
    deviation = np.sqrt(np.maximum(mean(square, windows[2]) - means[2] ** 2, 0.0))
    shape = (len(origins), n, steps.shape[1])
    made: dict[str, np.ndarray] = {}

    def add(name: str, values: np.ndarray) -> None:
        made[name] = np.broadcast_to(values, shape)

    add("step", steps[:, None, :].astype(float))
    add("log_level", np.log1p(level)[:, :, None])
    for w, values in zip(windows, means, strict=True):
        add(f"mean_{w}", (values / level)[:, :, None])
    add("deviation", (deviation / level)[:, :, None])
    add("selling", mean(nonzero, windows[3])[:, :, None])
    add("age", count[:, origins].T[:, :, None])
    reach = -(-steps // season)  # seasons back to the newest known value of the same season
    same = []
    for k in range(4 if freq == "D" else 2):
        column = at - season * (reach + k)
        values = masked[:, np.clip(column, 0, length - 1)].transpose(1, 0, 2) / level[:, :, None]
        same.append(np.where((column >= 0)[:, None, :], values, np.nan))
        if k < 2:
            add(f"same_{k + 1}", same[-1])
    stacked = np.stack(same)
    many = np.isfinite(stacked).sum(axis=0)
    add("same_mean", np.where(many > 0, np.nansum(stacked, axis=0) / np.maximum(many, 1), np.nan))
    for k in range(3):
        column = origins - 1 - k
        add(f"last_{k + 1}", np.where((column >= 0)[:, None], masked[:, np.clip(column, 0, length - 1)].T / level, np.nan)[:, :, None])
    if freq != "MS":
        year = round(365.25 if freq == "D" else 52.18)
        for name, back in (("year_ago", 364 if freq == "D" else 52),):
            column = at - back * (1 + (steps - 1) // back)
            values = masked[:, np.clip(column, 0, length - 1)].transpose(1, 0, 2) / level[:, :, None]
            add(name, np.where((column >= 0)[:, None, :], values, np.nan))
        wide = [(at - year + d) for d in (range(-3, 4) if freq == "D" else range(-1, 2))]
        near = np.stack([np.where((c >= 0)[:, None, :], masked[:, np.clip(c, 0, length - 1)].transpose(1, 0, 2), np.nan) for c in wide])
        many = np.isfinite(near).sum(axis=0)
        add("year_ago_near", np.where(many > 0, np.nansum(near, axis=0) / np.maximum(many, 1), np.nan) / level[:, :, None])
    day = dates[:, np.minimum(at, dates.shape[1] - 1)].transpose(1, 0, 2)  # (o, n, s)
    months = day.astype("M8[M]")
    add("month", months.astype(np.int64) % 12)
    if freq != "MS":
        into = (day - day.astype("M8[Y]").astype("M8[D]")).astype(np.int64)
        add("day_of_year", into)
        add("day_of_month", (day - months.astype("M8[D]")).astype(np.int64))
    if freq == "D":
        add("weekday", (day.astype(np.int64) + 3) % 7)
        for shift in (-1, 1):
            add(f"closed_{shift}", shut[:, np.clip(at + shift, 0, shut.shape[1] - 1)].transpose(1, 0, 2))
    for k, name in enumerate(panel.names):
        column = panel.known[:, :, k]
        add(f"known_{name}", column[:, at].transpose(1, 0, 2))
        for shift in (-2, -1, 1, 2):
            add(f"known_{name}_{shift}", column[:, np.clip(at + shift, 0, column.shape[1] - 1)].transpose(1, 0, 2) if shift < 0 else np.where(
                (at + shift < origins[:, None] + panel.horizon)[:, None, :], column[:, np.clip(at + shift, 0, column.shape[1] - 1)].transpose(1, 0, 2), np.nan))
        if not panel.categories[k]:
            filled_k = np.concatenate([np.zeros((n, 1)), np.cumsum(np.nan_to_num(column), axis=1)], axis=1)
            low = np.maximum(origins - windows[2], 0)
            add(f"known_{name}_past", ((filled_k[:, origins] - filled_k[:, low]).T / np.maximum(origins - low, 1)[:, None])[:, :, None])
    for m in range(hints.shape[3]):
        add(f"hint_{m}", hints[:, :, :, m] / level[:, :, None])
    x = np.stack([v.reshape(-1) for v in made.values()], -1).astype(np.float32)
    ahead = at < length
    values = np.where(ahead[:, None, :], masked[:, np.clip(at, 0, length - 1)].transpose(1, 0, 2), np.nan)
    full = np.broadcast_to(level[:, :, None], shape)
    return Rows(x, full.reshape(-1), (values / full).reshape(-1), tuple(made))


def fit(data: Rows, learner: Learner, weight: np.ndarray | None = None, positive: bool = True, objective: str = "regression_l1",
        fraction: float = 0.5) -> Any:
    """A lightgbm.Booster on the known targets. Deterministic for a seed on one machine; `weight` (rows,) multiplies losses."""
    import lightgbm as lgb

    use = np.flatnonzero(np.isfinite(data.target))
    if len(use) > learner.rows:
        use = np.sort(np.random.default_rng(learner.seed).choice(use, learner.rows, replace=False))
    categorical = [i for i, name in enumerate(data.names) if name in ("weekday", "month")]
    params: dict[str, Any] = {
        "objective": objective, "learning_rate": learner.rate, "num_leaves": learner.leaves, "min_data_in_leaf": max(5, min(50, len(use) // 100)),
        "feature_fraction": 0.7, "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 1.0, "seed": learner.seed, "deterministic": True,
        "force_row_wise": True, "num_threads": tree_threads(len(use)), "verbosity": -1, "max_bin": 127, "cat_smooth": 20, "cat_l2": 20,
    }
    if objective == "quantile":
        params["alpha"] = fraction
    table = lgb.Dataset(data.x[use], data.target[use], weight=None if weight is None else weight[use], categorical_feature=categorical,
                        feature_name=list(_plain(data.names)), free_raw_data=True)
    return lgb.train(params, table, num_boost_round=learner.trees)


def _plain(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names without the characters that LightGBM refuses."""
    return tuple(f"{i}_" + "".join(c if c.isalnum() and c.isascii() else "_" for c in name) for i, name in enumerate(names))


def predict(model: Any, data: Rows) -> np.ndarray:
    """(rows,) forecasts on the scale of y."""
    return model.predict(data.x) * data.level
