"""What a practitioner would pick instead of jobs.recommend: known methods in numpy and scipy, each with a small grid to be tuned on.

Written for the benchmark only and apart from the product's own signals. A peer is fitted on (user, item, day) codes before a moment
and scores a block of users against all items. `tuned` picks a peer's best setting on the window before, as a practitioner would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp

Scorer = Callable[[np.ndarray], np.ndarray]
"""User codes (n,) to (n, items)."""


@dataclass(frozen=True)
class Events:
    """Purchases before `moment`; distinct (user, item, day), days as floats."""

    user: np.ndarray
    item: np.ndarray
    day: np.ndarray
    users: int
    items: int
    moment: float
    country: np.ndarray
    """(users,) int, -1 unknown."""
    words: sp.csr_matrix
    """(items, tokens) TF-IDF of titles and attributes."""

    def before(self, moment: float) -> Events:
        keep = self.day < moment
        return Events(self.user[keep], self.item[keep], self.day[keep], self.users, self.items, moment, self.country, self.words)

    def counts(self, half_life: float | None = None) -> sp.csr_matrix:
        weight = np.ones(len(self.user)) if half_life is None else np.exp2(-(self.moment - self.day) / half_life)
        return sp.csr_matrix((weight, (self.user, self.item)), shape=(self.users, self.items))

    @cached_property
    def binary(self) -> sp.csr_matrix:
        made = self.counts()
        made.data[:] = 1.0
        return made


def popularity(e: Events, half_life: float | None) -> Scorer:
    total = np.asarray(e.counts(half_life).sum(axis=0)).ravel()
    return lambda users: np.tile(total, (len(users), 1))


def country_popularity(e: Events, half_life: float | None, prior: float) -> Scorer:
    total = np.asarray(e.counts(half_life).sum(axis=0)).ravel()
    size = int(e.country.max(initial=-1)) + 2
    here = np.asarray((sp.csr_matrix((np.ones(e.users), (e.country, np.arange(e.users))), shape=(size, e.users)) if (e.country >= 0).all()
                       else sp.csr_matrix((np.ones(int((e.country >= 0).sum())), (e.country[e.country >= 0], np.flatnonzero(e.country >= 0))), shape=(size, e.users)))
                      @ e.counts(half_life).toarray())
    return lambda users: here[e.country[users]] + prior * total / max(total.sum(), 1e-9)


def frequency(e: Events, half_life: float) -> Scorer:
    own, total = e.counts(half_life), np.asarray(e.binary.sum(axis=0)).ravel()
    return lambda users: own[users].toarray() + 1e-9 * total


def _neighbours(left: sp.csr_matrix, right: sp.csr_matrix, keep: int, block: int = 2048) -> tuple[sp.csr_matrix, np.ndarray]:
    """(the `keep` largest of each row of `left @ right` but its diagonal, the diagonal), made in blocks of rows: squares of many products fill memory."""
    left, diagonal, parts = left.tocsr(), np.empty(left.shape[0]), []
    for start in range(0, left.shape[0], block):
        dense = (left[start : start + block] @ right).toarray()
        rows = np.arange(len(dense))
        diagonal[start : start + block] = dense[rows, start + rows]
        dense[rows, start + rows] = 0.0
        if keep < dense.shape[1]:
            edge = np.partition(dense, -keep, axis=1)[:, -keep][:, None]
            dense[dense < edge] = 0.0
        parts.append(sp.csr_matrix(dense))
    return sp.vstack(parts, format="csr"), diagonal


def cosine(e: Events, keep: int, own: float) -> Scorer:
    rows = e.binary
    norm = np.sqrt(np.asarray(rows.sum(axis=0)).ravel())
    unit = rows @ sp.diags(1.0 / np.maximum(norm, 1.0))
    similar = _neighbours(unit.T, unit, keep)[0] + own * sp.identity(e.items)
    return lambda users: (rows[users] @ similar).toarray()


def bm25(e: Events, half_life: float | None, own: float, k1: float = 1.2, b: float = 0.75, keep: int = 200) -> Scorer:
    counts = e.counts(half_life).tocsr()
    seen = np.bincount(counts.indices, minlength=e.items)
    length = np.asarray(counts.sum(axis=1)).ravel()
    row = np.repeat(np.arange(e.users), np.diff(counts.indptr))
    made = counts.copy()
    made.data = np.log1p((e.users - seen + 0.5) / (seen + 0.5))[counts.indices] * counts.data * (k1 + 1) / (
        counts.data + k1 * (1 - b + b * length[row] / max(length[length > 0].mean(), 1e-9)))
    norm = np.sqrt(np.asarray(made.multiply(made).sum(axis=0)).ravel())
    unit = made @ sp.diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0))
    similar = _neighbours(unit.T, unit, keep)[0] + own * sp.identity(e.items)
    return lambda users: (counts[users] @ similar).toarray()


def rp3beta(e: Events, beta: float, own: float, keep: int = 200) -> Scorer:
    rows = e.counts(180.0)
    forward = sp.diags(1.0 / np.maximum(np.asarray(rows.sum(axis=1)).ravel(), 1e-9)) @ rows
    total = np.asarray(rows.sum(axis=0)).ravel()
    backward = sp.diags(1.0 / np.maximum(total, 1e-9)) @ rows.T
    similar, self_step = _neighbours(backward, forward @ sp.diags(np.power(np.maximum(total, 1e-9), -beta) * (total > 0)), keep)
    similar = similar + own * sp.diags(self_step)
    return lambda users: (forward[users] @ similar).toarray()


def ease(e: Events, level: float, attributes: float) -> Scorer:
    rows = e.binary
    square = (rows.T @ rows).toarray()
    if attributes:
        square += attributes * square.diagonal().mean() * (e.words @ e.words.T).toarray()
    square[np.diag_indices_from(square)] += level
    inverse = scipy.linalg.inv(square, overwrite_a=True, check_finite=False)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return lambda users: rows[users] @ weights


def als(e: Events, factors: int, alpha: float, level: float, rounds: int = 8) -> Scorer:
    """Implicit feedback (Hu et al. 2008), exact solves."""
    rows = e.counts().tocsr()
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.1, (e.users, factors)), rng.normal(0, 0.1, (e.items, factors))

    def solve(matrix: sp.csr_matrix, fixed: np.ndarray, out: np.ndarray) -> None:
        base = fixed.T @ fixed + level * np.eye(factors)
        for row in range(matrix.shape[0]):
            span = slice(matrix.indptr[row], matrix.indptr[row + 1])
            chosen, weight = fixed[matrix.indices[span]], alpha * matrix.data[span]
            out[row] = np.linalg.solve(base + (chosen.T * weight) @ chosen, chosen.T @ (1.0 + weight))

    across = rows.T.tocsr()
    for _ in range(rounds):
        solve(rows, y, x)
        solve(across, x, y)
    return lambda users: x[users] @ y.T


def _similar_users(e: Events, rows: sp.csr_matrix, keep: int, alpha: float | None) -> Callable[[np.ndarray], sp.csr_matrix]:
    if alpha is None:
        norm = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
        unit = sp.csr_matrix(sp.diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)) @ rows)

        def near(users: np.ndarray) -> np.ndarray:
            return (unit[users] @ unit.T).toarray()
    else:
        size = np.maximum(np.asarray(e.binary.sum(axis=1)).ravel(), 1.0)

        def near(users: np.ndarray) -> np.ndarray:
            return (e.binary[users] @ e.binary.T).toarray() / (size[users][:, None] ** alpha * size[None, :] ** (1 - alpha))

    def found(users: np.ndarray) -> sp.csr_matrix:
        dense = near(users)
        dense[np.arange(len(users)), users] = 0.0
        edge = np.partition(dense, -keep, axis=1)[:, -keep][:, None]
        dense[dense < np.maximum(edge, 1e-12)] = 0.0
        return sp.csr_matrix(dense)

    return found


def _vectors(e: Events, within: float, across: float, group: int) -> sp.csr_matrix:
    """TIFU's personal vectors: baskets decayed within groups of baskets, groups decayed in turn (Hu et al. 2020)."""
    key, basket = np.unique(e.user.astype(np.int64) << 32 | np.floor(e.day).astype(np.int64), return_inverse=True)
    owner = key >> 32
    back = (np.searchsorted(owner, owner, side="right") - 1 - np.arange(len(key)))[basket]
    number = np.bincount(owner, minlength=e.users)[e.user]
    groups = -(-number // group)
    size = np.minimum(number, group)
    weight = within ** (back % group) / size * across ** (back // group) / groups
    return sp.csr_matrix((weight, (e.user, e.item)), shape=(e.users, e.items))


def tifu_knn(e: Events, within: float, across: float, keep: int, mix: float) -> Scorer:
    rows = _vectors(e, within, across, 7)
    near = _similar_users(e, rows, min(keep, e.users - 1), None)

    def score(users: np.ndarray) -> np.ndarray:
        weights = near(users)
        weights.data[:] = 1.0
        return mix * rows[users].toarray() + (1 - mix) * (sp.diags(1.0 / np.maximum(np.asarray(weights.sum(axis=1)).ravel(), 1.0)) @ weights @ rows).toarray()

    return score


def up_cf(e: Events, recent: int, alpha: float, sharpness: float, keep: int = 500) -> Scorer:
    """Recency-aware user-wise popularity and collaborative filtering (Faggioli et al. 2020)."""
    key, basket = np.unique(e.user.astype(np.int64) << 32 | np.floor(e.day).astype(np.int64), return_inverse=True)
    owner = key >> 32
    back = (np.searchsorted(owner, owner, side="right") - 1 - np.arange(len(key)))[basket]
    number = np.minimum(np.bincount(owner, minlength=e.users), recent)[e.user]
    fresh = back < recent
    rows = sp.csr_matrix((1.0 / number[fresh], (e.user[fresh], e.item[fresh])), shape=(e.users, e.items))
    near = _similar_users(e, rows, min(keep, e.users - 1), alpha)

    def score(users: np.ndarray) -> np.ndarray:
        weights = near(users)
        weights.data = weights.data**sharpness
        own = sp.csr_matrix((np.ones(len(users)), (np.arange(len(users)), users)), shape=(len(users), e.users))
        return ((weights + own) @ rows).toarray()

    return score


def rules(e: Events, steps: int, fade: float) -> Scorer:
    """Sequential rules with decay: j after i, nearer ones more (Kamehkhosh et al. 2017)."""
    order = np.lexsort((e.item, e.day, e.user))
    user, item = e.user[order], e.item[order]
    total = sp.csr_matrix((e.items, e.items))
    for step in range(1, steps + 1):
        same = user[step:] == user[:-step]
        total = total + sp.csr_matrix((np.full(int(same.sum()), 1.0 / step), (item[:-step][same], item[step:][same])), shape=(e.items, e.items))
    back = np.searchsorted(user, user, side="right") - 1 - np.arange(len(user))
    recent = sp.csr_matrix((fade**back, (user, item)), shape=(e.users, e.items))
    seen = np.maximum(np.asarray(total.sum(axis=1)).ravel(), 1.0)
    scaled = sp.diags(1.0 / np.sqrt(seen)) @ total
    return lambda users: (recent[users] @ scaled).toarray()


def content(e: Events, half_life: float | None) -> Scorer:
    own = e.counts(half_life)
    own.data = np.log1p(own.data)
    profiles = own @ e.words
    return lambda users: (profiles[users] @ e.words.T).toarray()


GRIDS: Mapping[str, tuple[Callable[..., Scorer], list[dict[str, Any]]]] = {
    "popularity": (popularity, [{"half_life": None}]),
    "recent_popularity": (popularity, [{"half_life": h} for h in (3.5, 7.0, 14.0, 30.0)]),
    "country_popularity": (country_popularity, [{"half_life": h, "prior": p} for h in (14.0, 30.0) for p in (50.0, 500.0)]),
    "frequency": (frequency, [{"half_life": h} for h in (30.0, 60.0, 120.0, 240.0)]),
    "cosine": (cosine, [{"keep": 200, "own": o} for o in (0.0, 1.0)]),
    "bm25": (bm25, [{"half_life": h, "own": o} for h in (60.0, 180.0) for o in (0.0, 1.0)]),
    "rp3beta": (rp3beta, [{"beta": b, "own": o} for b in (0.4, 0.7) for o in (0.0, 1.0)]),
    "ease": (ease, [{"level": v, "attributes": a} for v in (100.0, 400.0) for a in (0.0, 0.3)]),
    "als": (als, [{"factors": 64, "alpha": a, "level": 5.0} for a in (1.0, 5.0)]),
    "tifu_knn": (tifu_knn, [{"within": 0.9, "across": a, "keep": 300, "mix": m} for a in (0.7, 0.9) for m in (0.5, 0.7, 0.9)]),
    "up_cf": (up_cf, [{"recent": r, "alpha": 0.25, "sharpness": q} for r in (5, 20) for q in (1.0, 5.0)]),
    "rules": (rules, [{"steps": 3, "fade": 0.5}, {"steps": 10, "fade": 0.8}]),
    "content": (content, [{"half_life": None}, {"half_life": 60.0}]),
}


def scored(score: Scorer, users: np.ndarray, allowed: np.ndarray, barred: sp.csr_matrix | None, depth: int, block: int = 512) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (top items (n, depth), their scores), best first; -1 where there is none."""
    for start in range(0, len(users), block):
        part = users[start : start + block]
        values = np.array(score(part), dtype=np.float64)
        values[:, ~allowed] = -np.inf
        if barred is not None:
            known = barred[part]
            values[np.repeat(np.arange(len(part)), np.diff(known.indptr)), known.indices] = -np.inf
        # the first `depth` of a stable sort, without sorting all: of those that tie at the end the lowest codes
        edge = -np.partition(-values, depth - 1, axis=1)[:, depth - 1 : depth] if depth < values.shape[1] else np.full((len(values), 1), -np.inf)
        above = values > edge
        tied = (values == edge) & (np.cumsum(values == edge, axis=1) <= depth - above.sum(axis=1, keepdims=True))
        some = np.nonzero(above | tied)[1].reshape(len(values), -1)
        order = np.take_along_axis(some, np.argsort(-np.take_along_axis(values, some, axis=1), axis=1, kind="stable"), axis=1)
        top = np.take_along_axis(values, order, axis=1)
        yield np.where(np.isfinite(top), order, -1), top


def top(score: Scorer, users: np.ndarray, allowed: np.ndarray, barred: sp.csr_matrix | None, depth: int = 20) -> np.ndarray:
    """(len(users), depth) items."""
    parts = [items for items, _ in scored(score, users, allowed, barred, depth)]
    return np.concatenate(parts) if parts else np.empty((0, depth), np.int64)
