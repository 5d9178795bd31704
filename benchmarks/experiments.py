"""Experiments on shoppers that are made up, where the truth is known, and off-policy estimates on a log whose true value is.

  peeking     false alarms over 28 nights of looking, at a nominal 5 %: always-valid test, and the fixed test looked at nightly, for a metric
              that is bought-or-not, one that is heavy-tailed, and one of few buyers; and with a mistaken split for the ratio check
  power       nights until a true change is found, against the plan of the power calculation; with and without CUPED
  harm        a canary of 5 %, 20 %, 50 %, 100 % of traffic split in halves: largest share of traffic that a planted harm reached
  canary      the same without harm: nights until all of the traffic takes part
  off-policy  ZOZOTOWN (`open_bandit`): each of the two logged policies estimated from the other one's log, against its own log's mean

  python benchmarks/experiments.py [--runs 2000] [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from nightmarket.online.experiments import compare, judge
from nightmarket.online.offpolicy import Log, estimates, logistic, shrunken_means
from nightmarket.online.sequential import mismatch, sample_size
from nightmarket.shop import PROJECT

LEVEL, NIGHTS = 0.05, 28
Draw = Callable[[np.random.Generator, tuple[int, ...], float], tuple[np.ndarray, np.ndarray]]
"""(rng, shape, relative change) -> value and what the shopper did before."""


def bought(rate: float) -> Draw:
    """Bought or not; a shopper's own propensity shows before and after."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], change: float) -> tuple[np.ndarray, np.ndarray]:
        own = rng.beta(rate * 4, (1 - rate) * 4, shape)
        before = rng.binomial(4, own).astype(float)
        return (rng.random(shape) < np.minimum(own * (1 + change), 1)).astype(float), before

    return draw


def spent(rng: np.random.Generator, shape: tuple[int, ...], change: float) -> tuple[np.ndarray, np.ndarray]:
    """Money: most spend nothing, the rest log-normally, some a hundred times what others do."""
    own = rng.normal(0, 0.8, shape)
    spends = rng.random(shape) < 0.3
    value = np.where(spends, np.exp(2 + own + rng.normal(0, 0.8, shape)) * (1 + change), 0.0)
    before = np.where(rng.random(shape) < 0.5, np.exp(2 + own + rng.normal(0, 0.8, shape)), 0.0)
    return value, before


def nightly(rng: np.random.Generator, draw: Draw, runs: int, a_night: int, change: float, cuped: bool = True, nights: int = NIGHTS) -> np.ndarray:
    """(runs, nights, 2, 7) cumulative sums of `runs` simulated experiments with `a_night` shoppers an arm and night."""
    made = np.zeros((runs, nights, 2, 7))
    for arm in (0, 1):
        y, x = draw(rng, (runs, nights, a_night), change if arm else 0.0)
        x = x if cuped else np.zeros_like(x)
        for place, part in enumerate((np.ones_like(y), y, x, y * y, x * x, x * y, y != 0)):
            made[:, :, arm, place] = part.sum(axis=2)
    return np.cumsum(made, axis=1)


def rate(found: np.ndarray) -> str:
    """A share with its 95 % Clopper-Pearson interval."""
    k, n = int(found.sum()), len(found)
    low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{k / n:.4f} [{low:.4f}, {high:.4f}]"


