"""Whether forecasts may be published, and whether a challenger may take a champion's place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightmarket.evaluate import bootstrap
from nightmarket.forecast.forecaster import Backtest, Forecast
from nightmarket.forecast.reconciling import Hierarchy, coherent_within
from nightmarket.forecast.series import Panel

MULTIPLE = 5.0
"""A forecast above this many times the largest value in history is taken for a fault."""


@dataclass(frozen=True)
class Check:
    """One condition of the gate."""

    name: str
    passed: bool
    detail: str


def check(panel: Panel, made: Forecast, multiple: float = MULTIPLE) -> list[Check]:
    """The conditions on forecasts themselves: complete and finite, ordered, non-negative where history is, within a multiple of it."""
    every = [made.mean, *(b for pair in made.bounds.values() for b in pair)]
    finite = np.isfinite(np.stack(every)).all(axis=(0, 2))
    ordered = np.ones(panel.size, bool)
    for low, high in made.bounds.values():
        ordered &= ((low <= made.mean + 1e-9) & (made.mean <= high + 1e-9)).all(axis=1)
    nonnegative = np.nanmin(panel.y, axis=1) >= 0
    negative = nonnegative & (np.stack(every).min(axis=(0, 2)) < 0)
    largest = np.nanmax(np.abs(panel.y), axis=1)
    wild = np.abs(made.mean).max(axis=1) > multiple * largest + 1e-9
    return [
        _check("finite", ~finite, panel, "forecasts that are missing or infinite"),
        _check("ordered", finite & ~ordered, panel, "a mean outside its interval"),
        _check("non_negative", negative, panel, "negative forecasts of a history without returns"),
        _check("within_history", wild, panel, f"forecasts above {multiple:g} times the largest value in history"),
    ]


def check_coherent(tree: Hierarchy, forecasts: np.ndarray, tolerance: float = 0.005) -> Check:
    """Sums agree to half a penny."""
    gap = coherent_within(tree, forecasts)
    return Check("coherent", gap <= tolerance, f"the largest gap between a node and its parts is {gap:.4f}")


def _check(name: str, wrong: np.ndarray, panel: Panel, what: str) -> Check:
    bad = np.flatnonzero(wrong)
    named = ", ".join(str(panel.ids[i]) for i in bad[:5])
    return Check(name, not len(bad), f"{len(bad)} series with {what}: {named}" if len(bad) else f"no series with {what}")


def errors(test: Backtest, combined: np.ndarray) -> np.ndarray:
    """(n,) MASE over all backtest origins; NaN where nothing was known. Lower is better."""
    actual = test.actual[:-1]
    known = np.isfinite(actual)
    count = known.sum(axis=(0, 2))
    total = np.where(known, np.abs(np.nan_to_num(actual) - combined[:-1]), 0.0).sum(axis=(0, 2))
    return np.where(count > 0, total / np.maximum(count, 1) / test.scale, np.nan)


def against_champion(challenger: np.ndarray, champion: np.ndarray, margin: float, resamples: int, seed: int) -> Check:
    """(n,) errors of both on the same series and origins: passes where the challenger is not worse by `margin` beyond chance."""
    both = np.isfinite(challenger) & np.isfinite(champion)
    if not both.any():
        return Check("champion", False, "no series was backtested by both; give a longer history")
    found = bootstrap.difference(challenger[both], champion[both], resamples, seed)
    bound = margin * float(np.mean(champion[both]))
    return Check("champion", found.high <= bound, f"MASE against the champion's: {found}, at most {bound:.4f} is allowed")
