"""Sums over the past of an entity, exact and fast, on one machine.

An entity (a card, a device) is a code per row, -1 for none. Everything is asked "as of" a moment: `History` answers for each
row what happened to its entity within [t - window, t], rows of the same moment included, as SQL's
`RANGE BETWEEN INTERVAL window PRECEDING AND CURRENT ROW` does. Values are summed as 64-bit integers (see `Fixed`), so a sum does
not depend on the order of rows nor on rows outside the window: shuffled input and later rows change no bit of it.
"""

from __future__ import annotations

from dataclasses import dataclass

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


class Moments:
    """Times of questions ranked among times of events, shared by all entities. Built once a table."""

    def __init__(self, events: np.ndarray, asked: np.ndarray):
        self.distinct = np.unique(events)
        self.asked = asked
        self._lower: dict[int, np.ndarray] = {}
        self.own = np.searchsorted(self.distinct, events, "left")
        """Rank of each event's own time."""
        self.base = len(self.distinct) + 1

    def before(self, window: int) -> np.ndarray:
        """(asked,) rank of the first event time at or after t - window; 0 stands for t itself."""
        if window not in self._lower:
            self._lower[window] = np.searchsorted(self.distinct, self.asked - window, "left")
        return self._lower[window]

    def through(self) -> np.ndarray:
        """(asked,) rank just after the last event time at or before t."""
        if -1 not in self._lower:
            self._lower[-1] = np.searchsorted(self.distinct, self.asked, "right")
        return self._lower[-1]


class History:
    """Events of one entity column, asked by rows of the same table.

    `codes` (n,) of the events; `asked` (m,) codes of the rows that ask, whose times are those of `moments`. With `strict`, an
    event of the very moment of the question does not count (labels: known before, not at the same time).
    """

    def __init__(self, codes: np.ndarray, moments: Moments, asked: np.ndarray, strict: bool = False):
        kept = np.flatnonzero(codes >= 0)
        keys = codes[kept].astype(np.int64) * moments.base + moments.own[kept]
        order = np.argsort(keys, kind="stable")
        self.order = kept[order]
        """Events sorted by entity, then time."""
        self.keys = keys[order]
        self._moments = moments
        self._asked = asked.astype(np.int64)
        self._sorting = np.argsort(self._asked * moments.base + moments.through(), kind="stable")  # near in memory, near in time
        self._start = self._find(np.zeros(len(asked), np.int64))
        self._end = self._find(moments.before(0) if strict else moments.through())
        self._none = self._asked < 0
        self._end[self._none] = self._start[self._none] = 0

    def _find(self, ranks: np.ndarray) -> np.ndarray:
        """Position of the first event of the asked entity with at least that time rank."""
        order = self._sorting
        found = np.empty(len(order), np.int64)
        found[order] = np.searchsorted(self.keys, (self._asked * self._moments.base + ranks)[order], "left")
        return found

    def bounds(self, window: int | None) -> tuple[np.ndarray, np.ndarray]:
        """[first, last) positions in `order` of what each asking row sees; None: everything up to its moment."""
        if window is None:
            return self._start, self._end
        first = self._find(self._moments.before(window))
        first[self._none] = 0
        return np.minimum(first, self._end), self._end

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
        return self._running(times, chosen, largest=True)

    def largest(self, integers: np.ndarray) -> np.ndarray:
        """(asked,) largest event value so far; NEVER where there is none."""
        return self._running(integers, None, largest=True)

    def oldest(self, times: np.ndarray) -> np.ndarray:
        """(asked,) time of the entity's first event; NEVER where there is none."""
        found = np.full(len(self._asked), NEVER)
        seen = self._end > self._start
        found[seen] = times[self.order[self._start[seen]]]
        return found

    def _running(self, values: np.ndarray, chosen: np.ndarray | None, largest: bool) -> np.ndarray:
        own = values[self.order].astype(np.int64)
        if chosen is not None:
            own = np.where(chosen[self.order], own, NEVER)
        # ranks, offset by entity: one running maximum over all that never looks across entities
        ladder = np.unique(own)
        ranks = np.searchsorted(ladder, own)
        group = np.cumsum(np.concatenate([[0], (self.keys[1:] // self._moments.base != self.keys[:-1] // self._moments.base)]))
        running = np.maximum.accumulate(group[:len(own)] * (len(ladder) + 1) + ranks) - group[:len(own)] * (len(ladder) + 1)
        found = np.full(len(self._asked), NEVER)
        seen = self._end > self._start
        found[seen] = ladder[running[self._end[seen] - 1]]
        return found

    def last_position(self) -> np.ndarray:
        """(asked,) position in `order` of the newest event seen; -1 where there is none."""
        return np.where(self._end > self._start, self._end - 1, -1)


def paired(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) codes of pairs of codes, dense; -1 where either is."""
    both = left.astype(np.int64) * (int(right.max(initial=0)) + 1) + right
    found = np.full(len(left), -1, np.int64)
    there = (left >= 0) & (right >= 0)
    found[there] = np.unique(both[there], return_inverse=True)[1]
    return found
