"""Wide tables made narrow, and what that costs: columns selected by L1, or turned into principal components."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression

from nightmarket.evaluate.bootstrap import Interval, difference

How = Literal["all", "l1", "pca"]


@dataclass(frozen=True)
class Narrowed:
    """A map of (n, wide) matrices, dense or sparse, to (n, width)."""

    how: How
    width: int
    wide: int
    apply: Callable[[Any], Any]
    kept: np.ndarray | None = None
    """(width,) columns that L1 kept, largest weight first."""
    explained: float | None = None
    """Share of the variance that the components hold."""


def select(x: Any, label: np.ndarray, width: int, seed: int = 17) -> Narrowed:
    """The `width` columns of largest weight in an L1-penalised logistic regression (Tibshirani 1996) of a 0/1 label.

    The penalty is halved until at least `width` columns have a weight, or nine times. Columns are scaled by their largest value,
    so that units do not decide. Fewer are kept where no more have a weight. Raises ValueError where none has.
    """
    largest = np.asarray(abs(x).max(axis=0).todense()).ravel() if sparse.issparse(x) else np.abs(x).max(axis=0)
    scaled = x @ sparse.diags(1.0 / np.where(largest > 0, largest, 1.0)) if sparse.issparse(x) else x / np.where(largest > 0, largest, 1.0)
    strength = 0.01
    for _ in range(10):
        made = LogisticRegression(l1_ratio=1.0, C=strength, solver="liblinear", random_state=seed).fit(scaled, label)
        weight = np.abs(made.coef_[0])
        if (weight > 0).sum() >= width:
            break
        strength *= 2.0
    kept = np.argsort(-weight, kind="stable")[: min(width, int((weight > 0).sum()))]
    if not len(kept):
        raise ValueError("no column tells anything of the label")
    return Narrowed("l1", len(kept), x.shape[1], lambda rows: rows[:, kept], kept)


def components(x: Any, width: int, seed: int = 17) -> Narrowed:
    """The first `width` principal components (of a sparse matrix without centring, which keeps it sparse)."""
    centre = np.zeros(x.shape[1]) if sparse.issparse(x) else x.mean(axis=0)
    made = TruncatedSVD(min(width, x.shape[1] - 1), random_state=seed).fit(x - centre if not sparse.issparse(x) else x)
    return Narrowed(
        "pca", made.n_components, x.shape[1], lambda rows: made.transform(rows if sparse.issparse(rows) else rows - centre),
        explained=float(made.explained_variance_ratio_.sum()))


def everything(x: Any) -> Narrowed:
    return Narrowed("all", x.shape[1], x.shape[1], lambda rows: rows)


def cost(whole: np.ndarray, narrow: np.ndarray, resamples: int = 400, seed: int = 17) -> Interval:
    """What narrowing costs: mean (n,) row loss of the narrow model less the whole one's, paired. Above zero: it loses."""
    return difference(narrow, whole, resamples, seed)
