"""The demo shop: a seeded generator of a whole shop's deliveries, one day at a time and in any order.

`deliver(settings, dates)` writes, under ${root}/landing, what the shop's systems would have delivered for each date:

    events/2026-01-05.csv.gz   items/2026-01-05.csv   users/2026-01-05.jsonl.gz
    orders/2026-01-05.parquet  reviews/2026-01-05.jsonl

and what it planted in them to _truth/2026-01-05.parquet, which only tests read; and ip_countries.csv, which is of no date. A date's bytes depend on the settings'
`demo` section and time zone alone: not on the order of dates, nor on what was generated before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path

import pyarrow as pa

from nightmarket.command import UsageError
from nightmarket.log import progress
from nightmarket.shop import Settings
from nightmarket.sources.demo import tables
from nightmarket.sources.demo.dirt import Night, soil
from nightmarket.sources.demo.draw import generator
from nightmarket.sources.demo.files import Csv, JsonLines, Parquet, Sink, replacing
from nightmarket.sources.demo.truth import Truth
from nightmarket.sources.demo.world import World

FILES: dict[str, tuple[str, Callable[[Path, str, pa.Schema], Sink], pa.Schema]] = {
    "events": ("events/{date}.csv.gz", Csv, tables.EVENTS),
    "items": ("items/{date}.csv", Csv, tables.ITEMS),
    "users": ("users/{date}.jsonl.gz", JsonLines, tables.USERS),
    "orders": ("orders/{date}.parquet", Parquet, tables.ORDERS),
    "reviews": ("reviews/{date}.jsonl", JsonLines, tables.REVIEWS),
}
"""Name below the landing folder, format and columns of each entity's file."""
TRUTH = "_truth/{date}.parquet"
COUNTRIES = "ip_countries.csv"


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
    made = [_day(world, dirt, settings.places.landing, d) for d in progress(dates, len(dates), "deliver")]
    ranges = tables.ip_ranges()
    with replacing(settings.places.landing / COUNTRIES) as place:
        sink = Csv(place, COUNTRIES, ranges.schema)
        sink.write(ranges)
        sink.close()
    return made


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
    night = Night(world.zone_info, datetime(day_date.year, day_date.month, day_date.day, 12, tzinfo=timezone.utc))
    targets = {entity: landing / name.format(date=day_date) for entity, (name, _, _) in FILES.items()}
    with ExitStack() as open_files:
        truth = Truth(open_files.enter_context(replacing(landing / TRUTH.format(date=day_date))))
        open_files.callback(truth.close)
        sinks: dict[str, Sink] = {}
        for entity, (name, sink, schema) in FILES.items():
            sinks[entity] = sink(open_files.enter_context(replacing(targets[entity])), name, schema)
            open_files.callback(sinks[entity].close)
        chunks: Counter[str] = Counter()
        for entity, chunk in tables.delivered(world, day, truth):
            rng = generator(world.seed, f"dirt {entity}", day, chunks[entity])
            rows = soil(entity, chunk, rng, dirt, night, truth)
            truth.personal(entity, rows)
            sinks[entity].write(rows)
            chunks[entity] += 1
    return Delivery(day_date, {e: s.rows for e, s in sinks.items()}, tuple(f for e, f in targets.items() if f.exists()))
