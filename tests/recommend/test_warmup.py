"""Warm-up: the bound holds at every moment; estimators, posteriors and designs as computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.recommend.warmup import (
    Exposure,
    LinUcb,
    Thompson,
    WarmUp,
    ips,
    questions,
    regret,
    replay,
    snips,
    snips_interval,
    taste,
)


@given(share=st.floats(0, 1), k=st.integers(1, 12), lists=st.integers(1, 60))
def test_new_items_never_have_more_than_their_share(share: float, k: int, lists: int) -> None:
    new = np.array(["n1", "n2", "n3"])
    warm = WarmUp(Thompson(3), Exposure(share), enough=10_000)
    listed = np.array([f"i{n}" for n in range(k)])
    shown = given_ = 0
    for _ in range(lists):
        answer, picked = warm.serve(listed, new)
        shown += len(answer)
        given_ += int(np.isin(answer, new).sum())
        assert (picked is not None) == np.isin(answer, new).any()
        assert given_ <= share * shown + 1e-9
        assert len(set(answer)) == len(answer) == k
    assert (given_, shown) == (warm.exposure.new, warm.exposure.shown)
    # the share is used as far as lists of k with one place each allow
    assert given_ >= min(share * shown, lists) - 1


def test_a_place_beyond_the_share_is_refused() -> None:
    bound = Exposure(0.5)
    with pytest.raises(ValueError, match=r"1 of 1 places would exceed the share 0\.5"):
        bound.count(new=True)
    bound.count(new=False)
    bound.count(new=True)
    assert (bound.new, bound.shown) == (1, 2)


def test_an_item_graduates_and_gets_no_more_places() -> None:
    warm = WarmUp(Thompson(1), Exposure(1.0), enough=2)
    picks = [warm.serve(np.array(["a", "b"]), np.array(["new"]))[1] for _ in range(4)]
    assert picks == [0, 0, None, None]


def test_a_new_item_on_the_list_by_merit_is_not_given_a_place() -> None:
    warm = WarmUp(Thompson(1), Exposure(1.0), enough=9)
    answer, picked = warm.serve(np.array(["new", "b"]), np.array(["new"]))
    assert picked is None and answer.tolist() == ["new", "b"]


def test_thompson_counts_and_prefers_what_was_clicked() -> None:
    policy = Thompson(2, prior=(1.0, 3.0))
    for _ in range(4):
        policy.learn(0, 1.0)
    policy.learn(1, 0.0)
    assert (policy.won.tolist(), policy.lost.tolist()) == ([5.0, 1.0], [3.0, 4.0])
    # chance that Beta(5, 3) exceeds Beta(1, 4): 1 - E[(1-x)^4] of x ~ Beta(5, 3) = 1 - (3·4·5·6)/(8·9·10·11)
    assert policy.chances(200_000)[0] == pytest.approx(1 - 360 / 7920, abs=0.003)


def test_linucb_is_the_ridge_regression_and_its_band() -> None:
    policy = LinUcb(1, 2, alpha=2.0, ridge=0.5)
    x, y = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]), np.array([1.0, 0.0, 1.0])
    for row, reward in zip(x, y, strict=True):
        policy.learn(0, reward, row)
    inverse = np.linalg.inv(x.T @ x + 0.5 * np.eye(2))
    asked = np.array([0.3, -1.0])
    wanted = asked @ inverse @ (x.T @ y) + 2.0 * np.sqrt(asked @ inverse @ asked)
    assert policy.bounds(asked)[0] == pytest.approx(wanted, rel=1e-12)


def test_only_allowed_items_are_chosen() -> None:
    assert Thompson(3).choose(allowed=np.array([False, True, False])) == 1
    with pytest.raises(ValueError, match="no item is allowed"):
        Thompson(3).choose(allowed=np.zeros(3, bool))


def test_ips_and_snips_by_hand() -> None:
    reward, logged, wanted = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.25, 0.25]), np.array([1.0, 0.0, 0.5, 0.5])
    assert ips(reward, logged, wanted).tolist() == [2.0, 0.0, 2.0, 0.0]
    # weights 2, 0, 2, 2: 4 of 6
    assert snips(reward, logged, wanted) == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match="row 1: a propensity"):
        ips(reward, np.array([0.5, 0.0, 0.5, 0.5]), wanted)


def test_the_logging_policy_itself_is_worth_its_mean() -> None:
    rng = np.random.default_rng(3)
    reward, logged = rng.integers(0, 2, 50).astype(float), rng.uniform(0.1, 1, 50)
    assert ips(reward, logged, logged).mean() == snips(reward, logged, logged) == reward.mean()
    value, low, high = snips_interval(reward, logged, logged)
    assert low < value < high


def test_ips_is_unbiased_on_a_log_of_known_chances() -> None:
    rng = np.random.default_rng(5)
    rates, log_policy, target = np.array([0.1, 0.4, 0.2]), np.array([0.6, 0.1, 0.3]), np.array([0.1, 0.8, 0.1])
    shown = rng.choice(3, 200_000, p=log_policy)
    reward = (rng.random(len(shown)) < rates[shown]).astype(float)
    assert ips(reward, log_policy[shown], target[shown]).mean() == pytest.approx(rates @ target, abs=0.01)


def test_replay_learns_only_where_it_agrees() -> None:
    class Always:
        def __init__(self) -> None:
            self.learnt: list[int] = []

        def choose(self, context: np.ndarray | None, allowed: np.ndarray | None = None) -> int:
            return 1

        def learn(self, item: int, reward: float, context: np.ndarray | None = None) -> None:
            self.learnt.append(item)

    policy = Always()
    found = replay(policy, np.array([1, 0, 1, 2]), np.array([1.0, 1.0, 0.0, 1.0]), None, range(4))
    assert (found.reward.tolist(), found.rows, policy.learnt) == ([1.0, 0.0], 4, [1, 1])


def test_regret_of_learning_is_below_that_of_chance() -> None:
    rates = np.array([0.05, 0.2, 0.1, 0.05])
    learnt = np.mean([regret(Thompson(4, seed=s), rates, 2000, s)[-1] for s in range(5)])
    assert learnt < 0.4 * 2000 * (rates.max() - rates.mean())


def test_questions_by_hand() -> None:
    vectors = np.array([[2.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    items, gain = questions(vectors, np.ones(3), 3)
    # mean of v vᵀ is diag(8, 1) / 3. Item 0: 4 · 8/3 / 5; then the axis has variance 1/5: item 2: 0.16 · 8/3 / 1.8; item 1: 1/3 / 2
    assert items.tolist() == [0, 2, 1]
    assert gain == pytest.approx([32 / 15, 0.16 * 8 / 3 / 1.8, 1 / 6])
    # known to a twentieth it is worth a twentieth, and what nobody knows is never asked
    asked, gain = questions(vectors, np.array([0.05, 1.0, 0.0]), 3)
    assert asked.tolist() == [1, 0] and gain == pytest.approx([1 / 6, 0.05 * 32 / 15])


def test_taste_is_the_ridge_solution() -> None:
    vectors, answers = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([1.0, -1.0])
    wanted = np.linalg.solve(vectors.T @ vectors + np.eye(2), vectors.T @ answers)
    assert taste(vectors, answers) == pytest.approx(wanted)
    assert taste(np.zeros((0, 2)), np.zeros(0)).tolist() == [0.0, 0.0]
