"""What a practitioner would try first. Every model is judged beside them, on the same lists of the same shoppers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.candidates import block_size
from nightmarket.recommend.counts import cosine, strongest, top_k
from nightmarket.recommend.evidence import Evidence

RECENT_HALF_LIFE = 7.0
FREQUENCY_HALF_LIFE = 120.0
_ITEM_NEIGHBOURS = 200


def popularity(evidence: Evidence) -> Callable[[np.ndarray], np.ndarray]:
    """Everybody gets what most shoppers have bought."""
    return lambda users: np.tile(evidence.buyers, (len(users), 1))


def recent_popularity(evidence: Evidence) -> Callable[[np.ndarray], np.ndarray]:
    """Everybody gets what is bought most now: purchases decayed by half in 7 days."""
    counts = np.bincount(evidence.bought.item, weights=evidence.bought.decayed(RECENT_HALF_LIFE), minlength=evidence.histories.items)
    return lambda users: np.tile(counts, (len(users), 1))


def personal_frequency(evidence: Evidence) -> Callable[[np.ndarray], np.ndarray]:
    """What the shopper bought most often, decayed by half in 120 days; then the most popular items."""
    counts = evidence.bought.matrix(FREQUENCY_HALF_LIFE)
    return lambda users: counts[users].toarray() + _filler(evidence)


def item_item(evidence: Evidence) -> Callable[[np.ndarray], np.ndarray]:
    """Items whose buyers are those of the shopper's items: cosine, own items included (Linden et al. 2003); then popular ones."""
    counts = evidence.bought.matrix()
    bought = counts.copy()
    bought.data[:] = 1.0
    # an item goes with itself: in a shop where people buy again that is most of the truth
    similar = sp.csr_matrix(strongest(cosine(bought), _ITEM_NEIGHBOURS) + sp.identity(counts.shape[1]))
    return lambda users: (counts[users] @ similar).toarray() + _filler(evidence)


BASELINES: Mapping[str, Callable[[Evidence], Callable[[np.ndarray], np.ndarray]]] = {
    "popularity": popularity, "recent_popularity": recent_popularity, "personal_frequency": personal_frequency,
    "item_item": item_item,
}


def _filler(evidence: Evidence) -> np.ndarray:
    """(1, items) popularity, far below any evidence: decides only where there is none."""
    return 1e-9 * (evidence.buyers / max(evidence.buyers.max(initial=0.0), 1.0))[None, :]


def rank(name: str, evidence: Evidence, users: np.ndarray, depth: int, allowed: np.ndarray) -> np.ndarray:
    """(len(users), depth) item codes of the baseline's list, best first; items outside `allowed` are never listed."""
    scores = BASELINES[name](evidence)
    step = block_size(evidence.histories.items)
    parts = [
        top_k(np.where(allowed, scores(users[n : n + step]), -np.inf), depth) for n in range(0, len(users), step)
    ]
    made = np.concatenate(parts) if parts else np.empty((0, depth), np.int64)
    if made.shape[1] < depth:
        made = np.pad(made, ((0, 0), (0, depth - made.shape[1])), constant_values=-1)
    return made
