"""The behaviour heads' numbers against hand counts and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from nightmarket.evaluate import heads


def _pairs(seed: int = 1, users: int = 80, each: int = 40) -> heads.Pairs:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-2, 1.5, users * each)
    did = rng.random(users * each) < 1 / (1 + np.exp(-logit))
    return heads.Pairs(np.repeat(np.arange(users), each), 1 / (1 + np.exp(-logit)), did, users)


def test_four_pairs_by_hand() -> None:
    # said yes to the first two; right about the first and the last: one of each cell
    pairs = heads.Pairs(np.array([0, 0, 1, 1]), np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]), 2)
    assert heads.confusion(pairs, 0.5) == {"tp": 1, "fp": 1, "fn": 1, "tn": 1}
    assert heads.confusion(pairs, 0.85) == {"tp": 1, "fp": 0, "fn": 1, "tn": 2}
    found = heads.measure(pairs, 0.5, 50, seed=1)
    assert {k: found[k].value for k in ("accuracy", "precision", "recall", "f1")} == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert found["roc_auc"].value == 0.75  # three of the four (yes, no) pairs are in order


def test_values_are_those_of_scikit_learn() -> None:
    pairs = _pairs()
    said = pairs.probability >= 0.3
    found = heads.measure(pairs, 0.3, 50, seed=1)
    for name, oracle in (("accuracy", accuracy_score), ("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert found[name].value == pytest.approx(oracle(pairs.did, said), abs=1e-12), name
    assert found["roc_auc"].value == roc_auc_score(pairs.did, pairs.probability)
    assert found["average_precision"].value == average_precision_score(pairs.did, pairs.probability)


def test_interval_of_auc_is_that_of_resampling_shoppers_exactly() -> None:
    pairs = _pairs()
    found = heads.measure(pairs, 0.3, 300, seed=1)["roc_auc"]
    rng = np.random.default_rng(9)
    exact = []
    for _ in range(300):
        rows = (rng.integers(0, 80, 80)[:, None] * 40 + np.arange(40)).ravel()
        exact.append(roc_auc_score(pairs.did[rows], pairs.probability[rows]))
    low, high = np.quantile(exact, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_binned_curves_agree_with_exact_ones() -> None:
    pairs = _pairs(2)
    rank = np.argsort(np.argsort(pairs.probability))
    bins = rank * heads.BINS // len(rank)
    positive = np.bincount(bins, weights=pairs.did, minlength=heads.BINS)[None]
    negative = np.bincount(bins, weights=~pairs.did, minlength=heads.BINS)[None]
    assert heads._binned_auc(positive, negative)[0] == pytest.approx(roc_auc_score(pairs.did, pairs.probability), abs=2e-3)
    assert heads._binned_precision(positive, negative)[0] == pytest.approx(average_precision_score(pairs.did, pairs.probability), abs=1e-2)


def test_calibration_error_is_small_for_true_probabilities_and_large_for_doubled_ones() -> None:
    pairs = _pairs(3, users=400)
    assert heads.calibration(pairs)[3] < 0.015
    doubled = heads.Pairs(pairs.owner, np.minimum(2 * pairs.probability, 1), pairs.did, pairs.users)
    assert heads.calibration(doubled)[3] > 0.1


def test_one_outcome_alone_has_no_curve() -> None:
    pairs = heads.Pairs(np.zeros(3, int), np.array([0.1, 0.2, 0.3]), np.zeros(3, bool), 1)
    assert heads.measure(pairs, 0.5, 50, seed=1) == {}
