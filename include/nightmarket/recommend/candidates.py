"""Candidate generators: each proposes items for shoppers from one kind of evidence; the ranker decides among their proposals.

A generator scores a block of shoppers against all items; 0 means that it has nothing to say of the item. To add one, write a
function of (Evidence, users) and list it in `generators`; the ranker learns what its score and place are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.counts import top_k
from nightmarket.recommend.evidence import Evidence

Generator = Callable[[Evidence, np.ndarray], np.ndarray]
"""(evidence, user codes (n,)) -> (n, items) float32 scores >= 0."""

TOWER = "tower"


def personal(evidence: Evidence, users: np.ndarray) -> np.ndarray:
    """What the shopper buys again and again (half-life 180 days), and what they lately looked at or carted."""
    made = evidence.personal[3][users] + 0.05 * evidence.personal[4][users]
    if len(evidence.carted):
        made = made + 0.5 * evidence.carts[2][users]
    if len(evidence.viewed):
        made = made + 0.2 * evidence.views[2][users]
    return made.toarray().astype(np.float32)


def together(evidence: Evidence, users: np.ndarray) -> np.ndarray:
    """Items that go with the shopper's items: BM25 item-item cosine over decayed counts."""
    return _dense(evidence.taste[users] @ evidence.together)


def next_basket(evidence: Evidence, users: np.ndarray) -> np.ndarray:
    """Items that others bought on the purchase day after they had bought what is in the shopper's newest baskets."""
    recent = evidence.baskets_since[users].copy()
    return _dense(recent @ evidence.next_basket)


def neighbours(evidence: Evidence, users: np.ndarray) -> np.ndarray:
    """Items that shoppers of similar taste buy."""
    near = evidence.neighbours(users)
    total = np.asarray(near.sum(axis=1)).ravel()
    weights = sp.diags(np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)) @ near
    return _dense(weights @ evidence.taste)


def popular(evidence: Evidence, users: np.ndarray) -> np.ndarray:
    """What sells now, in the shop and in the shopper's country."""
    recent = evidence.popularity[1] + 0.1 * evidence.popularity[3] / max(evidence.popularity[3].max(initial=0.0), 1.0)
    shop = recent / max(recent.max(initial=0.0), 1e-9)
    _, code = evidence.country_codes
    here = evidence.country_popularity
    scaled = here / np.maximum(here.max(axis=1, initial=0.0, keepdims=True), 1e-9)
    return (shop[None, :] + 0.5 * scaled[code[users]]).astype(np.float32)


def content(evidence: Evidence, users: np.ndarray) -> np.ndarray:
    """Items with the words and category of what the shopper buys, looks at and carts."""
    words = evidence.content
    return _dense((evidence.taste[users] @ words) @ words.T)


GENERATORS: Mapping[str, Generator] = {
    "personal": personal, "together": together, "next_basket": next_basket, "neighbours": neighbours, "content": content,
    "popular": popular,
}


@dataclass(frozen=True)
class Candidates:
    """Proposals for a block of shoppers."""

    users: np.ndarray
    """(n,) codes."""
    items: np.ndarray
    """(n, L) int64 codes, best proposals first, -1 where a shopper has fewer."""
    scores: Mapping[str, np.ndarray]
    """By generator, (n, L) score of the item, whoever proposed it."""
    places: Mapping[str, np.ndarray]
    """By generator, (n, L) 1 / place in its list, 0 beyond the list."""


def propose(
    evidence: Evidence, users: np.ndarray, limit: int, allowed: np.ndarray, extra: Mapping[str, Generator] | None = None,
) -> Candidates:
    """At most `limit` distinct items for each shopper, taken from all generators' lists by their best places.

    `allowed` is the (items,) mask of what may be recommended at all. Deterministic: equal places go to the smaller item code.
    """
    blocks = {name: make(evidence, users) for name, make in {**GENERATORS, **(extra or {})}.items()}
    rows, items = len(users), evidence.histories.items
    best = np.zeros((rows, items), np.float32)
    inverse: dict[str, np.ndarray] = {}
    for name, block in blocks.items():
        listed = top_k(np.where(allowed & (block > 0), block, -np.inf), limit)
        place = np.zeros((rows, items), np.float32)
        row, rank = np.nonzero(listed >= 0)
        place[row, listed[row, rank]] = 1.0 / (1.0 + rank)
        inverse[name] = place
        np.maximum(best, place, out=best)
    picked = top_k(np.where(best > 0, best, -np.inf), limit)
    index, safe = np.arange(rows)[:, None], np.where(picked >= 0, picked, 0)
    return Candidates(
        users, picked,
        {name: np.where(picked >= 0, block[index, safe], 0.0).astype(np.float32) for name, block in blocks.items()},
        {name: np.where(picked >= 0, place[index, safe], 0.0).astype(np.float32) for name, place in inverse.items()},
    )


def block_size(items: int, cells: int = 2_000_000) -> int:
    """Shoppers at a time, so that one dense block of scores stays near 8 MiB whatever the catalogue."""
    return int(np.clip(cells // max(items, 1), 8, 1024))


def _dense(matrix: sp.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.toarray(), dtype=np.float32)
