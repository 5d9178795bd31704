"""Quality of ranked lists against what shoppers then did: full ranking, one number a shopper, vectorised.

`lists` is (users, depth) int codes of distinct items, best first, -1 where a list is shorter. `truth` is a boolean CSR matrix
(users, items) of what was right. Shoppers without anything right have no defined metric and must be left out before.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

RANKING = ("ndcg@10", "recall@20", "mrr", "hit_rate@10", "novelty@20")
"""Metrics that each shopper has a value of, in [0, 1] except novelty (bits)."""
COVERAGE = "coverage@20"


def hits(lists: np.ndarray, truth: sp.csr_matrix) -> np.ndarray:
    """(users, depth) bool: whether the item at each place is right."""
    users = len(lists)
    if truth.shape[0] != users:
        raise ValueError(f"{users} lists, but truth of {truth.shape[0]} shoppers; give one list each, in the same order")
    width = truth.shape[1]
    relevant = np.repeat(np.arange(users, dtype=np.int64), np.diff(truth.indptr)) * width + truth.indices
    asked = np.arange(users, dtype=np.int64)[:, None] * width + lists
    return np.isin(asked, relevant) & (lists >= 0)


def per_user(lists: np.ndarray, truth: sp.csr_matrix, popularity: np.ndarray) -> dict[str, np.ndarray]:
    """(users,) values of each metric of RANKING.

    ndcg@10: binary gains, ideal list of min(10, right items) (Järvelin & Kekäläinen 2002). recall@20: right items found over
    right items. mrr: reciprocal rank of the first right item in the list, 0 where the list has none. hit_rate@10: any found.
    novelty@20: mean self-information in bits, -log2 of the share of shoppers who had bought the item before (Zhou 2010);
    `popularity` is that share (items,), in (0, 1].
    """
    right = np.asarray(np.diff(truth.indptr), dtype=np.float64)
    if (right == 0).any():
        raise ValueError(f"shopper {int(np.argmin(right))} has nothing right; leave such shoppers out")
    found = hits(lists, truth)
    top = found[:, :10]
    discount = 1.0 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(right, 10).astype(int)]
    first = np.where(found.any(axis=1), 1.0 / (1.0 + found.argmax(axis=1)), 0.0)
    shown = lists[:, :20]
    bits = -np.log2(popularity)
    listed = shown >= 0
    novelty = np.where(listed, bits[np.where(listed, shown, 0)], 0.0).sum(axis=1) / np.maximum(listed.sum(axis=1), 1)
    return {
        "ndcg@10": (top * discount[: top.shape[1]]).sum(axis=1) / ideal,
        "recall@20": found[:, :20].sum(axis=1) / right,
        "mrr": first,
        "hit_rate@10": top.any(axis=1).astype(np.float64),
        "novelty@20": novelty,
    }


def coverage(lists: np.ndarray, items: int, depth: int = 20) -> float:
    """Share of the catalogue that anybody is shown in the first `depth` places."""
    shown = lists[:, :depth]
    return len(np.unique(shown[shown >= 0])) / items


def self_information_share(buyers: np.ndarray, users: int) -> np.ndarray:
    """(items,) share of shoppers who bought each item, add-one smoothed so that an unsold item is finite."""
    return (np.asarray(buyers, dtype=np.float64) + 1.0) / (users + 1.0)
