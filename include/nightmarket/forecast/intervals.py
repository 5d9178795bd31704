"""Conformal prediction intervals: quantiles of backtest residuals, scaled by series and size of the forecast.

Split conformal prediction (Vovk et al. 2005) on the combination's own errors at rolling origins; a series' residuals are few, so
its quantiles are drawn towards those of all series by the number it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nightmarket.forecast.forecaster import Backtest

_POWERS = (0.0, 0.5, 1.0)


def conformal(test: Backtest, combined: np.ndarray, levels: tuple[int, ...], nonnegative: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """level → (n, H) lower and upper of the last origin's forecasts; closed days have none to spare: both are 0."""
    o, n, horizon = combined.shape
    ahead, shut = combined[-1], test.shut[-1]
    use = np.isfinite(test.actual[:-1]) & ~test.shut[:-1]
    if not use.any():  # no backtest: as wide as seasons differ, growing with the square root of the horizon
        from scipy.stats import norm

        wide = test.scale[:, None] * np.sqrt(np.arange(1, horizon + 1))[None, :]
        return {level: _closed(ahead - norm.ppf(0.5 + level / 200) * wide, ahead + norm.ppf(0.5 + level / 200) * wide, shut, nonnegative)
                for level in levels}
    residual = np.where(use, test.actual[:-1] - combined[:-1], np.nan)
    typical = np.nanmean(np.where(use, np.abs(combined[:-1]), np.nan), axis=(0, 2))
    typical = np.where(np.isfinite(typical) & (typical > 0), typical, 1.0)
    own = np.nanmean(np.abs(residual), axis=(0, 2))
    own = np.where(np.isfinite(own) & (own > 0), own, np.nan)
    ratio = own / test.scale
    middle = np.nanmedian(ratio) if np.isfinite(ratio).any() else 1.0
    count = use.sum(axis=(0, 2))
    own = (np.nan_to_num(np.where(np.isfinite(own), own, 0.0)) * count + 10 * middle * test.scale) / (count + 10)
    growth = _growth(residual / own[None, :, None], use)
    power = _power(residual, combined[:-1], typical, own, use, growth)

    def width(f: np.ndarray) -> np.ndarray:
        return own[:, None] * growth[None, :] * np.maximum(np.abs(f) / typical[:, None], 0.05) ** power

    normal = residual / np.stack([width(combined[i]) for i in range(o - 1)])
    flat = normal.transpose(1, 0, 2).reshape(n, -1)
    out = {}
    for level in levels:
        ends = []
        for share in ((100 - level) / 200, (100 + level) / 200):
            pooled = np.nanquantile(flat[np.isfinite(flat)], share)
            each = np.array([np.quantile(r[np.isfinite(r)], share) if np.isfinite(r).any() else pooled for r in flat])
            trust = count / (count + 400.0 * (1.0 if level < 90 else 2.0))
            ends.append((trust * each + (1 - trust) * pooled)[:, None] * width(ahead) + ahead)
        out[level] = _closed(np.minimum(ends[0], ahead), np.maximum(ends[1], ahead), shut, nonnegative)
    return out


def _growth(normal: np.ndarray, use: np.ndarray) -> np.ndarray:
    """(H,) mean absolute residual by horizon relative to the whole, never falling, smooth: a power of the horizon."""
    horizon = normal.shape[-1]
    if horizon < 3:
        return np.ones(horizon)
    by = np.nanmean(np.where(use, np.abs(normal), np.nan), axis=(0, 1))
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
