"""Ranking metrics against numbers worked out by hand and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from nightmarket.evaluate import metrics


def truth(*rows: list[int], items: int = 30) -> sp.csr_matrix:
    dense = np.zeros((len(rows), items), bool)
    for n, row in enumerate(rows):
        dense[n, row] = True
    return sp.csr_matrix(dense)


FLAT = np.full(30, 0.25)


def test_ndcg_of_second_and_fourth_place_by_hand() -> None:
    lists = np.array([[7, 3, 9, 5, 1, 2, 4, 6, 8, 10]])
    # gains at places 2 and 4: 1/log2(3) + 1/log2(5); three were right, so the ideal is places 1 to 3
    expected = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 0.5)
    assert metrics.per_user(lists, truth([3, 5, 20]), FLAT)["ndcg@10"][0] == pytest.approx(expected, abs=1e-12)


def test_ideal_list_is_as_long_as_what_was_right_but_at_most_ten() -> None:
    lists = np.array([[0, 1, *[-1] * 18], list(range(20))])
    found = metrics.per_user(lists, truth([0, 1], list(range(15))), FLAT)
    assert found["ndcg@10"] == pytest.approx([1.0, 1.0], abs=1e-12)
    assert found["recall@20"].tolist() == [1.0, 1.0]


def test_recall_reciprocal_rank_and_hit_rate_by_hand() -> None:
    lists = np.array([[*range(10, 20), 0, 1, *range(20, 28)], [5, *range(9, 28)]])
    found = metrics.per_user(lists, truth([0, 1, 2, 29], [5]), FLAT)
    assert found["recall@20"].tolist() == [0.5, 1.0]
    assert found["mrr"].tolist() == [1 / 11, 1.0]
    assert found["hit_rate@10"].tolist() == [0.0, 1.0]  # place 11 is too late


def test_a_list_without_anything_right_is_zero_everywhere() -> None:
    found = metrics.per_user(np.array([[1, 2, -1, -1]]), truth([9]), FLAT)
    assert [found[m][0] for m in ("ndcg@10", "recall@20", "mrr", "hit_rate@10")] == [0, 0, 0, 0]


def test_padding_is_never_right() -> None:
    # code -1 must not be read as the last item
    assert metrics.per_user(np.array([[-1, -1]]), truth([29]), FLAT)["mrr"][0] == 0


def test_novelty_is_the_mean_self_information_of_what_was_shown() -> None:
    share = np.full(30, 0.5)
    share[3] = 0.125
    # -log2(0.5) = 1, -log2(0.125) = 3
    assert metrics.per_user(np.array([[3, 4, -1]]), truth([0]), share)["novelty@20"][0] == 2.0


def test_coverage_counts_each_item_once_and_only_the_first_places() -> None:
    lists = np.array([[0, 1, 2], [1, 2, -1]])
    assert metrics.coverage(lists, items=10) == 0.3
    assert metrics.coverage(lists, items=10, depth=1) == 0.2


def test_shoppers_without_anything_right_are_refused() -> None:
    with pytest.raises(ValueError, match="shopper 1 has nothing right"):
        metrics.per_user(np.array([[1], [1]]), truth([1], []), FLAT)


def test_another_number_of_lists_than_shoppers_is_refused() -> None:
    with pytest.raises(ValueError, match="1 lists, but truth of 2 shoppers"):
        metrics.per_user(np.array([[1]]), truth([1], [2]), FLAT)


@given(st.integers(0, 2**32 - 1))
def test_ndcg_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, users = 40, 6
    right = rng.random((users, items)) < 0.15
    right[np.arange(users), rng.integers(0, items, users)] = True
    scores = rng.permuted(np.tile(np.arange(items, dtype=float), (users, 1)), axis=1)
    lists = np.argsort(-scores, axis=1)[:, :20]
    mine = metrics.per_user(lists, sp.csr_matrix(right), np.full(items, 0.5))["ndcg@10"]
    theirs = [ndcg_score(right[[n]].astype(float), scores[[n]], k=10) for n in range(users)]
    assert mine == pytest.approx(theirs, abs=1e-12)
