"""A small lake from which the screening's jobs can learn, without Spark: described orders, of which a ring's are fraud."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import QUALITY, SCREENING_FEATURES, Dataset
from nightmarket.lake import Lake, Manifest
from nightmarket.shop import Settings

NIGHT = date(2026, 4, 10)
NAMES = ["amount", "device.rows.1d", "device.different.shopper", "device.risk.28d", "shopper.rows.7d", "hour"]
ENTITIES = ["shopper", "card", "device"]
SCREENING = {"holdout_days": 28, "bootstrap": 50, "evidence_cases": 2}


def end_of(night: date) -> datetime:
    return datetime(night.year, night.month, night.day, tzinfo=timezone.utc) + timedelta(days=1)


def orders(night: date = NIGHT, days: int = 80, a_day: int = 8, labelled: bool = True, delay: int = 7, seed: int = 3) -> pa.Table:
    """`a_day` orders a day up to the night; every tenth is the ring's: dear, on one of two devices. Verdicts come after `delay` days."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    first = date(2026, 1, 1)
    for n in range(((night - first).days + 1) * a_day):
        day = first + timedelta(days=n // a_day)
        bad = n % 10 == 0
        amount = float(rng.lognormal(3, 0.4) * (5 if bad else 1))
        hour = float(rng.uniform(0, 5) if bad else rng.uniform(6, 23))
        device, shopper = (f"ring-{n % 20 // 10}", f"r{n % 40 // 10}") if bad else (f"d{n % 97}", f"u{n % 97}")
        at = datetime(day.year, day.month, day.day, tzinfo=timezone.utc) + timedelta(hours=hour)
        known = at + timedelta(days=delay)
        told = labelled and known < end_of(night) and n % 3 != 0
        values = [amount, 3.0 if bad else 1.0, 4.0 if bad else 1.0, float(rng.uniform(0.2, 0.8) if bad else rng.uniform(0, 0.1)), float(rng.integers(1, 5)), hour]
        rows.append({
            "kind": "order", "id": f"o{n:05d}", "at": at, "first_night": day, "stake": amount, "is_bad": bad if told else None, "known_at": known if told else None,
            "entities": [shopper, f"c-{shopper}", device], "categories": ["card" if n % 4 else "invoice"], "text": None, "values": values,
        })
    since = night - timedelta(days=days)
    return pa.Table.from_pylist([r for r in rows if r["first_night"] > since], SCREENING_FEATURES.arrow_schema())


def put(settings: Settings, dataset: Dataset, table: pa.Table, night: date = NIGHT, notes: dict[str, Any] | None = None) -> Manifest:
    with Lake(settings.places.lake).writer(dataset, [night]) as writer:
        writer.stage_arrow(night, table)
        return writer.publish(night, inputs=[], settings="tests", code="tests", notes=notes)


def described(settings: Settings, table: pa.Table, night: date = NIGHT) -> None:
    """Publishes the features of a night, and that the gate let it through."""
    kinds = {"order": {"values": NAMES, "entities": ENTITIES, "categories": ["payment"]}}
    put(settings, SCREENING_FEATURES, table, night, {"kinds": kinds, "end": end_of(night).isoformat()})
    put(settings, QUALITY, QUALITY.arrow_schema().empty_table(), night, {"verdict": "passed", "from_date": night.isoformat()})


def shop(make_settings: Callable[..., Settings], labelled: bool = True, **screening: Any) -> Settings:
    settings = make_settings(time_zone="UTC", screening={**SCREENING, **screening})
    described(settings, orders(labelled=labelled))
    return settings


def argv(settings: Settings, *more: str, night: date = NIGHT) -> list[str]:
    return ["--run-date", night.isoformat(), "--shop", str(settings.file), *more]
