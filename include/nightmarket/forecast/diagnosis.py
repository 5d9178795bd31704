"""What kind of series each is; it decides which candidates run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nightmarket.forecast.closed import closed
from nightmarket.forecast.series import SEASON, Panel

Kind = Literal["smooth", "erratic", "intermittent", "lumpy", "empty"]


@dataclass(frozen=True)
class Diagnosis:
    """One entry a series, on open days only."""

    length: np.ndarray
    """Periods from the first known value on."""
    interval: np.ndarray
    """ADI: mean number of open periods between sales; infinite where nothing sold."""
    variation: np.ndarray
    """CV²: squared coefficient of variation of the sizes of sales."""
    kind: tuple[Kind, ...]
    """Syntetos & Boylan's classes: intermittent from ADI 1.32, erratic from CV² 0.49, lumpy with both."""
    breaks: np.ndarray
    """Column of the largest lasting change of level, -1 where there is none."""
    outliers: np.ndarray
    """Number of values more than six robust standard deviations from the median of their neighbours."""
    season: np.ndarray
    """(n,) part of the variance around a moving average of a season that a fixed seasonal profile explains; NaN below two seasons."""
    seasonal: np.ndarray
    """(n,) bool: whether that is more than chance shows (twice what a profile explains of noise); True too where nothing can be
    told: history is short, or a lasting change of level hides it."""

    def steady(self, length: int, within: int) -> np.ndarray:
        """(n,) bool: no lasting change of level in the last `within` of `length` periods; what repeats a year would repeat the level before."""
        return np.asarray((self.breaks < 0) | (self.breaks <= length - within))

    @property
    def rare(self) -> np.ndarray:
        """(n,) bool: intermittent or lumpy."""
        return np.array([k in ("intermittent", "lumpy") for k in self.kind])


def diagnose(panel: Panel, shut: np.ndarray | None = None) -> Diagnosis:
    """The diagnosis of every series. `shut` as `closed` returns it."""
    shut = closed(panel) if shut is None else shut
    y = np.where(shut[:, : panel.length], np.nan, panel.y)
    known = np.isfinite(y)
    sold = known & (y != 0)
    count = sold.sum(axis=1)
    interval = np.where(count > 0, known.sum(axis=1) / np.maximum(count, 1), np.inf)
    sizes = np.where(sold, y, 0.0)
    mean = sizes.sum(axis=1) / np.maximum(count, 1)
    spread = np.where(sold, (y - mean[:, None]) ** 2, 0.0).sum(axis=1) / np.maximum(count - 1, 1)
    variation = np.where(mean != 0, spread / np.where(mean != 0, mean, 1.0) ** 2, 0.0)
    kinds: list[Kind] = []
    for apart, vary, many in zip(interval, variation, count, strict=True):
        if not many:
            kinds.append("empty")
        elif apart >= 1.32:
            kinds.append("lumpy" if vary >= 0.49 else "intermittent")
        else:
            kinds.append("erratic" if vary >= 0.49 else "smooth")
    season, seasonal = _season(y, panel.season)
    breaks = _breaks(y, panel.season)
    return Diagnosis(panel.lengths(), interval, variation, tuple(kinds), breaks, _outliers(y, panel.season), season, seasonal | (breaks >= 0))


