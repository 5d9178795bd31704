"""Methods for series that mostly sell nothing, for all series at once: Croston with Syntetos & Boylan's correction (2005), TSB
(Teunter, Syntetos & Babai 2011) and ADIDA (Nikolopoulos et al. 2011). Each forecasts one level for all open days ahead."""

from __future__ import annotations

import numpy as np

_GRID = (0.05, 0.1, 0.2)


def croston_sba(y: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(origins, n) levels of (n, T) y: smoothed size over smoothed interval, times 1 - alpha / 2; mean over alphas 0.05, 0.1, 0.2."""
    return np.mean([_croston(y, origins, a) for a in _GRID], axis=0)


def tsb(y: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(origins, n) levels: smoothed size times a chance of selling that also falls while nothing sells; mean over the grid."""
    return np.mean([_tsb(y, origins, a, b) for a in _GRID[:2] for b in _GRID[:2]], axis=0)


def adida(y: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(origins, n) levels: periods added up over the mean interval between sales, smoothed (alpha 0.2), and shared out again."""
    n = len(y)
    out = np.zeros((len(origins), n))
    for i, o in enumerate(origins):
        past = y[:, :o]
        known = np.isfinite(past)
        sales = (known & (past != 0)).sum(axis=1)
        width = np.clip(np.round(known.sum(axis=1) / np.maximum(sales, 1)), 1, 56).astype(int)
        for w in np.unique(width):
            rows = np.flatnonzero(width == w)
            blocks = o // w
            if not blocks:
                continue
            part = past[rows][:, o - blocks * w :].reshape(len(rows), blocks, w)
            count = np.isfinite(part).sum(axis=2)
            mean = np.where(count > 0, np.nansum(part, axis=2) / np.maximum(count, 1), np.nan)
            level = np.full(len(rows), np.nan)
            for b in range(blocks):
                here = np.isfinite(mean[:, b])
                level = np.where(here, np.where(np.isfinite(level), level + 0.2 * (mean[:, b] - level), mean[:, b]), level)
            out[i, rows] = np.nan_to_num(level)
    return out


def _croston(y: np.ndarray, origins: np.ndarray, alpha: float) -> np.ndarray:
    n, length = y.shape
    out = np.zeros((len(origins), n))
    size, gap, since, begun = np.zeros(n), np.ones(n), np.ones(n), np.zeros(n, bool)
    at = 0
    for t in range(length + 1):
        while at < len(origins) and origins[at] == t:
            out[at] = np.where(begun, (1 - alpha / 2) * size / gap, 0.0)
            at += 1
        if t == length:
            break
        value = y[:, t]
        known = np.isfinite(value)
        sold = known & (value != 0)
        size = np.where(sold, np.where(begun, size + alpha * (np.nan_to_num(value) - size), np.nan_to_num(value)), size)
        gap = np.where(sold, np.where(begun, gap + alpha * (since - gap), since), gap)
        begun |= sold
        since = np.where(sold, 1.0, since + known)
    return out


def _tsb(y: np.ndarray, origins: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    n, length = y.shape
    out = np.zeros((len(origins), n))
    size, chance, begun = np.zeros(n), np.zeros(n), np.zeros(n, bool)
    at = 0
    for t in range(length + 1):
        while at < len(origins) and origins[at] == t:
            out[at] = np.where(begun, size * chance, 0.0)
            at += 1
        if t == length:
            break
        value = y[:, t]
        known = np.isfinite(value)
        sold = known & (value != 0)
        size = np.where(sold, np.where(begun, size + alpha * (np.nan_to_num(value) - size), np.nan_to_num(value)), size)
        chance = np.where(known, np.where(begun, chance + beta * (sold - chance), np.where(sold, 0.5, chance)), chance)
        begun |= sold
    return out
