"""Forecasts kept fresh by the night's residuals, without a refit.

The level moves by a part of the mean scaled residual since the forecast was made, fading over the rest of the horizon; the part
is the one that would have helped most at past origins (none, where none helped). Interval widths follow adaptive conformal
inference (Gibbs & Candès 2021): a miss widens, a hit narrows, so that coverage comes back to what is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightmarket.forecast.forecaster import Forecast
from nightmarket.forecast.intervals import nested

GAINS = (0.0, 0.15, 0.3, 0.5)
_FADE = 0.97
_STEP = 0.05


@dataclass(frozen=True)
class Adjusted:
    """What is left of a forecast after `seen` periods, adjusted."""

    mean: np.ndarray
    """(n, H - seen)"""
    bounds: dict[int, tuple[np.ndarray, np.ndarray]]
    shift: np.ndarray
    """(n,) what the level moved by, as a share of the forecast's own mean."""
    widths: dict[int, np.ndarray]
    """Level → (n,) factor on the half-widths."""


def gain_of(made: Forecast, seen: int) -> float:
    """Of `GAINS` the one with the lowest mean absolute error on the rest of the horizon at past origins; 0 without backtests."""
    test = made.backtest
    if len(test.origins) < 2 or not 0 < seen < made.mean.shape[1]:
        return 0.0
    losses = []
    for gain in GAINS:
        off = []
        for combined, actual, shut in zip(made.combined[:-1], test.actual[:-1], test.shut[:-1], strict=True):
            rest = _moved(combined, _shift(combined[:, :seen], actual[:, :seen], shut[:, :seen], gain), seen)
            error = np.abs(actual[:, seen:] - rest) / test.scale[:, None]
            off.append(error[np.isfinite(error) & ~shut[:, seen:]])
        every = np.concatenate(off)
        losses.append(every.mean() if len(every) else np.inf)
    return GAINS[int(np.argmin(losses))] if np.isfinite(losses).any() else 0.0


def adjust(made: Forecast, actual: np.ndarray, gain: float | None = None) -> Adjusted:
    """The rest of `made` once (n, seen) `actual` is known (NaN: unknown). Raises ValueError where nothing of it is left."""
    seen = actual.shape[1]
    if not 0 < seen < made.mean.shape[1]:
        raise ValueError(f"{seen} periods are known of a forecast of {made.mean.shape[1]}; some must be known and some left")
    shut = made.backtest.shut[-1]
    shift = _shift(made.mean[:, :seen], actual, shut[:, :seen], gain_of(made, seen) if gain is None else gain)
    mean = _moved(made.mean, shift, seen)
    bounds, widths = {}, {}
    for level, (low, high) in made.bounds.items():
        claimed = level / 100
        log = np.zeros(len(actual))
        for t in range(seen):
            counted = np.isfinite(actual[:, t]) & ~shut[:, t] & (high[:, t] > low[:, t])
            missed = (actual[:, t] < low[:, t]) | (actual[:, t] > high[:, t])
            log += np.where(counted, np.where(missed, _STEP * claimed, -_STEP * (1 - claimed)), 0.0)
        widths[level] = np.exp(log)
        below = (made.mean - low)[:, seen:] * widths[level][:, None]
        above = (high - made.mean)[:, seen:] * widths[level][:, None]
        floor = np.where(low.min(axis=1) >= 0, 0.0, -np.inf)[:, None]
        bounds[level] = (np.maximum(mean - below, floor), np.maximum(mean + above, floor))
    return Adjusted(mean, nested(bounds), shift, widths)


def _shift(forecast: np.ndarray, actual: np.ndarray, shut: np.ndarray, gain: float) -> np.ndarray:
    """(n,) share of the level that is moved: the gain times the relative residual, bounded by a half, drawn to 0 by few periods."""
    use = np.isfinite(actual) & ~shut
    total = np.where(use, np.abs(forecast), 0.0).sum(axis=1)
    off = np.where(use, np.nan_to_num(actual) - forecast, 0.0).sum(axis=1)
    count = use.sum(axis=1)
    share = np.where(total > 0, off / np.where(total > 0, total, 1.0), 0.0)
    return np.clip(gain * share * count / (count + 2.0), -0.5, 0.5)


def _moved(forecast: np.ndarray, shift: np.ndarray, seen: int) -> np.ndarray:
    rest = forecast[:, seen:]
    return rest + np.abs(rest) * shift[:, None] * _FADE ** np.arange(rest.shape[1])[None, :]
