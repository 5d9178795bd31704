"""What a practitioner would try first. Every model is judged beside them, on the same lists of the same shoppers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.counts import Occasions, cosine, strongest, top_k
from nightmarket.recommend.histories import PURCHASE, Histories

RECENT_HALF_LIFE = 7.0
FREQUENCY_HALF_LIFE = 120.0
_ITEM_NEIGHBOURS = 200
_CELLS = 2_000_000
"""Shoppers x items at a time, so that one dense block of scores stays near 8 MiB whatever the catalogue."""


@dataclass(frozen=True)
class Bought:
    """Purchases before `as_of` (seconds)."""

    histories: Histories
    as_of: float

    @cached_property
    def bought(self) -> Occasions:
        return Occasions.of(self.histories, self.as_of, PURCHASE)

    @cached_property
    def buyers(self) -> np.ndarray:
        """(items,) distinct shoppers."""
        return self.bought.buyers().astype(np.float64)

    @property
    def shoppers(self) -> int:
        """Distinct ones who bought anything."""
        return len(np.unique(self.bought.user))


def popularity(shop: Bought) -> Callable[[np.ndarray], np.ndarray]:
    """Everybody gets what most shoppers have bought."""
    return lambda users: np.tile(shop.buyers, (len(users), 1))


def recent_popularity(shop: Bought) -> Callable[[np.ndarray], np.ndarray]:
    """Everybody gets what is bought most now: purchases decayed by half in 7 days."""
    counts = np.bincount(shop.bought.item, weights=shop.bought.decayed(RECENT_HALF_LIFE), minlength=shop.histories.items)
    return lambda users: np.tile(counts, (len(users), 1))


def personal_frequency(shop: Bought) -> Callable[[np.ndarray], np.ndarray]:
    """What the shopper bought most often, decayed by half in 120 days; then the most popular items."""
    counts = shop.bought.matrix(FREQUENCY_HALF_LIFE)
    return lambda users: counts[users].toarray() + _filler(shop)


def item_item(shop: Bought) -> Callable[[np.ndarray], np.ndarray]:
    """Items whose buyers are those of the shopper's items: cosine, own items included (Linden et al. 2003); then popular ones."""
    counts = shop.bought.matrix()
    bought = counts.copy()
    bought.data[:] = 1.0
    # an item goes with itself: in a shop where people buy again that is most of the truth
    similar = sp.csr_matrix(strongest(cosine(bought), _ITEM_NEIGHBOURS) + sp.identity(counts.shape[1]))
    return lambda users: (counts[users] @ similar).toarray() + _filler(shop)


BASELINES: Mapping[str, Callable[[Bought], Callable[[np.ndarray], np.ndarray]]] = {
    "popularity": popularity, "recent_popularity": recent_popularity, "personal_frequency": personal_frequency,
    "item_item": item_item,
}


def _filler(shop: Bought) -> np.ndarray:
    """(1, items) popularity, far below any evidence: decides only where there is none."""
    return 1e-9 * (shop.buyers / max(shop.buyers.max(initial=0.0), 1.0))[None, :]


def rank(name: str, shop: Bought, users: np.ndarray, depth: int, allowed: np.ndarray) -> np.ndarray:
    """(len(users), depth) item codes of the baseline's list, best first; items outside `allowed` are never listed."""
    scores = BASELINES[name](shop)
    step = int(np.clip(_CELLS // max(shop.histories.items, 1), 8, 1024))
    parts = [
        top_k(np.where(allowed, scores(users[n : n + step]), -np.inf), depth) for n in range(0, len(users), step)
    ]
    made = np.concatenate(parts) if parts else np.empty((0, depth), np.int64)
    if made.shape[1] < depth:
        made = np.pad(made, ((0, 0), (0, depth - made.shape[1])), constant_values=-1)
    return made
