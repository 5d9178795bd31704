"""Nights of the demo shop as silver has them, straight from the generator: no dirt, no Spark, a tenth of a second a night."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa

from nightmarket.monitor import drift
from nightmarket.monitor.drift import Finding, Sample
from nightmarket.shop import DemoShop, Drift
from nightmarket.sources.demo import tables
from nightmarket.sources.demo.world import World

EVENTS = {"id": "event_id", "action": "event_type", "visit": "session_id", "order_no": "order_id", "customer": "user_id", "sku": "item_id", "price": "unit_price",
          "qty": "quantity", "country": "country", "source": "referrer"}
KINDS = {"page_view": "view", "add_to_cart": "cart", "purchase": "purchase", "return": "return"}
ORDERS = {"order_no": "order_id", "customer": "user_id", "total": "amount", "payment": "payment_method", "ship_country": "country",
          "chargeback": "is_fraud", "placed_at": "placed_at", "card": "card", "device": "device", "client_ip": "ip", "ship_to": "address",
          "line_count": "line_count"}
REVIEWS = {"review": "review_id", "customer": "user_id", "stars": "rating", "fake": "is_fake"}
WORLD = World.of(DemoShop(), "Europe/London")
"""The demo shop as it is shipped: 60,000 events over 120 days."""

BUSY = World.of(DemoShop(events=600_000), "Europe/London")
"""The same with ten times the traffic."""

Night = dict[str, pd.DataFrame]
Spoil = Callable[[Night], Night]


class _Untold:
    """A truth that nobody keeps."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_: None


@lru_cache(maxsize=2)
def category_of(world: World = WORLD) -> dict[str, str]:
    """Item -> department, of all items of the first 400 days."""
    from numpy import arange

    from nightmarket.sources.demo import words

    items = arange(world.items_at(400))
    return dict(zip(tables.sku(items).to_pylist(), (words.DEPARTMENTS[i % len(words.DEPARTMENTS)] for i in items), strict=True))


@lru_cache(maxsize=400)
def delivered(day: int, world: World = WORLD) -> Night:
    """events, orders and reviews of a day."""
    parts: dict[str, list[pa.Table]] = {"events": [], "orders": [], "reviews": []}
    for entity, rows in tables.delivered(world, day, _Untold()):  # type: ignore[arg-type]
        if entity in parts:
            parts[entity].append(rows)

    def frame(entity: str, names: dict[str, str]) -> pd.DataFrame:
        return pa.concat_tables(parts[entity]).select(list(names)).rename_columns(list(names.values())).to_pandas()

    events, orders, reviews = frame("events", EVENTS), frame("orders", ORDERS), frame("reviews", REVIEWS)
    events["event_type"] = events["event_type"].map(KINDS)
    events["unit_price"] = events["unit_price"].astype(float)
    events["quantity"] = events["quantity"].astype(float)
    orders["amount"] = orders["amount"].astype(float)
    orders["is_cancellation"] = orders["amount"] < 0
    # an order comes again with its label: then only the label is new
    return {"events": events, "orders": orders, "reviews": reviews}


def sample(day: int, world: World = WORLD, spoil: Spoil | None = None) -> Sample:
    night = delivered(day, world)
    if spoil is not None:
        night = spoil({k: v.copy() for k, v in night.items()})
    return drift.sample(night["events"], night["orders"], night["reviews"], category_of(world))


@lru_cache(maxsize=400)
def _quiet(day: int, world: World) -> Sample:
    return sample(day, world)


def findings(day: int, rules: Drift | None = None, world: World = WORLD, spoil: Spoil | None = None) -> list[Finding]:
    """What the watch of a night finds in a shop without a screener, the weeks before it being quiet."""
    rules = rules or Drift()
    window = [_quiet(d, world) for d in range(day - 7 * rules.weeks, day)]
    tonight = sample(day, world, spoil) if spoil else _quiet(day, world)
    night = delivered(day, world)
    now = labels(spoil({k: v.copy() for k, v in night.items()}) if spoil else night)
    before = [labels(delivered(d, world)) for d in range(day - 7 * rules.weeks, day)]
    past = {kind: pd.concat([b[kind] for b in before]) for kind in now}
    return [*drift.judged(drift.features(tonight, window[::7], window, rules), rules), *drift.judged(drift.labels(now, past, {}, rules), rules, drift.CONCEPTS)]


def labels(night: Night) -> dict[str, pd.DataFrame]:
    """kind -> id and bad of what is known since the night."""
    found = {}
    for kind, entity, key, column in (("order", "orders", "order_id", "is_fraud"), ("review", "reviews", "review_id", "is_fake")):
        known = night[entity][night[entity][column].notna()]
        found[kind] = pd.DataFrame({"id": known[key].astype(str), "bad": known[column].astype(bool)})
    return found