def _season(y: np.ndarray, season: int) -> tuple[np.ndarray, np.ndarray]:
    """Strength of the season, and whether it is beyond chance. A profile of s means explains about s / N of N values of noise."""
    n, length = y.shape
    known = np.isfinite(y)
    sums, counts = (np.concatenate([np.zeros((n, 1)), np.cumsum(v, axis=1)], axis=1) for v in (np.nan_to_num(y), known.astype(float)))
    low = np.maximum(np.arange(length) - season // 2, 0)
    high = np.minimum(low + season, length)
    many = counts[:, high] - counts[:, low]
    rest = np.where(known, y - (sums[:, high] - sums[:, low]) / np.maximum(many, 1), np.nan)
    profile = np.zeros_like(rest)
    for k in range(season):
        some = known[:, k::season]
        profile[:, k::season] = (np.nansum(rest[:, k::season], axis=1) / np.maximum(some.sum(axis=1), 1))[:, None]
    count = known.sum(axis=1)
    whole, left = (np.nansum((v - (np.nansum(v, axis=1) / np.maximum(count, 1))[:, None]) ** 2, axis=1) for v in (rest, rest - profile))
    long = (count > 2 * season) & (whole > 0)
    strength = np.where(long, 1.0 - left / np.where(whole > 0, whole, 1.0), np.nan)
    return strength, ~long | (strength >= 2.0 * season / np.maximum(count, 1))

def _breaks(y: np.ndarray, season: int) -> np.ndarray:
    """Where means of the two windows beside a column (two seasons each, eight periods at least) differ most, if by more than five
    standard errors and more than a third of the larger."""
    n, length = y.shape
    width = max(8, 2 * min(season, 26))
    out = np.full(n, -1)
    if length < 2 * width:
        return out
    held, known = np.nan_to_num(y), np.isfinite(y)
    sums = np.concatenate([np.zeros((n, 1)), np.cumsum(held, axis=1)], axis=1)
    squares = np.concatenate([np.zeros((n, 1)), np.cumsum(held**2, axis=1)], axis=1)
    counts = np.concatenate([np.zeros((n, 1)), np.cumsum(known, axis=1)], axis=1)
    middle = np.arange(width, length - width + 1)

    def window(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        many = np.maximum(counts[:, high] - counts[:, low], 1)
        mean = (sums[:, high] - sums[:, low]) / many
        return mean, np.maximum((squares[:, high] - squares[:, low]) / many - mean**2, 0.0) / many, counts[:, high] - counts[:, low]

    before, error_before, some_before = window(middle - width, middle)
    after, error_after, some_after = window(middle, middle + width)
    apart = np.abs(after - before)
    error = np.sqrt(error_before + error_after) + 1e-12
    larger = np.maximum(np.abs(after), np.abs(before))
    real = (apart > 5 * error) & (apart > larger / 3) & (np.minimum(some_before, some_after) >= width // 2)
    score = np.where(real, apart / error, 0.0)
    # the change itself, not its shoulder: where the means differ most
    where = np.argmax(np.where(real, apart, 0.0), axis=1)
    return np.where(score.max(axis=1) > 0, middle[where], -1)


def _outliers(y: np.ndarray, season: int) -> np.ndarray:
    """Counts against the median of the same season's neighbours (two before, two after)."""
    n, length = y.shape
    if length <= 4 * season:
        return np.zeros(n, int)
    beside = []
    for k in (-2, -1, 1, 2):
        shifted = np.full_like(y, np.nan)
        if k < 0:
            shifted[:, -k * season :] = y[:, : k * season]
        else:
            shifted[:, : -k * season] = y[:, k * season :]
        beside.append(shifted)
    stack = np.stack(beside)
    some = np.isfinite(stack).any(axis=0)
    middle = np.full_like(y, np.nan)
    middle[some] = np.nanmedian(stack[:, some], axis=0)
    off = np.abs(y - middle)
    has = np.isfinite(off).any(axis=1)
    spread = np.zeros(n)
    spread[has] = 1.4826 * np.nanmedian(off[has], axis=1)
    return ((off > 6 * spread[:, None]) & (spread[:, None] > 0)).sum(axis=1)


@dataclass(frozen=True)
class Decomposition:
    """Trend + seasons + remainder of one series (they add up to y where it is known)."""

    trend: np.ndarray
    """(T,)"""
    seasons: dict[int, np.ndarray]
    """Season length → (T,)."""
    remainder: np.ndarray
    trend_strength: float
    """1 - var(remainder) / var(trend + remainder), not below 0 (Hyndman & Athanasopoulos 2021, 4.3)."""
    season_strength: dict[int, float]


def decompose(y: np.ndarray, freq: str) -> Decomposition:
    """STL, or MSTL for days with two years of history (week and year), of statsmodels; unknown values are interpolated for it.

    Raises ValueError below two seasons.
    """
    from statsmodels.tsa.seasonal import MSTL, STL

    season = SEASON[freq]
    y = np.asarray(y, float)
    first = int(np.isfinite(y).argmax())
    held = y[first:]
    if len(held) < 2 * season + 1 or not np.isfinite(held).any():
        raise ValueError(f"{len(held)} periods; a decomposition needs more than two seasons of {season}")
    at = np.arange(len(held))
    known = np.isfinite(held)
    filled = np.interp(at, at[known], held[known])
    periods = [p for p in ((7, 365) if freq == "D" else (season,)) if len(held) > 2 * p]
    if len(periods) == 1:
        made = STL(filled, period=periods[0], robust=True).fit()
        parts = {periods[0]: np.asarray(made.seasonal)}
    else:
        made = MSTL(filled, periods=periods, stl_kwargs={"robust": False}).fit()
        parts = {p: np.asarray(made.seasonal)[:, i] for i, p in enumerate(periods)}
    trend, rest = np.asarray(made.trend), np.asarray(made.resid)

    def strength(part: np.ndarray) -> float:
        whole = np.var(part + rest)
        return float(max(0.0, 1.0 - np.var(rest) / whole)) if whole > 0 else 0.0

    def back(part: np.ndarray) -> np.ndarray:
        return np.concatenate([np.full(first, np.nan), part])

    return Decomposition(back(trend), {p: back(s) for p, s in parts.items()}, back(np.where(known, held - trend - sum(parts.values()), np.nan)),
                         strength(trend), {p: strength(s) for p, s in parts.items()})
