"""Strangeness without labels: how far out in the tails a row lies, an isolation forest, and the company that it keeps.

The tails see one feature at a time (after ECOD; Li et al., 2022), on the side that is suspicious for its kind: much, often, shared,
unfamiliar, soon. Their surprise is -log of the share of usual rows as far out, and counts the more the further the row lies beyond
where a normal distribution would have that share: the ends of an ordinary distribution are chance, and where a few rows lie far from
all others, something made them. Of features that say nearly the same the strongest counts. The forest (Liu et al., 2008) adds what
is strange only together. A row whose entities' last rows were strange is more so.

What is usual for the entity is no surprise: rows of a window are counted beyond those that its earlier pace would bring, and a number
that has an entity's habit to be measured by is strange as far as it is for that entity; that it is large for everybody comes on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightmarket.screen import features
from nightmarket.screen.features import Recipe
from nightmarket.screen.forest import Forest, fit_forest
from nightmarket.screen.table import Rows
from nightmarket.screen.windows import DAY

_SAMPLE = 50_000
_PLAIN = 0.5
"""What surprise counts where a tail is no further out than a normal distribution's."""
_DOUBT = 2.0
"""Surprise of a number beside its entity's habit from which on its being large for everybody counts in full."""
_STRONG = 6.0
"""Surprise from which on a row taints its entities' later ones."""
_WEEK = 7.0
_SHARE = 0.5
"""What a tie adds to the surprise of a strange row."""
_CLOSEST = 5.0


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
    paces: np.ndarray
    """(f, 2) columns of the entity's rows ever, for rows of a window, and of the days it is known, for these and for different others; else -1."""
    spans: np.ndarray
    """(f,) days of that window."""
    owns: np.ndarray
    """(f, k) places in `columns` of a number's distances from an entity's habit; -1 for none."""
    ties: np.ndarray
    """(2 entities,) by how much more often strange rows follow an entity's strange rows, as a logarithm: of the last days, and ever."""

    def tails(self, seen: np.ndarray) -> np.ndarray:
        """(n, f) weighted surprise of each feature, of what `_seen` gives."""
        found = np.zeros(seen.shape, np.float32)
        for k in range(len(self.columns)):
            values = seen[:, k].astype(np.float64)
            plain = _shape(values, bool(self.logs[k]))
            middle, above, below = self.scales[k]
            upper = _surprise(values, self.ladder[:, k], self.levels, (plain - middle) / above) if self.sides[k] >= 0 else 0.0
            lower = _surprise(-values, -self.ladder[::-1, k], 1 - self.levels[::-1], (middle - plain) / below) if self.sides[k] <= 0 else 0.0
            found[:, k] = np.where(np.isfinite(values), np.maximum(upper, lower), 0) * self.weights[k]
        for k, places in enumerate(self.owns):
            mine = places[places >= 0]
            if len(mine):
                usual = np.isfinite(seen[:, mine]).any(1)
                own = found[:, mine].max(1)
                # strange for its entity and large for all; what is large and ordinary for its entity is not strange
                found[:, k] = np.where(usual, own + _PLAIN * found[:, k] * np.minimum(own / _DOUBT, 1), found[:, k])
        return found

    def alone(self, X: np.ndarray) -> np.ndarray:
        """(n,) surprise of each row by itself."""
        seen = _seen(X, self.columns, self.paces, self.spans)
        surprise = self.tails(seen)
        strongest = np.zeros((len(X), int(self.groups.max(initial=-1)) + 2), np.float32)
        for k, group in enumerate(self.groups):
            np.maximum(strongest[:, group], surprise[:, k], out=strongest[:, group])
        strongest.sort(axis=1)
        total = strongest[:, -1] + 0.25 * np.maximum(strongest[:, :-1] - 4, 0).sum(1)
        if self.forest is not None:
            forest = self.forest.score(seen)
            total = total + 0.1 * -np.log(self.forest.share(forest)) + 0.1 * forest
        return np.asarray(total, np.float64)

    def push(self, X: np.ndarray) -> np.ndarray:
        """(n, all features) surprise, 0 for features that are not looked at."""
        found = np.zeros((len(X), X.shape[1]), np.float32)
        found[:, self.columns] = self.tails(_seen(X, self.columns, self.paces, self.spans))
        return found


def _surprise(values: np.ndarray, ladder: np.ndarray, levels: np.ndarray, far: np.ndarray) -> np.ndarray:
    """-log of the share of usual rows at or above each value, times how much further out it is (`far`, in standard deviations of the
    middle of the distribution) than a normal distribution is at that share.
    """
    from scipy.special import ndtr, ndtri

    least = 1 - levels[-2]
    share = 1 - np.interp(values, ladder, levels, left=0.0)
    # a value that many rows share lies where the first of them lies
    share = np.maximum(np.where(values <= ladder[0], 1.0, share), least)
    expected = np.maximum(-ndtri(np.minimum(share, 0.4)), 0.25)
    with np.errstate(invalid="ignore"):
        # where tails are shorter than a normal distribution's, as of small counts, their end is no surprise beyond what that distribution has there
        shared = -np.log(np.maximum(share, ndtr(-far)))
        return np.asarray(shared * (_PLAIN + np.log(np.maximum(far / expected, 1.0))))


