"""Questions for a newcomer on the UCI "Online Retail" shop: what ten answers are worth, by how the questions were chosen.

Likings are learnt from purchases before the cut. Shoppers whose first purchase is at or after it are the newcomers: they answer
truthfully whether they buy an asked product in the 28 days from the cut, and everything that was not asked is ranked by the expected
liking after the answers. NDCG@10 over the products bought, the asked ones left out for every way of choosing alike; mean over newcomers
with its 95 % bootstrap interval, and the paired difference of ours to each.

  python benchmarks/onboarding.py [--questions 10] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import online_retail

from nightmarket.recommend.histories import DAY, PURCHASE, Histories
from nightmarket.recommend.onboarding import Likings, questions
from nightmarket.shop import PROJECT

CUT = datetime.combine(date(2011, 11, 11), datetime.min.time(), ZoneInfo("Europe/London"))


def ndcg(scores: np.ndarray, bought: set[int], left_out: set[int], k: int = 10) -> float:
    order = [int(n) for n in np.argsort(-scores, kind="stable") if int(n) not in left_out][:k]
    best = sum(1 / np.log2(r + 2) for r in range(min(k, len(bought))))
    return sum(1 / np.log2(r + 2) for r, n in enumerate(order) if n in bought) / best


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data" / "online_retail", metavar="FOLDER")
    p.add_argument("--questions", type=int, default=10)
    p.add_argument("--back", type=int, default=0, metavar="DAYS", help="move the cut this many days into the past")
    args = p.parse_args(argv)
    histories = Histories.from_table(online_retail.histories(online_retail.sales(online_retail.lines(args.data))))
    cut = (CUT - timedelta(days=args.back)).timestamp()
    likings = Likings.of(histories, cut)
    place = {i: n for n, i in enumerate(likings.items)}
    new = np.setdiff1d(histories.user, histories.before(cut).user)
    future = histories.between(cut, cut + 28 * DAY).of(PURCHASE)
    bought = {int(u): {place[i] for i in histories.item_ids[future.item[future.user == u]] if i in place} for u in new}
    rng = np.random.default_rng(17)
    by_liking = np.argsort(-likings.mean, kind="stable")
    spread = likings.mean * (1 - likings.mean)
    ways = {
        "most telling (ours)": [place[i] for i in questions(likings, args.questions).items],
        "most popular": list(by_liking[: args.questions]),
        "least certain": list(np.argsort(-spread, kind="stable")[: args.questions]),
        "any of the 200 best known": list(rng.choice(by_liking[:200], args.questions, replace=False)),
    }
    asked_by_any = {int(n) for way in ways.values() for n in way}
    judged = [u for u in bought if bought[u] - asked_by_any]
    found: dict[str, np.ndarray] = {}
    for name, asked in {**ways, "nothing asked": []}.items():
        ids = [str(likings.items[n]) for n in asked]
        found[name] = np.array([
            ndcg(likings.expected(ids, [n in bought[u] for n in asked]), bought[u] - asked_by_any, asked_by_any) for u in judged])
    print(f"{len(judged)} newcomers, {len(likings.items)} products, {args.questions} questions, cut {(CUT - timedelta(days=args.back)).date()}\n")
    draws = rng.integers(0, len(judged), (2000, len(judged)))
    ours = found["most telling (ours)"]
    for name, values in sorted(found.items(), key=lambda kv: -kv[1].mean()):
        low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
        apart = (ours - values)[draws].mean(axis=1)
        ends = np.quantile(apart, (0.025, 0.975))
        print(f"{name:28} {values.mean():.4f} [{low:.4f}, {high:.4f}]   ours - it {np.mean(ours - values):+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
