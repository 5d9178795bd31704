"""The recommender against its baselines on the UCI "Online Retail" shop, in one process, with intervals.

Protocol: known customers, sales only; train before 2011-11-11, test the 28 days from then; every item seen in training is a
candidate, repeats allowed; shoppers with purchases on both sides. Nothing is chosen on the test window.

  python benchmarks/recommender.py                     the published protocol
  python benchmarks/recommender.py --back 28           the same 28 days earlier: where to choose settings
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import online_retail

from nightmarket import log as logs
from nightmarket.evaluate.judge import CHALLENGER, judge
from nightmarket.evaluate.protocol import Holdout, Trial
from nightmarket.recommend.histories import Histories
from nightmarket.recommend.model import Recommender
from nightmarket.shop import PROJECT, Model

LAST = date(2011, 12, 8)
METRICS = ("ndcg@10", "recall@20", "mrr", "hit_rate@10", "coverage@20", "novelty@20")


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data" / "online_retail", metavar="FOLDER")
    p.add_argument("--back", type=int, default=0, metavar="DAYS", help="move the whole protocol this many days into the past")
    p.add_argument("--seed", type=int, default=Model().seed)
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of shop.yaml's model section")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the numbers here as JSON")
    args = p.parse_args(argv)
    logs.configure()
    settings = Model.model_validate({"seed": args.seed} | dict(pair.split("=", 1) for pair in args.set))
    frame = online_retail.lines(args.data)
    sold = online_retail.sales(frame)
    table, items = online_retail.histories(sold), online_retail.items(sold)
    holdout = Holdout.of(LAST - timedelta(days=args.back), settings.holdout_days, ZoneInfo("Europe/London"))
    trial = Trial.of(Histories.from_table(table), holdout)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        model = Recommender.fit(table, items, holdout.cut, settings, Path(work), time_zone="Europe/London")
    fitted = time.monotonic() - started
    found = judge(table, items, trial, {CHALLENGER: (None, model)}, args.seed, settings.bootstrap, slice_users=50)
    judged = time.monotonic() - started - fitted
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{len(trial.users)} shoppers, {trial.allowed.sum()} items, cut {holdout.cut:%Y-%m-%d}, {settings.holdout_days} days; "
          f"fit {fitted:.0f} s, judge {judged:.0f} s, peak {peak:.0f} MiB\n")
    print(f"{'':22}" + "".join(f"{m:>26}" for m in METRICS))
    for name in sorted(found.table, key=lambda n: -found.table[n]["all"]["ndcg@10"].value):
        print(f"{name:22}" + "".join(f"{found.table[name]['all'][m]!s:>26}" for m in METRICS))
    print("\nndcg@10, challenger minus each, same shoppers:")
    for name, by_slice in found.differences.items():
        print(f"  {name:20} {by_slice['all']['ndcg@10']}")
    print("\nndcg@10 of the challenger by slice:")
    for label, by_metric in found.table[CHALLENGER].items():
        print(f"  {label:28} {by_metric['ndcg@10']}  ({by_metric['ndcg@10'].users})")
    for task, by_metric in found.head_table[CHALLENGER].items():
        print(f"\n{task}: " + ", ".join(f"{m} {i}" for m, i in by_metric.items()))
    if args.out:
        args.out.write_text(json.dumps({
            "cut": holdout.cut.isoformat(), "days": settings.holdout_days, "seed": args.seed, "fit_seconds": round(fitted, 1),
            "judge_seconds": round(judged, 1), "peak_mb": round(peak), "rows": found.rows().to_pylist(),
        }, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
