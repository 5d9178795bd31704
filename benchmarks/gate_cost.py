"""What the gate costs: Great Expectations against one hand-written Spark aggregation of the same statistics.

  python benchmarks/gate_cost.py [--rounds 15] [--events 60000] [--real ../shared/data] [--json FILE]

For each shop, in one process and warm, both sides read the same published partitions and take turns:

gate   `quality.gate.judge`: manifests, schema check, every GX suite, findings, profiles of categories
hand   what a person would write who only wanted the numbers: for each dataset one aggregation (rows, distinct keys, nulls,
       values outside bounds or sets, newest timestamps, keys found in the other dataset) and one count by category

Reported: median seconds of each side, the median of the paired ratios, and its 95 % interval by bootstrap over the rounds.
Data Docs are timed apart: they are pages, not a judgement.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import yaml

from nightmarket.contracts import BRONZE, EVENTS, ITEMS, USERS, Dataset
from nightmarket.lake import Lake
from nightmarket.quality import docs, gate, suites
from nightmarket.quality.rules import night_end
from nightmarket.shop import Settings, load_shop
from nightmarket.spark import session

NIGHT = date(2026, 2, 2)


def shop(folder: Path, entities: dict[str, list[str]]) -> Settings:
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump({
        "shop": "bench", "time_zone": "Europe/London", "currency": "GBP",
        "owners": {"default": {"name": "Owner", "mail": ["owner@example.org"]}},
        "sources": {e: {"kind": "files", "path": "landing", "pattern": f"{e}-{{date}}.csv", "format": "csv"} for e in entities},
        "datasets": {e: {"source": e, "columns": {c: c for c in columns}} for e, columns in entities.items()},
        "gate": {"null_share": {"events.user_id": 0.6}, "minimum_rows": {"events": 100}},
        "storage": {"root": "root"},
    }))
    return load_shop(file)


def publish(lake: Lake, dataset: Dataset, night: date, rows: pa.Table) -> None:
    """`rows` as the night's partition; columns that are not given are null."""
    schema = dataset.arrow_schema()
    full = pa.table([rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in schema],
                    schema=schema)
    with lake.writer(dataset, [night]) as writer:
        writer.stage_arrow(night, full)
        writer.publish(night, inputs=[], settings="bench", code="bench")


def lineage(night: date, n: int, name: str) -> dict[str, Any]:
    return {"delivered_on": pa.array([night] * n), "source_file": pa.array([name] * n), "source_row": pa.array(range(n))}


