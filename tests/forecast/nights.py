"""Rows of gold.sales_series by hand, without Spark, and a small shop's sales."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import SALES_SERIES

NIGHT = date(2026, 3, 31)
CATEGORIES = ("books", "toys")


def sales(items: int = 10, length: int = 120, seed: int = 5) -> np.ndarray:
    """(items, length) counts: half sell well with a weekly profile, the others rarely."""
    rng = np.random.default_rng(seed)
    profile = np.array([1.0, 0.9, 1.0, 1.1, 1.3, 1.5, 0.6])
    level = np.where(np.arange(items) % 2 == 0, rng.uniform(4, 20, items), rng.uniform(0.06, 0.12, items))[:, None]
    return rng.poisson(level * profile[np.arange(length) % 7]).astype(float)


def table(y: np.ndarray, night: date = NIGHT, missing: tuple[int, ...] = (), out: tuple[tuple[int, int], ...] = ()) -> pa.Table:
    """Daily rows of (items, T) sales that end on `night`: items i0 …, two categories, two countries; each series from its first sale.

    `missing` are columns that nobody knows; `out` are (item, column) without stock.
    """
    n, length = y.shape
    split = np.round(y * 0.7)
    nodes: list[tuple[str, str, str | None, np.ndarray]] = [("item", f"i{k}", CATEGORIES[k % 2], y[k]) for k in range(n)]
    nodes += [("category", c, None, y[[k for k in range(n) if k % 2 == j]].sum(axis=0)) for j, c in enumerate(CATEGORIES)]
    nodes += [("country", c, None, v.sum(axis=0)) for c, v in (("GB", split), ("FR", y - split))]
    nodes.append(("total", "*", None, y.sum(axis=0)))
    rows: list[dict[str, Any]] = []
    gone, without = set(missing), set(out)
    for level, key, category, values in nodes:
        sold = np.flatnonzero(values > 0)
        for t in range(int(sold[0]) if len(sold) else length, length):
            stocked = level == "item" and (int(key[1:]), t) in without
            units = None if t in gone else int(values[t])
            rows.append({
                "freq": "D", "level": level, "series_id": key, "category": category, "sale_date": night - timedelta(days=length - 1 - t),
                "status": "missing" if t in gone else "open", "units": units, "demand": None if units is None or stocked else float(units),
                "revenue": None, "unit_price": 2.0, "on_promotion": None, "stocked_out": stocked, "holiday": False,
            })
    return pa.Table.from_pylist(rows, SALES_SERIES.arrow_schema())
