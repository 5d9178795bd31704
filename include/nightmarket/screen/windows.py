"""Sums over the past of an entity, exact and fast, on one machine.

An entity (a card, a device) is a code per row, -1 for none. Everything is asked "as of" a moment: `History` answers for each
row what happened to its entity within [t - window, t], rows of the same moment included, as SQL's
`RANGE BETWEEN INTERVAL window PRECEDING AND CURRENT ROW` does. Values are summed as 64-bit integers (see `Fixed`), so a sum does
not depend on the order of rows nor on rows outside the window: shuffled input and later rows change no bit of it.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np

DAY = 86_400_000_000
"""Microseconds, the unit of all times here."""
NEVER = np.int64(-(2**62))
"""A time before all times."""


@dataclass(frozen=True)
class Fixed:
    """Fixed point: values are clipped to ±2^bits and kept in steps of 2^(bits - 33). 2^28 rows of it fit into 64 bits."""

    bits: int

    @classmethod
    def around(cls, values: np.ndarray) -> Fixed:
        """Room for a thousand times the largest common value (99th percentile of the finite ones)."""
        finite = np.abs(values[np.isfinite(values)])
        top = float(np.quantile(finite, 0.99)) if len(finite) else 1.0
        return cls(int(np.clip(np.ceil(np.log2(max(top, 1e-12))), -40, 60)) + 10)

    @property
    def step(self) -> float:
        return float(2.0 ** (self.bits - 33))

    def integers(self, values: np.ndarray) -> np.ndarray:
        """int64 of (n,) values; missing and infinite ones are 0."""
        top = 2.0**self.bits
        known = np.where(np.isfinite(values), values, 0.0)
        return np.rint(np.clip(known, -top, top) / self.step).astype(np.int64)

    def floats(self, sums: np.ndarray) -> np.ndarray:
        return sums.astype(np.float64) * self.step


def order_of(keys: np.ndarray) -> np.ndarray:
    """(n,) places of int64 keys >= 0 in rising order, equal ones as they come. Sorted with their places in the last bits where these fit:
    sorting numbers is several times faster than sorting their places."""
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits > 62:
        return np.argsort(keys, kind="stable")
    return np.asarray(np.sort(keys << bits | np.arange(len(keys))) & (1 << bits) - 1)


def distinct(values: np.ndarray) -> np.ndarray:
    """Different values in rising order: np.unique, which hashes integers first and is slower for it."""
    rising = np.sort(values)
    return np.asarray(rising[np.concatenate([[True], rising[1:] != rising[:-1]])]) if len(rising) else rising


def _ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different values in rising order, and the place of each value among them."""
    order = order_of(values - values.min()) if len(values) else np.empty(0, np.int64)
    rising = values[order]
    place = np.cumsum(np.concatenate([[False], rising[1:] != rising[:-1]])[:len(rising)])
    found = np.empty(len(values), np.int64)
    found[order] = place
    return distinct(rising), found


class Moments:
    """Times of questions ranked among times of events, shared by all entities. Built once a table."""

    def __init__(self, events: np.ndarray, asked: np.ndarray):
        self.distinct = distinct(events)
        self.own = np.searchsorted(self.distinct, events, "left")
        """Rank of each event's own time."""
        self.base = len(self.distinct) + 1
        # each time is searched for once, in rising order, however often and wherever it is asked about
        ranked: tuple[np.ndarray, np.ndarray] = (self.distinct, self.own) if asked is events else _ranked(asked)
        self._times, self._which = ranked
        self._ranks: dict[tuple[int, str], np.ndarray] = {}

    def before(self, window: int) -> np.ndarray:
        """(asked,) rank of the first event time at or after t - window; 0 stands for t itself."""
        return self._found(window, "left")

    def through(self) -> np.ndarray:
        """(asked,) rank just after the last event time at or before t."""
        return self._found(0, "right")

    def _found(self, back: int, side: Literal["left", "right"]) -> np.ndarray:
        if (back, side) not in self._ranks:
            self._ranks[back, side] = np.searchsorted(self.distinct, self._times - back, side)[self._which]
        return self._ranks[back, side]