def demo_like(folder: Path, events: int) -> tuple[Settings, Lake, date]:
    """Events, items and users of a generated night, seeded."""
    draw = np.random.default_rng(7)
    items, users = max(50, events // 30), max(50, events // 12)
    settings = shop(folder, {
        "events": ["event_id", "event_ts", "event_type", "user_id", "item_id", "quantity", "unit_price", "currency", "country"],
        "items": ["item_id", "title", "category", "list_price"], "users": ["user_id", "country"],
    })
    lake = Lake(settings.places.lake)
    start = datetime.combine(NIGHT, datetime.min.time(), timezone.utc)
    countries = np.array(["GB", "DE", "FR", "US", "JP", "CN"])
    ids = [f"e{i:09d}" for i in range(events)]
    rows = pa.table({
        "event_id": ids,
        "event_ts": pa.array([start + timedelta(seconds=int(s)) for s in draw.integers(0, 86_000, events)], pa.timestamp("us", "UTC")),
        "event_type": draw.choice(["view", "cart", "purchase", "return"], events, p=[0.8, 0.12, 0.07, 0.01]),
        "user_id": pa.array([f"u{n}" if n % 4 else None for n in draw.integers(0, users, events)]),
        "item_id": [f"i{n}" for n in (draw.zipf(1.3, events) % items)],
        "quantity": draw.integers(1, 5, events),
        "unit_price": pa.array([Decimal(int(n)) / 100 for n in draw.integers(100, 9_999, events)], pa.decimal128(18, 4)),
        "currency": ["GBP"] * events, "country": draw.choice(countries, events),
        "event_date": pa.array([NIGHT] * events), "is_outlier": [False] * events,
        "filled": pa.array([[]] * events, pa.list_(pa.string())), **lineage(NIGHT, events, "events.csv"),
    })
    publish(lake, EVENTS, NIGHT, rows)
    publish(lake, ITEMS, NIGHT, pa.table({
        "item_id": [f"i{n}" for n in range(items)], "title": ["title"] * items, "category": [f"c{n % 12}" for n in range(items)],
        **lineage(NIGHT, items, "items.csv")}))
    publish(lake, USERS, NIGHT, pa.table({
        "user_id": [f"u{n}" for n in range(users)], "country": draw.choice(countries, users), **lineage(NIGHT, users, "users.csv")}))
    _bronze(lake)
    return settings, lake, NIGHT


def online_retail(folder: Path, real: Path) -> tuple[Settings, Lake, date]:
    """All lines of the UCI shop as one night: a first load."""
    night = date(2011, 12, 9)
    settings = shop(folder, {
        "events": ["event_id", "event_ts", "event_type", "user_id", "item_id", "quantity", "unit_price", "country"],
        "items": ["item_id", "title"],
    })
    lake = Lake(settings.places.lake)
    duckdb.sql("SET TimeZone = 'UTC'")
    raw = f"read_csv('{real}/online_retail/**/*.csv.gz', all_varchar = true, filename = true)"
    lines = duckdb.sql(f"""
        WITH lines AS (SELECT *, row_number() OVER () - 1 AS n FROM {raw})
        SELECT 'e' || n AS event_id, CAST(InvoiceDate AS TIMESTAMP) AT TIME ZONE 'UTC' AS event_ts,
               CASE WHEN CAST(Quantity AS BIGINT) < 0 THEN 'return' ELSE 'purchase' END AS event_type,
               regexp_replace(CustomerID, '\\.0$', '') AS user_id, StockCode AS item_id, CAST(Quantity AS BIGINT) AS quantity,
               greatest(CAST(UnitPrice AS DECIMAL(18, 4)), 0) AS unit_price, Country AS country,
               CAST(InvoiceDate AS DATE) AS event_date, false AS is_outlier, CAST([] AS VARCHAR[]) AS filled,
               DATE '{night}' AS delivered_on, 'lines' AS source_file, n AS source_row
        FROM lines""").to_arrow_table()
    publish(lake, EVENTS, night, lines)
    items = duckdb.sql(f"""
        SELECT StockCode AS item_id, any_value(Description) AS title, DATE '{night}' AS delivered_on, 'lines' AS source_file,
               0 AS source_row FROM {raw} GROUP BY StockCode""").to_arrow_table()
    publish(lake, ITEMS, night, items)
    _bronze(lake)
    return settings, lake, night


def _bronze(lake: Lake) -> None:
    """The layer below, with the same numbers of rows, so that totals between layers are judged too."""
    for raw in BRONZE:
        clean = next(d for d in (EVENTS, ITEMS, USERS, raw) if d.name == raw.name)
        if clean.layer == "silver":
            for partition in lake.window(clean, date(1, 1, 1), date(9999, 1, 1)):
                publish(lake, raw, partition.run_date, partition.arrow())


def by_hand(spark: Any, lake: Lake, settings: Settings, night: date) -> list[Any]:
    """The same statistics in plain Spark SQL."""
    out = []
    for entity in settings.shop.datasets:
        dataset = {"events": EVENTS, "items": ITEMS, "users": USERS}[entity]
        spark.read.schema(dataset.spark_schema()).parquet(*map(str, lake.at(dataset, night).files)).createOrReplaceTempView(entity)
    for entity in settings.shop.datasets:
        dataset = {"events": EVENTS, "items": ITEMS, "users": USERS}[entity]
        wanted = ["count(*)", f"count(DISTINCT delivered_on, {dataset.primary_key[0]})"]
        wanted += [f"count(*) - count({c.name})" for c in dataset.columns]
        for c in dataset.columns:
            if c.allowed:
                wanted.append(f"sum(if({c.name} NOT IN ({', '.join(repr(a) for a in c.allowed)}), 1, 0))")
            elif c.minimum is not None and c.maximum is not None:
                wanted.append(f"sum(if({c.name} < {c.minimum} OR {c.name} > {c.maximum}, 1, 0))")
            if c.type == "timestamp":
                wanted.append(f"max({c.name})")
        source = entity
        for reference in dataset.references:
            other = reference.to.split(".")[1]
            if other in settings.shop.datasets:
                flag = f"known_{reference.column}"
                wanted.append(f"sum(if({reference.column} IS NOT NULL AND {flag}.k IS NULL, 1, 0))")
                source += (f" LEFT JOIN (SELECT DISTINCT {reference.to_column} AS k FROM {other}) AS {flag} "
                           f"ON {entity}.{reference.column} = {flag}.k")
        scoped = [w.replace("delivered_on", f"{entity}.delivered_on") for w in wanted]
        out.append(spark.sql(f"SELECT {', '.join(scoped)} FROM {source}").collect())
        pairs = ", ".join(f"'{c}', {c}" for c in gate.r.DRIFT_COLUMNS[entity])
        n = len(gate.r.DRIFT_COLUMNS[entity])
        out.append(spark.sql(f"SELECT c, v, count(*) FROM (SELECT stack({n}, {pairs}) AS (c, v) FROM {entity}) GROUP BY c, v").collect())
    return out


def interval(values: list[float], draws: int = 4000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median, seeded."""
    draw = np.random.default_rng(1)
    medians = np.median(draw.choice(values, (draws, len(values))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def measure(name: str, settings: Settings, lake: Lake, night: date, rounds: int) -> dict[str, Any]:
    spark = session(settings, "gate_cost")
    with docs.site(settings) as context:
        run = suites.run_identifier(settings, str(night), night_end(settings, night))

        def judged() -> Any:
            return gate.judge(context, spark, lake, settings, night, night, run)

        def timed(work: Callable[[], Any]) -> float:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started

        for _ in range(3):
            last = judged()
            by_hand(spark, lake, settings, night)
        pairs = []
        for n in range(rounds):  # taking turns in going first: neither side always meets the warmer machine
            if n % 2:
                hand = timed(lambda: by_hand(spark, lake, settings, night))
                ours = timed(judged)
            else:
                ours = timed(judged)
                hand = timed(lambda: by_hand(spark, lake, settings, night))
            pairs.append((ours, hand))
        pages = timed(lambda: docs.build(context, settings, run))
    ratios = [a / b for a, b in pairs]
    low, high = interval(ratios)
    return {
        "shop": name, "rows": sum(c["clean"] for c in last.counts.values()), "rules": len(last.findings), "rounds": rounds,
        "gate_s": round(statistics.median(a for a, _ in pairs), 3), "hand_s": round(statistics.median(b for _, b in pairs), 3),
        "ratio": round(statistics.median(ratios), 2), "ratio_95": [round(low, 2), round(high, 2)], "data_docs_s": round(pages, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        cases: list[tuple[str, Callable[[Path], tuple[Settings, Lake, date]]]] = [
            (f"one night, {args.events // 120:,} events", lambda f: demo_like(f, max(200, args.events // 120))),
            (f"demo, {args.events:,} events", lambda f: demo_like(f, args.events)),
        ]
        if args.real.is_dir():
            cases.append(("UCI Online Retail, whole", lambda f: online_retail(f, args.real)))
        else:
            print(f"no published data sets at {args.real}: the UCI shop is left out", file=sys.stderr)
        for n, (name, make) in enumerate(cases):
            place = Path(folder) / str(n)
            place.mkdir()
            made.append(measure(name, *make(place), args.rounds))
            print(json.dumps(made[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
