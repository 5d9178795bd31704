"""A model that follows the days of the UCI "Online Retail" shop beside one that does not, day after day.

A model is made from scratch on what was before the first day. Then each trading day is replayed as `jobs.update` would have it: before it
an update starts from the weights of the update before, learns all that came, older days again with the new ones, but for the newest day of a
fifth of its shoppers, who judge it. On the day three are asked about those who bought before and then, the same shoppers for all:

  as it was   the first model with the histories of then: what was published last, served on
  answers     the first model with the histories of now: answered anew, nothing learnt
  updated     the model of the update with the histories of now

NDCG@10 with 95 % bootstrap intervals over (shopper, day), repeats allowed, and paired differences. An update that the guard drops is not
taken over; its verdict is told.

Freshness, from an event to the list that knows it: the last day is fed to the stream in small files, and each cycle (micro-batch into the
lake, everybody answered anew, the lookup replaced) is timed with everything in one process. An event waits for the end of the cycle that runs
when it comes, and for the next one.

  python benchmarks/online_updates.py                                        10 trading days up to 2011-12-08
  python benchmarks/online_updates.py --days 6 --share 0.25 --set epochs=6   smaller
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import online_retail
import pandas as pd

from nightmarket import log as logs
from nightmarket.contracts import FEATURES
from nightmarket.evaluate import metrics
from nightmarket.evaluate.bootstrap import difference, mean
from nightmarket.evaluate.forgetting import lists
from nightmarket.evaluate.protocol import Holdout, Trial
from nightmarket.lake import Lake
from nightmarket.online.live import now
from nightmarket.online.stream import Intake, start
from nightmarket.online.update import harm, judges, lesson
from nightmarket.recommend.histories import Histories
from nightmarket.recommend.lookup import About, serve
from nightmarket.recommend.model import Recommender
from nightmarket.recommend.publish import publication
from nightmarket.shop import PROJECT, Blessing, Model, Online, load_shop
from nightmarket.spark import session

LAST = date(2011, 12, 8)
SHOP = """
shop: replay
time_zone: Europe/London
currency: GBP
owners: {{default: {{name: Owner, mail: [owner@example.org]}}}}
sources: {{log: {{kind: files, path: "${{root}}/landing", pattern: "{{date}}.csv", format: csv}}}}
datasets:
  events:
    source: log
    columns: {{event_id: id, event_ts: at, event_type: "'purchase'", user_id: user, item_id: item, quantity: n, unit_price: price}}
stream: {{path: "${{root}}/in", late_minutes: 1440}}
storage: {{root: {root}}}
secrets:
  pseudonym_key: {{file: keys/pseudonym.key, create: true}}
  encryption_key: {{file: keys/encryption.key, create: true}}
