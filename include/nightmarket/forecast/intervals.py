"""Conformal prediction intervals: quantiles of backtest residuals, scaled by series and size of the forecast.

Split conformal prediction (Vovk et al. 2005) on the combination's own errors at rolling origins; a series' residuals are few, so
its quantiles are drawn towards those of all series by the number it has. Errors of a year go together and so do their sizes from one
year to the next, so the newest count for more (Barber et al. 2023).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nightmarket.forecast.combining import others

if TYPE_CHECKING:
    from nightmarket.forecast.forecaster import Backtest

_POWERS = (0.0, 0.5, 1.0)
_WORTH = 10.0  # residuals that the usual spread is worth
_WINDOWS_WORTH = 100.0
_QUANTILE_WORTH = 40.0  # and the quantiles of all, times 1 / the share beyond them
_FRESH = 0.25  # horizons in which what an origin says of the size of errors halves
_MOST_RECENT = 2.0  # that errors may have grown or shrunk lately


def conformal(test: Backtest, combined: np.ndarray, levels: tuple[int, ...], nonnegative: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """level → (n, H) lower and upper of the last origin's forecasts; closed days have none to spare: both are 0."""
    horizon = combined.shape[2]
    ahead, shut = combined[-1], test.shut[-1]
    use = np.isfinite(test.actual[:-1]) & ~test.shut[:-1]
    if not use.any():  # no backtest: as wide as seasons differ, growing with the square root of the horizon
        from scipy.stats import norm

        wide = test.scale[:, None] * np.sqrt(np.arange(1, horizon + 1))[None, :]
        return {level: _closed(ahead - norm.ppf(0.5 + level / 200) * wide, ahead + norm.ppf(0.5 + level / 200) * wide, shut, nonnegative)
                for level in levels}
    residual = np.where(use, test.actual[:-1] - combined[:-1], np.nan)
    typical = _mean(np.where(use, np.abs(combined[:-1]), np.nan), (0, 2))
    typical = np.where(np.isfinite(typical) & (typical > 0), typical, 1.0)
    own = _spread(residual, use, test.scale)
    growth = _growth(residual / own[None, :, None], use)
    power = _power(residual, combined[:-1], typical, own, use, growth)
    size = np.maximum(np.abs(combined) / typical[None, :, None], 0.05) ** power * growth[None, None, :]
    out = {}
    for level in levels:
        # the point on a closed day is always right: midway between what open days and all days would ask for, both come out near the level
        claim = level - (100 - level) * shut.mean() / 2
        shares = ((100 - claim) / 200, (100 + claim) / 200)
        below, above = _ends(residual / (own[None, :, None] * size[:-1]), use, shares)
        factor = _factor(residual, size[:-1], use, test.scale, claim, shares, test.origins[:-1])
        wide = own[:, None] * size[-1] * factor
        out[level] = _closed(ahead + np.minimum(below, 0.0)[:, None] * wide, ahead + np.maximum(above, 0.0)[:, None] * wide, shut, nonnegative)
    return nested(out)