def peeking(runs: int, seed: int) -> None:
    draws: dict[str, tuple[Draw, int]] = {"bought, 20 %": (bought(0.2), 50), "bought, 2 %": (bought(0.02), 100), "spent": (spent, 50)}
    for name, (draw, a_night) in draws.items():
        rng = np.random.default_rng(seed)
        always, once, final = [], [], []
        for part in np.array_split(np.arange(runs), max(1, runs // 250)):
            compared = compare(nightly(rng, draw, len(part), a_night, 0.0), 1)
            planned = 14 * a_night / 2
            seen = judge(compared, planned, LEVEL)
            z = np.abs(compared.difference) / np.sqrt(np.maximum(compared.variance, 1e-30))
            beyond = (z > stats.norm.ppf(1 - LEVEL / 2)) & compared.ready
            always.append(seen.p_value[:, -1] <= LEVEL)
            once.append(beyond.any(axis=1))
            final.append(beyond[:, -1])
        print(f"peeking  {name:14} {NIGHTS} nights x {a_night} shoppers an arm, {runs} runs: always-valid {rate(np.concatenate(always))}, "
              f"fixed test every night {rate(np.concatenate(once))}, fixed test once at the end {rate(np.concatenate(final))}")
    rng = np.random.default_rng(seed)
    for true in (0.5, 0.48):
        counts = np.cumsum(rng.binomial(400, true, (runs, NIGHTS)), axis=1)
        total = 400 * np.arange(1, NIGHTS + 1)
        found = [mismatch(np.stack([total - c, c], axis=1), (0.5, 0.5)) for c in counts]
        at_once = np.array([any(stats.chisquare([t - k, k]).pvalue < 0.001 for t, k in zip(total, c, strict=True)) for c in counts[:500]])
        print(f"peeking  split {true:.2f} of 0.50, 400 a night: always-valid check below 0.001 {rate(np.array([m.found for m in found]))}, "
              f"chi-square every night {rate(at_once)} (500 runs)")


def power(runs: int, seed: int) -> None:
    change = 0.10
    for name, draw in {"bought, 20 %": bought(0.2), "spent": spent}.items():
        rng = np.random.default_rng(seed)
        y, x = draw(rng, (200_000,), 0.0)
        explained = float(np.corrcoef(x, y)[0, 1] ** 2)
        for cuped in (True, False):
            size = sample_size(y.mean(), y.std(), change, LEVEL, 0.8, explained=explained if cuped else 0.0)
            a_night = -(-size.always // 14)
            won, when = [], []
            for part in np.array_split(np.arange(runs), max(1, runs // 50)):
                seen = judge(compare(nightly(rng, draw, len(part), a_night, change, cuped, 14), 1), size.always / 2, LEVEL)
                found = seen.low > 0
                won.append(found.any(axis=1))
                when.append(np.where(found.any(axis=1), found.argmax(axis=1) + 1, 14))
            nights = np.concatenate(when)
            print(f"power    {name:14} {'with CUPED' if cuped else 'without':11} +{change:.0%}: planned {size.always} an arm ({size.once} for one look); found by then "
                  f"{rate(np.concatenate(won))}; stops after {np.mean(nights) / 14:.0%} of it on average, half of the runs by {np.median(nights) / 14:.0%}")


CANARY = (0.05, 0.2, 0.5, 1.0)


def canary(runs: int, seed: int, change: float, tolerance: float, a_night: int, nights: int = 42) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(largest share of all traffic in the treatment, night of the stop, night of full enrolment), each (runs,); 0 where there was none.

    The rules of `experiments.assess` for a guardrail that 20 % meet; a step lasts a night at least and `a_night` new shoppers come.
    """
    rng = np.random.default_rng(seed)
    size = sample_size(0.2, 0.4, tolerance, LEVEL, 0.8).always / 2
    step, stops, fulls = np.zeros(runs, int), np.zeros(runs), np.zeros(runs)
    total = np.zeros((runs, 1, 2, 7))
    for night in range(1, nights + 1):
        going = stops == 0
        each = np.where(going, (a_night * np.asarray(CANARY)[step] / 2).astype(int), 0)
        for arm in (0, 1):
            met = rng.binomial(each, 0.2 * (1 + (change if arm else 0.0)))
            zero = np.zeros(runs)
            total[:, 0, arm] += np.stack([each, met, zero, met, zero, zero, met], axis=1)
        hurt = judge(compare(total, 1), size, LEVEL).high[:, -1] < 0
        held = judge(compare(total, 1, 1 - tolerance), size, LEVEL).low[:, -1] > 0
        stops = np.where(going & hurt, night, stops)
        step = np.where(going & ~hurt & held, np.minimum(step + 1, len(CANARY) - 1), step)
        fulls = np.where((fulls == 0) & going & ~hurt & (step == len(CANARY) - 1), night + 1, fulls)
    return np.asarray(CANARY)[step] / 2, stops, fulls


def harm(runs: int, seed: int) -> None:
    for a_night in (5_000, 20_000):
        for change in (-0.05, -0.10, -0.20, -0.40):
            shares, stops, _ = canary(runs, seed, change, 0.10, a_night)
            when = f", at the median on night {np.median(stops[stops > 0]):.0f}" if (stops > 0).any() else ""
            print(f"harm     {change:+.0%} with a tolerance of 10 %, {a_night} shoppers a night: reached half of the traffic in {rate(shares >= 0.5)} of "
                  f"{runs} runs; stopped within 42 nights in {rate(stops > 0)}{when}; largest share "
                  + ", ".join(f"{s / 2:.1%}: {np.mean(shares == s / 2):.1%} of runs" for s in CANARY))
        shares, stops, fulls = canary(runs, seed, 0.0, 0.10, a_night)
        when = f", at the median from night {np.median(fulls[fulls > 0]):.0f}" if (fulls > 0).any() else ""
        print(f"canary   no harm, {a_night} shoppers a night: all of the traffic takes part in {rate(fulls > 0)} of {runs} runs{when}; stopped by mistake in {rate(stops > 0)}")


def off_policy(data: Path, seed: int) -> None:
    whole = pd.read_parquet(data / "open_bandit" / "obd_men_women.parquet")
    for campaign, part in whole.groupby("campaign"):
        items = int(part["item_id"].max()) + 1
        for target, logged in (("random", "bts"), ("bts", "random")):
            rows = part[part["policy"] == logged].reset_index(drop=True)
            own = part[part["policy"] == target]
            chances = wanted(part, target, items)
            position = rows["position"].to_numpy() - 1
            # three places of a page are logged, one row each
            log = Log(rows["item_id"].to_numpy(), rows["click"].to_numpy(float), rows["propensity_score"].to_numpy(), features(rows), items)
            aim = chances[position]
            truth = own["click"].to_numpy(float)
            boot = np.random.default_rng(seed).binomial(len(truth), truth.mean(), 4000) / len(truth)
            print(f"off-policy  {campaign:6} value of {target:6} from {len(rows)} rows of {logged:6}: its own log says {truth.mean():.5f} "
                  f"[{np.quantile(boot, 0.025):.5f}, {np.quantile(boot, 0.975):.5f}] ({len(truth)} rows)")
            for model, make in (("means", shrunken_means(items)), ("logistic", logistic(items))):
                found = estimates(log, aim, make, seed=seed)
                for name, estimate in found.items():
                    if model == "logistic" and name != "doubly robust":
                        continue
                    # two independent logs: the difference's interval holds 0 where the estimate agrees with the truth
                    half = np.hypot((estimate.high - estimate.low) / 2, (np.quantile(boot, 0.975) - np.quantile(boot, 0.025)) / 2)
                    agrees = abs(estimate.value - truth.mean()) <= half
                    label = f"{name} ({model})" if name == "doubly robust" else name
                    print(f"              {label:24} {estimate}  error {estimate.value - truth.mean():+.5f}, {'within' if agrees else 'BEYOND'} its interval")


def wanted(part: pd.DataFrame, policy: str, items: int) -> np.ndarray:
    """(positions, K) chances of each item under a policy; Thompson's from its own log's propensities (no clicks of it are looked at)."""
    places = int(part["position"].max())
    if policy == "random":
        return np.full((places, items), 1 / items)
    own = part[part["policy"] == policy]
    chances = own.groupby(["position", "item_id"])["propensity_score"].mean().unstack(fill_value=0.0).reindex(columns=range(items), fill_value=0.0)
    made = chances.to_numpy()
    return made / made.sum(axis=1, keepdims=True)


def features(rows: pd.DataFrame, kept: int = 4) -> np.ndarray:
    """(n, d) the commonest values of each user feature and the position, as 0 or 1."""
    columns = [(rows[c] == v).to_numpy(float) for c in rows if c.startswith("user_feature") for v in rows[c].value_counts().index[:kept]]
    columns += [(rows["position"] == p).to_numpy(float) for p in sorted(rows["position"].unique())[1:]]
    return np.stack(columns, axis=1)


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", metavar="FOLDER")
    p.add_argument("--seed", type=int, default=17)
    p.add_argument("--runs", type=int, default=2000)
    args = p.parse_args(argv)
    peeking(args.runs, args.seed)
    power(min(args.runs, 500), args.seed)
    harm(min(args.runs, 1000), args.seed)
    if args.data.is_dir():
        off_policy(args.data, args.seed)
    else:
        print(f"off-policy  not measured: no published data at {args.data}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
