"""Counting by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from nightmarket.recommend.counts import Occasions, bm25, cosine, strongest, top_k
from nightmarket.recommend.histories import PURCHASE, Histories, seconds
from tests.recommend.synthetic import features, history, moment


def occasions(as_of: float, *rows: dict, kinds: tuple[int, ...] = (PURCHASE,)) -> Occasions:
    return Occasions.of(Histories.from_table(features(list(rows))), seconds(moment(as_of)), *kinds)


def test_lines_of_one_day_are_one_occasion_and_its_age_is_that_of_the_last() -> None:
    found = occasions(10, history("u", [(1, "purchase", "a"), (1.5, "purchase", "a"), (3, "purchase", "a"), (1, "view", "a")]))
    assert found.age.tolist() == [8.5, 7.0]


def test_a_half_life_halves() -> None:
    found = occasions(9, history("u", [(1, "purchase", "a"), (5, "purchase", "a"), (5, "purchase", "b")]), history("v", [(8, "purchase", "b")]))
    # ages 8 and 4 with a half-life of 4 days: 1/4 + 1/2
    assert found.matrix(4.0).toarray() == pytest.approx(np.array([[0.75, 0.5], [0.0, 2 ** -0.25]]))
    assert found.matrix(None).toarray().tolist() == [[2, 1], [0, 1]]
    assert found.buyers().tolist() == [1, 2]


def test_nothing_at_or_after_the_moment_counts() -> None:
    assert occasions(5, history("u", [(4.99, "purchase", "a"), (5, "purchase", "a"), (6, "purchase", "b")])).age == pytest.approx([0.01])


def test_cosine_is_that_of_scikit_learn() -> None:
    counts = sp.random(20, 8, 0.4, "csr", rng=np.random.default_rng(1))
    expected = cosine_similarity(counts.T.toarray())
    np.fill_diagonal(expected, 0)
    assert cosine(counts).toarray() == pytest.approx(expected, abs=1e-12)


def test_bm25_of_one_cell_by_hand() -> None:
    counts = sp.csr_matrix(np.array([[2.0, 1.0], [0.0, 3.0]]))
    # item 0: 1 of 2 shoppers, log(1 + 1.5/1.5); shopper 0 has length 3, the mean too
    expected = np.log(2.0) * 2.0 * 2.2 / (2.0 + 1.2)
    assert bm25(counts).toarray()[0, 0] == pytest.approx(expected)


def test_strongest_keeps_each_row_s_largest_and_settles_ties_by_column() -> None:
    square = sp.csr_matrix(np.array([[0, 3, 3, 1], [2, 0, 0, 0], [1, 1, 0, 1.0], [0, 0, 0, 0]]))
    assert strongest(square, 1).toarray().tolist() == [[0, 3, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_top_k_settles_ties_by_column_and_leaves_out_what_is_not_allowed() -> None:
    scores = np.array([[1.0, 5, 1, 1, 5], [-np.inf, -np.inf, 2, -np.inf, -np.inf]])
    assert top_k(scores, 3).tolist() == [[1, 4, 0], [2, -1, -1]]
    assert top_k(scores, 9).tolist() == [[1, 4, 0, 2, 3], [2, -1, -1, -1, -1]]
    assert top_k(np.zeros((0, 4)), 3).shape == (0, 3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_top_k_is_a_stable_sort(seed: int, k: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (5, 9)).astype(float)
    assert top_k(scores, k).tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()
