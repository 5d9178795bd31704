"""Isolation Forest (Liu, Ting and Zhou, 2008) in arrays: what is few and different is told apart by few random cuts.

Trees are arrays of features, cuts and children, so a model is saved without pickle and scores in one pass of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SAMPLE = 256
_DEPTH = 8


@dataclass(frozen=True)
class Forest:
    """`centre` and `spread` (f,) put features on one scale; (trees, 2^9 - 1) nodes in heap order."""

    centre: np.ndarray
    spread: np.ndarray
    feature: np.ndarray
    """-1 at a leaf."""
    cut: np.ndarray
    depth: np.ndarray
    """Expected number of cuts that would isolate a row that ends here."""
    usual: np.ndarray
    """Sorted scores of the rows it was fitted on, for `share`."""

    def score(self, X: np.ndarray) -> np.ndarray:
        """(n,) in (0, 1), higher is stranger."""
        Z = _levelled(X, self.centre, self.spread)
        total = np.zeros(len(Z))
        step = 65_536
        for begin in range(0, len(Z), step):
            part = np.ascontiguousarray(Z[begin:begin + step].T)
            rows = np.arange(part.shape[1])
            for feature, cut, depth in zip(self.feature, self.cut, self.depth, strict=True):
                node = np.zeros(part.shape[1], np.int64)
                for _ in range(_DEPTH):
                    asked = feature[node]
                    inner = asked >= 0
                    right = part[np.maximum(asked, 0), rows] >= cut[node]
                    node = np.where(inner, 2 * node + 1 + right, node)
                total[begin:begin + step] += depth[node]
        return np.asarray(2.0 ** (-total / len(self.feature) / _expected(min(_SAMPLE, max(len(self.usual), 2)))))

    def share(self, scores: np.ndarray) -> np.ndarray:
        """Share of usual rows that are stranger or as strange; small is suspicious."""
        return np.asarray((len(self.usual) - np.searchsorted(self.usual, scores, "left") + 1) / (len(self.usual) + 1))


def fit_forest(X: np.ndarray, seed: int, trees: int = 100) -> Forest:
    """A forest of (n, f) rows that are mostly unsuspicious. Raises ValueError for no rows."""
    if not len(X):
        raise ValueError("no rows to learn from")
    centre, spread = _scale(X)
    Z = _levelled(X, centre, spread)
    rng = np.random.default_rng(seed)
    nodes = 2 ** (_DEPTH + 1) - 1
    feature = np.full((trees, nodes), -1, np.int32)
    cut = np.zeros((trees, nodes), np.float32)
    depth = np.zeros((trees, nodes), np.float32)
    for t in range(trees):
        sample = Z[rng.choice(len(Z), min(_SAMPLE, len(Z)), replace=False)]
        _grow(sample, 0, 0, rng, feature[t], cut[t], depth[t])
    made = Forest(centre, spread, feature, cut, depth, np.zeros(min(_SAMPLE, len(Z))))
    return Forest(centre, spread, feature, cut, depth, np.sort(made.score(X)))


def _grow(rows: np.ndarray, node: int, level: int, rng: np.random.Generator, feature: np.ndarray, cut: np.ndarray, depth: np.ndarray) -> None:
    low, high = rows.min(0), rows.max(0)
    open_ = np.flatnonzero(high > low)
    if level == _DEPTH or len(rows) <= 1 or not len(open_):
        depth[node] = level + _expected(len(rows))
        return
    chosen = int(rng.choice(open_))
    at = np.float32(rng.uniform(low[chosen], high[chosen]))
    at = np.clip(at, np.nextafter(low[chosen], high[chosen]), high[chosen])  # rounding must leave a row on either side
    right = rows[:, chosen] >= at
    feature[node], cut[node] = chosen, at
    _grow(rows[~right], 2 * node + 1, level + 1, rng, feature, cut, depth)
    _grow(rows[right], 2 * node + 2, level + 1, rng, feature, cut, depth)


def _expected(rows: int) -> float:
    """Mean depth of an unsuccessful search in a binary tree of that many rows."""
    if rows <= 1:
        return 0.0
    return 2 * (np.log(rows - 1) + np.euler_gamma) - 2 * (rows - 1) / rows if rows > 2 else 1.0


def _squeezed(X: np.ndarray) -> np.ndarray:
    return np.sign(X) * np.log1p(np.abs(X))


def _scale(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not X.shape[1]:
        return np.zeros(0, np.float32), np.ones(0, np.float32)
    squeezed = np.where(np.isfinite(X), _squeezed(X), np.nan)
    centre, spread = np.zeros(X.shape[1], np.float32), np.ones(X.shape[1], np.float32)
    for f in range(X.shape[1]):
        known = squeezed[np.isfinite(squeezed[:, f]), f]
        if len(known):
            centre[f] = np.median(known)
            spread[f] = max(float(np.quantile(known, 0.95) - np.quantile(known, 0.05)), 1e-3)
    return centre, spread


def _levelled(X: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Unknown values lie in the middle: what is not known is not strange."""
    squeezed = _squeezed(X)
    return np.asarray(np.where(np.isfinite(squeezed), np.clip((squeezed - centre) / spread, -20, 20), 0), np.float32)