def _mean(values: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    """Mean of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def _spread(residual: np.ndarray, use: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(n,) mean absolute residual, drawn to what is usual for the series' scale by the number of residuals."""
    own = _mean(np.where(use, np.abs(residual), np.nan), (0, 2))
    own = np.where(np.isfinite(own) & (own > 0), own, np.nan)
    ratio = own / scale
    middle = np.nanmedian(ratio) if np.isfinite(ratio).any() else 1.0
    count = use.sum(axis=(0, 2))
    return (np.nan_to_num(own) * count + _WORTH * middle * scale) / (count + _WORTH)


def _ends(normal: np.ndarray, use: np.ndarray, shares: tuple[float, float]) -> list[np.ndarray]:
    """(n,) lower and upper quantiles of scaled residuals: of each series, drawn to those of all."""
    n = normal.shape[1]
    flat = np.where(use, normal, np.nan).transpose(1, 0, 2).reshape(n, -1)
    held = np.sort(flat, axis=1)  # unknown ones last
    count = np.isfinite(held).sum(axis=1)
    trust = count / (count + _QUANTILE_WORTH / min(shares[0], 0.5))
    every = flat[np.isfinite(flat)]
    out = []
    for share in shares:
        at = share * np.maximum(count - 1, 0)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        rows = np.arange(n)
        each = np.nan_to_num(held[rows, low]) * (1 - (at - low)) + np.nan_to_num(held[rows, high]) * (at - low)
        out.append(trust * each + (1 - trust) * np.quantile(every, share))
    return out


def _factor(residual: np.ndarray, size: np.ndarray, use: np.ndarray, scale: np.ndarray, level: float, shares: tuple[float, float],
            at: np.ndarray) -> float:
    """By how much intervals made without an origin must be wider to cover that origin as often as they claim, over all origins `at`.

    Made without that one origin alone they see some of its days in its neighbours; made without all that share a day with it they see
    less than they will have. The fewer series and horizons there are, the more the second way counts.
    """
    origins, series, horizon = residual.shape
    if origins < 2:
        return 1.25  # residuals of one origin alone
    alone = np.quantile(_scores(residual, size, use, scale, shares, [np.arange(origins) != j for j in range(origins)]), level / 100)
    apart = np.quantile(_scores(residual, size, use, scale, shares, [others(at, j, horizon) for j in range(origins)]), level / 100)
    windows = series * (1.0 + (at[-1] - at[0]) / horizon)  # residuals of a horizon that share no day
    trust = windows**2 / (windows**2 + _WINDOWS_WORTH**2)
    # few say less than they seem to: a little more than that
    wide = float(np.clip(alone**trust * apart ** (1.0 - trust), 0.8, 3.0)) * (1.0 + 0.25 * (1.0 - trust) / origins)
    return wide * _lately(residual / (_spread(residual, use, scale)[None, :, None] * size), use, at) ** trust


def _lately(normal: np.ndarray, use: np.ndarray, at: np.ndarray) -> float:
    """How large scaled residuals of the newest origins are beside those of all."""
    count = use.sum(axis=(1, 2))
    there = count > 0
    each = np.where(use, np.abs(normal), 0.0).sum(axis=(1, 2))[there] / count[there]
    weight = 0.5 ** ((at[-1] - at[there]) / (_FRESH * normal.shape[2]))
    return float(np.clip(weight @ each / weight.sum() / each.mean(), 1 / _MOST_RECENT, _MOST_RECENT)) if each.any() else 1.0


def _scores(residual: np.ndarray, size: np.ndarray, use: np.ndarray, scale: np.ndarray, shares: tuple[float, float], kept: list[np.ndarray]) -> np.ndarray:
    """Residuals of each origin j in units of the intervals that the origins `kept[j]` make."""
    scores = []
    for j, other in enumerate(kept):
        own = _spread(residual[other], use[other], scale)
        if not use[other].any():
            continue
        below, above = _ends(residual[other] / (own[None, :, None] * size[other]), use[other], shares)
        r = residual[j] / (own[:, None] * size[j])
        bound = np.where(r < 0, np.minimum(below, -1e-6)[:, None], np.maximum(above, 1e-6)[:, None])
        scores.append((r / bound)[use[j]])
    return np.concatenate(scores)


def nested(bounds: dict[int, tuple[np.ndarray, np.ndarray]]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """A higher level's interval holds the lower ones'."""
    out: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    inner: tuple[np.ndarray, np.ndarray] | None = None
    for level in sorted(bounds):
        low, high = bounds[level]
        if inner is not None:
            low, high = np.minimum(low, inner[0]), np.maximum(high, inner[1])
        inner = out[level] = (low, high)
    return out


def _growth(normal: np.ndarray, use: np.ndarray) -> np.ndarray:
    """(H,) mean absolute residual by horizon relative to the whole, never falling, smooth: a power of the horizon."""
    horizon = normal.shape[-1]
    if horizon < 3:
        return np.ones(horizon)
    by = _mean(np.where(use, np.abs(normal), np.nan), (0, 1))
    steps = np.arange(1, horizon + 1)
    ok = np.isfinite(by) & (by > 0)
    if ok.sum() < 3:
        return np.ones(horizon)
    slope = np.clip(np.polyfit(np.log(steps[ok]), np.log(by[ok]), 1)[0], 0.0, 0.7)
    shape = steps**slope
    return shape / shape.mean()


def _power(residual: np.ndarray, f: np.ndarray, typical: np.ndarray, own: np.ndarray, use: np.ndarray, growth: np.ndarray) -> float:
    """How spread grows with the size of the forecast: the power under which scaled residuals are most alike."""
    scores = []
    size = np.maximum(np.abs(f) / typical[None, :, None], 0.05)
    for power in _POWERS:
        width = own[None, :, None] * growth[None, None, :] * size**power
        r = np.abs(residual / width)[use]
        x = size[use]
        half = x > np.median(x)
        scores.append(abs(np.log((np.mean(r[half]) + 1e-9) / (np.mean(r[~half]) + 1e-9))) if half.any() and (~half).any() else 0.0)
    return float(_POWERS[int(np.argmin(scores))])


def _closed(low: np.ndarray, high: np.ndarray, shut: np.ndarray, nonnegative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.where(nonnegative[:, None], np.maximum(low, 0.0), low)
    high = np.where(nonnegative[:, None], np.maximum(high, 0.0), high)
    return np.where(shut, 0.0, low), np.where(shut, 0.0, high)


def at_origin(test: Backtest, combined: np.ndarray, levels: tuple[int, ...], nonnegative: np.ndarray, origin: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Intervals of a backtest origin's forecasts, from the errors at the other origins."""
    order = [j for j in range(len(test.origins) - 1) if j != origin] + [origin]
    view = replace(test, origins=test.origins[order], forecasts=test.forecasts[:, order], actual=test.actual[order], shut=test.shut[order])
    return conformal(view, combined[order], levels, nonnegative)
