"""Retrieval by counting: each signal scores all items for shoppers from one kind of evidence; the second stage decides between them.

What is learnt of items and pairs of items (from the events before one moment) is apart from the shoppers it is asked for, so that a
shopper known by one basket, or by none, is answered by the same counts. A signal's score is >= 0; 0 says nothing of the item.
Pairs of items are kept sparse, the strongest neighbours of each item only: memory grows with the catalogue, not with its square.
The closed-form autoencoder is the exception; it knows the most frequent items only of catalogues larger than `Options.dense_items`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.counts import bm25
from nightmarket.recommend.pairs import Pairs

SIGNALS = ("own", "together", "also", "newest", "follows", "alike", "lately", "walk", "linear", "latent", "content", "popular", "rising")
"""Names, in the order of the features that they become."""
ORDERED = ("rules", "rules_newest", "linear_newest", "also_newest")
"""Further signals where only an order is known: what comes next then depends on what came last more than on taste."""
POPULARITY_RHYTHMS = (0.125, 0.25, 0.5, 1.5)
_PRIOR = 20.0
"""Occasions of the whole shop that a group's own are mixed with."""
_BUSY = 100
"""An item is popular that is among so many most wanted."""
_STEPS, _STEPS_IN_ORDER = 5, 10
"""Later visits that a sequence rule looks at."""


Scores: TypeAlias = np.ndarray | sp.csr_matrix
"""(shoppers, items)."""


@dataclass(frozen=True)
class Options:
    """How much is counted."""

    neighbours: int = 200
    """Of each item."""
    alike: int = 300
    """Shoppers of similar taste."""
    pool: int = 20_000
    """Most recently active shoppers among whom those are sought."""
    factors: int = 96
    dense_items: int = 6_000
    """Of a larger catalogue the closed-form autoencoder knows the most frequent so many: its cost is their third power."""
    ridge: float = 30.0
    """Of the closed-form autoencoder, in mean item frequencies."""
    attributes: float = 1.0
    """Weight of attributes in it, in the same unit."""
    ordered: bool = False
    """Whether times are places in an order: ORDERED counts too."""
    seed: int = 17


@dataclass(frozen=True)
class Groups:
    """Attributes of shoppers by which popularity is counted."""

    names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    """By attribute, the (V,) values."""
    codes: np.ndarray
    """(users, attributes) int32 code of the value, -1 where it is not known."""

    @classmethod
    def none(cls, users: int) -> Groups:
        return cls((), (), np.zeros((users, 0), np.int32))


