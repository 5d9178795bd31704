"""Why an item is recommended, in words. The named cause is in the shopper's own history, or true of the shop as of the moment."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.histories import CART, DAY, PURCHASE, VIEW
from nightmarket.recommend.lists import Block
from nightmarket.recommend.pairs import Occasions, Pairs
from nightmarket.recommend.signals import Signals

_VERB = {PURCHASE: "bought", CART: "put in the cart", VIEW: "looked at"}
_LINKED = {"together": "goes with", "newest": "goes with", "also": "goes with", "walk": "goes with", "linear": "goes with", "latent": "goes with",
           "follows": "often comes after", "rules": "often comes after", "rules_newest": "often comes after", "linear_newest": "goes with",
           "also_newest": "goes with"}
_UNNAMED = ("own", "popular", "rising")
"""Signals that no item of the shopper's stands behind."""


class Causes:
    """Words for items, from the counts that ranked them."""

    def __init__(self, signals: Signals, asked: Pairs, clock: bool, time_zone: str = "UTC"):
        """`clock`: whether times are times. Days are those of `time_zone`."""
        self._signals, self._asked, self._clock, self._zone = signals, asked, clock, ZoneInfo(time_zone)
        self._did = {kind: _newest(occasions, asked.events.users, asked.events.items) for kind, occasions in
                     ((asked.objective, asked.had), *asked.browsed.items())}
        self._verb = _VERB[asked.objective]

    def of(self, block: Block, chosen: np.ndarray) -> list[list[str]]:
        """Reasons by shopper. `chosen` (n, k): columns of the block's candidates, -1 for none."""
        asked, users = self._asked, block.users
        ever = asked.rows(asked.ever, users)
        weights = {n: asked.rows(getattr(asked, n), users) for n in ("lasting", "recent", *(("fading",) if self._signals.options.ordered else ()))}
        did = {kind: asked.rows(matrix, users) for kind, matrix in self._did.items()}
        said = []
        for row, user in enumerate(users):
            times = _row(ever, row)
            seen = {kind: _row(matrix, row) for kind, matrix in did.items()}
            own = {name: _Own(self._signals, _row(matrix, row)) for name, matrix in weights.items()}
            said.append([
                self._one(block, row, int(column), int(block.items[row, column]), int(user), times, seen, own) for column in chosen[row] if column >= 0])
        return said

    def _one(self, block: Block, row: int, column: int, item: int, user: int, times: dict[int, float], seen: dict[int, dict[int, float]],
             own: dict[str, _Own]) -> str:
        if item in times:
            n, on = round(times[item]), self._on(seen[self._asked.objective][item])
            return f"{self._verb} {n} times" + (f", last{on}" if on else "") if n > 1 else f"{self._verb}{on or ' before'}"
        for kind in (PURCHASE, CART, VIEW):
            if kind != self._asked.objective and item in seen.get(kind, {}):
                return f"{_VERB[kind]}{self._on(seen[kind][item])}" + ("" if self._asked.objective != PURCHASE else ", not bought yet")
        places = {n: float(p[row, column]) for n, p in block.places.items() if n not in _UNNAMED and n not in self._signals.further}
        for name in sorted(places, key=lambda n: (-places[n], n)):
            if places[name] <= 0:
                break
            if name in ("alike", "lately"):
                return f"{self._verb} by shoppers whose history is most like yours"
            cause = own[_PROFILES.get(name, "lasting")].cause(name, item)
            if cause is not None:
                past = next((_VERB[k] for k in (PURCHASE, CART, VIEW) if cause in seen.get(k, {})), self._verb)
                how = _LINKED.get(name, "similar to" if self._signals.popularity[-1][item] else "new, similar to")
                return f"{how} {self._title(cause)}, which you {past}"
        return self.popular(item, user)

    def popular(self, item: int, user: int) -> str:
        """What is true of an item for anybody with the shopper's attributes."""
        groups = self._signals.groups
        for n, name in enumerate(groups.names):
            code = int(groups.codes[user, n])
            if code >= 0 and self._signals.by_group[n][code, item] >= self._signals.busy[1][n][code]:
                return f"popular where {name} is {groups.values[n][code]}"
        if self._signals.popularity[2][item] >= self._signals.busy[0]:
            return "popular now"
        count = int(self._signals.popularity[-1][item])
        return f"{self._verb} {count} times in this shop" if count else "new in this shop"

    def _title(self, item: int) -> str:
        return str(self._signals.catalogue.titles[item]) or f"item {self._signals.catalogue.item_ids[item]}"

    def _on(self, fresh: float) -> str:
        if not self._clock:
            return ""
        moment = round(self._asked.moment - (1.0 / fresh - 1.0) * DAY)
        return f" on {datetime.fromtimestamp(moment, self._zone).date().isoformat()}"


_LINKS = {"follows": "follows", "also": "also", "walk": "walk", "content": "similar", "linear": "linear", "rules": "rules",
          "rules_newest": "rules", "linear_newest": "linear", "also_newest": "also"}
"""Pairs of items that a signal's scores rest on; together where it is not said."""


_PROFILES = {"newest": "recent", "follows": "recent", "rules": "fading", "rules_newest": "recent", "linear_newest": "fading", "also_newest": "fading"}
"""Which of a shopper's weights a signal reads; the lasting ones where it is not said."""


class _Own:
    """A shopper's own items with their weights, and their links to others, looked up once a signal."""

    def __init__(self, signals: Signals, weights: dict[int, float]):
        self._signals = signals
        self._items = np.array(sorted(weights), np.int64)
        self._weights = np.array([weights[int(i)] for i in self._items])
        self._links: dict[str, sp.csc_matrix | None] = {}

    def cause(self, signal: str, item: int) -> int | None:
        """The shopper's item that the signal's score of `item` rests on most; None where it rests on none."""
        name = _LINKS.get(signal, "together")
        if name not in self._links:
            matrix = getattr(self._signals, name)
            self._links[name] = None if matrix is None or not len(self._items) else sp.csc_matrix(matrix[self._items])
        links = self._links[name]
        if links is None:
            return None
        span = slice(links.indptr[item], links.indptr[item + 1])
        rows = links.indices[span]
        value = np.where(self._items[rows] == item, 0.0, self._weights[rows] * links.data[span])
        best = value.max(initial=0.0)
        return int(self._items[rows[value == best]].min()) if best > 0 else None


def _newest(occasions: Occasions, users: int, items: int) -> sp.csr_matrix:
    """(users, items) float64 1 / (1 + age) of the newest occasion of each pair."""
    last = np.ones(len(occasions), bool)
    last[:-1] = (occasions.user[1:] != occasions.user[:-1]) | (occasions.item[1:] != occasions.item[:-1])
    return sp.csr_matrix((1.0 / (1.0 + occasions.age[last]), (occasions.user[last], occasions.item[last])), shape=(users, items))


def _row(matrix: sp.csr_matrix, row: int) -> dict[int, float]:
    span = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return dict(zip(matrix.indices[span].tolist(), matrix.data[span].tolist(), strict=True))
