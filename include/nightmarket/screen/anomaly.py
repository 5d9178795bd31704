"""Strangeness without labels: an isolation forest, and how far each row lies out in the tails of what is usual.

The tails (after ECOD; Li et al., 2022) see one column at a time and know which column it was, so they also give the reasons;
the forest sees columns together. Both are turned into the share of earlier rows that are stranger, and averaged as surprise
(the negative logarithm of that share).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightmarket.screen.features import Recipe
from nightmarket.screen.forest import Forest, fit_forest
from nightmarket.screen.table import Rows

_SAMPLE = 50_000


@dataclass(frozen=True)
class Strangeness:
    columns: np.ndarray
    """Features that are looked at."""
    forest: Forest
    ladder: np.ndarray
    """(q, f) quantiles of what is usual."""
    levels: np.ndarray

    def tails(self, X: np.ndarray) -> np.ndarray:
        """(n, f) surprise of each feature: -log of the share of usual rows that lie as far out on the upper side."""
        found = np.zeros((len(X), len(self.columns)), np.float32)
        for k, f in enumerate(self.columns):
            values = X[:, f]
            share = 1 - np.interp(values, self.ladder[:, k], self.levels)
            # beyond the largest: further out, further down
            top = self.ladder[-1, k]
            width = max(top - self.ladder[0, k], 1e-9)
            share = np.where(values > top, (1 - self.levels[-2]) / (1 + (values - top) / width * 10), np.maximum(share, 1 - self.levels[-2]))
            found[:, k] = np.where(np.isfinite(values), -np.log(share), 0)
        return found

    def score(self, X: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(n,) in (0, 1), higher is stranger. `index` names the rows, for learners that look at their histories."""
        del index
        surprise = self.tails(X)
        strongest = np.sort(surprise, axis=1)[:, -3:].mean(1) if surprise.shape[1] else np.zeros(len(X))
        forest = self.forest.score(X[:, self.columns])
        usual = -np.log(self.forest.share(forest))
        total = strongest + 0.5 * usual + forest
        return np.asarray(1 - np.exp(-total / 4))

    def push(self, X: np.ndarray) -> np.ndarray:
        """(n, all features) surprise, 0 for features that are not looked at."""
        found = np.zeros((len(X), X.shape[1]), np.float32)
        found[:, self.columns] = self.tails(X)
        return found


def fit(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, past: np.ndarray, seed: int) -> Strangeness:
    """Learns what is usual from the rows `past`."""
    del rows, recipe
    chosen = np.flatnonzero([_looked_at(n) for n in names]).astype(int)
    take = past if len(past) <= _SAMPLE else np.sort(np.random.default_rng(seed).choice(past, _SAMPLE, replace=False))
    A = X[np.ix_(take, chosen)]
    levels = np.concatenate([np.linspace(0, 0.9, 10), 1 - np.geomspace(0.09, 1 / max(len(take), 20), 30), [1.0]])
    ladder = np.zeros((len(levels), len(chosen)))
    for k in range(len(chosen)):
        known = A[np.isfinite(A[:, k]), k]
        ladder[:, k] = np.maximum.accumulate(np.quantile(known, levels)) if len(known) else 0.0
    return Strangeness(chosen, fit_forest(A, seed), ladder, levels)


def _looked_at(name: str) -> bool:
    """Not where in the day or week, not how old a history is: those are seldom few and never in themselves suspicious."""
    return name not in ("hour", "weekday", "label_age_days") and not name.endswith((".days_known", ".hours_since_last")) and (
        ".known_bad" not in name and ".risk." not in name and "_good" not in name and "bad" not in name)