@dataclass(frozen=True)
class Signals:
    """What the events of `past` say about items. Nothing at or after `past.moment` counts."""

    past: Pairs
    catalogue: Catalogue
    groups: Groups
    options: Options = Options()
    further: Mapping[str, Callable[[Pairs, np.ndarray], Scores]] = field(default_factory=dict)
    """Learnt signals by name: (the shoppers' own pairs, user codes (n,)) -> (n, items) scores >= 0."""

    @property
    def items(self) -> int:
        return self.past.events.items

    @property
    def names(self) -> tuple[str, ...]:
        """All signals, in the order of the features that they become."""
        return (*SIGNALS, *(ORDERED if self.options.ordered else ()), *self.further)

    # -- items

    @cached_property
    def seen(self) -> np.ndarray:
        """(items,) bool: what had any event."""
        return np.bincount(self.past.events.item, minlength=self.items) > 0

    @cached_property
    def popularity(self) -> np.ndarray:
        """(half-lives + 1, items) decayed occasions; the last row is all time."""
        had = self.past.had
        return np.stack([
            np.bincount(had.item, weights=had.decayed(None if r is None else r * self.past.unit), minlength=self.items)
            for r in (*POPULARITY_RHYTHMS, None)
        ])

    @cached_property
    def by_group(self) -> tuple[np.ndarray, ...]:
        """By attribute, (values, items) decayed occasions over half a rhythm."""
        had, weights = self.past.had, self.past.had.decayed(self.past.unit / 2.0)
        made = []
        for n, values in enumerate(self.groups.values):
            code = self.groups.codes[had.user, n]
            known = code >= 0
            matrix = sp.csr_matrix((weights[known], (code[known], had.item[known])), shape=(len(values), self.items))
            made.append(matrix.toarray().astype(np.float32))
        return tuple(made)

    @cached_property
    def group_totals(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """By attribute, sums of `by_group`: ((values,), (items,)). A single look-up would else count the whole shop."""
        return tuple((counts.sum(axis=1), counts.sum(axis=0)) for counts in self.by_group)

    @cached_property
    def busy(self) -> tuple[float, tuple[np.ndarray, ...]]:
        """Decayed counts from which on an item is popular: (in the shop, by attribute (values,))."""
        return _edge(self.popularity[2]), tuple(np.array([_edge(row) for row in counts]) for counts in self.by_group)

    @cached_property
    def item_numbers(self) -> np.ndarray:
        """(items, len(ITEM_NUMBERS)) float32."""
        had = self.past.had
        sold = self.popularity
        buyers = np.diff(self.past.ever.tocsc().indptr).astype(np.float64)
        first, last = np.zeros(self.items), np.full(self.items, 1e4)
        np.maximum.at(first, had.item, had.age)
        np.minimum.at(last, had.item, had.age)
        attention = np.zeros(self.items)
        for seen in self.past.browsed.values():
            attention += np.bincount(seen.item, weights=seen.decayed(7.0), minlength=self.items)
        lines = np.bincount(had.item, minlength=self.items)
        newcomers = np.bincount(had.item, weights=self._is_first, minlength=self.items)
        lately = np.bincount(had.item, weights=self._is_first * had.decayed(self.past.unit), minlength=self.items)
        # where in shoppers' lives an item is bought: a starter or a regular's
        return np.stack([
            *np.log1p(sold), np.log((sold[0] * 4.0 + 1.0) / (sold[3] + 1.0)), np.log1p(attention), np.log1p(buyers),
            self.past.intervals.share, np.log(self.past.intervals.typical), np.log1p(first), np.log1p(last), self.log_price,
            (newcomers + 1.0) / (lines + 10.0), np.log1p(lately), np.log1p(lines / np.maximum(buyers, 1.0)),
            self.past.lot(had_by="item"),
        ], axis=1).astype(np.float32)

    @cached_property
    def _is_first(self) -> np.ndarray:
        """(occasions,) whether it was on the shopper's first active day."""
        had = self.past.had
        opening = np.zeros(self.past.events.users)
        np.maximum.at(opening, had.user, had.age)
        return (opening[had.user] - had.age < 1.0).astype(np.float64)

    @cached_property
    def log_price(self) -> np.ndarray:
        """(items,) log of what it is sold for (mean paid, else list price); the shop's mean where neither is known."""
        events = self.past.events
        priced = np.nan_to_num(events.price) > 0
        count = np.bincount(events.item[priced], minlength=self.items)
        total = np.bincount(events.item[priced], weights=np.log(events.price[priced]), minlength=self.items)
        with np.errstate(invalid="ignore", divide="ignore"):
            listed = np.log(self.catalogue.prices.astype(np.float64))
        made = np.where(count > 0, total / np.maximum(count, 1), listed)
        known = np.isfinite(made)
        return np.where(known, made, made[known].mean() if known.any() else 0.0)

    @cached_property
    def words(self) -> sp.csr_matrix:
        """(items, tokens) L2-normalised TF-IDF of titles and attributes."""
        return sp.csr_matrix(self.catalogue.tfidf(), dtype=np.float32)

    # -- pairs of items

    @cached_property
    def together(self) -> sp.csr_matrix:
        made = bm25(self.past.taste)
        return gram(_columns_unit(made), self.options.neighbours)

    @cached_property
    def also(self) -> sp.csr_matrix:
        return gram(_columns_unit(_binary(self.past.ever)), self.options.neighbours)

    @cached_property
    def follows(self) -> sp.csr_matrix:
        """How often j came 1 … 5 visits after i, nearer ones and newer ones more, over the square roots of both's frequency."""
        scaled, later, seen = self._visits(_STEPS, 6.0 * self.past.unit)
        rarity = sp.diags((1.0 / np.sqrt(seen + 1.0)).astype(np.float32))
        return product(sp.csr_matrix(scaled @ rarity).T.tocsr(), sp.csr_matrix(later @ rarity), self.options.neighbours)

    @cached_property
    def rules(self) -> sp.csr_matrix:
        """How often j came 1 … 10 visits after i, nearer ones more, over the square root of how much came after i: sequential rules
        (Kamehkhosh et al. 2017)."""
        scaled, later, _ = self._visits(_STEPS_IN_ORDER, None)
        after = np.asarray(scaled.T @ np.asarray(later.sum(axis=1))).ravel()
        level = sp.diags((1.0 / np.sqrt(np.maximum(after, 1.0))).astype(np.float32))
        return product(sp.csr_matrix(level @ scaled.T, dtype=np.float32), later, self.options.neighbours)

    def _visits(self, steps: int, half_life: float | None) -> tuple[sp.csr_matrix, sp.csr_matrix, np.ndarray]:
        """((visits, items) baskets, (visits, items) what the same shopper's next `steps` visits had, the n-th a n-th of it and old ones
        less; (items,) visits with the item)."""
        had = self.past.had
        if not len(had):
            return (nothing := sp.csr_matrix((0, self.items), dtype=np.float32)), nothing, np.zeros(self.items)
        days, basket = np.unique(had.user.astype(np.int64) << 32 | had.day, return_inverse=True)
        owner = days >> 32
        each = sp.csr_matrix((np.ones(len(had), np.float32), (basket, had.item)), shape=(len(days), self.items))
        size = np.asarray(each.sum(axis=1)).ravel()
        # a basket of a hundred lines says less about each pair than one of three
        scaled = sp.csr_matrix(sp.diags(1.0 / np.sqrt(np.maximum(size, 1.0))) @ each, dtype=np.float32)
        age = np.full(len(days), 1e4)
        np.minimum.at(age, basket, had.age)
        fresh = np.ones(len(days)) if half_life is None else np.exp2(-age / half_life)
        later = sp.csr_matrix(scaled.shape, dtype=np.float32)
        for step in range(1, steps + 1):
            at = np.flatnonzero(owner[step:] == owner[:-step])
            if not len(at):
                break
            weight = (fresh[at + step] / step).astype(np.float32)
            later = later + sp.csr_matrix((weight, (at, at + step)), shape=(len(days), len(days))) @ scaled
        return scaled, sp.csr_matrix(later), np.asarray(each.sum(axis=0)).ravel()

    @cached_property
    def walk(self) -> sp.csr_matrix:
        """Three random steps shopper-item-shopper-item, over the popularity of the end (RP3beta, Paudel et al. 2017; beta 0.6)."""
        rows = self.past.lasting
        by_user = sp.diags(_inverse(np.asarray(rows.sum(axis=1)).ravel())) @ rows
        total = np.asarray(rows.sum(axis=0)).ravel()
        by_item = (sp.diags(_inverse(total)) @ rows.T).tocsr()
        damped = sp.csr_matrix(by_user @ sp.diags(_inverse(np.power(np.maximum(total, 1e-9), 0.6)) * (total > 0)), dtype=np.float32)
        return product(sp.csr_matrix(by_item, dtype=np.float32), damped, self.options.neighbours)

    @cached_property
    def linear(self) -> sp.csr_matrix:
        """(items, items) strongest weights of EASE (Steck 2019), attributes as further rows; of a large catalogue between its most
        frequent items only."""
        known = self._in_linear
        rows, words = self._even[:, known], self.words[known]
        square = np.asarray((rows.T @ rows).todense(), dtype=np.float32)
        level = max(float(np.diag(square).mean()), 1e-9)
        if words.nnz:
            # attributes count as some further shoppers who had all items of one word
            square += np.float32(self.options.attributes * level) * (words @ words.T).toarray()
        square[np.diag_indices_from(square)] += np.float32(self.options.ridge * level + 1e-9)
        # positive definite by the last line, so half the work of a general inverse; single precision is enough at this ridge
        factor, _ = scipy.linalg.lapack.spotrf(square.T, lower=1, overwrite_a=1)
        inverse, _ = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
        diagonal = np.diag(inverse).copy()
        parts = []
        step = max(1, 20_000_000 // max(len(known), 1))
        for start in range(0, len(known), step):  # LAPACK leaves the other triangle as it was
            block = np.concatenate([inverse[start : start + step, :start], inverse[start:, start : start + step].T], axis=1)
            inside = block[:, start : start + len(block)]
            inside[:] = np.tril(inverse[start : start + len(block), start : start + len(block)])
            inside += np.tril(inside, -1).T
            weights = np.maximum(block / -diagonal[None, :], 0.0)
            weights[np.arange(len(block)), start + np.arange(len(block))] = 0.0
            parts.append(strongest(weights, 2 * self.options.neighbours))
        made = sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32)
        counts = np.zeros(self.items, np.int64)
        counts[known] = np.diff(made.indptr)
        return sp.csr_matrix((made.data, known[made.indices], np.concatenate([[0], np.cumsum(counts)])), shape=(self.items, self.items))

    @cached_property
    def _in_linear(self) -> np.ndarray:
        """Items of the closed-form autoencoder, ascending."""
        return np.sort(np.argsort(-self._even.getnnz(axis=0), kind="stable")[: self.options.dense_items])

    @cached_property
    def similar(self) -> sp.csr_matrix:
        """(items, items) likeness of titles and attributes, the item itself included."""
        words = self.words
        return sp.csr_matrix(product(words, words.T.tocsr(), self.options.neighbours) + sp.diags((np.diff(words.indptr) > 0).astype(np.float32)))

    @cached_property
    def _even(self) -> sp.csr_matrix:
        """(users, items) what was had, long histories damped."""
        rows = _binary(self.past.ever) + 0.1 * _binary(self.past.lasting)
        size = np.asarray(rows.sum(axis=1)).ravel()
        return sp.csr_matrix(sp.diags(_inverse(np.power(np.maximum(size, 1e-9), 0.25)) * (size > 0)) @ rows, dtype=np.float32)

    @cached_property
    def latent(self) -> tuple[np.ndarray, np.ndarray]:
        """((items, d) orthonormal directions, (items,) square root of frequency): an ideal low-pass filter (GF-CF, Shen et al. 2021)."""
        rows = sp.csr_matrix(self.past.lasting)
        rows.data = np.log1p(rows.data)
        user, item = np.asarray(rows.sum(axis=1)).ravel(), np.asarray(rows.sum(axis=0)).ravel()
        even = sp.csr_matrix(sp.diags(_inverse(np.sqrt(user))) @ rows @ sp.diags(_inverse(np.sqrt(item))), dtype=np.float32)
        size = min(self.options.factors, max(min(even.shape) - 1, 1))
        rng = np.random.default_rng(self.options.seed)
        basis = rng.standard_normal((self.items, min(size + 16, self.items))).astype(np.float32)
        for _ in range(5):  # subspace iteration (Halko et al. 2011)
            basis, _r = np.linalg.qr(even.T @ (even @ basis))
        small = even @ basis
        _values, turn = np.linalg.eigh((small.T @ small).astype(np.float64))
        return (basis @ turn[:, ::-1][:, :size]).astype(np.float32), np.sqrt(item).astype(np.float32)

    # -- shoppers alike

    @cached_property
    def _pool(self) -> np.ndarray:
        newest = np.full(self.past.events.users, -np.inf)
        np.maximum.at(newest, self.past.events.user, self.past.events.time)
        active = np.flatnonzero(np.diff(self.past.taste.indptr) > 0)
        return np.sort(active[np.argsort(-newest[active], kind="stable")][: self.options.pool])

    @cached_property
    def _rarity(self) -> np.ndarray:
        taste = self.past.taste
        return np.log1p(self.past.events.users / (1.0 + np.bincount(taste.indices, minlength=self.items))).astype(np.float32)

    def _unit(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        return _rows_unit(_with(rows, np.sqrt(rows.data) * self._rarity[rows.indices]))

    @cached_property
    def _pool_unit(self) -> sp.csc_matrix:
        return self._unit(self.past.lasting[self._pool]).T.tocsr()

    def alike(self, asked: Pairs, users: np.ndarray) -> sp.csr_matrix:
        """(len, pool) weights of the most similar shoppers, themselves left out; rows sum to 1."""
        similar = sp.csr_matrix(self._unit(asked.rows(asked.lasting, users)) @ self._pool_unit)
        own = np.searchsorted(self._pool, users)
        own = np.where(own < len(self._pool), own, 0)
        inside = self._pool[own] == users if len(self._pool) else np.zeros(len(users), bool)
        if inside.any():
            hit = similar.indices == np.repeat(np.where(inside, own, -1), np.diff(similar.indptr))
            similar.data[hit] = 0.0
        near = strongest(similar, self.options.alike)
        total = np.asarray(near.sum(axis=1)).ravel()
        return _with(near, near.data * np.repeat(_inverse(total), np.diff(near.indptr)))

    # -- scores

    def scores(self, asked: Pairs, users: np.ndarray) -> Mapping[str, Scores]:
        """By signal, (len(users), items) float32. `users` are codes of the shop, `asked` has their own pairs."""
        taste, lasting, recent = (asked.rows(m, users) for m in (asked.taste, asked.lasting, asked.recent))
        near = self.alike(asked, users)
        even, much = _log(taste), _log(lasting)
        made: dict[str, Scores] = {
            "own": lasting + 0.3 * taste,
            "together": even @ self.together,
            "also": _binary(lasting) @ self.also,
            "newest": recent @ self.together,
            "follows": recent @ self.follows,
            "alike": near @ self._pool_taste,
            "lately": _power(near, 2.0) @ self._pool_recent,
            "walk": much @ self.walk,
            "linear": self.linear_scores(asked, users),
            "content": even @ self.similar,
            "popular": self.popular(users),
            "rising": self.popular(users, 0),
        }
        directions, root = self.latent
        projected = (_with(much, much.data * _inverse(root)[much.indices]) @ directions) @ directions.T
        made["latent"] = np.maximum(projected * root[None, :], 0.0)
        if self.options.ordered:
            fading = asked.rows(asked.fading, users)
            made |= {"rules": fading @ self.rules, "rules_newest": recent @ self.rules, "also_newest": fading @ self.also,
                     "linear_newest": fading @ self.linear}
        made |= {name: score(asked, users) for name, score in self.further.items()}
        return {name: _single(made[name]) for name in self.names}

    def linear_scores(self, asked: Pairs, users: np.ndarray) -> sp.csr_matrix:
        return sp.csr_matrix((_binary(asked.rows(asked.lasting, users)) + 0.5 * _log(asked.rows(asked.taste, users))) @ self.linear)

    @cached_property
    def _pool_taste(self) -> sp.csr_matrix:
        return self.past.taste[self._pool]

    @cached_property
    def _pool_recent(self) -> sp.csr_matrix:
        return self.past.recent[self._pool]

    def popular(self, users: np.ndarray, rhythm: int = 2) -> np.ndarray:
        """(len, items) what is wanted now, in the shop and among shoppers of the same attributes. `rhythm`: which of POPULARITY_RHYTHMS."""
        recent = self.popularity[rhythm] + 0.05 * self.popularity[-1]
        share = recent / max(recent.sum(), 1e-9)
        made, told = np.zeros((len(users), self.items)), np.zeros(len(users))
        for n, counts in enumerate(self.by_group):
            code = self.groups.codes[users, n]
            known = code >= 0
            here = counts[code[known]] + _PRIOR * share[None, :]
            made[known] += here / here.sum(axis=1, keepdims=True)
            told += known
        made = np.where(told[:, None] > 0, made / np.maximum(told, 1.0)[:, None], share[None, :])
        return made.astype(np.float32)


ITEM_NUMBERS = ("sold_now", "sold_week", "sold_lately", "sold_long", "sold_ever", "trend", "attention", "buyers", "repeat_share", "repeat_interval",
                "first_sold", "last_sold", "price", "first_visit_share", "first_visits_lately", "per_buyer", "lot")


def product(left: sp.csr_matrix, right: sp.csr_matrix, keep: int, cells: int = 20_000_000) -> sp.csr_matrix:
    """`left @ right` without its diagonal, the `keep` largest entries of each row; a block of rows at a time."""
    rows = left.shape[0]
    step = max(1, cells // max(right.shape[1], 1))
    parts = []
    for start in range(0, rows, step):
        block = sp.csr_matrix(left[start : start + step] @ right)
        row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        block.data[block.indices == row + start] = 0.0
        parts.append(strongest(block, keep))
    return sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32) if parts else sp.csr_matrix((rows, right.shape[1]), dtype=np.float32)


def gram(rows: sp.csr_matrix, keep: int) -> sp.csr_matrix:
    """Inner products of columns, without the diagonal, the `keep` largest of each."""
    rows = sp.csr_matrix(rows, dtype=np.float32)
    return product(rows.T.tocsr(), rows, keep)


def strongest(matrix: Scores, keep: int) -> sp.csr_matrix:
    """Each row's `keep` largest positive entries, equal ones by place."""
    matrix = sp.csr_matrix(matrix)
    columns, data, counts = [], [], np.zeros(matrix.shape[0], np.int64)
    for row in range(matrix.shape[0]):
        begin, end = matrix.indptr[row], matrix.indptr[row + 1]
        values = matrix.data[begin:end]
        kept = largest(values, keep)
        columns.append(matrix.indices[begin:end][kept])
        data.append(values[kept])
        counts[row] = len(kept)
    pointers = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((np.concatenate(data) if data else [], np.concatenate(columns) if columns else [], pointers), shape=matrix.shape)


def largest(values: np.ndarray, keep: int) -> np.ndarray:
    """Places of the `keep` largest positive values, ascending; equal ones by place."""
    if len(values) > keep:
        edge = max(np.partition(values, len(values) - keep)[len(values) - keep], 0.0)
        above = values > edge
        if edge > 0:
            above[np.flatnonzero(values == edge)[: keep - int(above.sum())]] = True
        return np.flatnonzero(above)
    return np.flatnonzero(values > 0)


def _edge(counts: np.ndarray) -> float:
    best = counts[largest(counts, _BUSY)]
    return max(float(best.min()), 1e-9) if len(best) else np.inf


def _columns_unit(rows: sp.csr_matrix) -> sp.csr_matrix:
    norm = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=0)).ravel())
    return sp.csr_matrix(rows @ sp.diags(_inverse(norm)), dtype=np.float32)


