"""A small shop whose shoppers rebuy: tables of gold.features and silver.items for tests of learning. No quality claim rests on it."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import FEATURES, ITEMS

FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)


def moment(day: float) -> datetime:
    return FIRST + timedelta(days=day)


def history(user: str, events: list[tuple[float, str, str]], country: str | None = "DE") -> dict[str, Any]:
    """One row of gold.features from (day since FIRST, event type, item)."""
    events = sorted(events)
    return {
        "user_id": user, "country": country, "signed_up_at": None, "item_ids": [e[2] for e in events],
        "event_types": [e[1] for e in events], "event_times": [int(moment(e[0]).timestamp()) for e in events],
        "quantities": [1.0] * len(events), "unit_prices": [2.5] * len(events),
    }


def features(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema())


def catalogue(items: list[str], titles: dict[str, str] | None = None) -> pa.Table:
    rows = [{
        "item_id": i, "title": (titles or {}).get(i, f"thing {i}"), "category": f"c{n % 4}", "delivered_on": date(2026, 1, 1),
        "source_file": "items.csv", "source_row": n, "list_price": None,
    } for n, i in enumerate(items)]
    return pa.Table.from_pylist(rows, schema=ITEMS.arrow_schema())


def shop(users: int = 120, items: int = 40, days: int = 100, seed: int = 5, browsing: bool = True) -> tuple[pa.Table, pa.Table]:
    """(features, items): each shopper rebuys a few favourites every one to three weeks and sometimes tries the popular."""
    rng = np.random.default_rng(seed)
    names = [f"i{n:03d}" for n in range(items)]
    chance = 1.0 / np.arange(1, items + 1)
    chance /= chance.sum()
    rows = []
    for n in range(users):
        own = rng.choice(items, 4, replace=False)
        events: list[tuple[float, str, str]] = []
        day, pace = float(rng.uniform(0, 20)), float(rng.uniform(5, 20))
        while day < days:
            basket = {int(i) for i in rng.choice(own, 2)} | ({int(rng.choice(items, p=chance))} if rng.random() < 0.5 else set())
            for item in sorted(basket):
                if browsing:
                    events += [(day, "view", names[item]), (day + 0.002, "cart", names[item])]
                events.append((day + 0.005, "purchase", names[item]))
            if browsing:
                events += [(day, "view", names[int(i)]) for i in rng.choice(items, 2, p=chance)]
            day += float(rng.exponential(pace)) + 1.0
        rows.append(history(f"u{n:04d}", events, ("DE", "FR", None)[n % 3]))
    return features(rows), catalogue(names)
