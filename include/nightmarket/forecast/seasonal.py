"""Two ways to a season that exponential smoothing learns too slowly: last year's own values, and an STL decomposition at each origin.

Weeks have 52 seasonal indices and seldom three years to learn them from. A part of last year's value taken off leaves a level that can
be smoothed (a seasonal difference, damped); and STL (Cleveland et al. 1990, statsmodels) shares what it knows among years and
neighbours. What is left is smoothed by the bank of `smoothing`, and the season of the last year is put back.
"""

from __future__ import annotations

import numpy as np

from nightmarket.forecast import combining, smoothing

_PARTS = (0.35, 0.7, 1.0)
"""Parts of last year's value that are taken off."""
_CELLS = 40_000_000
"""Forecasts of members that are held at once."""
_WIDTH = 11
"""Years over which STL smooths a season; odd."""


def last_year(z: np.ndarray, lag: int, every: np.ndarray, horizon: int) -> np.ndarray:
    """(every, n, H) forecasts of (n, T) z at origins `every`: a part of the value `lag` periods before, plus the smoothed rest; parts and
    smoothing averaged by their errors so far. NaN where nothing is known a `lag` before."""
    settings = smoothing.bank(1, False)
    block = max(1, _CELLS // (len(_PARTS) * len(settings) * len(every) * horizon))
    return np.concatenate([_last_year(z[low : low + block], lag, settings, every, horizon) for low in range(0, len(z), block)], axis=1)


def _last_year(z: np.ndarray, lag: int, settings: tuple[smoothing.Setting, ...], every: np.ndarray, horizon: int) -> np.ndarray:
    n, length = z.shape
    steps = np.arange(horizon)
    back = every[:, None] + steps[None, :] - lag * (1 + steps[None, :] // lag)  # (every, H), all below the origin
    before = np.where((back >= 0)[None], z[:, np.maximum(back, 0)], np.nan)  # (n, every, H)
    lagged = np.concatenate([np.full((n, min(lag, length)), np.nan), z[:, : max(length - lag, 0)]], axis=1)
    paths = [smoothing.run(z - part * lagged, 1, settings, every, horizon).values + part * before[:, None] for part in _PARTS]
    return _averaged(np.concatenate(paths, axis=1), z, every, horizon)


def stl(z: np.ndarray, season: int, trends: bool, every: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """(origins, n, H) forecasts of (n, T) z at `origins`, which are some of `every`: the season of an STL of what was known there, plus the
    smoothed rest. NaN for a series with less than two seasons by then."""
    n = len(z)
    out = np.full((len(origins), n, horizon), np.nan)
    settings = smoothing.bank(1, trends)
    steps = np.arange(horizon) % season
    for k, o in enumerate(origins):
        part = np.full((n, season), np.nan)
        rest = np.full((n, o), np.nan)
        for i in range(n):
            wave = _season(z[i, :o], season)
            if wave is not None:
                rest[i] = z[i, :o] - wave
                part[i] = wave[o - season : o]
        use = np.isfinite(part).all(axis=1)
        if not use.any():
            continue
        asked = every[every <= o]
        asked = asked[asked >= o - 12 * horizon]
        paths = smoothing.run(rest[use], 1, settings, asked, horizon).values
        made = combining.sequential(paths, rest[use], asked, horizon)[-1]
        out[k, use] = made + part[use][:, steps]
    return out


def _season(z: np.ndarray, season: int) -> np.ndarray | None:
    """(o,) seasonal component; NaN before the first known value, None where two seasons are not known."""
    from statsmodels.tsa.seasonal import STL

    known = np.isfinite(z)
    if known.sum() < 2 * season:
        return None
    first = int(known.argmax())
    held, seen = z[first:], known[first:]
    if len(held) <= 2 * season:
        return None
    at = np.arange(len(held))
    filled = np.interp(at, at[seen], held[seen])
    made = STL(filled, period=season, seasonal=_WIDTH).fit(inner_iter=2, outer_iter=0)
    return np.concatenate([np.full(first, np.nan), np.asarray(made.seasonal)])


def _averaged(paths: np.ndarray, z: np.ndarray, every: np.ndarray, horizon: int) -> np.ndarray:
    """Members averaged by errors at the origins before; one that is unknown where others are known takes their mean."""
    missing = np.isnan(paths)
    if missing.any():
        count = (~missing).sum(axis=1, keepdims=True)
        mean = np.where(missing, 0.0, paths).sum(axis=1, keepdims=True) / np.maximum(count, 1)
        paths = np.where(missing, np.where(count > 0, mean, np.nan), paths)
    gone = np.isnan(paths).all(axis=1)  # (n, every, H)
    made = combining.sequential(paths, z, every, horizon)
    return np.where(gone.transpose(1, 0, 2), np.nan, made)