def _rows_unit(rows: sp.csr_matrix) -> sp.csr_matrix:
    norm = np.sqrt(np.asarray(_with(rows, rows.data**2).sum(axis=1)).ravel())
    return _with(rows, rows.data * np.repeat(_inverse(norm), np.diff(rows.indptr)))


def _inverse(values: np.ndarray) -> np.ndarray:
    return np.divide(1.0, values, out=np.zeros(len(values)), where=values > 0).astype(np.float32)


def _with(rows: sp.csr_matrix, data: np.ndarray) -> sp.csr_matrix:
    """The same places with other values, float32. They are shared, and not checked again: that costs more than a question's arithmetic."""
    made = copy.copy(rows)
    made.data = data.astype(np.float32, copy=False)
    return made


def _single(scores: Scores) -> Scores:
    """float32, and as it is where it is that already."""
    if isinstance(scores, np.ndarray):
        return scores.astype(np.float32, copy=False)
    return scores if isinstance(scores, sp.csr_matrix) and scores.dtype == np.float32 else sp.csr_matrix(scores, dtype=np.float32)


def _binary(rows: sp.csr_matrix) -> sp.csr_matrix:
    return _with(rows, np.ones(len(rows.data), np.float32))


def _log(rows: sp.csr_matrix) -> sp.csr_matrix:
    return _with(rows, np.log1p(rows.data))


def _power(rows: sp.csr_matrix, exponent: float) -> sp.csr_matrix:
    return _with(rows, np.power(rows.data, exponent))