class History:
    """Events of one entity column, asked by rows of the same table.

    `codes` (n,) of the events; `asked` (m,) codes of the rows that ask, whose times are those of `moments`. With `strict`, an
    event of the very moment of the question does not count (labels: known before, not at the same time).
    """

    def __init__(self, codes: np.ndarray, moments: Moments, asked: np.ndarray, strict: bool = False):
        kept = np.flatnonzero(codes >= 0)
        keys = codes[kept].astype(np.int64) * moments.base + moments.own[kept]
        order = order_of(keys)
        self.order = kept[order]
        """Events sorted by entity, then time."""
        self.keys = keys[order]
        self._moments = moments
        self._asked = asked.astype(np.int64)
        asking = self._asked * moments.base + moments.through()
        # near in memory, near in time; questions that come like that need no sorting
        self._sorting = None if (asking[1:] >= asking[:-1]).all() else np.argsort(asking, kind="stable")
        self._first: dict[int, np.ndarray] = {}
        self._none = self._asked < 0
        self._start = self._find(np.zeros(len(asked), np.int64))
        self._end = self._find(moments.before(0) if strict else moments.through())

    def _find(self, ranks: np.ndarray) -> np.ndarray:
        """Position of the first event of the asked entity with at least that time rank."""
        keys, order = self._asked * self._moments.base + ranks, self._sorting
        if order is None:
            found = np.searchsorted(self.keys, keys, "left")
        else:
            found = np.empty(len(order), np.int64)
            found[order] = np.searchsorted(self.keys, keys[order], "left")
        found[self._none] = 0
        return found

    def strictly(self) -> History:
        """The same of events before the moment of the question."""
        made = copy(self)
        made._end = self._find(self._moments.before(0))
        made._first = {}
        return made

    def bounds(self, window: int | None) -> tuple[np.ndarray, np.ndarray]:
        """[first, last) positions in `order` of what each asking row sees; None: everything up to its moment."""
        if window is None:
            return self._start, self._end
        if window not in self._first:
            self._first[window] = np.minimum(self._find(self._moments.before(window)), self._end)
        return self._first[window], self._end

    def count(self, window: int | None) -> np.ndarray:
        first, last = self.bounds(window)
        return last - first

    def prefix(self, integers: np.ndarray) -> np.ndarray:
        """Running sums of (n,) int64 event values in `order`, for `total`."""
        return np.concatenate([[0], np.cumsum(integers[self.order])])

    @staticmethod
    def total(prefix: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return prefix[bounds[1]] - prefix[bounds[0]]

    def newest(self, times: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """(asked,) largest of the events' `times` seen so far, of the `chosen` events where given; NEVER where there is none."""
        return self.largest(times if chosen is None else np.where(chosen, times, NEVER))

    def largest(self, integers: np.ndarray) -> np.ndarray:
        """(asked,) largest event value so far; NEVER where there is none."""
        found = np.full(len(self._asked), NEVER)
        seen = self._end > self._start
        found[seen] = self._running(integers[self.order].astype(np.int64))[self._end[seen] - 1]
        return found

    def oldest(self, times: np.ndarray) -> np.ndarray:
        """(asked,) time of the entity's first event; NEVER where there is none."""
        found = np.full(len(self._asked), NEVER)
        seen = self._end > self._start
        found[seen] = times[self.order[self._start[seen]]]
        return found

    def _running(self, own: np.ndarray) -> np.ndarray:
        """Largest of an entity's values in `order`, up to each. Values are lifted by entity, so that one running maximum over all never looks
        across entities; where lifted ones would not fit into 64 bits, their ranks are."""
        if not len(own):
            return own
        entity = self.keys // self._moments.base
        group = np.cumsum(np.concatenate([[0], entity[1:] != entity[:-1]]))
        known = own[own != NEVER]
        low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
        width = high - low + 2
        if (int(group[-1]) + 1) * width < 2**62:
            lift = group * width
            found = np.maximum.accumulate(np.where(own == NEVER, 0, own - low + 1) + lift) - lift
            return np.where(found == 0, NEVER, found + (low - 1))
        ladder = distinct(own)
        lift = group * len(ladder)
        return np.asarray(ladder[np.maximum.accumulate(np.searchsorted(ladder, own) + lift) - lift])

    def last_position(self) -> np.ndarray:
        """(asked,) position in `order` of the newest event seen; -1 where there is none."""
        return np.where(self._end > self._start, self._end - 1, -1)


def paired(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) codes of pairs of codes; -1 where either is. Dense where they would be too large for a history's keys."""
    width = int(right.max(initial=0)) + 1
    both = np.where((left >= 0) & (right >= 0), left.astype(np.int64) * width + right, -1)
    if (int(left.max(initial=0)) + 1) * width * (len(left) + 1) < 2**62:
        return both
    there = both >= 0
    both[there] = np.unique(both[there], return_inverse=True)[1]
    return both
