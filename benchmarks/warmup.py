"""The warm-up policies on logged recommendations with true propensities (ZOZOTOWN, `open_bandit`), with intervals.

  value     learnt on the first half of the randomly shown log, judged on the second by IPS and SNIPS
  replay    learning while it goes through the random log, over shuffles of it
  regret    a shop whose items are clicked as often as in the log: cumulative regret simulated from those rates, with one context and no exposure bound
  questions how well few answers tell a newcomer's taste: the most informative items against popular and random ones

  python benchmarks/warmup.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from nightmarket.recommend.warmup import LinUcb, Policy, Thompson, ips, questions, regret, replay, snips_interval, taste
from nightmarket.shop import PROJECT


def contexts(log: pd.DataFrame, width: int = 12) -> np.ndarray:
    """(n, d): a constant, and each user feature's most frequent values as 0 or 1."""
    parts = [np.ones(len(log))]
    for column in (c for c in log if c.startswith("user_feature")):
        parts += [(log[column] == v).to_numpy(np.float64) for v in log[column].value_counts().index[: width // 4]]
    return np.stack(parts, axis=1)


def spread(values: list[float] | np.ndarray) -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{np.mean(values):.5f} [{low:.5f}, {high:.5f}]"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", metavar="FOLDER")
    p.add_argument("--seed", type=int, default=17)
    p.add_argument("--shuffles", type=int, default=20)
    p.add_argument("--rounds", type=int, default=20_000)
    args = p.parse_args(argv)
    whole = pd.read_parquet(args.data / "open_bandit" / "obd_men_women.parquet")
    for campaign, part in whole.groupby("campaign"):
        log = part[part["policy"] == "random"].sort_values("timestamp", kind="stable").reset_index(drop=True)
        thompson_log = part[part["policy"] == "bts"]
        items = int(part["item_id"].max()) + 1
        shown, reward = log["item_id"].to_numpy(), log["click"].to_numpy(np.float64)
        chance = log["propensity_score"].to_numpy()
        x = contexts(log)
        rate = reward.mean()
        print(f"\n{campaign}: {len(log)} rows shown at random, {items} items, click rate {spread_of_mean(reward, args.seed)}; "
              f"as logged under Thompson sampling {spread_of_mean(thompson_log['click'].to_numpy(np.float64), args.seed)} ({len(thompson_log)} rows)")
        half = len(log) // 2
        prior = (max(rate * 50, 1e-3), 50 * (1 - rate))
        learnt = Thompson(items, prior, args.seed)
        linear = LinUcb(items, x.shape[1], alpha=0.1, ridge=10.0)
        for n in range(half):
            learnt.learn(int(shown[n]), reward[n])
            linear.learn(int(shown[n]), reward[n], x[n])
        later = slice(half, None)
        greedy = np.array([int(np.argmax(linear.bounds(c))) for c in x[later]])
        # LinUCB is deterministic: a tenth of it is made uniform, so that every row carries some weight
        wanted = {"uniform": np.full(len(log) - half, 1.0 / items), "Thompson": learnt.chances(20_000)[shown[later]],
                  "LinUCB (0.9) and uniform (0.1)": 0.9 * (greedy == shown[later]) + 0.1 / items}
        for name, want in wanted.items():
            terms = ips(reward[later], chance[later], want)
            value, low, high = snips_interval(reward[later], chance[later], want)
            print(f"  value   {name:32} IPS {spread_of_mean(terms, args.seed)}  SNIPS {value:.5f} [{low:.5f}, {high:.5f}]")
        makers = _makers(items, prior, x.shape[1])
        for name, make in makers.items():
            found = [replay(make(s), shown, reward, x, np.random.default_rng(s).permutation(len(log))) for s in range(args.shuffles)]
            print(f"  replay  {name:32} click rate {spread([f.reward.mean() for f in found])} over {args.shuffles} shuffles, "
                  f"about {np.mean([len(f.reward) for f in found]):.0f} of {len(log)} rows agreed")
        clicks = np.bincount(shown, weights=reward, minlength=items)
        rates = (clicks + prior[0]) / (np.bincount(shown, minlength=items) + sum(prior))
        for name, make in makers.items():
            ends = np.array([regret(make(s), rates, args.rounds, s, contexts=_constant(x.shape[1]))[-1] for s in range(10)])
            print(f"  regret  {name:32} {spread(ends)} clicks in {args.rounds} shows (of {rates.max() * args.rounds:.0f} at best)")
    _questions(args.seed)
    return 0


def _makers(items: int, prior: tuple[float, float], dim: int) -> dict[str, Callable[[int], Policy]]:
    """By name, a function of a seed to a policy that knows nothing yet."""
    return {"uniform": lambda s: _Uniform(items, s), "Thompson": lambda s: Thompson(items, prior, s),
            "LinUCB": lambda s: LinUcb(items, dim, 0.1, 10.0)}


def _constant(dim: int) -> Callable[[np.random.Generator], np.ndarray]:
    """A context that tells nothing: 1 and zeros."""
    return lambda _: np.eye(1, dim)[0]


class _Uniform:
    def __init__(self, items: int, seed: int):
        self.items, self.rng = items, np.random.default_rng(seed)

    def choose(self, context: np.ndarray | None, allowed: np.ndarray | None = None) -> int:
        return int(self.rng.integers(self.items))

    def learn(self, item: int, reward: float, context: np.ndarray | None = None) -> None:
        return


def spread_of_mean(values: np.ndarray, seed: int) -> str:
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(1000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.5f} [{low:.5f}, {high:.5f}]"


def _questions(seed: int) -> None:
    """Newcomers with a known taste over made-up items: correlation of said and true liking of the items not asked about."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(500, 8)) * rng.uniform(0.3, 2.0, (500, 1))
    familiarity = np.clip(rng.beta(1, 3, 500), 0.01, 1.0)
    people = rng.normal(size=(300, 8))
    for k in (3, 5, 10):
        picks = {"informative": questions(vectors, familiarity, k)[0], "popular": np.argsort(-familiarity)[:k],
                 "random": rng.choice(500, k, replace=False)}
        said = {}
        for name, asked in picks.items():
            answered = rng.random((len(people), k)) < familiarity[asked]
            liking = people @ vectors[asked].T + rng.normal(size=(len(people), k))
            guess = np.stack([taste(vectors[asked][a], v[a]) for a, v in zip(answered, liking, strict=True)])
            rest = np.setdiff1d(np.arange(500), np.concatenate(list(picks.values())))
            true, told = people @ vectors[rest].T, guess @ vectors[rest].T
            each = [np.corrcoef(a, b)[0, 1] if b.std() > 0 else 0.0 for a, b in zip(true, told, strict=True)]
            said[name] = spread_of_mean(np.array(each), seed)
        print(f"questions  {k:2} asked: correlation with the true liking " + ", ".join(f"{n} {v}" for n, v in said.items()))


if __name__ == "__main__":
    sys.exit(main())
