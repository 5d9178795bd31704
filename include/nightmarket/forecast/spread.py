"""Many series in chunks: with progress, in bounded memory, and with a fallback for one that fails.

A chunk is what one Spark task (`applyInPandas` on a chunk number) or one mapped Airflow task would be handed; the command alone
goes through them one after another. A chunk that raises is halved until the series is found that does it; that one is named with
the reason and gets the simplest forecast, and the night goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightmarket import log as logs
from nightmarket.forecast.forecaster import Forecast, fallback, forecast
from nightmarket.forecast.series import Panel

log = logs.logger("forecast")
CHUNK = 1000


@dataclass(frozen=True)
class Quarantined:
    """A series that could not be forecast as the others."""

    series_id: Any
    reason: str


@dataclass(frozen=True)
class Part:
    """Forecasts of some series."""

    panel: Panel
    made: Forecast
    quarantined: tuple[Quarantined, ...]


def chunks(panel: Panel, size: int = CHUNK) -> list[np.ndarray]:
    """Rows of each chunk: near equal in number, neighbours in the order of ids apart, so that every chunk is a sample of all."""
    count = max(1, -(-panel.size // size))
    return [np.arange(k, panel.size, count) for k in range(count)]


def forecast_chunks(panel: Panel, levels: tuple[int, ...] = (80, 95), budget: str = "balanced", seed: int = 17, size: int = CHUNK) -> Iterator[Part]:
    """Forecasts chunk by chunk."""
    parts = chunks(panel, size)
    for rows in logs.progress(parts, len(parts), "chunks"):
        yield from guarded(panel.take(rows), levels, budget, seed)


def guarded(panel: Panel, levels: tuple[int, ...], budget: str, seed: int) -> Iterator[Part]:
    """Forecasts of one chunk; series that fail are found by halving, named and given the fallback."""
    from lightgbm.basic import LightGBMError

    try:
        yield Part(panel, forecast(panel, levels, budget, seed), ())
    except (ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError, LightGBMError) as error:
        if panel.size > 1:
            half = panel.size // 2
            for rows in (np.arange(half), np.arange(half, panel.size)):
                yield from guarded(panel.take(rows), levels, budget, seed)
            return
        reason = f"{type(error).__name__}: {error}"
        log.warning(logs.said("quarantined", series=panel.ids[0], reason=reason))
        yield Part(panel, fallback(panel, levels), (Quarantined(panel.ids[0], reason),))
