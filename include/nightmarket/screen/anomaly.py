"""Strangeness without labels: how far out in the tails a row lies, an isolation forest, and the company that it keeps.

The tails see one feature at a time (after ECOD; Li et al., 2022), on the side that is suspicious for its kind: much, often, shared,
unfamiliar, soon. Their surprise is -log of the share of usual rows as far out, and counts the more the further the row lies beyond
where a normal distribution would have that share: the ends of an ordinary distribution are chance, and where a few rows lie far from
all others, something made them. Of features that say nearly the same the strongest counts. The forest (Liu et al., 2008) adds what
is strange only together. A row whose entities' last rows were strange is more so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightmarket.screen import features
from nightmarket.screen.features import Recipe
from nightmarket.screen.forest import Forest, fit_forest
from nightmarket.screen.table import Rows

_SAMPLE = 50_000
_PLAIN = 0.5
"""What surprise counts where a tail is no further out than a normal distribution's."""
_STRONG = 6.0
"""Surprise from which on a row taints its entities' later ones."""


@dataclass(frozen=True)
class Strangeness:
    columns: np.ndarray
    """Features that are looked at."""
    sides: np.ndarray
    """1: much is suspicious, -1: little is, 0: both are."""
    groups: np.ndarray
    """Which features say nearly the same."""
    weights: np.ndarray
    """(f,) below 1 where an entity has no habit to be far from."""
    logs: np.ndarray
    """(f,) bool: the logarithm is nearer to a normal distribution."""
    scales: np.ndarray
    """(f, 3) median, and width of the upper and the lower side."""
    forest: Forest | None
    ladder: np.ndarray
    """(q, f) quantiles of what is usual."""
    levels: np.ndarray

    def tails(self, X: np.ndarray) -> np.ndarray:
        """(n, f) weighted surprise of each feature."""
        found = np.zeros((len(X), len(self.columns)), np.float32)
        for k, f in enumerate(self.columns):
            values = X[:, f].astype(np.float64)
            plain = _shape(values, bool(self.logs[k]))
            middle, above, below = self.scales[k]
            upper = _surprise(values, self.ladder[:, k], self.levels, (plain - middle) / above) if self.sides[k] >= 0 else 0.0
            lower = _surprise(-values, -self.ladder[::-1, k], 1 - self.levels[::-1], (middle - plain) / below) if self.sides[k] <= 0 else 0.0
            found[:, k] = np.where(np.isfinite(values), np.maximum(upper, lower), 0) * self.weights[k]
        return found

    def alone(self, X: np.ndarray) -> np.ndarray:
        """(n,) surprise of each row by itself."""
        surprise = self.tails(X)
        strongest = np.zeros((len(X), int(self.groups.max(initial=-1)) + 2), np.float32)
        for k, group in enumerate(self.groups):
            np.maximum(strongest[:, group], surprise[:, k], out=strongest[:, group])
        strongest.sort(axis=1)
        total = strongest[:, -1] + 0.25 * np.maximum(strongest[:, :-1] - 4, 0).sum(1)
        if self.forest is not None:
            forest = self.forest.score(X[:, self.columns])
            total = total + 0.1 * -np.log(self.forest.share(forest)) + 0.1 * forest
        return np.asarray(total, np.float64)

    def push(self, X: np.ndarray) -> np.ndarray:
        """(n, all features) surprise, 0 for features that are not looked at."""
        found = np.zeros((len(X), X.shape[1]), np.float32)
        found[:, self.columns] = self.tails(X)
        return found


def _surprise(values: np.ndarray, ladder: np.ndarray, levels: np.ndarray, far: np.ndarray) -> np.ndarray:
    """-log of the share of usual rows at or above each value, times how much further out it is (`far`, in standard deviations of the
    middle of the distribution) than a normal distribution is at that share.
    """
    from scipy.special import ndtri

    least = 1 - levels[-2]
    share = 1 - np.interp(values, ladder, levels, left=0.0)
    # a value that many rows share lies where the first of them lies
    share = np.maximum(np.where(values <= ladder[0], 1.0, share), least)
    expected = np.maximum(-ndtri(np.minimum(share, 0.4)), 0.25)
    with np.errstate(invalid="ignore"):
        return np.asarray(-np.log(share) * (_PLAIN + np.log(np.maximum(far / expected, 1.0))))


def _shape(values: np.ndarray, log: bool) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values)) if log else values


