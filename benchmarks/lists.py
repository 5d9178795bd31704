"""How long lists take: the best 20 of a large catalogue for everybody, and one shopper's list on a visit.

  python benchmarks/lists.py top       top 20 of 100,000 items for every shopper: ours against a bare matrix product and partial sort
  python benchmarks/lists.py visit     the real-time answer to a visit, by a model of the UCI shop (trained in a few minutes)

Times are CPU seconds of this process. Turns alternate; the ratio has a bootstrap interval. A virtual core that is taken away for a moment counts as
busy all the same, so each visit is asked for three times, and a sum that always costs the same is timed beside it: what its 99th percentile
is above its median is the machine's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import online_retail

from nightmarket import log as logs
from nightmarket.evaluate.protocol import Holdout
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.model import Recommender
from nightmarket.shop import PROJECT, Model

K, BLOCK = 20, 64
ASKED = 3
"""Times that a visit is asked for."""


def bare(shoppers: np.ndarray, items: np.ndarray) -> np.ndarray:
    """What anybody would write in numpy; ties fall as they may."""
    out = []
    for n in range(0, len(shoppers), BLOCK):
        scores = shoppers[n : n + BLOCK] @ items.T
        best = np.argpartition(scores, -K, axis=1)[:, -K:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        out.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(out)


def ours(shoppers: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The product's exact selection: equal scores by code, on every machine alike."""
    return np.concatenate([top_k(shoppers[n : n + BLOCK] @ items.T, K) for n in range(0, len(shoppers), BLOCK)])


def top(shoppers: int, items: int, dim: int, turns: int) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(shoppers, dim)).astype(np.float32), rng.normal(size=(items, dim)).astype(np.float32)
    if not np.array_equal(bare(left[:BLOCK], right), ours(left[:BLOCK], right)):
        raise SystemExit("the two do not answer alike")
    took: dict[str, list[float]] = {"bare": [], "ours": []}
    ways: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"bare": bare, "ours": ours}
    for _ in range(turns):
        for name, way in ways.items():
            started = time.process_time()
            way(left, right)
            took[name].append(time.process_time() - started)
    ratios = np.array(took["ours"]) / np.array(took["bare"])
    means = ratios[rng.integers(0, turns, (2000, turns))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    print(f"\ntop {K} of {items:,} items for {shoppers:,} shoppers, vectors of {dim}: bare {np.median(took['bare']):.2f} s, "
          f"ours {np.median(took['ours']):.2f} s of CPU; ratio {ratios.mean():.2f} [{low:.2f}, {high:.2f}] over {turns} turns")


def visit(data: Path, questions: int) -> None:
    sold = online_retail.sales(online_retail.lines(data / "online_retail"))
    table, items = online_retail.histories(sold), online_retail.items(sold)
    holdout = Holdout.of(date(2011, 12, 8), 28, ZoneInfo("Europe/London"))
    # how well it answers is benchmarks/recommender.py's question: few epochs cost the same look-up
    settings = Model(epochs=1)
    with tempfile.TemporaryDirectory() as work:
        standing = Recommender.fit(table, items, holdout.cut, settings, Path(work), time_zone="Europe/London").standing(table, holdout.cut)
    events = standing.signals.past.events
    rng = np.random.default_rng(1)
    known = np.unique(events.user)
    took: dict[str, list[list[float]]] = {"a visit": [], "a fixed sum": []}
    for n in range(questions + 50):
        user = str(events.user_ids[rng.choice(known)]) if n % 4 else None
        seen = [str(i) for i in events.item_ids[rng.integers(0, events.items, int(rng.integers(1, 6)))]]
        ways: dict[str, Callable[[], object]] = {
            "a visit": partial(standing.visit, user, "France", seen, 10), "a fixed sum": lambda: sum(i * i for i in range(150_000))}
        for name, way in ways.items():
            times = []
            for _ in range(ASKED):
                started = time.process_time()
                way()
                times.append(1e3 * (time.process_time() - started))
            if n >= 50:
                took[name].append(times)
    print(f"\n{events.items:,} items, {len(known):,} shoppers, {questions} questions, each asked {ASKED} times, ms of CPU:")
    for name, asked in took.items():
        values = np.array(asked)
        once, least = np.quantile(values, [0.5, 0.99]), np.quantile(values.min(axis=1), [0.5, 0.99])
        print(f"  {name:12} p50 {once[0]:.1f}, p99 {once[1]:.1f}; the least of {ASKED}: p50 {least[0]:.1f}, p99 {least[1]:.1f}")


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("top", "visit"))
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", metavar="FOLDER")
    p.add_argument("--shoppers", type=int, default=1024)
    p.add_argument("--items", type=int, default=100_000)
    p.add_argument("--dim", type=int, default=64)
    p.add_argument("--turns", type=int, default=7)
    p.add_argument("--questions", type=int, default=1000)
    args = p.parse_args(argv)
    logs.configure()
    if args.what == "top":
        top(args.shoppers, args.items, args.dim, args.turns)
    else:
        visit(args.data, args.questions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
