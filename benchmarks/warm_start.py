"""A warm start each night beside training from scratch, on consecutive nights of the UCI "Online Retail" shop.

The first night is trained from scratch. Every night after it is trained twice: by a warm start from the night before (a chain of them), and from
scratch. Both are judged on the night's own frozen holdout, the same shoppers, paired intervals over them. Seconds are of CPU.

  python benchmarks/warm_start.py                                        14 nights up to 2011-12-08: hours
  python benchmarks/warm_start.py --nights 3 --share 0.25 --set epochs=6 a quarter of the shoppers, smaller
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import online_retail
import pyarrow as pa

from nightmarket import log as logs
from nightmarket.evaluate import metrics
from nightmarket.evaluate.bootstrap import difference, mean
from nightmarket.evaluate.forgetting import lists, lost, older
from nightmarket.evaluate.protocol import Holdout, Trial
from nightmarket.recommend.histories import Histories
from nightmarket.recommend.model import Recommender
from nightmarket.shop import PROJECT, Model

LAST = date(2011, 12, 8)
ZONE = ZoneInfo("Europe/London")
METRIC = "ndcg@10"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data" / "online_retail", metavar="FOLDER")
    p.add_argument("--nights", type=int, default=14)
    p.add_argument("--share", type=float, default=1.0, help="of the shoppers, by a hash of their key")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of shop.yaml's model section")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the numbers here as JSON, after every night")
    args = p.parse_args(argv)
    logs.configure()
    settings = Model.model_validate(dict(pair.split("=", 1) for pair in args.set))
    sold = online_retail.sales(online_retail.lines(args.data))
    sold = sold[[_of(u) < args.share for u in sold["user_id"]]]
    items = online_retail.items(sold)
    before: Recommender | None = None
    rows: list[dict[str, Any]] = []
    for n in range(args.nights + 1):
        night = LAST - timedelta(days=args.nights - n)
        holdout = Holdout.of(night, settings.holdout_days, ZONE)
        table = online_retail.histories(sold[sold["time"] < holdout.end])
        scratch, seconds = _fit(table, items, holdout, settings, None)
        if before is None:
            before = scratch
            continue
        warm, warm_seconds = _fit(table, items, holdout, settings, before)
        trial = Trial.of(Histories.from_table(table), holdout)
        values = {name: _values(m, table, items, trial) for name, m in (("warm", warm), ("scratch", scratch))}
        forgot = lost(table, items, older(holdout.cut - timedelta(days=1 + settings.fit_days // 4), settings.holdout_days, ZONE), warm, before, METRIC, settings.seed, settings.bootstrap)
        one, other = (mean(values[k], settings.bootstrap, settings.seed) for k in ("warm", "scratch"))
        apart = difference(values["warm"], values["scratch"], settings.bootstrap, settings.seed)
        rows.append({"night": night.isoformat(), "shoppers": len(trial.users), "warm": vars(one), "scratch": vars(other), "difference": vars(apart),
                     "warm_seconds": round(warm_seconds, 1), "scratch_seconds": round(seconds, 1), "older_days": vars(forgot) if forgot else None})
        print(f"{night}  warm {one}  scratch {other}  difference {apart}  {warm_seconds:.0f} s of {seconds:.0f} s "
              f"({warm_seconds / seconds:.0%})  older days {forgot}", flush=True)
        if args.out:
            args.out.write_text(json.dumps(rows, indent=1))
        before = warm
    ratio = np.mean([r["warm"]["value"] for r in rows]) / np.mean([r["scratch"]["value"] for r in rows])
    took = sum(r["warm_seconds"] for r in rows) / sum(r["scratch_seconds"] for r in rows)
    print(f"\n{len(rows)} nights: warm has {ratio:.1%} of the {METRIC} from scratch in {took:.0%} of its time")
    return 0


def _of(user: str) -> float:
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=4).digest(), "big") / 2**32


def _fit(table: pa.Table, items: pa.Table, holdout: Holdout, settings: Model, warm: Recommender | None) -> tuple[Recommender, float]:
    started = time.process_time()  # of all threads: what else the machine does must not count
    with tempfile.TemporaryDirectory() as work:
        model = Recommender.fit(table, items, holdout.cut, settings, Path(work), time_zone=str(ZONE), warm=warm)
    return model, time.process_time() - started


def _values(model: Recommender, table: pa.Table, items: pa.Table, trial: Trial) -> np.ndarray:
    """(shoppers,) NDCG@10."""
    shares = np.ones(trial.histories.items)
    return metrics.per_user(lists(model, table, items, trial, np.arange(len(trial.users))), trial.truth, shares)[METRIC]


if __name__ == "__main__":
    sys.exit(main())
