"""Weights of candidates from their errors at rolling origins, shrunk towards the group's and towards equal ones.

Combination with few, shrunk weights is the most robust result of the forecasting literature (Bates & Granger 1969; Makridakis et
al. 2020 on M4). Errors are scaled by the series' mean absolute seasonal difference; absolute and squared ones count alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nightmarket.forecast.forecaster import Backtest

_SHARPNESS = 12.0
_DISCOUNT = 0.97
_SQUARED = 1.0  # weight of the root mean squared error beside the mean absolute one
_ROWS = 100_000  # residuals that weights are learnt from
_FAR = 50.0  # scaled values are cut here: one wild day does not decide
_GROUP = 8.0  # series that the weights of all are worth to a group
_TILT = 3.0  # how much a relative error of a series of its own counts
_PERIODS = 40.0  # that backtests must span for all of that; errors of fewer say little of what comes
_EQUAL = 0.4  # part of equal weights where they span next to none


def sequential(paths: np.ndarray, y: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """(origins, n, H) of (n, members, origins, H) paths: at each origin, members averaged by errors that were complete by then."""
    n, members, many, _ = paths.shape
    errors = np.full((n, members, many), np.nan)
    for i, o in enumerate(origins):
        window = y[:, o : o + horizon]
        if window.shape[1] == 0:
            continue
        known = np.isfinite(window)
        off = np.abs(paths[:, :, i, : window.shape[1]] - np.nan_to_num(window)[:, None, :]) * known[:, None, :]
        count = known.sum(axis=1)
        errors[:, :, i] = np.where(count[:, None] > 0, off.sum(axis=-1) / np.maximum(count, 1)[:, None], np.nan)
    out = np.empty((many, n, horizon))
    for i, o in enumerate(origins):
        done = np.flatnonzero(origins + horizon <= o)
        if len(done):
            age = _DISCOUNT ** np.arange(len(done))[::-1]
            some = errors[:, :, done]
            mass = np.isfinite(some) * age
            loss = np.nansum(np.where(np.isfinite(some), some, 0.0) * age, axis=-1) / np.maximum(mass.sum(axis=-1), 1e-12)
            middle = np.median(loss, axis=1, keepdims=True)
            relative = np.where(middle > 0, loss / np.where(middle > 0, middle, 1.0), 1.0)
            relative = np.where(np.isfinite(relative), relative, 1.0)
            relative = 0.6 * relative + 0.4 * np.mean(np.minimum(relative, 5.0), axis=0, keepdims=True)
            weight = np.exp(-_SHARPNESS * (relative - relative.min(axis=1, keepdims=True)))
        else:
            weight = np.ones((n, members))
        weight /= weight.sum(axis=1, keepdims=True)
        out[i] = np.einsum("nm,nmh->nh", weight, np.nan_to_num(paths[:, :, i]))
        out[i][np.isnan(paths[:, :, i]).all(axis=(1, 2))] = np.nan
    return out


def weights(test: Backtest, rare: np.ndarray) -> np.ndarray:
    """(n, candidates) weights that sum to 1; a candidate without forecasts for a series gets none, and the seasonal naive one, which
    every other candidate contains and smooths, none where there is another.

    They are learnt for all series, for those that sell rarely (`rare`, (n,) bool) and the others, and tilted by each series' own
    errors: each step is drawn towards the one before, the first towards equal weights; so is the result where backtests span few periods.
    """
    c, o, n, horizon = test.forecasts.shape
    there = np.isfinite(test.forecasts[:, -1]).all(axis=-1).T  # (n, c)
    if o < 2:
        # nothing to judge by: the simplest that applies to the series, smoothing before naive
        out = np.zeros((n, c))
        for i in (test.names.index(k) for k in ("seasonal_naive", "smoothing") if k in test.names):
            out[there[:, i]] = np.eye(c)[i]
        return out
    rest = [i for i, name in enumerate(test.names) if name != "seasonal_naive"]
    if rest and len(rest) < c:
        out = np.zeros((n, c))
        out[:, rest] = weights(replace(test, names=tuple(test.names[i] for i in rest), forecasts=test.forecasts[rest]), rare)
        alone = ~there[:, rest].any(axis=1)
        out[alone] = np.eye(c)[test.names.index("seasonal_naive")]
        return out
    actual, f = test.actual[:-1], test.forecasts[:, :-1]
    scaled = test.scale[None, :, None]
    given = np.isfinite(f)
    # where a candidate is missing the mean of the others stands in, so that it neither gains nor loses by it
    stand_in = np.where(given, f, 0.0).sum(axis=0) / np.maximum(given.sum(axis=0), 1)
    x = np.where(given, f, stand_in[None]) / scaled[None]
    use = np.isfinite(actual) & ~test.shut[:-1] & given.any(axis=0)
    t = np.nan_to_num(actual / scaled)
    pooled = _pooled(x, t, use, test.root)
    everyone = 0.9 * pooled + 0.1 / c
    out = np.empty((n, c))
    for group in (rare, ~rare):
        rows = np.flatnonzero(group)
        if len(rows):
            mine = pooled if len(rows) == n else _pooled(x[:, :, rows], t[:, rows], use[:, rows], test.root[rows])
            trust = len(rows) / (len(rows) + _GROUP)
            out[rows] = trust * mine + (1 - trust) * everyone
    off = np.where(use[None], np.abs(x - t[None]), np.nan)
    count = np.isfinite(off).sum(axis=(1, 3))
    loss = np.where(count > 0, np.nansum(off, axis=(1, 3)) / np.maximum(count, 1), np.nan).T  # (n, c)
    best = np.min(np.where(np.isfinite(loss), loss, np.inf), axis=1, keepdims=True)
    good = np.isfinite(best) & (best > 0)
    relative = np.where(np.isfinite(loss) & good, loss / np.where(good, best, 1.0), 1.0)
    few = max(0.0, 1.0 - float(test.origins[-2] - test.origins[0] + horizon) / _PERIODS)
    out = out * np.exp(-_TILT * (1.0 - few) * (relative - 1.0)) * there
    total, count = (v.sum(axis=1, keepdims=True) for v in (out, there))
    out = (1.0 - _EQUAL * few) * out / np.where(total > 0, total, 1.0) + _EQUAL * few * there / np.maximum(count, 1)
    return np.where(total > 0, out, np.eye(c)[0][None, :])


def _pooled(f: np.ndarray, actual: np.ndarray, use: np.ndarray, root: np.ndarray, rounds: int = 200) -> np.ndarray:
    """(c,) simplex weights for (c, o, n, H) f, all scaled: the lowest mean over series of mean absolute error plus a part of root mean
    squared error over its own scale `root` (n,), found by exponentiated gradient."""
    c = len(f)
    series = np.broadcast_to(np.arange(use.shape[1])[None, :, None], use.shape)[use]
    x, t = f[:, use], actual[use]  # (c, rows), (rows,)
    if not t.size:
        return np.full(c, 1.0 / c)
    if t.size > _ROWS:
        pick = np.sort(np.random.default_rng(0).choice(t.size, _ROWS, replace=False))
        x, t, series = x[:, pick], t[pick], series[pick]
    x, t = np.clip(x, -_FAR, _FAR), np.clip(t, -_FAR, _FAR)
    count = np.bincount(series)
    there = count > 0
    share = 1.0 / (np.maximum(count, 1) * there.sum())
    w = np.full(c, 1.0 / c)
    best, found = np.inf, w
    for k in range(rounds):
        error = w @ x - t
        squared = np.sqrt(np.bincount(series, error**2) / np.maximum(count, 1)) + 1e-9
        value = float(share[series] @ np.abs(error) + _SQUARED * np.sum(squared[there] / root[: len(count)][there]) / there.sum())
        if value < best:
            best, found = value, w
        slope = x @ (share[series] * (np.sign(error) + _SQUARED * error / (squared * root[: len(count)])[series]))
        w = w * np.exp(-0.5 / (1 + 0.03 * k) * (slope - slope.min()) / (np.abs(slope).max() + 1e-9))
        w = np.maximum(w, 1e-6)
        w /= w.sum()
    return found


def others(at: np.ndarray, origin: int, horizon: int) -> np.ndarray:
    """(o,) bool: backtest origins `at` that share no day with one of them; of those that do, the two farthest where fewer remain."""
    apart = np.abs(at - at[origin])
    far = apart >= horizon
    if far.sum() < 2:
        far = np.zeros(len(at), bool)
        far[np.argsort(-apart, kind="stable")[: min(2, len(at) - 1)]] = True
    return far


def held_out(test: Backtest, rare: np.ndarray) -> np.ndarray:
    """(o, n, H) combinations at past origins by weights that were learnt without that origin; NaN at the last one."""
    _, o, n, horizon = test.forecasts.shape
    out = np.full((o, n, horizon), np.nan)
    for j in range(o - 1):
        kept = np.r_[np.flatnonzero(others(test.origins[:-1], j, horizon)), o - 1]
        view = replace(test, origins=test.origins[kept], forecasts=test.forecasts[:, kept], actual=test.actual[kept], shut=test.shut[kept])
        out[j] = combine(replace(test, forecasts=test.forecasts[:, [j]]), weights(view, rare))[0]
    return out


def combine(test: Backtest, weight: np.ndarray) -> np.ndarray:
    """(o, n, H) weighted forecasts at every origin; candidates that are missing at one are left out there."""
    f = test.forecasts
    there = np.isfinite(f)
    mass = np.einsum("nc,conh->onh", weight, there.astype(float))
    total = np.einsum("nc,conh->onh", weight, np.where(there, f, 0.0))
    return np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), 0.0)
