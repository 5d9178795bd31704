"""Counting: who bought what, how often and how long ago; which items go together. Everything as of one moment.

An *occasion* is a day on which a shopper had an event of one kind on one item: ten lines of one invoice, or a page loaded
five times, say it once. A decayed count weighs an occasion of age a by 2^(-a / half-life).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.histories import DAY, Histories


@dataclass(frozen=True)
class Occasions:
    """Distinct (shopper, item, day) of some kinds of event, sorted by shopper, item, day."""

    users: int
    items: int
    user: np.ndarray
    item: np.ndarray
    age: np.ndarray
    """(M,) float64 days before the moment, of the last event of that day; > 0."""
    day: np.ndarray
    """(M,) int64 UTC day number, for baskets."""

    @classmethod
    def of(cls, events: Histories, as_of: float, *kinds: int) -> Occasions:
        """Occasions before `as_of` (seconds since 1970-01-01 UTC)."""
        part = events.before(as_of)
        part = part.of(*kinds) if kinds else part
        day = part.time // int(DAY)
        order = np.lexsort((part.time, day, part.item, part.user))
        user, item, day, time = part.user[order], part.item[order], day[order], part.time[order]
        last = np.ones(len(user), bool)
        if len(user):
            last[:-1] = (user[1:] != user[:-1]) | (item[1:] != item[:-1]) | (day[1:] != day[:-1])
        return cls(events.users, events.items, user[last], item[last], (as_of - time[last]) / DAY, day[last])

    def __len__(self) -> int:
        return len(self.user)

    def decayed(self, half_life: float | None) -> np.ndarray:
        """(M,) weight of each occasion; None: no decay."""
        return np.ones(len(self)) if half_life is None else np.exp2(-self.age / half_life)

    def matrix(self, half_life: float | None = None) -> sp.csr_matrix:
        """(users, items) decayed counts."""
        made = sp.csr_matrix((self.decayed(half_life), (self.user, self.item)), shape=(self.users, self.items))
        made.sum_duplicates()
        return made

    def buyers(self) -> np.ndarray:
        """(items,) distinct shoppers."""
        pairs = np.unique(self.user.astype(np.int64) * max(self.items, 1) + self.item)
        return np.bincount(pairs % max(self.items, 1), minlength=self.items)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """(rows, min(k, columns)) columns of the largest scores, best first; equal scores by column. -inf is never listed (-1).

    Exact and the same on every machine: `argpartition` alone would leave ties at the cut to chance.
    """
    rows, columns = scores.shape
    k = min(k, columns)
    if not rows or not k:
        return np.full((rows, k), -1, np.int64)
    edge = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    row, column = np.nonzero((scores >= edge) & (scores > -np.inf))
    order = np.lexsort((column, -scores[row, column], row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    out = np.full((rows, k), -1, np.int64)
    kept = place < k
    out[row[kept], place[kept]] = column[kept]
    return out


def cosine(counts: sp.csr_matrix) -> sp.csr_matrix:
    """(items, items) cosine between columns, diagonal removed."""
    norm = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=0)).ravel())
    scaled = counts @ sp.diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0))
    return _without_diagonal((scaled.T @ scaled).tocsr())


def bm25(counts: sp.csr_matrix, k1: float = 1.2, b: float = 0.75) -> sp.csr_matrix:
    """`counts` reweighted as BM25 does documents: rare items count more, long histories less (Robertson 1994)."""
    rows = counts.tocsr().copy().astype(np.float64)
    users = rows.shape[0]
    frequency = np.bincount(rows.indices, minlength=rows.shape[1])
    rarity = np.log1p((users - frequency + 0.5) / (frequency + 0.5))
    length = np.asarray(rows.sum(axis=1)).ravel()
    mean = length[length > 0].mean() if (length > 0).any() else 1.0
    norm = k1 * (1.0 - b + b * length / mean)
    owner = np.repeat(np.arange(users), np.diff(rows.indptr))
    rows.data = rarity[rows.indices] * rows.data * (k1 + 1.0) / (rows.data + norm[owner])
    return rows


def _without_diagonal(square: sp.csr_matrix) -> sp.csr_matrix:
    coo = square.tocoo()
    off = coo.row != coo.col
    return sp.csr_matrix((coo.data[off], (coo.row[off], coo.col[off])), shape=square.shape)


def strongest(square: sp.csr_matrix, neighbours: int) -> sp.csr_matrix:
    """Each row's `neighbours` largest entries, equal ones by column: memory grows with items, not with their square."""
    rows = square.tocsr()
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, -rows.data, row))
    row, column, data = row[order], rows.indices[order], rows.data[order]
    place = np.arange(len(row)) - rows.indptr[row]
    kept = place < neighbours
    return sp.csr_matrix((data[kept], (row[kept], column[kept])), shape=rows.shape)
