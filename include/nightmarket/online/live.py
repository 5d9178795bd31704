"""Histories as of this moment: the newest night's, and what the stream has brought since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa

from nightmarket.command import Refused
from nightmarket.contracts import FEATURES, LIVE_EVENTS
from nightmarket.lake import Input, Lake
from nightmarket.recommend.histories import LISTS

NEWEST = "newest"
"""Note of a live partition: its newest event so far, in seconds since 1970 UTC."""


@dataclass(frozen=True)
class Now:
    """What is known at a moment."""

    histories: pa.Table
    """Rows of gold.features, live events included."""
    night: date
    """Newest night whose delivery is in it."""
    as_of: datetime
    """Just after the newest event; no model may look beyond."""
    live: int
    """Live events of known shoppers in it."""
    inputs: tuple[Input, ...]


def now(lake: Lake, day: date) -> Now:
    """Histories as of the newest event up to `day`. Raises Refused where no night's histories are published.

    A night's delivery is the truth about its day: live events of days up to it are left to it.
    """
    nights = [d for d in lake.dates(FEATURES) if d <= day]
    if not nights:
        raise Refused(f"no night up to {day} has histories; run the nights first (jobs.ingest to jobs.aggregate)")
    base = lake.at(FEATURES, nights[-1])
    parts = lake.window(LIVE_EVENTS, nights[-1] + timedelta(days=1), day)
    table = base.arrow()
    wanted = ["user_id", "item_id", "event_type", "event_ts", "quantity", "unit_price", "country"]
    events = pa.concat_tables([p.arrow(wanted) for p in parts]) if parts else LIVE_EVENTS.arrow_schema().empty_table().select(wanted)
    rows = [r for r in events.to_pylist() if r["user_id"] is not None]
    merged = merge(table, rows)
    newest = max((t for times in merged["event_times"].to_pylist() for t in times), default=0)
    return Now(merged, nights[-1], datetime.fromtimestamp(newest + 1, timezone.utc), len(rows),
               (base.manifest.as_input(), *(p.manifest.as_input() for p in parts)))


def merge(histories: pa.Table, events: list[dict[str, Any]]) -> pa.Table:
    """`histories` with `events` appended to their shoppers' lists, in order of time; shoppers who are new get a row, sorted by key."""
    by_user: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_user.setdefault(event["user_id"], []).append(event)
    if not by_user:
        return histories
    import pyarrow.compute as pc

    touched = pc.is_in(histories["user_id"], value_set=pa.array(list(by_user), pa.string()))
    known = {r["user_id"]: r for r in histories.filter(touched).to_pylist()}
    made = []
    for user, fresh in by_user.items():
        row = known.get(user) or {"user_id": user, "country": None, "signed_up_at": None, **{c: [] for c in LISTS}}
        whole = [dict(zip(LISTS, values, strict=True)) for values in zip(*(row[c] for c in LISTS), strict=True)]
        whole += [{"item_ids": e["item_id"], "event_types": e["event_type"], "event_times": int(e["event_ts"].timestamp()),
                   "quantities": float(e["quantity"]), "unit_prices": None if e["unit_price"] is None else float(e["unit_price"])} for e in fresh]
        whole.sort(key=lambda e: e["event_times"])
        country = row["country"] or next((e["country"] for e in reversed(fresh) if e["country"]), None)
        made.append({**row, "country": country, **{c: [e[c] for e in whole] for c in LISTS}})
    joined = pa.concat_tables([histories.filter(pc.invert(touched)), pa.Table.from_pylist(made, histories.schema)])
    return joined.sort_by("user_id")
