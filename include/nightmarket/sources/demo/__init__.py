"""The demo shop: a seeded generator of a whole shop's deliveries, one day at a time and in any order.

`deliver(settings, dates)` writes, under ${root}/landing, what the shop's systems would have delivered for each date:

    events/2026-01-05.csv.gz   items/2026-01-05.csv   users/2026-01-05.jsonl.gz
    orders/2026-01-05.parquet  reviews/2026-01-05.jsonl

and what it planted in them to _truth/2026-01-05.parquet, which only tests read. A date's bytes depend on the settings'
`demo` section and time zone alone: not on the order of dates, nor on what was generated before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa

from nightmarket.command import UsageError
from nightmarket.log import progress
from nightmarket.shop import Settings
from nightmarket.sources.demo import tables
from nightmarket.sources.demo.dirt import Night, soil
from nightmarket.sources.demo.draw import generator
from nightmarket.sources.demo.files import Write, replacing, write_csv, write_jsonl, write_parquet
from nightmarket.sources.demo.truth import Truth
from nightmarket.sources.demo.world import World

FILES = {
    "events": "events/{date}.csv.gz", "items": "items/{date}.csv", "users": "users/{date}.jsonl.gz",
    "orders": "orders/{date}.parquet", "reviews": "reviews/{date}.jsonl",
}
TRUTH = "_truth/{date}.parquet"


@dataclass(frozen=True)
class Delivery:
    """What was delivered for a date: rows by entity, added dirt included."""

    date: date
    rows: dict[str, int]
    files: tuple[Path, ...]


def deliver(settings: Settings, dates: Sequence[date]) -> list[Delivery]:
    """Writes the deliveries of `dates`; files that are there already with the same bytes stay untouched.

    Raises UsageError where the shop is not generated, or a date lies before its first day.
    """
    world, dirt = check(settings, dates)
    return [_day(world, dirt, settings.places.landing, d) for d in progress(dates, len(dates), "deliver")]


def check(settings: Settings, dates: Sequence[date]) -> tuple[World, float]:
    """The world that can deliver all of `dates`, and its share of dirt. Raises UsageError as `deliver` does."""
    demo = settings.shop.demo
    if demo is None:
        raise UsageError(f"{settings.file}: the shop has no 'demo' section: its deliveries come from outside")
    world = World.of(demo, settings.shop.time_zone)
    early = [d for d in dates if d < world.first]
    if early:
        raise UsageError(f"{min(early)} is before the demo shop's first day, {world.first}; ask for {world.first} or later, "
                         "or set demo.first_day")
    return world, demo.dirt


def _day(world: World, dirt: float, landing: Path, day_date: date) -> Delivery:
    day = world.day(day_date)
    rows: dict[str, int] = {}
    with replacing(landing / TRUTH.format(date=day_date)) as truth_file:
        truth = Truth(truth_file)
        for entity, chunks, schema, write in _entities(world, day, truth):
            with replacing(landing / FILES[entity].format(date=day_date)) as file:
                rows[entity] = write(file, _soiled(world, day, entity, chunks, dirt, truth), schema)
        truth.close()
    return Delivery(day_date, rows, tuple(landing / f.format(date=day_date) for f in FILES.values()))


def _entities(world: World, day: int, truth: Truth) -> Iterator[tuple[str, Iterable[pa.Table], pa.Schema, Write]]:
    yield "events", tables.events(world, day, truth), tables.EVENTS, write_csv
    yield "items", iter([tables.items(world, day)]), tables.ITEMS, write_csv
    yield "users", tables.users(world, day, truth), tables.USERS, write_jsonl
    yield "orders", tables.orders(world, day, truth), tables.ORDERS, write_parquet
    yield "reviews", iter([tables.reviews(world, day, truth)]), tables.REVIEWS, write_jsonl


def _soiled(world: World, day: int, entity: str, chunks: Iterable[pa.Table], dirt: float, truth: Truth) -> Iterator[pa.Table]:
    today = world.on(day)
    night = Night(world.zone_info, datetime(today.year, today.month, today.day, 12, tzinfo=timezone.utc))
    for n, chunk in enumerate(chunks):
        rng: np.random.Generator = generator(world.seed, f"dirt {entity}", day, n)
        yield soil(entity, chunk, rng, dirt, night, truth)
