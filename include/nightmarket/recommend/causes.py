"""Why an item is recommended, in words. The named cause is in the shopper's own history, or true of the shop as of the moment."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.histories import CART, DAY, PURCHASE, VIEW
from nightmarket.recommend.lists import Block
from nightmarket.recommend.pairs import Occasions, Pairs
from nightmarket.recommend.signals import Signals, strongest

_VERB = {PURCHASE: "bought", CART: "put in the cart", VIEW: "looked at"}
_LINKED = {"together": "goes with", "newest": "goes with", "also": "goes with", "walk": "goes with", "linear": "goes with", "latent": "goes with",
           "follows": "often comes after"}
_BUSY = 100
"""An item is popular that is among so many most wanted."""


class Causes:
    """Words for items, from the counts that ranked them."""

    def __init__(self, signals: Signals, asked: Pairs, clock: bool):
        self._signals, self._asked, self._clock = signals, asked, clock
        self._did = {kind: _newest(occasions, asked.events.users, asked.events.items) for kind, occasions in
                     ((asked.objective, asked.had), *asked.browsed.items())}
        self._verb = _VERB[asked.objective]
        recent = signals.popularity[2]
        self._bar = _edge(recent)
        self._group_bars = tuple(np.array([_edge(row) for row in counts]) for counts in signals.by_group)

    def of(self, block: Block, chosen: np.ndarray) -> list[list[str]]:
        """Reasons by shopper. `chosen` (n, k): columns of the block's candidates, -1 for none."""
        asked, users = self._asked, block.users
        ever, taste, recent = asked.ever[users], asked.lasting[users], asked.recent[users]
        did = {kind: matrix[users] for kind, matrix in self._did.items()}
        said = []
        for row, user in enumerate(users):
            times = _row(ever, row)
            seen = {kind: _row(matrix, row) for kind, matrix in did.items()}
            own = {"lasting": _row(taste, row), "recent": _row(recent, row)}
            said.append([
                self._one(block, row, int(column), int(block.items[row, column]), int(user), times, seen, own) for column in chosen[row] if column >= 0])
        return said

    def _one(self, block: Block, row: int, column: int, item: int, user: int, times: dict[int, float], seen: dict[int, dict[int, float]],
             own: dict[str, dict[int, float]]) -> str:
        if item in times:
            n, on = round(times[item]), self._on(seen[self._asked.objective][item])
            return f"{self._verb} {n} times" + (f", last{on}" if on else "") if n > 1 else f"{self._verb}{on or ' before'}"
        for kind in (PURCHASE, CART, VIEW):
            if kind != self._asked.objective and item in seen.get(kind, {}):
                return f"{_VERB[kind]}{self._on(seen[kind][item])}" + ("" if self._asked.objective != PURCHASE else ", not bought yet")
        places = {n: float(p[row, column]) for n, p in block.places.items() if n not in ("own", "popular", "rising")}
        for name in sorted(places, key=lambda n: (-places[n], n)):
            if places[name] <= 0:
                break
            if name in ("alike", "lately"):
                return f"{self._verb} by shoppers whose history is most like yours"
            cause = self._cause(name, own["recent" if name in ("newest", "follows") else "lasting"], item)
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
            if code >= 0 and self._signals.by_group[n][code, item] >= self._group_bars[n][code]:
                return f"popular where {name} is {groups.values[n][code]}"
        if self._signals.popularity[2][item] >= self._bar:
            return "popular now"
        count = int(self._signals.popularity[-1][item])
        return f"{self._verb} {count} times in this shop" if count else "new in this shop"

    def _cause(self, name: str, own: dict[int, float], item: int) -> int | None:
        """The shopper's item that the signal's score of `item` rests on most."""
        others = np.array(sorted(o for o in own if o != item), np.int64)
        if not len(others):
            return None
        weight = np.array([own[int(o)] for o in others])
        links = {"follows": "follows", "also": "also", "walk": "walk", "content": "similar", "linear": "linear"}.get(name, "together")
        matrix = getattr(self._signals, links)
        strength = np.zeros(len(others)) if matrix is None else np.asarray(matrix[others][:, [item]].todense()).ravel()
        value = weight * strength
        return int(others[value.argmax()]) if len(value) and value.max() > 0 else None

    def _title(self, item: int) -> str:
        return str(self._signals.catalogue.titles[item]) or f"item {self._signals.catalogue.item_ids[item]}"

    def _on(self, fresh: float) -> str:
        if not self._clock:
            return ""
        moment = round(self._asked.moment - (1.0 / fresh - 1.0) * DAY)
        return f" on {datetime.fromtimestamp(moment, timezone.utc).date().isoformat()}"


def _edge(counts: np.ndarray) -> float:
    best = strongest(sp.csr_matrix(counts[None, :]), _BUSY).data
    return max(float(best.min()), 1e-9) if len(best) else np.inf


def _newest(occasions: Occasions, users: int, items: int) -> sp.csr_matrix:
    """(users, items) float64 1 / (1 + age) of the newest occasion of each pair."""
    last = np.ones(len(occasions), bool)
    last[:-1] = (occasions.user[1:] != occasions.user[:-1]) | (occasions.item[1:] != occasions.item[:-1])
    return sp.csr_matrix((1.0 / (1.0 + occasions.age[last]), (occasions.user[last], occasions.item[last])), shape=(users, items))


def _row(matrix: sp.csr_matrix, row: int) -> dict[int, float]:
    span = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return dict(zip(matrix.indices[span].tolist(), matrix.data[span].tolist(), strict=True))
