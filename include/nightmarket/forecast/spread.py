"""Many series in chunks: with progress, in bounded memory, and with a fallback for one that fails.

A chunk is what one Spark task (`mapInPandas`) is handed where there is more than one; the command alone goes through them one after
another. A chunk that raises is halved until the series is found that does it; that one is named with
the reason and gets the simplest forecast, and the night goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nightmarket import log as logs
from nightmarket.forecast.forecaster import Forecast, Weights, fallback, forecast
from nightmarket.forecast.series import Panel
from nightmarket.shop import set_environment

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import SparkSession

T = TypeVar("T")
log = logs.logger("forecast")
CHUNK = 1000
_WAVE = 64


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


def guarded(panel: Panel, levels: tuple[int, ...], budget: str, seed: int, weights: Weights | None = None) -> Iterator[Part]:
    """Forecasts of one chunk; series that fail are found by halving, named and given the fallback."""
    for some, made, reason in halving(panel, lambda p: forecast(p, levels, budget, seed, weights)):
        if made is None:
            yield Part(some, fallback(some, levels), (Quarantined(some.ids[0], reason),))
        else:
            yield Part(some, made, ())


def halving(panel: Panel, work: Callable[[Panel], T]) -> Iterator[tuple[Panel, T | None, str]]:
    """(panel, result, '') of parts of a panel in its order; a series that `work` fails on alone has None and the reason."""
    from lightgbm.basic import LightGBMError

    try:
        yield panel, work(panel), ""
    except (ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError, LightGBMError) as error:
        if panel.size > 1:
            half = panel.size // 2
            for rows in (np.arange(half), np.arange(half, panel.size)):
                yield from halving(panel.take(rows), work)
            return
        reason = f"{type(error).__name__}: {error}"
        log.warning(logs.said("quarantined", series=panel.ids[0], reason=reason))
        yield panel, None, reason


def over(payloads: Sequence[bytes], work: Callable[[bytes], bytes], what: str, spark: SparkSession | None = None) -> Iterator[bytes]:
    """`work` of each payload, in their order, with progress: one after another here, or each in a Spark task of its own."""
    if spark is None:
        yield from logs.progress(map(work, payloads), len(payloads), what)
        return

    def task(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        set_environment(OMP_NUM_THREADS="1")  # a task has one core; more threads than cores slow LightGBM ten times
        for rows in frames:
            yield rows.assign(payload=[work(bytes(p)) for p in rows["payload"]])

    yield from logs.progress(_waves(payloads, spark, task), len(payloads), what)


def _waves(payloads: Sequence[bytes], spark: SparkSession, task: Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]) -> Iterator[bytes]:
    """Results in order, `_WAVE` tasks at a time: progress is seen, and the driver holds no more than a wave on its way."""
    schema = "chunk int, payload binary"
    for first in range(0, len(payloads), _WAVE):
        wave = [(n, bytearray(p)) for n, p in enumerate(payloads[first : first + _WAVE])]
        frame = spark.createDataFrame(wave, schema).repartitionByRange(len(wave), "chunk")  # a number that is given is not merged again
        done = {row["chunk"]: bytes(row["payload"]) for row in frame.mapInPandas(task, schema).collect()}
        yield from (done[n] for n, _ in wave)
