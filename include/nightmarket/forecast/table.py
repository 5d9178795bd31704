"""Forecasts as the long table that spreadsheets and the lake read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightmarket.forecast.forecaster import Forecast
from nightmarket.forecast.series import Panel


def forecast_table(panel: Panel, made: Forecast, id_type: pa.DataType | None = None, ds_type: pa.DataType | None = None) -> pa.Table:
    """One row a series and future date, sorted: series_id, ds, mean, lo<level>, hi<level> …, model. Ids and dates keep their types."""
    n, horizon = made.mean.shape
    dates = panel.dates()[:, panel.length :]
    order = np.arange(n)
    ids = pa.array(list(panel.ids), id_type.value_type if id_type is not None and pa.types.is_dictionary(id_type) else id_type)
    columns: dict[str, pa.Array] = {
        "series_id": ids.take(pa.array(np.repeat(order, horizon))),
        "ds": _typed(dates.reshape(-1), ds_type),
        "mean": pa.array(made.mean.reshape(-1)),
    }
    for level, (low, high) in sorted(made.bounds.items()):
        columns[f"lo{level}"] = pa.array(low.reshape(-1))
        columns[f"hi{level}"] = pa.array(high.reshape(-1))
    columns["model"] = pa.array(np.repeat(np.array(made.model, dtype=object), horizon), pa.string())
    return pa.table(columns)


def _typed(dates: np.ndarray, kind: pa.DataType | None) -> pa.Array:
    days = pa.array(dates.astype("M8[D]"))
    if kind is None or not pa.types.is_timestamp(kind):
        return days.cast(pa.date32())
    if kind.tz:
        import pyarrow.compute as pc

        return pc.assume_timezone(days.cast(pa.timestamp(kind.unit)), kind.tz, ambiguous="earliest", nonexistent="latest")
    return days.cast(kind)
