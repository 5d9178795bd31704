"""What learns from labels: gradient-boosted trees, a linear model for small tables, and the sample, folds and weights they share.

All of them answer with log-odds. Rows come in a fixed order (see `screening`), so the same rows give the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nightmarket.learn.strategy import tree_threads
from nightmarket.screen.forest import _levelled, _scale

FEW = 400
"""Positives below which trees stay small."""
_SURE = float(np.log(1 / 99))
"""Log-odds up to which a row that is no more suspicious than the average is left to one model."""


@dataclass(frozen=True)
class TreeSettings:
    leaves: int = 31
    rate: float = 0.03
    rounds: int = 300
    least: int = 40
    """Rows in a leaf."""
    threads: int = 0
    """0: all that the process may use."""


@dataclass(frozen=True)
class Trees:
    """LightGBM models (Ke et al., 2017) whose log-odds are averaged."""

    models: tuple[Any, ...]
    threads: int
    sure: float = -np.inf
    """Log-odds up to which what the first model says is enough: more models tell suspicious rows apart, and most rows are not."""

    def log_odds(self, X: np.ndarray) -> np.ndarray:
        found = self._of(0, X)
        doubted = np.flatnonzero(found > self.sure)
        if len(self.models) > 1 and len(doubted):
            asked = X if len(doubted) == len(X) else X[doubted]
            found[doubted] = sum((self._of(k, asked) for k in range(1, len(self.models))), found[doubted]) / len(self.models)
        return found

    def _of(self, k: int, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.models[k].predict(X, raw_score=True, num_threads=tree_threads(len(X), self.threads)))

    def contributions(self, X: np.ndarray) -> np.ndarray:
        """(n, f) what each feature adds to the log-odds (TreeSHAP; Lundberg et al., 2020) of the first model."""
        return np.asarray(self.models[0].predict(X, pred_contrib=True, num_threads=tree_threads(len(X), self.threads)))[:, :-1]


def fit_trees(X: np.ndarray, label: np.ndarray, weight: np.ndarray, settings: TreeSettings, seeds: Sequence[int],
              held: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None) -> Trees:
    """Trees of (n, f) rows, one model a seed; every second one cuts at random (Geurts, Ernst and Wehenkel, 2006), so that they differ.

    With `held` (X, label, weight) they stop where its loss stops falling.
    Bin edges are chosen on a sample of the rows given; equal rows in equal order give equal trees (LightGBM's deterministic mode).
    """
    import lightgbm

    made = []
    for turn, seed in enumerate(seeds):
        params = {
            "objective": "binary", "num_leaves": settings.leaves, "learning_rate": settings.rate, "min_data_in_leaf": settings.least,
            "feature_fraction": 0.5, "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 5.0, "max_bin": 127, "verbose": -1,
            "extra_trees": turn % 2 == 1, "seed": seed, "deterministic": True, "force_row_wise": True, "num_threads": tree_threads(len(X), settings.threads), "feature_pre_filter": False,
        }
        data = lightgbm.Dataset(X, label, weight=weight, params=params)
        if held is None:
            made.append(lightgbm.train(params, data, settings.rounds))
        else:
            watched = lightgbm.Dataset(held[0], held[1], weight=held[2], reference=data, params=params)
            made.append(lightgbm.train(params, data, settings.rounds, valid_sets=[watched],
                                       callbacks=[lightgbm.early_stopping(40, verbose=False)]))
    share = float(weight[label == 1].sum() / weight.sum())
    return Trees(tuple(made), settings.threads, min(np.log(share / (1 - share)), _SURE) if 0 < share < 1 else -np.inf)


def rounds_of(trees: Trees) -> int:
    return int(np.mean([m.best_iteration or m.num_trees() for m in trees.models]))


@dataclass(frozen=True)
class Linear:
    """Logistic regression on levelled features and on which of them are unknown."""

    centre: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    bias: float

    def log_odds(self, X: np.ndarray) -> np.ndarray:
        # summed row by row: a matrix product's last bits depend on how many rows there are
        return np.asarray((self._inputs(X) * self.weights).sum(1) + self.bias)

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        return np.hstack([np.clip(_levelled(X, self.centre, self.spread), -4, 4), ~np.isfinite(X)])


def fit_linear(X: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Linear:
    from sklearn.linear_model import LogisticRegression

    centre, spread = _scale(X)
    made = Linear(centre, spread, np.zeros(0), 0.0)
    model = LogisticRegression(C=0.3, max_iter=500).fit(made._inputs(X), label, sample_weight=weight)
    return replace(made, weights=model.coef_[0], bias=float(model.intercept_[0]))


def thinned(label: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices, weights) of all positives and at most `most` negatives, which stand for the rest by their weight."""
    negatives = np.flatnonzero(label == 0)
    if len(negatives) <= most:
        return np.arange(len(label)), np.ones(len(label))
    kept = np.random.default_rng(seed).choice(len(negatives), most, replace=False)
    index = np.sort(np.concatenate([np.flatnonzero(label == 1), negatives[kept]]))
    return index, np.where(label[index] == 1, 1.0, len(negatives) / most)


def telling(label: np.ndarray, log_odds: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices, weights) of all positives and of about `most` negatives, which stand for the rest by their weight.

    Half of them are kept by chance alike, the others the likelier the more they look like positives to a first model's `log_odds`
    (n,): where the classes are told apart easily, most negatives say nothing (local case-control sampling; Fithian and Hastie, 2014).
    """
    negatives = np.flatnonzero(label == 0)
    if len(negatives) <= most:
        return np.arange(len(label)), np.ones(len(label))
    looks = 1 / (1 + np.exp(-np.clip(log_odds[negatives], -30, 30)))
    even, low, high = most / 2 / len(negatives), 0.0, float(1 / looks.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if np.minimum(even + middle * looks, 1).sum() > most else (middle, high)
    chance = np.ones(len(label))
    chance[negatives] = np.minimum(even + low * looks, 1)
    index = np.flatnonzero(np.random.default_rng(seed).random(len(label)) < chance)
    return index, 1 / chance[index]


def folds_of(times: np.ndarray, label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(n,) fold of each row: stretches of time with equally many positives, so that a fold's neighbours in time are in it too.

    Rows without different times (and those whose stretches would lack a class) are dealt by chance, positives evenly.
    """
    positives = np.sort(times[label == 1])
    edges = positives[(np.arange(1, count) * len(positives)) // count] if len(positives) else np.zeros(0)
    folds = np.searchsorted(edges, times, "right")
    whole = all((label[folds == k] == c).any() for k in range(count) for c in (0, 1))
    if len(np.unique(edges)) == count - 1 and whole:
        return np.asarray(folds)
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(label), np.int64)
    for c in (0, 1):
        members = np.flatnonzero(label == c)
        folds[members] = rng.permutation(np.arange(len(members)) % count)
    return folds


def trust(label: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """(n,) weight in [0.1, 1] of each label, from predictions that have not seen it.

    A row counts less the surer those predictions are of the other label, by confident learning's rule (Northcutt, Jiang and
    Chuang, 2021): surer than they usually are of rows that carry that other label.
    """
    p = 1 / (1 + np.exp(-log_odds))
    bad, good = label == 1, label == 0
    if not bad.any() or not good.any():
        return np.ones(len(label))
    weight = np.ones(len(label))
    sure_bad, sure_good = float(p[bad].mean()), float((1 - p[good]).mean())
    wrong_good = good & (p > max(sure_bad, 0.5))
    weight[wrong_good] = np.clip((1 - p[wrong_good]) / (1 - max(sure_bad, 0.5) + 1e-9), 0.1, 1)
    wrong_bad = bad & (1 - p > max(sure_good, 0.5))
    weight[wrong_bad] = np.clip(p[wrong_bad] / (1 - max(sure_good, 0.5) + 1e-9), 0.1, 1)
    return weight
