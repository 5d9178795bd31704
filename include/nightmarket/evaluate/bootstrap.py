"""Intervals by resampling shoppers (percentile bootstrap, Efron 1979), seeded.

Shoppers, not rows, are drawn: lists of one shopper are not independent. A difference between two models is resampled in pairs,
with the same shoppers for both, because both faced the same shoppers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
_BLOCK = 50  # resamples at a time: (50, users) counts stay small


@dataclass(frozen=True)
class Interval:
    """A mean over shoppers with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    users: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def draws(users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (≤50, users) counts: how often each resample drew each shopper. The same seed draws the same shoppers."""
    rng = np.random.default_rng(seed)
    for done in range(0, resamples, _BLOCK):
        block = min(_BLOCK, resamples - done)
        counts = np.empty((block, users), np.int32)
        for row in counts:
            row[:] = np.bincount(rng.integers(0, users, users), minlength=users)
        yield counts


def quantiles(samples: np.ndarray) -> tuple[float, float]:
    """Lower and upper end of the central 95 % of the finite samples."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean(values: np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean of (users,) values. Raises ValueError for no shoppers."""
    if not len(values):
        raise ValueError("no shoppers to average over")
    samples = np.concatenate([(counts @ values) / len(values) for counts in draws(len(values), resamples, seed)])
    low, high = quantiles(samples)
    return Interval(float(np.mean(values)), low, high, len(values))


def difference(one: np.ndarray, other: np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean of one - other over the same shoppers, resampled in pairs. Above zero: `one` is better beyond chance."""
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} shoppers; a paired comparison needs the same ones in the same order")
    return mean(np.asarray(one, np.float64) - np.asarray(other, np.float64), resamples, seed)
