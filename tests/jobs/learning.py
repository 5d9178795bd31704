"""A small lake from which jobs.train and jobs.evaluate can learn, without Spark."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pyarrow as pa

from nightmarket.contracts import FEATURES, ITEMS, QUALITY, Dataset
from nightmarket.lake import Lake, Manifest
from nightmarket.shop import Settings
from tests.recommend import synthetic

NIGHT = date(2026, 4, 10)
"""Day 99 of the synthetic shop, so the holdout of 14 days begins on day 86."""
MODEL = {"embedding_dim": 8, "candidates": 30, "epochs": 1, "max_history": 10, "fit_days": 14, "holdout_days": 14, "bootstrap": 50}


def put(settings: Settings, dataset: Dataset, table: pa.Table, run_date: date = NIGHT, notes: dict[str, Any] | None = None) -> Manifest:
    with Lake(settings.places.lake).writer(dataset, [run_date]) as writer:
        writer.stage_arrow(run_date, table)
        return writer.publish(run_date, inputs=[], settings="tests", code="tests", notes=notes)


def shop(make_settings: Callable[..., Settings], verdict: str | None = "passed", users: int = 80, **model: Any) -> Settings:
    """A shop whose features, items and verdict of NIGHT are published."""
    settings = make_settings(time_zone="UTC", model={**MODEL, **model})
    table, items = synthetic.shop(users=users, items=25)
    put(settings, FEATURES, table)
    put(settings, ITEMS, items)
    if verdict is not None:
        put(settings, QUALITY, QUALITY.arrow_schema().empty_table(), notes={"verdict": verdict, "from_date": NIGHT.isoformat()})
    return settings


def argv(settings: Settings, *more: str) -> list[str]:
    return ["--run-date", NIGHT.isoformat(), "--shop", str(settings.file), *more]
