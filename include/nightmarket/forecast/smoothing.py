"""Exponential smoothing of all series at once: a bank of parameter settings, run through history in one pass.

Where `statsforecast` and `statsmodels` fit one series after another by a numerical search, here every setting of a grid is run for
every series together, with numpy over (series, settings). One pass leaves the states at every past origin, so the error of each
setting over the whole horizon at many origins is known without a refit, and settings are averaged by it (exponential weights,
shrunk towards the group's). Forms are those of Hyndman et al. (2008): additive season, no or damped trend, on the scale of y or
of log y (a multiplicative season); a fixed drift of half the trend line's slope gives Theta (Hyndman & Billah 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Setting:
    """One member of the bank."""

    alpha: float
    gamma: float
    beta: float = 0.0
    phi: float = 0.0
    """Damping of the trend; 0: no trend."""
    drift: float = 0.0
    """Share of the slope of the trend line that is added a period."""


def bank(season: int, trends: bool) -> tuple[Setting, ...]:
    """The settings that are tried for a season length (1: none)."""
    alphas = (0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8)
    gammas = (0.02, 0.08, 0.2, 0.4) if season > 1 else (0.0,)
    out = [Setting(a, g) for a in alphas for g in gammas]
    if trends:
        out += [Setting(a, g, b, phi) for a in (0.1, 0.3, 0.5, 0.8) for g in gammas[:3] for b, phi in ((0.05, 0.9), (0.05, 0.98), (0.2, 0.9), (0.02, 1.0))]
        out += [Setting(a, g, drift=d) for a in (0.1, 0.3, 0.5, 0.8) for g in gammas[:3] for d in (0.5, 1.0)]
    return tuple(out)


@dataclass(frozen=True)
class Paths:
    """What the bank forecast at each origin."""

    values: np.ndarray
    """(series, settings, origins, horizon) float64 forecasts."""
    fitted: np.ndarray
    """(series, settings) mean squared one-step error, on the smoothed scale."""


def run(y: np.ndarray, season: int, settings: tuple[Setting, ...], origins: np.ndarray, horizon: int) -> Paths:
    """The bank over (n, T) y. `origins` are numbers of periods known (ascending, ≤ T); a NaN leaves states as they are.

    Each series starts at its first known value; before it, and while its initial state is still being learnt, forecasts are NaN; but not
    at the end of history, where nothing is ahead that the state could have seen.
    """
    n, length = y.shape
    c = len(settings)
    alpha, gamma, beta, phi, drift = (np.array([getattr(s, f) for s in settings])[None, :] for f in ("alpha", "gamma", "beta", "phi", "drift"))
    known = np.isfinite(y)
    start = np.where(known.any(axis=1), known.argmax(axis=1), length)
    # half of a series at most: backtests lie in the other half, and an initial state that has seen them would praise itself
    early = np.clip((length - start) // 2, max(season, 8), max(4 * season, 8))
    level0, season0 = _initial(y, start, early, season)
    level = np.repeat(level0[:, None], c, axis=1)
    trend = np.zeros((n, c))
    seasons = np.repeat(season0[:, None, :], c, axis=1)  # (n, c, season), indexed by column % season
    values = np.full((n, c, len(origins), horizon), np.nan)
    squared, count = np.zeros((n, c)), np.zeros((n, 1))
    # running sums of the trend line: sums over known t, t², y, ty
    line = np.zeros((4, n))
    seen = np.zeros(n)
    steps = np.arange(1, horizon + 1)
    damped = np.cumsum(phi[0][:, None] ** steps[None, :], axis=1)  # (c, horizon)
    at = 0
    for t in range(length + 1):
        while at < len(origins) and origins[at] == t:
            slope = _slope(line, seen)
            rise = trend[:, :, None] * damped[None] + (drift * slope[:, None])[:, :, None] * steps[None, None, :]
            values[:, :, at] = level[:, :, None] + rise + seasons[:, :, (t + steps - 1) % season]
            values[(start >= t) | ((start + early > t) & (t < length)), :, at] = np.nan
            at += 1
        if t == length:
            break
        here = (known[:, t] & (start <= t)).astype(float)[:, None]
        s = seasons[:, :, t % season]
        slope = _slope(line, seen)[:, None]
        expected = level + phi * trend + drift * slope
        error = np.where(here > 0, np.nan_to_num(y[:, t])[:, None] - expected - s, 0.0)
        moved = np.where(start[:, None] <= t, expected, level)
        level = moved + alpha * error
        trend = phi * trend + alpha * beta * error
        seasons[:, :, t % season] = s + gamma * (1.0 - alpha) * error
        squared += error**2
        count += here
        k = here[:, 0] > 0
        seen[k] += 1
        x = float(t)
        value = np.nan_to_num(y[:, t])
        line += np.stack([np.full(n, x), np.full(n, x * x), value, x * value]) * here[:, 0]
    return Paths(values, squared / np.maximum(count, 1.0))


def _slope(line: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(n,) slope of the least-squares line through what was seen; 0 below ten points."""
    sx, sxx, sy, sxy = line
    many = np.maximum(seen, 1.0)
    below = sxx - sx * sx / many
    return np.where((seen >= 10) & (below > 0), (sxy - sx * sy / many) / np.where(below > 0, below, 1.0), 0.0)


def _initial(y: np.ndarray, start: np.ndarray, early: np.ndarray, season: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) level and (n, season) additive season, from the first `early` (n,) periods of each series."""
    n, length = y.shape
    column = np.arange(length)[None, :]
    held = np.where((column >= start[:, None]) & (column < (start + early)[:, None]) & np.isfinite(y), y, np.nan)
    filled = np.isfinite(held)
    level = np.where(filled.any(axis=1), np.nansum(held, axis=1) / np.maximum(filled.sum(axis=1), 1), 0.0)
    seasons = np.zeros((n, season))
    if season > 1:
        enough = filled.sum(axis=1) >= season
        for k in range(season):
            part, mask = held[:, k::season], filled[:, k::season]
            mean = np.nansum(part, axis=1) / np.maximum(mask.sum(axis=1), 1)
            seasons[:, k] = np.where(mask.any(axis=1) & enough, mean - level, 0.0)
        seasons -= np.where(enough[:, None], seasons.mean(axis=1, keepdims=True), 0.0)
        first = np.nansum(np.where(column < start[:, None] + season, held, np.nan), axis=1) / np.maximum((filled & (column < start[:, None] + season)).sum(axis=1), 1)
        level = np.where(enough, first, level)
    return level, seasons
