"""Whether forecasts may be published. Whether a challenger may take a champion's place is `nightmarket.evaluate.blessing`'s."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightmarket.forecast.forecaster import Forecast
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


def _check(name: str, wrong: np.ndarray, panel: Panel, what: str) -> Check:
    bad = np.flatnonzero(wrong)
    named = ", ".join(str(panel.ids[i]) for i in bad[:5])
    return Check(name, not len(bad), f"{len(bad)} series with {what}: {named}" if len(bad) else f"no series with {what}")