def _seen(X: np.ndarray, columns: np.ndarray, paces: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """(n, f) float32: the features that are looked at, beyond their entity's pace."""
    found = np.zeros((len(X), len(columns)), np.float32)
    for k, f in enumerate(columns):
        found[:, k] = _beyond_pace(X, f, paces[k], spans[k])
    return found


def _beyond_pace(X: np.ndarray, f: int, pace: np.ndarray, span: float) -> np.ndarray:
    """(n,) the feature itself, and of what grows by itself what is more than that: different others for each week that the entity is known;
    rows of a window beyond what its pace before would bring (one at least), in deviations: the signed root of a Poisson count's deviance.
    """
    values = X[:, f].astype(np.float64)
    if pace[1] < 0:
        return values
    known = np.nan_to_num(X[:, pace[1]].astype(np.float64))
    if pace[0] < 0:
        return values / np.maximum(known / _WEEK, 1)
    usual = np.maximum(np.nan_to_num((X[:, pace[0]].astype(np.float64) - values) / np.maximum(known - span, _WEEK) * span), 1)
    more = np.maximum(values, usual)
    return np.sqrt(2 * np.maximum(more * np.log(more / usual) - (more - usual), 0))


def _shape(values: np.ndarray, log: bool) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values)) if log else values


def in_company(rows: Rows, recipe: Recipe, alone: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """(n,) surprise of each row with that of its entities' rows of the last days added, up to its moment."""
    company = _company(rows, recipe, alone)
    if not company.shape[1]:
        return alone
    # company makes the doubtful suspicious, not the ordinary strange
    return np.asarray(alone + _SHARE * (ties * np.minimum(company, 1)).max(1) * np.clip(alone / _STRONG, 0, 1))


def ties_of(rows: Rows, recipe: Recipe, alone: np.ndarray, past: np.ndarray) -> np.ndarray:
    """What `Strangeness.ties` holds, of the rows `past`: where everybody meets strange rows, at a busy till, they say nothing."""
    company, taint = _company(rows, recipe, alone)[past], _taint(alone[past])
    usual = float(taint.mean()) + 1e-12
    near = company >= 0.5
    # one strange row more, at the usual rate, keeps a few rows from saying much
    lift = ((near * taint[:, None]).sum(0) + 1) / (near.sum(0) + 1 / min(usual, 1.0)) / usual
    return np.clip(np.log(np.maximum(lift, 1e-12)), 0, _CLOSEST)


def _company(rows: Rows, recipe: Recipe, alone: np.ndarray) -> np.ndarray:
    """(n, 2 entities) sum of the taint of each entity's other rows of the last days, and the largest before."""
    if not recipe.entities:
        return np.zeros((len(rows), 0))
    found = features.score_windows(rows, recipe, {"suspicion": (_taint(alone), ("7d",))})
    return np.nan_to_num(found.array().astype(np.float64))


def _taint(alone: np.ndarray) -> np.ndarray:
    # steep, or many ordinary rows together would be taken for a strange one
    return np.asarray(np.exp(np.clip(2 * (alone - _STRONG), -30, 0)))


def fit(names: Sequence[str], X: np.ndarray, past: np.ndarray, seed: int) -> Strangeness:
    """Learns what is usual from the rows `past`."""
    chosen = np.flatnonzero([side(n) is not None for n in names]).astype(int)
    take = past if len(past) <= _SAMPLE else np.sort(np.random.default_rng(seed).choice(past, _SAMPLE, replace=False))
    paces, spans = _paces(names, chosen)
    A = _seen(X[take], chosen, paces, spans).astype(np.float64)
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
            counted = paces[k, 0] >= 0
            logs[k] = not counted and _skew(_shape(known, True)) < _skew(known)
            scales[k] = _scales(_shape(known, bool(logs[k])))
            if counted:
                scales[k] = 0.0, max(scales[k, 1], 1.0), 1.0  # deviations already, of a normal distribution's upper half
            weights[k] = _habit(names, chosen[k], X, take)
    families = [features.family(names[f]) for f in chosen]
    order = {f: i for i, f in enumerate(dict.fromkeys(families))}
    groups = np.array([order[f] for f in families], np.int64)
    forest = fit_forest(A.astype(np.float32), seed) if len(chosen) else None
    return Strangeness(chosen, sides, groups, weights, logs, scales, forest, ladder, levels, paces, spans, _owns(names, chosen, weights), np.zeros(0))


def _paces(names: Sequence[str], chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f, 2) columns that tell an entity's pace and (f,) days of the window, of the chosen features."""
    place = {n: i for i, n in enumerate(names)}
    paces, spans = np.full((len(chosen), 2), -1), np.zeros(len(chosen))
    for k, f in enumerate(chosen):
        entity, _, window = names[f].rpartition(".rows.")
        ever, known = place.get(f"{entity}.rows.ever"), place.get(f"{entity}.days_known")
        if entity and ever is not None and known is not None:
            paces[k], spans[k] = (ever, known), (features.WINDOWS[window] or 0) / DAY
        elif features.kind(names[f]) == "different":
            paces[k, 1] = place.get(f"{names[f].partition('.different.')[0]}.days_known", -1)
    return paces, spans


def _owns(names: Sequence[str], chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(f, k) of numbers, the places in `chosen` of their distances from the habits of entities that have one."""
    found = [[j for j, g in enumerate(chosen) if features.kind(names[f]) == "number" and features.kind(names[g]) in ("ratio", "distance")
              and names[g].endswith(f".{names[f]}") and weights[j] >= 0.5] for f in chosen]
    wide = max((len(f) for f in found), default=0)
    return np.array([f + [-1] * (wide - len(f)) for f in found], np.int64).reshape(len(chosen), wide)


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
    if name.endswith(".rows.ever"):
        return None  # it grows by itself
    if kind in ("rows", "ratio", "distance", "of_largest", "different", "new", "copies", "repeats", "links", "category"):
        return None if kind == "of_largest" else 1
    if kind in ("habit", "hours_since"):
        return -1
    if kind in ("number", "style"):
        return 0
    return None
