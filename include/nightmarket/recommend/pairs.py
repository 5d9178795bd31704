"""What each shopper has done with each item as of one moment: a row a (shopper, item) pair, a column a number.

All numbers of a pair share one sorted key, so that a block of candidates is looked up with one binary search. Ages are days
before the moment; where a file tells only the order of events, a day is a place (see `tables`). Half-lives are multiples of
the shop's own rhythm: the usual gap between two active days of a shopper.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.histories import CART, DAY, PURCHASE, RETURN, VIEW, Histories

RHYTHMS = (0.25, 0.75, 2.0, 6.0)
"""Half-lives of personal counts, in rhythms; beside them all time alike."""
BROWSING_DAYS = (0.5, 3.0, 14.0)
FAR = 1e4
"""Days; "never"."""
_CAUTION = 5.0
"""Repeats that the shop's own mean weighs against an item's."""


def rhythm(events: Histories, kind: int) -> float:
    """Median days between two active days of a shopper, within [1, 60]; 30 where nobody came twice."""
    part = events.of(kind)
    days = np.unique(part.user.astype(np.int64) << 32 | part.time // int(DAY))
    user, day = days >> 32, days & 0xFFFFFFFF
    gap = (day[1:] - day[:-1])[user[1:] == user[:-1]]
    return float(np.clip(np.median(gap), 1.0, 60.0)) if len(gap) else 30.0


def names(browsing: tuple[int, ...]) -> tuple[str, ...]:
    """Columns of `Pairs.values`."""
    made = [f"had_{r:g}r" for r in RHYTHMS] + ["had_ever", "last_had", "first_had", "days_since_last", "rate", "due_own", "due_item",
                                                "steadiness", "units", "returned", "in_last", "in_last_three"]
    for kind in browsing:
        made += [f"{('view', 'cart', 'purchase')[kind]}_{d:g}d" for d in BROWSING_DAYS] + [f"{('view', 'cart', 'purchase')[kind]}_last"]
    return tuple(made)


def browsing_kinds(objective: int) -> tuple[int, ...]:
    """Behaviours beside the objective that speak for an item."""
    return tuple(k for k in (VIEW, CART, PURCHASE) if k != objective)


@dataclass(frozen=True)
class Occasions:
    """Distinct (shopper, item, day) of one kind, sorted so."""

    user: np.ndarray
    item: np.ndarray
    day: np.ndarray
    age: np.ndarray
    """(M,) float64 days before the moment, > 0."""

    @classmethod
    def of(cls, events: Histories, moment: float, *kinds: int) -> Occasions:
        part = events.of(*kinds)
        day = part.time // int(DAY)
        order = np.lexsort((part.time, day, part.item, part.user))
        user, item, day, time = part.user[order], part.item[order], day[order], part.time[order]
        last = np.ones(len(user), bool)
        if len(user):
            last[:-1] = (user[1:] != user[:-1]) | (item[1:] != item[:-1]) | (day[1:] != day[:-1])
        return cls(user[last], item[last], day[last], np.maximum((moment - time[last]) / DAY, 1e-6))

    def __len__(self) -> int:
        return len(self.user)

    def decayed(self, half_life: float | None) -> np.ndarray:
        """(M,) weights."""
        return np.ones(len(self)) if half_life is None else np.exp2(-self.age / half_life)

    def matrix(self, users: int, items: int, half_life: float | None = None) -> sp.csr_matrix:
        """(users, items) float32 decayed counts."""
        made = sp.csr_matrix((self.decayed(half_life).astype(np.float32), (self.user, self.item)), shape=(users, items))
        made.sum_duplicates()
        return made


@dataclass(frozen=True)
class Intervals:
    """How long until an item is had again, for items and for the shop."""

    typical: np.ndarray
    """(items,) days, geometric mean shrunk to the shop's own."""
    share: np.ndarray
    """(items,) share of occasions that were repeats, shrunk likewise."""

    @classmethod
    def of(cls, had: Occasions, items: int) -> Intervals:
        same = (had.user[1:] == had.user[:-1]) & (had.item[1:] == had.item[:-1])
        item, gap = had.item[1:][same], (had.age[:-1] - had.age[1:])[same]
        logs = np.log(np.maximum(gap, 0.5))
        overall = logs.mean() if len(logs) else np.log(30.0)
        count = np.bincount(item, minlength=items)
        typical = np.exp((np.bincount(item, weights=logs, minlength=items) + _CAUTION * overall) / (count + _CAUTION))
        total = np.bincount(had.item, minlength=items)
        share = (count + 2 * _CAUTION * count.sum() / max(total.sum(), 1)) / (total + 2 * _CAUTION)
        return cls(typical, share)


