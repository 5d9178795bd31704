"""Questions for a newcomer: the products of which liking or not tells most about all the others.

Liking is having bought (or, in a shop without purchases, having looked). Over the shoppers with a history, the likings of the
best-known products have means p and covariance C. The answers a to questions Q move the expectation of everything to

    E[x | a] = p + C[:, Q] (C[Q, Q] + r I)^-1 (a - p[Q])

and the question asked next is the one that takes most variance away, summed over all products: the greedy choice of representative
items of Liu et al., "Wisdom of the better few" (RecSys 2011), with the ridge r for thin data. A product that everybody or nobody likes
tells nothing, and one that repeats an earlier question tells nothing more: neither is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.histories import PURCHASE, VIEW, Histories

POOL = 2_000
"""Best-known products that are asked about and told of: the covariance is POOL by POOL."""
MINIMUM_LIKERS = 5
RIDGE = 0.5
"""In shoppers: added to a question's variance is RIDGE / shoppers * mean liking, so few shoppers make few questions sure."""


class TooFew(ValueError):
    """There is no shopper or no product to learn the questions from. The message says which."""


@dataclass(frozen=True)
class Questions:
    """In the order in which they are asked."""

    items: tuple[str, ...]
    explained: tuple[float, ...]
    """Share of the variance of all likings that is known once this question and those before it are answered; rises, at most 1."""
    liked: tuple[float, ...]
    """Share of shoppers who like it."""


@dataclass(frozen=True)
class Likings:
    """Means and covariance of what shoppers like, over the POOL best-known products."""

    items: np.ndarray
    """(P,) str."""
    mean: np.ndarray
    """(P,) float64 in [0, 1]."""
    covariance: np.ndarray
    """(P, P) float64."""
    shoppers: int

    @classmethod
    def of(cls, histories: Histories, as_of: float, allowed: Sequence[str] | None = None) -> Likings:
        """Likings before `as_of` (seconds since 1970-01-01 UTC), of products in `allowed` only where it is given.

        Raises TooFew where fewer than two shoppers, or no product with MINIMUM_LIKERS of them, are left.
        """
        past = histories.before(as_of)
        part = past.of(PURCHASE) if (past.kind == PURCHASE).any() else past.of(VIEW)
        pairs = np.unique(part.user.astype(np.int64) * max(past.items, 1) + part.item)
        user, item = pairs // max(past.items, 1), pairs % max(past.items, 1)
        shoppers, row = np.unique(user, return_inverse=True)
        likers = np.bincount(item, minlength=past.items)
        able = likers >= MINIMUM_LIKERS
        if allowed is not None:
            able &= np.isin(past.item_ids, np.array(list(allowed), dtype=object))
        pool = np.flatnonzero(able)
        if len(shoppers) < 2 or not len(pool):
            raise TooFew(f"{len(shoppers)} shoppers with a history and {len(pool)} products that at least {MINIMUM_LIKERS} of them like; "
                         f"questions need two and one")
        pool = np.sort(pool[np.lexsort((pool, -likers[pool]))][:POOL])
        liked = sp.csr_matrix((np.ones(len(row)), (row, item)), shape=(len(shoppers), past.items))[:, pool]
        mean = np.asarray(liked.mean(axis=0)).ravel()
        together = np.asarray((liked.T @ liked).todense()) / len(shoppers)
        return cls(past.item_ids[pool], mean, together - np.outer(mean, mean), len(shoppers))

    @property
    def ridge(self) -> float:
        return RIDGE / self.shoppers * float(self.mean.mean())

    def expected(self, questions: Sequence[str], answers: Sequence[bool]) -> np.ndarray:
        """(P,) expected liking of each product after these answers; no answers give the means. Raises KeyError for a product not in `items`."""
        place = {i: n for n, i in enumerate(self.items)}
        asked = np.array([place[q] for q in questions], dtype=np.int64)
        if not len(asked):
            return self.mean.copy()
        told = np.asarray(answers, dtype=np.float64) - self.mean[asked]
        inner = self.covariance[np.ix_(asked, asked)] + self.ridge * np.eye(len(asked))
        return np.asarray(self.mean + self.covariance[:, asked] @ np.linalg.solve(inner, told))


def questions(likings: Likings, count: int) -> Questions:
    """At most `count` questions, the most telling first; equal ones by item id. Fewer where nothing is left to learn."""
    left = likings.covariance.copy()
    total = float(np.trace(left))
    chosen: list[int] = []
    explained: list[float] = []
    gained = 0.0
    order = np.argsort(likings.items)
    while len(chosen) < min(count, len(left)) and total > 0:
        # what asking j takes from the variance of all: |left[:, j]|^2 / (left[j, j] + ridge)
        own = np.diag(left)
        asks = own > 1e-9 * total
        asks[chosen] = False
        gain = np.where(asks, np.einsum("ij,ij->j", left, left), 0.0) / np.where(asks, own + likings.ridge, 1.0)
        best = int(order[np.argmax(gain[order])])
        if gain[best] <= 1e-9 * total:
            break
        column = left[:, best].copy()
        left -= np.outer(column, column) / (column[best] + likings.ridge)
        gained += float(gain[best])
        chosen.append(best)
        explained.append(min(gained / total, 1.0))
    return Questions(tuple(str(likings.items[n]) for n in chosen), tuple(explained), tuple(float(likings.mean[n]) for n in chosen))
