"""Bronze rows by hand: only what a test is about; the rest has plain defaults."""

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

NIGHT = date(2026, 1, 15)
NOON = datetime(2026, 1, 15, 12, tzinfo=timezone.utc)
_FIRST = date(2026, 3, 27)  # over the change of clocks in London
_BASE = datetime(2026, 3, 27, 12, tzinfo=timezone.utc)
_DEFAULTS: dict[str, dict[str, Any]] = {
    "events": {"event_ts": NOON, "event_type": "purchase", "user_id": "u1", "item_id": "A1", "quantity": 1,
               "unit_price": Decimal("2.50"), "currency": "GBP"},
    "items": {"title": "Kettle", "language": "en", "list_price": Decimal("9.99"), "currency": "GBP"},
    "users": {"country": "France"},
    "orders": {"user_id": "u1", "order_ts": NOON, "amount": Decimal("10"), "currency": "GBP", "line_count": 1},
    "reviews": {"user_id": "u1", "item_id": "A1", "review_ts": NOON, "rating": 4, "text": "Good"},
}


def bronze_rows(entity: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole bronze rows. Keys default to k0, k1, …; rows come from one file in the given order."""
    raw = raw_of(entity)
    made = []
    for n, row in enumerate(rows):
        unknown = set(row) - set(raw.column_names)
        assert not unknown, f"no such columns: {unknown}"
        base = dict.fromkeys(raw.column_names) | _DEFAULTS[entity]
        place = {raw.primary_key[0]: f"k{n}", "delivered_on": NIGHT, "source_file": "day.csv", "source_row": n}
        made.append(base | place | row)
    return made


@pytest.fixture(scope="session")
def bronze(spark: SparkSession) -> Callable[..., DataFrame]:
    """A function that makes a bronze frame: `bronze("events", [{"quantity": -1}, …])`."""

    def make(entity: str, rows: Sequence[dict[str, Any]]) -> DataFrame:
        raw = raw_of(entity)
        whole = bronze_rows(entity, rows)
        if any(isinstance(v, datetime) and v.tzinfo is None for r in whole for v in r.values()):
            raise ValueError("give timestamps a time zone")
        frame = spark.createDataFrame(pa.Table.from_pylist(whole, raw.arrow_schema()))
        return frame.selectExpr(*[f"cast({c.name} as {c.type}) as {c.name}" for c in raw.columns])

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