"""
ZONE = ZoneInfo("Europe/London")
METRIC = "ndcg@10"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data" / "online_retail", metavar="FOLDER")
    p.add_argument("--days", type=int, default=10, help="trading days replayed")
    p.add_argument("--share", type=float, default=1.0, help="of the shoppers, by a hash of their key")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of shop.yaml's model section")
    p.add_argument("--cycles", type=int, default=20, help="for freshness; 0 leaves it out")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the numbers here as JSON, after every day")
    args = p.parse_args(argv)
    logs.configure()
    settings = Model.model_validate(dict(pair.split("=", 1) for pair in args.set))
    sold = online_retail.sales(online_retail.lines(args.data))
    sold = sold[[_of(u) < args.share for u in sold["user_id"]]]
    items = online_retail.items(sold)
    local = sold["time"].dt.tz_convert(ZONE).dt.date
    days = sorted(d for d in local.unique() if d <= LAST)[-args.days:]
    start = Holdout.of(days[0], 1, ZONE).cut
    with tempfile.TemporaryDirectory() as work:
        began = time.monotonic()
        first = Recommender.fit(online_retail.histories(sold[sold["time"] < start]), items, start, settings, Path(work), time_zone=str(ZONE))
    print(f"first model: learnt up to {start:%Y-%m-%d} in {time.monotonic() - began:.0f} s", flush=True)
    updated, before = first, None
    values: dict[str, list[np.ndarray]] = {"as it was": [], "answers": [], "updated": []}
    rows: list[dict[str, Any]] = []
    for day in days:
        holdout = Holdout.of(day, 1, ZONE)
        table = online_retail.histories(sold[sold["time"] < holdout.end])
        taken, seconds, verdict = "first day", 0.0, ""
        if before is not None:
            past = online_retail.histories(sold[sold["time"] < holdout.cut])
            updated, taken, seconds, verdict = _update(past, items, before, holdout.cut, settings, updated)
        trial = Trial.of(Histories.from_table(table), holdout)
        then = replace(trial, holdout=replace(holdout, cut=start))
        today = {"as it was": _values(first, table, items, then), "answers": _values(first, table, items, trial),
                 "updated": _values(updated, table, items, trial) if updated is not first else None}
        for name in values:
            found = today[name]
            values[name].append(today["answers"] if found is None else found)  # type: ignore[arg-type]
        rows.append({"day": str(day), "shoppers": len(trial.users), "update": taken, "seconds": round(seconds, 1), "guard": verdict,
                     **{n: float(v[-1].mean()) for n, v in values.items()}})
        print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
        if args.out:
            args.out.write_text(json.dumps(rows, indent=1))
        before = day
    whole = {n: np.concatenate(v[1:]) for n, v in values.items()}
    print(f"\n{len(days) - 1} days after the first, {len(whole['updated'])} shopper-days, {METRIC}:")
    for name, found in whole.items():
        print(f"  {name:10} {mean(found, settings.bootstrap, settings.seed)}")
    for one, other in (("answers", "as it was"), ("updated", "answers"), ("updated", "as it was")):
        print(f"  {one} minus {other}: {difference(whole[one], whole[other], settings.bootstrap, settings.seed)}")
    if args.cycles:
        _freshness(sold, items, days[-1], updated, args.cycles, settings.top_k)
    return 0


def _freshness(sold: pd.DataFrame, items: Any, day: date, model: Recommender, cycles: int, top_k: int) -> None:
    """Prints the distribution of the time from event to list over events that come evenly."""
    holdout = Holdout.of(day, 1, ZONE)
    fed = sold[(sold["time"] >= holdout.cut) & (sold["time"] < holdout.end)].sort_values("time", kind="stable").reset_index(drop=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "shop.yaml").write_text(SHOP.format(root=root / "root"))
        settings = load_shop(root / "shop.yaml")
        lake, source = Lake(settings.places.lake), settings.places.root / "in"
        source.mkdir(parents=True)
        with lake.writer(FEATURES, [day - timedelta(days=1)]) as writer:
            writer.stage_arrow(day - timedelta(days=1), online_retail.histories(sold[sold["time"] < holdout.cut]))
            writer.publish(day - timedelta(days=1), inputs=[], settings="benchmark", code="benchmark")
        spark = session(settings, "benchmark")
        intake = Intake(settings, lake, settings.places.work / "stream", day)
        seconds: list[float] = []
        for n, part in enumerate(np.array_split(np.arange(len(fed)), cycles)):
            lines = [json.dumps({"id": f"{n}-{i}", "at": r.time.isoformat(), "user": r.user_id, "item": r.item_id, "n": str(r.Quantity), "price": str(r.UnitPrice)})
                     for i, r in enumerate(fed.iloc[part].itertuples())]
            (source / f".{n}").write_text("\n".join(lines) + "\n")
            (source / f".{n}").rename(source / f"{n:04d}.jsonl")
            began = time.monotonic()
            start(spark, intake, None).awaitTermination()
            known = now(lake, day)
            made = publication(model, known.histories, items, known.as_of, top_k, "recommender", "1", settings.shop.lists)
            serve(settings.places.root / "published", made.rows, About(day, "recommender", "1", f"{n:024d}"))
            seconds.append(time.monotonic() - began)
        taken = sum(t.rows_out for t in intake.taken)
        spark.stop()
    warm = np.array(seconds[1:])  # the first one starts Python workers and compiles
    rng = np.random.default_rng(17)
    at = rng.integers(0, len(warm) - 1, 100_000)
    waits = warm[at] * rng.random(len(at)) + warm[at + 1]
    print(f"freshness over {len(warm)} cycles, {taken} of {len(fed)} events, {known.histories.num_rows} shoppers answered in each: a cycle takes "
          f"{np.median(warm):.1f} s at the median, {warm.max():.1f} s at most; from event to served list {np.median(waits):.1f} s at the median, "
          f"{np.quantile(waits, 0.99):.1f} s at the 99th percentile")


def _update(
    past: Any, items: Any, before: date, cut: datetime, settings: Model, parent: Recommender,
) -> tuple[Recommender, str, float, str]:
    """(model that serves from now on, what became of the update, seconds of learning, the guard's word)."""
    trial = judges(Trial.of(Histories.from_table(past), Holdout(Holdout.of(before, 1, ZONE).cut, cut)), Online().holdout_share, settings.minimum_users)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as work:
            made = Recommender.fit(lesson(past, trial), items, cut, settings, Path(work), time_zone=str(ZONE), warm=parent, refresh=False)
    except ValueError as error:
        return parent, f"not made: {error}", 0.0, ""
    seconds = time.monotonic() - began
    if not len(trial.users):
        return parent, "dropped", seconds, "nobody could be asked about the newest day"
    apart = difference(_values(made, past, items, trial), _values(parent, past, items, trial), settings.bootstrap, settings.seed)
    bad = harm(apart, Blessing().margin)
    return (parent, "dropped", seconds, bad) if bad else (made, "taken", seconds, str(apart))


def _of(user: str) -> float:
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=4).digest(), "big") / 2**32


def _values(model: Recommender, table: Any, items: Any, trial: Trial) -> np.ndarray:
    found = lists(model, table, items, trial, np.arange(len(trial.users)))
    shares = np.full(trial.histories.items, 0.5)
    return metrics.per_user(found, trial.truth, shares)[METRIC]


if __name__ == "__main__":
    sys.exit(main())
