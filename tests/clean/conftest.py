"""Bronze frames by hand and by dice."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from nightmarket.contracts import raw_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_FIRST = date(2026, 3, 27)  # over the change of clocks in London
_BASE = datetime(2026, 3, 27, 12, tzinfo=timezone.utc)


@pytest.fixture(scope="session")
def bronze(spark: SparkSession, bronze_table: Callable[..., pa.Table]) -> Callable[..., DataFrame]:
    """`bronze_table` as a Spark frame with the contract's types."""

    def make(entity: str, rows: Sequence[dict[str, Any]]) -> DataFrame:
        frame = spark.createDataFrame(bronze_table(entity, rows))
        return frame.selectExpr(*[f"cast({c.name} as {c.type}) as {c.name}" for c in raw_of(entity).columns])

    return make


@pytest.fixture(scope="session")
def dirty_events() -> Callable[..., list[dict[str, Any]]]:
    """A function that makes bronze events with every kind of dirt, many keys and whole rows twice: `dirty_events(seed, nights, rows)`."""
    return _dirty_events


def _dirty_events(seed: int, nights: int, rows: int) -> list[dict[str, Any]]:
    """Rows with every kind of dirt, many keys and whole rows twice."""
    draw = random.Random(seed)
    made = []
    for n in range(nights * rows):
        night = _FIRST + timedelta(days=n // rows)
        row = {
            "event_id": draw.choice([f"k{draw.randrange(rows)}", f"row:{draw.randrange(rows // 2)}:{n}", " "]),
            "event_ts": _BASE + timedelta(days=draw.choice([n // rows] * 8 + [-500, 40]), minutes=draw.randrange(-600, 600)),
            "event_type": draw.choice(["view", "View ", "add_to_cart", "purchase", "buy", "refund", "wish", None]),
            "user_id": draw.choice(["u1", "u2", "null", None]),
            "item_id": draw.choice(["A", "A", "A", "B", "POST", "\u200b"]),
            "quantity": draw.choice([None, 0, 1, 1, 2, 3, -1, 200, 1_000_000]),
            "unit_price": draw.choice([None, Decimal(0), Decimal("-1"), Decimal("2.5"), Decimal("2.5"), Decimal(9_999), Decimal(2_000_000)]),
            "currency": draw.choice(["GBP", "gbp", "EUR", "XXX", None]),
            "country": draw.choice(["UK", "FR", "", None]),
            "updated_at": draw.choice([None, _BASE, _BASE + timedelta(hours=1)]),
            "delivered_on": night, "source_file": f"{night}.csv", "source_row": n,
        }
        made.append(row)
        if draw.random() < 0.2:
            made.append({**row, "source_row": nights * rows + n})
    return made
