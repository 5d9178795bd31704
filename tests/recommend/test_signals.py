"""Signals by hand and against independent oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.earlier import Earlier
from nightmarket.recommend.histories import DAY, PURCHASE, VIEW, Histories
from nightmarket.recommend.lists import names, propose, values_of
from nightmarket.recommend.pairs import Intervals, Occasions, Pairs, rhythm, rows_of
from nightmarket.recommend.pairs import names as pair_names
from nightmarket.recommend.second import LEARNERS, Lists, Plan, _blend, fit, ndcg, standard
from nightmarket.recommend.signals import ORDERED, SIGNALS, Groups, Options, Signals, gram, product, strongest

NOW = 100 * DAY


def histories(rows: list[tuple[int, int, int, float]], users: int, items: int) -> Histories:
    """(user, item, kind, days ago)."""
    user, item, kind, ago = (np.array(c) for c in zip(*rows, strict=True))
    time = (NOW - ago * DAY).astype(np.int64)
    by = np.lexsort((kind, item, time, user))
    return Histories(
        np.array([f"u{n}" for n in range(users)], dtype=object), np.array([f"i{n}" for n in range(items)], dtype=object),
        np.full(users, "", dtype=object), user[by].astype(np.int32), item[by].astype(np.int32), kind[by].astype(np.int8), time[by],
        np.ones(len(by), np.float32), np.full(len(by), np.nan, np.float32))


def pairs(events: Histories) -> Pairs:
    return Pairs(events, NOW, PURCHASE, rhythm(events, PURCHASE), Intervals.of(Occasions.of(events, NOW, PURCHASE), events.items))


def signals(events: Histories, titles: list[str] | None = None, **options: int) -> Signals:
    named = np.array(titles or [""] * events.items, dtype=object)
    catalogue = Catalogue(events.item_ids, named, np.full(events.items, "", dtype=object), np.full(events.items, np.nan, np.float32))
    return Signals(pairs(events), catalogue, Groups.none(events.users), Options(**options))


@pytest.fixture
def busy() -> Histories:
    rng = np.random.default_rng(5)
    return histories([(int(rng.integers(20)), int(rng.integers(12)), PURCHASE, float(rng.integers(1, 90))) for _ in range(300)], 20, 12)


def test_pair_numbers_by_hand() -> None:
    # had 40, 30 and 10 days ago: gaps of 10 and 20 days; another item on the last day only; looked at yesterday
    events = histories([(0, 0, PURCHASE, 40), (0, 0, PURCHASE, 30), (0, 0, PURCHASE, 10), (0, 1, PURCHASE, 10), (0, 2, VIEW, 1)], 1, 4)
    found = pairs(events)
    assert found.unit == 15.0  # the median of 10 and 20
    row = dict(zip(pair_names((VIEW, 1)), found.of(np.array([0]), np.array([0]))[0], strict=True))
    assert row["had_ever"] == pytest.approx(np.log1p(24)) and row["last_had"] == pytest.approx(np.log1p(10)) and row["first_had"] == pytest.approx(np.log1p(40))
    assert row["had_2r"] == pytest.approx(np.log1p(8 * sum(0.5 ** (a / 30) for a in (40, 30, 10))))
    assert row["rate"] == 1.0 and row["due_own"] == pytest.approx(np.log(11 / 16)) and row["in_last"] == 1 and row["in_last_three"] == 3
    viewed = dict(zip(pair_names((VIEW, 1)), found.of(np.array([0]), np.array([2]))[0], strict=True))
    assert viewed["view_last"] == 0.5 and viewed["had_ever"] == 0
    assert not found.of(np.array([0]), np.array([3])).any()


def test_nothing_at_or_after_the_moment_counts(busy: Histories) -> None:
    later = Occasions.of(busy.before(NOW - 30 * DAY), NOW - 30 * DAY, PURCHASE)
    assert (later.age > 0).all() and len(later) == len(set(zip(
        *(a[busy.time < NOW - 30 * DAY].tolist() for a in (busy.user, busy.item, busy.time // int(DAY))), strict=True)))


def test_also_is_the_cosine_of_scikit_learn(busy: Histories) -> None:
    made = signals(busy)
    bought = (made.past.ever.toarray() > 0).astype(float)
    expected = cosine_similarity(bought.T)
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(made.also.toarray(), expected, atol=1e-6)


def test_linear_is_ease(busy: Histories) -> None:
    made = signals(busy)
    np.testing.assert_allclose(made.linear.toarray(), _ease(made._even.toarray().astype(float)), atol=1e-5)


def test_linear_of_a_large_catalogue_is_ease_of_its_most_frequent_items(busy: Histories) -> None:
    made = signals(busy, dense_items=5)
    rows = made._even.toarray().astype(float)
    frequent = np.sort(np.lexsort((np.arange(12), -(rows > 0).sum(axis=0)))[:5])
    expected = np.zeros((12, 12))
    expected[np.ix_(frequent, frequent)] = _ease(rows[:, frequent])
    np.testing.assert_allclose(made.linear.toarray(), expected, atol=1e-5)


def _ease(rows: np.ndarray) -> np.ndarray:
    """Weights that speak for an item, by the published formula."""
    square = rows.T @ rows
    square += np.eye(len(square)) * 30.0 * np.trace(square) / len(square)
    inverse = np.linalg.inv(square)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return np.maximum(weights, 0.0)


def test_latent_with_all_directions_gives_back_the_rows(busy: Histories) -> None:
    made = signals(busy)
    assert made.latent[0].shape == (12, 11)
    np.testing.assert_allclose(made.latent[0].T @ made.latent[0], np.eye(11), atol=1e-4)


def test_rules_look_forward_only() -> None:
    events = histories([(u, u % 3 + s, PURCHASE, 50 - 10 * s) for u in range(6) for s in range(3)], 6, 6)
    follows = signals(events).follows.toarray()
    assert follows[0, 1] > follows[0, 2] > 0 and np.allclose(np.tril(follows), 0.0)


def test_no_shopper_is_a_neighbour_of_himself(busy: Histories) -> None:
    made = signals(busy)
    near = made.alike(made.past, np.arange(20)).toarray()
    assert np.allclose(np.diag(near[:, np.argsort(made._pool)]), 0.0) and np.allclose(near.sum(axis=1), 1.0, atol=1e-5)


def test_content_is_for_items_that_nobody_had() -> None:
    events = histories([(0, 0, PURCHASE, 5), (1, 1, PURCHASE, 5)], 2, 4)
    made = signals(events, ["red lamp", "blue towel", "red lamp big", "blue towel big"])
    content = made.scores(made.past, np.array([0, 1]))["content"].toarray()
    assert content[0, 2] > 0 == content[0, 3] and content[1, 3] > 0 == content[1, 2]


def test_every_score_is_a_number_and_not_negative(busy: Histories) -> None:
    made = signals(busy)
    found = made.scores(made.past, np.arange(20))
    plain = {n: v if isinstance(v, np.ndarray) else v.toarray() for n, v in found.items()}
    assert tuple(found) == SIGNALS and all(np.isfinite(v).all() and (v >= 0).all() and v.shape == (20, 12) for v in plain.values())
    items = np.array([[3, -1, 7, 0]] * 20)
    for name, block in found.items():
        np.testing.assert_array_equal(values_of(block, items), np.where(items >= 0, plain[name][:, items[0]], 0.0))
    said = names(PURCHASE, made.names, made.groups.names)
    assert len(said) == len(set(said))


def test_a_shopper_asked_alone_is_scored_as_in_a_crowd(busy: Histories) -> None:
    made = signals(busy, [f"red thing {n % 3}" for n in range(busy.items)], ordered=True)
    everybody = np.arange(20)
    crowd, before = made.scores(made.past, everybody), made.past.ever.toarray()
    for user in (0, 7, 19):
        alone = made.scores(made.past, everybody[user : user + 1])
        for name, block in crowd.items():
            one, many = (b if isinstance(b, np.ndarray) else b.toarray() for b in (alone[name], block))
            np.testing.assert_allclose(one[0], many[user], rtol=1e-5, atol=1e-6, err_msg=name)
    known = made.past.known(everybody[:1])
    assert known.data.tolist() == [1.0] * known.nnz and np.array_equal(made.past.ever.toarray(), before), "what was counted is as it was"


@given(st.integers(0, 1000), st.integers(1, 8))
def test_products_keep_the_strongest(seed: int, keep: int) -> None:
    rng = np.random.default_rng(seed)
    rows = sp.random(9, 7, 0.5, format="csr", random_state=int(seed), dtype=np.float32)
    exact = (rows.T @ rows).toarray()
    np.fill_diagonal(exact, 0.0)
    made = gram(rows, keep).toarray()
    blocks = product(rows.T.tocsr(), rows, keep, cells=8).toarray()
    np.testing.assert_allclose(made, blocks)
    for row in range(7):
        np.testing.assert_allclose(np.sort(made[row])[::-1][:keep], np.sort(exact[row])[::-1][:keep], atol=1e-6)
    order = rng.permutation(7)
    assert strongest(sp.csr_matrix(exact[:, order]), keep).nnz == min(keep, 7) * 7 - sum(max(0, min(keep, 7) - (r > 0).sum()) for r in exact)


def test_proposals_are_open_distinct_and_best_first(busy: Histories) -> None:
    made = signals(busy)
    users = np.arange(20)
    allowed = np.arange(12) != 3
    barred = made.past.known(users)
    items, places, votes = propose(made.scores(made.past, users), 12, allowed, barred)
    for row, user in enumerate(users):
        listed = items[row][items[row] >= 0]
        assert len(set(listed)) == len(listed) and 3 not in listed and not set(listed) & set(barred[[user]].indices)
    assert (votes[items >= 0] >= 1).all() and all((p <= 1).all() for p in places.values())


# -- the second stage


def some_lists(lists: int = 300, useful: bool = True) -> Lists:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(lists, 20, 4)).astype(np.float32)
    labels = (features[..., 0] - features[..., 1] + 0.3 * rng.normal(size=(lists, 20)) > 2.0) if useful else rng.random((lists, 20)) < 0.1
    return Lists(features, labels, np.ones((lists, 20), bool), np.maximum(labels.sum(axis=1), 1), -(np.arange(lists) % 3),
                 {n: (features[..., 0] + 5.0 if n == "own" else rng.random((lists, 20))).astype(np.float32) for n in SIGNALS})


def test_ndcg_by_hand() -> None:
    lists = Lists(np.zeros((1, 4, 1), np.float32), np.array([[True, False, True, False]]), np.array([[True, True, True, False]]), np.array([3]), np.zeros(1), {})
    value = ndcg(np.array([[3.0, 2.0, 1.0, 9.0]]), lists)
    assert value == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3) + 1 / 2))


def test_standard_scores() -> None:
    made = standard(np.array([[1.0, 3.0, 99.0]]), np.array([[True, True, False]]))
    np.testing.assert_allclose(made, [[-1.0, 1.0, 0.0]])


def test_learning_beats_the_best_signal_and_says_so(tmp_path: object) -> None:
    found = fit(some_lists(), Plan(network=False, rounds=60), tmp_path, "own")  # type: ignore[arg-type]
    assert found.account["chosen"] == "learnt" and found.account["blend"] > found.account["signals"]["own"] and "trees" in found.weights


def test_where_nothing_can_be_learnt_the_best_signal_answers(tmp_path: object) -> None:
    few = some_lists(40)
    found = fit(few, Plan(network=False), tmp_path, "own")  # type: ignore[arg-type]
    assert found.account["chosen"] == "one signal" and found.weights["own"] == 1.0 and found.trees is None
    assert fit(None, Plan(), tmp_path, "popular").weights["popular"] > 0  # type: ignore[arg-type]


def test_learners_that_are_as_good_count_alike_and_a_worse_one_does_not_count() -> None:
    rng = np.random.default_rng(3)
    labels = np.zeros((400, 30), bool)
    labels[np.arange(400)[:, None], rng.integers(0, 30, (400, 3))] = True
    truth = labels.astype(float)
    listed = np.ones_like(labels)
    lists = Lists(np.zeros((400, 30, 1), np.float32), labels, listed, labels.sum(axis=1), np.zeros(400, int), {})
    one, other, noise = (rng.normal(size=labels.shape) for _ in range(3))
    told = {"trees": standard(truth + 0.6 * one, listed), "network": standard(truth + 0.65 * other, listed)}
    weights, reached = _blend(told, lists, LEARNERS)
    assert weights == {"trees": 1.0, "network": 1.0} and reached > ndcg(told["trees"], lists).mean() > ndcg(told["network"], lists).mean()
    weights, reached = _blend(told | {"network": standard(noise, listed)}, lists, LEARNERS)
    assert weights["trees"] == 1.0 and weights.get("network", 0.0) <= 0.15 and reached >= ndcg(told["trees"], lists).mean()


def test_rules_of_an_order_by_hand() -> None:
    """Two shoppers: 0 1 2 and 0 2, one item a place."""
    events = histories([(0, 0, PURCHASE, 3), (0, 1, PURCHASE, 2), (0, 2, PURCHASE, 1), (1, 0, PURCHASE, 2), (1, 2, PURCHASE, 1)], 2, 3)
    made = signals(events, ordered=True)
    # after 0: 1 one place on (1), 2 two on (1/2) and, the other shopper's, one on (1): 5/2 in all; after 1: 2 (1)
    expected = np.array([[0, 1, 1.5], [0, 0, 1], [0, 0, 0]]) / np.sqrt([[2.5], [1], [1]])
    np.testing.assert_allclose(made.rules.toarray(), expected, rtol=1e-6)
    scores = made.scores(made.past, np.array([0, 1]))
    assert tuple(scores) == (*SIGNALS, *ORDERED)
    # the newest place counts 1, the one before 0.8, the one before that 0.64
    fading = np.array([[0.64, 0.8, 1], [0.8, 0, 1]])
    np.testing.assert_allclose(sp.csr_matrix(scores["rules"]).toarray(), fading @ expected, rtol=1e-5)
    np.testing.assert_allclose(sp.csr_matrix(scores["also_newest"]).toarray(), fading @ made.also.toarray(), rtol=1e-5)
    np.testing.assert_allclose(sp.csr_matrix(scores["rules_newest"]).toarray(), np.array([[0.36, 0.6, 1], [0.6, 0, 1]]) @ expected, rtol=1e-5)


def test_the_autoencoder_that_is_chosen_is_not_made_again() -> None:
    """Forty shoppers of two kinds had half of their kind's items and want the rest."""
    rng = np.random.default_rng(8)
    had = [(u, 6 * (u % 2) + int(i), PURCHASE, 20.0 + n) for u in range(40) for n, i in enumerate(rng.permutation(6)[:3])]
    later = [(u, 6 * (u % 2) + i, PURCHASE, 5.0) for u in range(40) for i in range(6)]
    past = histories(had, 40, 12)
    chosen = Earlier(pairs(past), signals(past), histories(later, 40, 12), 0).suited(repeats=False, tried=((3.0, 0.2),)).signals
    assert (chosen.options.ridge, chosen.options.attributes) == (3.0, 0.2) and "linear" in vars(chosen)
    again = replace(signals(past), options=chosen.options)
    assert chosen.linear is not None and again.linear is not None and (again.linear != chosen.linear).nnz == 0


def test_an_order_of_nothing_has_no_rules(busy: Histories) -> None:
    made = signals(busy.where(np.zeros(len(busy), bool)), ordered=True)
    assert made.rules.shape == (12, 12) and made.rules.nnz == 0 and made.follows.nnz == 0


def test_one_row_is_what_scipy_takes_for_it_and_nothing_is_told_of_another() -> None:
    """Rows whose places are in no order, one after another: what is known of one's order must not be taken for the next one's."""
    matrix = sp.csr_matrix((np.arange(1, 6, dtype=np.float32), np.array([0, 2, 3, 1, 4]), np.array([0, 2, 5, 5])), shape=(3, 5))
    for row, in_order in ((0, True), (1, False), (2, True)):
        one = rows_of(matrix, np.array([row]))
        assert np.array_equal(one.toarray(), matrix[[row]].toarray()) and one.dtype == np.float32
        assert bool(one.has_sorted_indices) == in_order
    assert np.array_equal(rows_of(matrix, np.array([1, 0])).toarray(), matrix[[1, 0]].toarray())