def in_company(rows: Rows, recipe: Recipe, alone: np.ndarray) -> np.ndarray:
    """(n,) surprise of each row with that of its entities' rows of the last days added, up to its moment."""
    if not recipe.entities:
        return alone
    taint = np.exp(np.clip(alone - _STRONG, -30, 0))
    found = features.score_windows(rows, recipe, taint, windows=("7d",))
    company = np.zeros(len(alone))
    for column in found.columns:
        company = np.maximum(company, np.nan_to_num(column))
    # company makes the doubtful suspicious, not the ordinary strange
    return np.asarray(alone + 0.5 * np.log1p(4 * company) * np.clip(alone / _STRONG, 0, 1))


def fit(names: Sequence[str], X: np.ndarray, past: np.ndarray, seed: int) -> Strangeness:
    """Learns what is usual from the rows `past`."""
    chosen = np.flatnonzero([side(n) is not None for n in names]).astype(int)
    take = past if len(past) <= _SAMPLE else np.sort(np.random.default_rng(seed).choice(past, _SAMPLE, replace=False))
    A = X[np.ix_(take, chosen)].astype(np.float64)
    step = 1 / max(len(take), 20)
    fine = np.geomspace(step, 0.09, 40)
    levels = np.unique(np.concatenate([[0.0], fine, np.linspace(0.1, 0.9, 9), 1 - fine, [1.0]]))
    ladder, weights = np.zeros((len(levels), len(chosen))), np.zeros(len(chosen))
    logs, scales = np.zeros(len(chosen), bool), np.ones((len(chosen), 3))
    sides = np.array([side(names[f]) or 0 for f in chosen])
    for k in range(len(chosen)):
        known = A[np.isfinite(A[:, k]), k]
        if len(known) >= 2 and known.min() < known.max():
            ladder[:, k] = np.maximum.accumulate(np.quantile(known, levels))
            logs[k] = _skew(_shape(known, True)) < _skew(known)
            scales[k] = _scales(_shape(known, bool(logs[k])))
            weights[k] = _habit(names, chosen[k], X, take)
    families = [features.family(names[f]) for f in chosen]
    order = {f: i for i, f in enumerate(dict.fromkeys(families))}
    groups = np.array([order[f] for f in families], np.int64)
    forest = fit_forest(A.astype(np.float32), seed) if len(chosen) else None
    return Strangeness(chosen, sides, groups, weights, logs, scales, forest, ladder, levels)


def _skew(values: np.ndarray) -> float:
    """How unlike the two sides of the middle half are; infinite where one of them has no width."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(abs(np.log((high - middle) / (middle - low)))) if high > middle > low else float("inf")


def _scales(values: np.ndarray) -> tuple[float, float, float]:
    """Median, and for either side a standard deviation as the innermost quantile that lies apart from the median tells it."""
    middle = float(np.median(values))
    found = [middle]
    for side in (values - middle, middle - values):
        width = 1e-9
        for level, deviations in ((0.75, 0.674), (0.9, 1.282), (0.95, 1.645), (0.99, 2.326), (0.999, 3.09), (1.0, 3.5)):
            reach = float(np.quantile(side, level))
            if reach > 1e-12:
                width = reach / deviations
                break
        found.append(width)
    return found[0], found[1], found[2]


def _habit(names: Sequence[str], f: int, X: np.ndarray, take: np.ndarray) -> float:
    """Weight in [0.2, 1] of a distance from an entity's habit: as far as its entities have one, as the correlation of rows with it."""
    parts = names[f].split(".")
    if features.kind(names[f]) not in ("ratio", "distance") or parts[-1] not in names:
        return 1.0
    ratio = f"{parts[0]}.ratio.usual.{parts[-1]}"
    if ratio not in names:
        return 1.0
    own, times = X[take, names.index(parts[-1])].astype(np.float64), X[take, names.index(ratio)].astype(np.float64)
    there = np.isfinite(own) & np.isfinite(times) & (np.abs(times) > 1e-9)
    if there.sum() < 30:
        return 1.0
    one, usual = (np.argsort(np.argsort(v, kind="stable"), kind="stable") for v in (own[there], own[there] / times[there]))
    return float(np.clip(1.5 * np.corrcoef(one, usual)[0, 1], 0.2, 1.0))


def side(name: str) -> int | None:
    """On which side a feature is suspicious; None: on neither, it says where, when or how long known."""
    kind = features.kind(name)
    if kind in ("rows", "ratio", "distance", "of_largest", "different", "new", "copies", "repeats", "links", "category"):
        return None if kind == "of_largest" else 1
    if kind in ("habit", "hours_since"):
        return -1
    if kind in ("number", "style"):
        return 0
    return None
