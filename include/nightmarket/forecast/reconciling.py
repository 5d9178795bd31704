"""Coherent forecasts: items, categories, countries and the total add up.

Bottom-up sums the lowest series. Minimum trace (Wickramasuriya, Athanasopoulos & Hyndman 2019) finds, among all coherent
forecasts, those with the smallest total error variance given the covariance of the base forecasts' errors; here shrunk to its
diagonal (Schäfer & Strimmer 2005), or the diagonal alone where there are too few errors. `pennies` rounds so that sums of rounded
numbers agree too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import splu

Method = Literal["bottom_up", "ols", "wls", "mint"]


@dataclass(frozen=True)
class Hierarchy:
    """Which series add up to which."""

    names: tuple[tuple[str, Hashable], ...]
    """(level, key) of every node: those above first, the bottom series last, in the order of `sums`."""
    sums: Any
    """(nodes, bottom) scipy.sparse.csr_matrix of 0 and 1; its last `bottom` rows are the identity."""

    @property
    def bottom(self) -> int:
        return int(self.sums.shape[1])


def hierarchy(bottom: Sequence[Hashable], levels: Mapping[str, Sequence[Hashable]], total: str = "total", lowest: str = "item") -> Hierarchy:
    """Nodes of a grouped structure: the total, every value of each level (of bottom series i: `levels[name][i]`), the bottom series.

    Raises ValueError for a level that does not name every bottom series.
    """
    m = len(bottom)
    names: list[tuple[str, Hashable]] = [(total, total)]
    blocks = [sparse.csr_matrix(np.ones((1, m)))]
    for level, keys in levels.items():
        if len(keys) != m:
            raise ValueError(f"level {level} names {len(keys)} series; there are {m}")
        values = sorted(set(keys), key=str)
        index = {v: i for i, v in enumerate(values)}
        rows = np.array([index[k] for k in keys])
        blocks.append(sparse.csr_matrix((np.ones(m), (rows, np.arange(m))), shape=(len(values), m)))
        names += [(level, v) for v in values]
    blocks.append(sparse.identity(m, format="csr"))
    names += [(lowest, k) for k in bottom]
    return Hierarchy(tuple(names), sparse.vstack(blocks, format="csr"))


def reconcile(tree: Hierarchy, base: np.ndarray, method: Method = "mint", errors: np.ndarray | None = None, nonnegative: bool = True) -> np.ndarray:
    """(nodes, H) coherent forecasts from (nodes, H) base forecasts.

    `errors` (nodes, samples): the base forecasts' backtest errors, for 'wls' and 'mint'. `nonnegative` clips bottom series at 0
    before they are summed. Raises ValueError for other shapes or missing errors.
    """
    nodes, m = tree.sums.shape
    if base.shape[0] != nodes:
        raise ValueError(f"{base.shape[0]} base forecasts for {nodes} nodes")
    if method == "bottom_up":
        low = base[-m:]
    else:
        if method == "ols":
            low = _projected(tree, base, np.ones(nodes))
        else:
            if errors is None or errors.shape[0] != nodes or errors.shape[1] < 2:
                raise ValueError(f"{method} needs errors of all {nodes} nodes, two samples at least")
            variance = np.maximum(np.mean(errors**2, axis=1), 1e-12)
            variance = np.maximum(variance, 1e-6 * np.median(variance))  # a node that was never wrong would rule alone
            low = _projected(tree, base, variance) if method == "wls" or nodes > 2000 else _minimum_trace(tree, base, errors, variance)
    if nonnegative:
        low = np.maximum(low, 0.0)
    return tree.sums @ low


def _projected(tree: Hierarchy, base: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(bottom, H) generalised least squares with a diagonal covariance, sparse."""
    weigh = sparse.diags(1.0 / variance)
    normal = (tree.sums.T @ weigh @ tree.sums).tocsc()
    return splu(normal).solve(np.ascontiguousarray(tree.sums.T @ (weigh @ base)))


def _minimum_trace(tree: Hierarchy, base: np.ndarray, errors: np.ndarray, variance: np.ndarray) -> np.ndarray:
    covariance = shrunk(errors, variance)
    summing = tree.sums.toarray()
    weighed = np.linalg.solve(covariance, summing)  # W^-1 S
    return np.linalg.solve(summing.T @ weighed, weighed.T @ base)


def shrunk(errors: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(nodes, nodes) second moments of (nodes, samples) errors, correlations shrunk to 0 by Schäfer and Strimmer's intensity."""
    nodes, samples = errors.shape
    scaled = errors / np.sqrt(variance)[:, None]
    correlation = scaled @ scaled.T / samples
    spread = ((scaled**2) @ (scaled**2).T / samples - correlation**2) / max(samples - 1, 1)
    off = ~np.eye(nodes, dtype=bool)
    below = float((correlation[off] ** 2).sum())
    intensity = float(np.clip(spread[off].sum() / below, 0.0, 1.0)) if below > 0 else 1.0
    held = (1.0 - intensity) * correlation
    np.fill_diagonal(held, 1.0)
    root = np.sqrt(variance)
    return held * root[:, None] * root[None, :]


def pennies(tree: Hierarchy, coherent: np.ndarray, unit: float = 0.01) -> np.ndarray:
    """(nodes, H) int64 in `unit`s: bottom series are rounded so that the total is the nearest to it (largest remainders), sums follow."""
    low = coherent[-tree.bottom :] / unit
    whole = np.floor(low)
    short = np.round(low.sum(axis=0) - whole.sum(axis=0)).astype(int)
    order = np.argsort(-(low - whole), axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(low))[:, None], axis=0)
    counted = (whole + (rank < short[None, :])).astype(np.int64)
    return (tree.sums.astype(np.int64) @ counted).astype(np.int64)


def coherent_within(tree: Hierarchy, forecasts: np.ndarray) -> float:
    """The largest gap between a node and the sum of its bottom series."""
    return float(np.abs(tree.sums @ forecasts[-tree.bottom :] - forecasts).max(initial=0.0))