@dataclass(frozen=True)
class Pairs:
    """Numbers of all pairs that occur in `events`, all of which lie before `moment`."""

    events: Histories
    moment: float
    objective: int
    unit: float
    """The rhythm, days."""
    intervals: Intervals
    only: int | None = None
    """Code of the one shopper that the events are of, as the shop codes shoppers. Here they are the first and only one, so that what is
    asked of one costs what their history does, not what the shop has of shoppers."""

    def at(self, users: np.ndarray) -> np.ndarray:
        """Rows of shoppers by their codes in the shop."""
        return users if self.only is None else np.zeros_like(users)

    def rows(self, matrix: sp.csr_matrix, users: np.ndarray) -> sp.csr_matrix:
        """The rows of shoppers by their codes in the shop."""
        return rows_of(matrix, self.at(users))

    @cached_property
    def had(self) -> Occasions:
        """Occasions of the objective."""
        return Occasions.of(self.events, self.moment, self.objective)

    @cached_property
    def browsed(self) -> dict[int, Occasions]:
        """Occasions of the other behaviours that the shop tells of."""
        found = {k: Occasions.of(self.events, self.moment, k) for k in browsing_kinds(self.objective)}
        return {k: o for k, o in found.items() if len(o)}

    @cached_property
    def visit(self) -> np.ndarray:
        """(len(had),) how many of the shopper's own active days came after the occasion's."""
        key = self.had.user.astype(np.int64) << 32 | self.had.day
        days, index = np.unique(key, return_inverse=True)
        owner = days >> 32
        last = np.searchsorted(owner, owner, side="right") - 1
        return (last - np.arange(len(days)))[index]

    @cached_property
    def shopper(self) -> dict[str, np.ndarray]:
        """(users,) numbers of each shopper."""
        had, users = self.had, self.events.users
        days = np.bincount(np.unique(had.user.astype(np.int64) << 32 | had.day) >> 32, minlength=users).astype(np.float64)
        last, first = np.full(users, FAR), np.zeros(users)
        np.minimum.at(last, had.user, had.age)
        np.maximum.at(first, had.user, had.age)
        lines = np.bincount(had.user, minlength=users).astype(np.float64)
        head = np.ones(len(had), bool)
        head[1:] = (had.user[1:] != had.user[:-1]) | (had.item[1:] != had.item[:-1])
        distinct = np.bincount(had.user[head], minlength=users)
        active = np.full(users, FAR)
        np.minimum.at(active, self.events.user, (self.moment - self.events.time) / DAY)
        return {
            "active_days": days, "days_since": last, "days_since_any": active, "days_known": first, "lines": lines,
            "mean_gap": np.where(days > 1, (first - last) / np.maximum(days - 1, 1), FAR), "basket": lines / np.maximum(days, 1),
            "repeat_share": 1.0 - distinct / np.maximum(lines, 1),
            "lately_active": np.bincount(np.unique(had.user[had.age < 2.0 * self.unit].astype(np.int64) << 32 | had.day[had.age < 2.0 * self.unit]) >> 32,
                                         minlength=users).astype(np.float64),
            "lot": self.lot(had_by="user"),
        }

    def lot(self, had_by: str) -> np.ndarray:
        """(users,) or (items,) mean logarithm of the quantity of an event; the shop's own where there is none. `had_by`: user or item."""
        part = self.events.of(self.objective)
        size = self.events.users if had_by == "user" else self.events.items
        logs = np.log1p(np.maximum(part.quantity, 0.0).astype(np.float64))
        code = getattr(part, had_by)
        overall = logs.mean() if len(logs) else 0.0
        return (np.bincount(code, weights=logs, minlength=size) + overall) / (np.bincount(code, minlength=size) + 1.0)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """(sorted keys (P,), values (P + 1, C) float32 with a row of zeros at the end)."""
        items = np.int64(max(self.events.items, 1))
        positive = self.events.of(VIEW, CART, PURCHASE, RETURN)
        keys = np.unique(positive.user.astype(np.int64) * items + positive.item)
        size = len(keys)

        def at(user: np.ndarray, item: np.ndarray) -> np.ndarray:
            return np.searchsorted(keys, user.astype(np.int64) * items + item)

        had = self.had
        place = at(had.user, had.item)
        counts = [np.bincount(place, weights=had.decayed(r * self.unit), minlength=size) for r in RHYTHMS]
        ever = np.bincount(place, minlength=size).astype(np.float64)
        newest, oldest, after = np.full(size, FAR), np.zeros(size), np.full(size, FAR)
        np.minimum.at(newest, place, had.age)
        np.maximum.at(oldest, place, had.age)
        np.minimum.at(after, place, self.visit)
        owned = ever > 0
        owner = keys // items
        gap = np.where(ever > 1, (oldest - newest) / np.maximum(ever - 1, 1), 0.0)
        typical = self.intervals.typical[keys % items]
        step = np.ones(len(had), bool)
        step[1:] = (had.user[1:] != had.user[:-1]) | (had.item[1:] != had.item[:-1])
        # spread of the gaps between repeats: a weekly habit is more certain than four purchases at random
        gaps = np.zeros(len(had))
        gaps[1:] = np.where(step[1:], 0.0, had.age[:-1] - had.age[1:])
        square = np.bincount(place, weights=gaps**2, minlength=size) / np.maximum(ever - 1, 1)
        spread = np.sqrt(np.maximum(square - gap**2, 0.0)) / np.maximum(gap, 1e-6)
        bought, back = self.events.of(self.objective), self.events.of(RETURN)
        units = np.bincount(at(bought.user, bought.item), weights=bought.quantity, minlength=size)
        returned = np.bincount(at(back.user, back.item), weights=np.abs(back.quantity), minlength=size)
        columns = [np.log1p(8.0 * c) for c in counts] + [np.log1p(8.0 * ever)]
        columns += [
            np.where(owned, np.log1p(newest), 9.0), np.where(owned, np.log1p(oldest), 9.0), 1.0 / (1.0 + after),
            ever / np.maximum(self.shopper["active_days"][owner], 1.0),
            np.where(ever > 1, np.log((newest + 1.0) / (gap + 1.0)), 0.0), np.where(owned, np.log((newest + 1.0) / (typical + 1.0)), 0.0),
            np.where(ever > 2, 1.0 / (1.0 + spread), 0.0), np.log1p(np.maximum(units, 0.0)), np.log1p(returned),
            after == 0, np.bincount(place, weights=self.visit < 3, minlength=size),
        ]
        for kind in browsing_kinds(self.objective):
            seen = self.browsed.get(kind)
            if seen is None:
                columns += [np.zeros(size)] * (len(BROWSING_DAYS) + 1)
                continue
            where = at(seen.user, seen.item)
            columns += [np.log1p(8.0 * np.bincount(where, weights=seen.decayed(d), minlength=size)) for d in BROWSING_DAYS]
            fresh = np.full(size, FAR)
            np.minimum.at(fresh, where, seen.age)
            columns.append(1.0 / (1.0 + fresh))
        values = np.stack([np.asarray(c, np.float32) for c in columns], axis=1) if size else np.zeros((0, len(names(browsing_kinds(self.objective)))))
        return keys, np.concatenate([values, np.zeros((1, values.shape[1]))]).astype(np.float32)

    def of(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """(…, C) float32 numbers of pairs; users and items of the same shape."""
        keys, values = self._table
        asked = self.at(users).astype(np.int64) * max(self.events.items, 1) + items
        place = np.searchsorted(keys, asked)
        hit = (place < len(keys)) & (keys[np.minimum(place, max(len(keys) - 1, 0))] == asked) if len(keys) else np.zeros(asked.shape, bool)
        return values[np.where(hit, place, len(keys))]

    def known(self, users: np.ndarray) -> sp.csr_matrix:
        """(len, items) bool: what each shopper has had."""
        made = self.rows(self.ever, users)
        return sp.csr_matrix((np.ones_like(made.data), made.indices, made.indptr), shape=made.shape)

    # -- shoppers as rows over items: what the signals start from

    @cached_property
    def ever(self) -> sp.csr_matrix:
        return self.had.matrix(self.events.users, self.events.items)

    @cached_property
    def taste(self) -> sp.csr_matrix:
        """Decayed over two rhythms; a cart counts a third, a view a tenth of the objective."""
        return self._mixed(2.0 * self.unit, 0.5 * self.unit)

    @cached_property
    def lasting(self) -> sp.csr_matrix:
        """Decayed over six rhythms."""
        return self._mixed(6.0 * self.unit, 2.0 * self.unit)

    @cached_property
    def recent(self) -> sp.csr_matrix:
        """By the shopper's own visits: the newest counts 1, the one before 0.6, and so on."""
        made = self._summed([(self.had, np.power(0.6, self.visit)),
                             *((seen, seen.decayed(1.0) * (0.5 if kind == CART else 0.3)) for kind, seen in self.browsed.items())])
        made.data[made.data < 1e-3] = 0.0
        made.eliminate_zeros()
        return made

    @cached_property
    def fading(self) -> sp.csr_matrix:
        """What was had, by the shopper's own visits: the newest counts 1, the one before 0.8, and so on; the newest thirty."""
        kept = self.visit < 30
        made = sp.csr_matrix((np.power(0.8, self.visit[kept]).astype(np.float32), (self.had.user[kept], self.had.item[kept])),
                             shape=(self.events.users, self.events.items))
        made.sum_duplicates()
        return made

    def _mixed(self, half_life: float, browsing: float) -> sp.csr_matrix:
        share = {CART: 1 / 3, VIEW: 1 / 10, PURCHASE: 1.0}
        return self._summed([(self.had, self.had.decayed(half_life)), *((o, o.decayed(browsing) * share[kind]) for kind, o in self.browsed.items())])

    def _summed(self, parts: list[tuple[Occasions, np.ndarray]]) -> sp.csr_matrix:
        """(users, items) float32 of all parts' weights. One matrix, made once: a single look-up pays for each that scipy makes."""
        user, item, weight = (np.concatenate(c) for c in zip(*((o.user, o.item, w) for o, w in parts), strict=True))
        return sp.csr_matrix((weight.astype(np.float32), (user, item)), shape=(self.events.users, self.events.items))


def rows_of(matrix: sp.csr_matrix, users: np.ndarray) -> sp.csr_matrix:
    """The rows of `users` (codes). One row is a view of the matrix: what scipy does for many costs a single look-up more than its arithmetic."""
    if len(users) != 1:
        return matrix[users]
    begin, end = matrix.indptr[users[0] : users[0] + 2]
    made = copy.copy(_no_row(matrix.shape[1], matrix.dtype))
    made.data, made.indices, made.indptr = matrix.data[begin:end], matrix.indices[begin:end], np.array([0, end - begin], matrix.indptr.dtype)
    return made


@lru_cache
def _no_row(columns: int, dtype: np.dtype) -> sp.csr_matrix:
    return sp.csr_matrix((1, columns), dtype=dtype)
