"""Hand-made nights: a healthy shop of events and items, written straight into the lake, and ways to spoil one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa

from nightmarket.contracts import EVENTS, ITEMS, RAW_EVENTS, RAW_ITEMS, Dataset, dataset
from nightmarket.contracts.model import Dataset as _Dataset
from nightmarket.lake import Lake, Manifest
from nightmarket.lake.partitions import QUARANTINE
from nightmarket.shop import Settings

Row = dict[str, Any]
ROWS, ITEM_COUNT = 300, 30
MONDAY = date(2026, 2, 2)


def shop(make_settings: Callable[..., Settings], **changes: Any) -> Settings:
    """A shop of daily events and a weekly snapshot of items, whose owners differ."""
    gate = {"minimum_rows": {"events": 25}, "null_share": {"events.user_id": 0.4}, **changes.pop("gate", {})}
    defaults: dict[str, Any] = {
        "title": "Kleiner Laden",
        "owners": {"default": {"name": "Ada Lovelace", "mail": ["ada@example.org"]},
                   "items": {"name": "王芳", "mail": ["wang@example.org"], "language": "zh"}},
        "sources": {
            "events": {"kind": "files", "path": "${root}/landing", "pattern": "events-{date}.csv", "format": "csv"},
            "items": {"kind": "files", "path": "${root}/landing", "pattern": "items.csv", "format": "csv", "snapshot": "weekly",
                      "on_missing": "empty"},
        },
        "datasets": {
            "events": {"source": "events", "columns": {c: c for c in (
                "event_id", "event_ts", "event_type", "user_id", "item_id", "quantity", "unit_price", "country", "device_id")}},
            "items": {"source": "items", "columns": {c: c for c in ("item_id", "title", "category")}},
        },
    }
    return make_settings(gate=gate, **{**defaults, **changes})


def events(night: date, n: int = ROWS) -> list[Row]:
    """`n` events over the day: a fifth of them by strangers, all about known items."""
    start = datetime.combine(night, datetime.min.time(), timezone.utc)
    return [{
        **dict.fromkeys(EVENTS.column_names),
        "event_id": f"{night}-{i}", "event_ts": start + timedelta(seconds=86_000 * i // max(n, 1)),
        "event_type": ("view", "view", "cart", "purchase")[i % 4], "user_id": None if i % 5 == 0 else f"u{i % 40}",
        "item_id": f"i{i % ITEM_COUNT}", "quantity": 1 + i % 3, "unit_price": Decimal("2.50"), "country": ("GB", "DE", "FR")[i % 3],
        "device_id": "p1:k1:aa", "event_date": night, "is_outlier": False, "filled": [],
        "delivered_on": night, "source_file": f"events-{night}.csv", "source_row": i,
    } for i in range(n)]


def items(night: date, n: int = ITEM_COUNT) -> list[Row]:
    return [{**dict.fromkeys(ITEMS.column_names), "item_id": f"i{i}", "title": f"Thing {i}", "category": f"c{i % 5}",
             "delivered_on": night, "source_file": "items.csv", "source_row": i} for i in range(n)]


def rejected(night: date, reasons: Iterable[str]) -> pa.Table:
    return pa.Table.from_pylist([
        {"reason": reason, "detail": None, "source_file": f"events-{night}.csv", "source_row": 10_000 + i, "delivered_on": night,
         "record": "{}"} for i, reason in enumerate(reasons)], schema=QUARANTINE.arrow_schema())


def put(lake: Lake, into: _Dataset, night: date, rows: list[Row], reasons: Iterable[str] = (), **more: Any) -> Manifest:
    table = pa.Table.from_pylist(rows, schema=into.arrow_schema())
    with lake.writer(into, [night]) as writer:
        writer.stage_arrow(night, table, rejected(night, reasons))
        return writer.publish(night, inputs=[], settings="test", code="test", **more)


def raw(contract: Dataset, rows: list[Row]) -> list[Row]:
    keep = dataset(f"bronze.{contract.name}").column_names
    return [{k: row[k] for k in keep} for row in rows]


def publish(
    lake: Lake, night: date, rows: list[Row] | None = None, *, reasons: Iterable[str] = (), catalogue: list[Row] | None = None,
    bronze_notes: Row | None = None, bronze_sums: dict[str, str] | None = None, silver_sums: dict[str, str] | None = None,
    bronze_extra: int = 0,
) -> None:
    """Bronze and silver of one night. `reasons` are rows that cleaning rejected; `bronze_extra` rows get lost in between."""
    rows = events(night) if rows is None else rows
    reasons = list(reasons)
    delivered = [*raw(EVENTS, rows), *raw(EVENTS, events(night - timedelta(days=400), len(reasons) + bronze_extra))]
    put(lake, RAW_EVENTS, night, delivered, notes=bronze_notes, sums=bronze_sums)
    put(lake, EVENTS, night, rows, reasons, sums=silver_sums)
    catalogue = (items(night) if night.weekday() == 0 else []) if catalogue is None else catalogue
    put(lake, RAW_ITEMS, night, raw(ITEMS, catalogue))
    put(lake, ITEMS, night, catalogue)
