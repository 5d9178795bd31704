"""Nights as `jobs.evaluate` leaves them, without Spark or TensorFlow: published inputs, a candidate of the stand-in, its judgement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from nightmarket.contracts import EVALUATION, FEATURES, ITEMS, QUALITY
from nightmarket.lake import Lake
from nightmarket.registry.candidate import Candidate, folder_of
from nightmarket.shop import Settings
from tests.registry.conftest import history

DAY = date(2026, 3, 1)
"""A Sunday; D(1) is the night after."""


def D(n: int) -> date:
    return DAY + timedelta(days=n)


def interval(value: float, low: float | None = None, high: float | None = None, users: int = 200) -> dict[str, float]:
    return {"value": value, "low": value - 0.01 if low is None else low, "high": value + 0.01 if high is None else high, "users": users}


def rows(night: date, users: Sequence[tuple[str, str | None, list[str]]]) -> pa.Table:
    """gold.features in which everything was bought on the night's day before."""
    made = []
    for user, country, items in users:
        row = history(user, country, items)
        start = int(datetime.combine(night, time(), timezone.utc).timestamp())
        row["event_times"] = [start + i for i in range(len(items))]
        made.append(row)
    return pa.Table.from_pylist(made, FEATURES.arrow_schema())


USERS: list[tuple[str, str | None, list[str]]] = [
    ("u1", "DE", ["a", "a", "b"]), ("u2", "DE", ["a", "c", "c"]), ("u3", "FR", ["d", "b"]), ("u4", None, ["a", "a", "b"]),
]


def publish_inputs(settings: Settings, night: date, verdict: str = "passed", users: Any = None) -> None:
    """gold.quality, gold.features and silver.items of a night."""
    lake = Lake(settings.places.lake)
    items = pa.Table.from_pylist(
        [{"item_id": i, "delivered_on": night, "source_file": "items.csv", "source_row": n} for n, i in enumerate("abcd")],
        ITEMS.arrow_schema())
    for dataset, table, notes in (
        (QUALITY, None, {"verdict": verdict, "from_date": night.isoformat()}), (FEATURES, rows(night, users or USERS), {}),
        (ITEMS, items, {}),
    ):
        with lake.writer(dataset, [night]) as writer:
            if table is not None:
                writer.stage_arrow(night, table)
            writer.publish(night, inputs=[], settings="s", code="c", notes=notes)


def evaluation(
    quality: float = 0.20, champion: str | None = None, ahead: tuple[float, float, float] = (0.005, -0.004, 0.014),
    popularity: float = 0.10, digest: str = "holdout", unreadable: dict[str, str] | None = None,
) -> dict[str, Any]:
    """evaluation.json: ndcg@10 of the challenger, of popularity and, where it is named, of the champion."""
    models: dict[str, Any] = {
        "challenger": {"version": None, "slices": {"all": {"ndcg@10": interval(quality), "mrr": interval(0.2)},
                                                   "country=DE": {"ndcg@10": interval(quality)}}},
        "popularity": {"version": None, "slices": {"all": {"ndcg@10": interval(popularity)}}},
    }
    differences: dict[str, Any] = {"popularity": {"all": {"ndcg@10": interval(quality - popularity)}}}
    if champion is not None:
        models["champion"] = {"version": champion, "slices": {"all": {"ndcg@10": interval(quality - ahead[0])}}}
        differences["champion"] = {"all": {"ndcg@10": interval(*ahead)}}
    return {
        "holdout": {"cut": "2026-02-22T00:00:00+00:00", "end": "2026-03-02T00:00:00+00:00", "digest": digest, "shoppers": 200, "items": 4},
        "seed": 17, "resamples": 60, "models": models, "differences": differences,
        "heads": {"challenger": {"purchase": {"roc_auc": interval(0.8)}}}, "plots": [], **({"unreadable": unreadable} if unreadable else {}),
    }


def judged(
    settings: Settings, stand_in: Any, night: date, *, recipe: str | None = None, bias: float = 0.0, fault: str = "",
    found: dict[str, Any] | None = None,
) -> Path:
    """The candidate folder of a night with its judgement, and gold.evaluation. Returns the folder."""
    lake = Lake(settings.places.lake)
    recipe = recipe or f"recipe-{night}"
    found = found or evaluation()
    folder = folder_of(settings, night)
    stand_in.Recommender(bias, fault).save(folder / "model")
    features = lake.at(FEATURES, night).manifest.as_input()
    end = datetime.combine(night + timedelta(days=1), time(), settings.zone)
    made = Candidate(
        name=settings.shop.model.name, run_date=night.isoformat(), recipe=recipe, inputs=(features,), settings="s", code="c0de", seed=17,
        cut=found["holdout"]["cut"], end=end.isoformat(), time_zone=settings.shop.time_zone, training={"epochs": 2}, seconds=1.0,
        peak_memory_mb=1.0, created_at="2026-03-02T01:00:00+00:00",
    )
    from dataclasses import asdict

    (folder / "candidate.json").write_text(json.dumps(asdict(made)))
    (folder / "evaluation" / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "evaluation" / "plots" / "metrics.png").write_bytes(b"\x89PNG")
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    with lake.writer(EVALUATION, [night]) as writer:
        writer.publish(night, inputs=[made.as_input()], settings="s", code="c",
                       notes={"candidate": recipe, "holdout": found["holdout"], "champion": None})
    return folder
