"""Bounds against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from nightmarket.clean.outliers import MAD_TO_SIGMA, MINIMUM_ROWS, MINIMUM_SCALE, with_bounds

pytestmark = pytest.mark.spark


def bound(values: np.ndarray, mads: float) -> float:
    logs = np.log1p(values)
    spread = MAD_TO_SIGMA * np.median(np.abs(logs - np.median(logs)))
    return float(np.expm1(np.median(logs) + mads * max(spread, MINIMUM_SCALE)))


@pytest.mark.parametrize("group", [["night"], []])
def test_bounds_equal_numpy(spark: Any, group: list[str]) -> None:
    draw = np.random.default_rng(5)
    rows = [
        (int(night), item, None if draw.random() < 0.1 else float(np.round(np.exp(draw.normal(1, 2)), 2)))
        for item, count in (("many", 60), ("few", MINIMUM_ROWS - 1), ("some", 45)) for night in range(2) for _ in range(count)
    ]
    frame = spark.createDataFrame(rows, "night int, item_id string, price double")
    found = {
        (r["night"], r["item_id"]): r["most"]
        for r in with_bounds(frame, {"most": F.col("price")}, group, 4).select("night", "item_id", "most").distinct().collect()
    }
    assert len(found) == 6
    for (night, item), most in found.items():
        nights = [night] if group else [0, 1]
        own = np.array([p for n, i, p in rows if n in nights and i == item and p is not None])
        everyone = np.array([p for n, _, p in rows if n in nights and p is not None])
        assert most == pytest.approx(bound(own if len(own) >= MINIMUM_ROWS else everyone, 4), rel=1e-12)


def test_no_values_no_bound_and_no_lost_rows(spark: Any) -> None:
    frame = spark.createDataFrame([(1, "a", None), (1, "b", None)], "night int, item_id string, price double")
    for group in (["night"], []):
        assert [r["most"] for r in with_bounds(frame, {"most": F.col("price")}, group, 4).collect()] == [None, None]
