"""Lists: rules hold whatever the scores, MMR as computed by hand, no duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.recommend.reranking import DAY, Goods, Rules, allowed, choose, unfamiliarity

ITEMS = np.array(["a", "b", "c", "d"])


def test_without_rules_the_list_is_the_order_of_scores() -> None:
    assert choose(np.array([0.1, 0.4, 0.2, 0.3]), Goods(ITEMS), Rules(), 3).tolist() == [1, 3, 2]


def test_mmr_by_hand() -> None:
    # relevance in 0 … 1 is the score itself; a and b are alike (cosine 1), c is at right angles to both
    goods = Goods(ITEMS[:3], vectors=np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    score = np.array([1.0, 0.8, 0.0])
    # first a: 0.5 x 1. Then b: 0.5 x 0.8 - 0.5 x 1 = -0.1, c: 0.5 x 0 - 0.5 x 0 = 0, so c comes before b
    assert choose(score, goods, Rules(diversity=0.5), 3).tolist() == [0, 2, 1]
    # with 0.2: b: 0.8 x 0.8 - 0.2 = 0.44, c: 0
    assert choose(score, goods, Rules(diversity=0.2), 3).tolist() == [0, 1, 2]


def test_unfamiliarity_by_hand() -> None:
    # counts + 1 are 4, 2, 2 of 8: 1, 2 and 2 bits
    assert unfamiliarity(np.array([3, 1, 1])).tolist() == [0.0, 1.0, 1.0]
    assert unfamiliarity(np.array([5, 5])).tolist() == [0.0, 0.0]


def test_novelty_lifts_the_seldom_bought() -> None:
    goods = Goods(ITEMS[:3], purchases=np.array([3, 1, 1]))
    score = np.array([1.0, 0.5, 0.0])
    # a: 0.5 x 1 + 0; b: 0.5 x 0.5 + 0.5 = 0.75; c: 0 + 0.5, and a is the more relevant of two equals
    assert choose(score, goods, Rules(novelty=0.5), 3).tolist() == [1, 0, 2]


def test_each_rule_refuses_what_it_names() -> None:
    goods = Goods(ITEMS, seller=np.array(["s", "t", "s", ""]), price=np.array([1.0, 5.0, np.nan, 9.0]),
                  in_stock=np.array([True, False, True, True]), adult=np.array([False, False, False, True]))

    def shown(**rules: Any) -> str:
        return "".join(ITEMS[allowed(goods, Rules(**{"in_stock": False, "adult": True, **rules}))])

    assert shown() == "abcd"
    assert shown(in_stock=True) == "acd"
    assert shown(adult=False) == "abc"
    assert shown(blocked_items=frozenset("bd")) == "ac"
    assert shown(blocked_sellers=frozenset("s")) == "bd"
    assert shown(lowest_price=5.0) == "bd"
    assert shown(highest_price=5.0) == "ab"
    assert shown(lowest_price=2.0, highest_price=5.0) == "b"


def test_what_was_bought_lately_is_left_out_with_its_variants() -> None:
    goods = Goods(ITEMS, group=np.array(["g", "g", "h", "i"]))
    bought, age = np.array(["a", "c"]), np.array([3 * DAY, 30 * DAY])
    keep = {days: "".join(ITEMS[allowed(goods, Rules(exclude_bought_days=days), bought, age)]) for days in (0.0, 2.9, 3.0, 30.0, np.inf)}
    assert keep == {0.0: "abcd", 2.9: "abcd", 3.0: "cd", 30.0: "d", np.inf: "d"}


def test_a_seller_has_no_more_than_the_cap_and_unknown_sellers_are_free() -> None:
    goods = Goods(np.array(list("abcdef")), seller=np.array(["s", "s", "s", "", "", "t"]))
    score = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert choose(score, goods, Rules(seller_cap=1), 6).tolist() == [0, 3, 4, 5]
    assert choose(score, goods, Rules(seller_cap=2), 6).tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(("rules", "said"), [
    ({"diversity": 1.2}, "each 0 … 1"), ({"diversity": 0.6, "novelty": 0.6}, "1 at most together"), ({"seller_cap": 0}, "1 at least"),
    ({"lowest_price": 2.0, "highest_price": 1.0}, "swap them"), ({"exclude_bought_days": -1.0}, "0 or more"),
])
def test_rules_that_cannot_hold_are_refused(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rules(**rules)


@given(seed=st.integers(0, 10_000), n=st.integers(0, 40), k=st.integers(0, 20), cap=st.one_of(st.none(), st.integers(1, 3)),
       diversity=st.sampled_from([0.0, 0.3, 0.7]), novelty=st.sampled_from([0.0, 0.3]), days=st.one_of(st.none(), st.floats(0, 60)))
def test_every_list_keeps_every_rule(
    seed: int, n: int, k: int, cap: int | None, diversity: float, novelty: float, days: float | None,
) -> None:
    rng = np.random.default_rng(seed)
    goods = Goods(
        rng.integers(0, 25, n).astype(str), rng.integers(0, 12, n).astype(str), np.array(["", "s", "t", "u"])[rng.integers(0, 4, n)],
        rng.uniform(0, 10, n), rng.random(n) < 0.8, rng.random(n) < 0.2, rng.normal(size=(n, 3)), rng.integers(0, 50, n))
    rules = Rules(blocked_items=frozenset("123"), lowest_price=1.0, highest_price=9.0, seller_cap=cap, exclude_bought_days=days,
                  diversity=diversity, novelty=novelty)
    bought, age = rng.integers(0, 25, 6).astype(str), rng.uniform(0, 60 * DAY, 6)
    score = rng.normal(size=n)
    score[rng.random(n) < 0.1] = np.nan
    keep = allowed(goods, rules, bought, age)
    listed = choose(score, goods, rules, k, keep)
    assert len(listed) <= k and len(set(goods.item[listed])) == len(listed) == len(set(goods.group[listed]))  # type: ignore[index]
    assert np.isfinite(score[listed]).all() and goods.in_stock[listed].all() and not goods.adult[listed].any()  # type: ignore[index]
    assert not set(goods.item[listed]) & {"1", "2", "3"}
    assert ((goods.price[listed] >= 1.0) & (goods.price[listed] <= 9.0)).all()  # type: ignore[index]
    if days:
        assert not set(goods.item[listed]) & set(bought[age <= days * DAY])
    if cap is not None:
        sellers = [s for s in goods.seller[listed] if s]  # type: ignore[index]
        assert all(sellers.count(s) <= cap for s in set(sellers))
    assert listed.tolist() == choose(score, goods, rules, k, keep).tolist()
    # a longer list begins with the shorter one
    assert choose(score, goods, rules, k + 3, keep)[: len(listed)].tolist() == listed.tolist()
    if len(listed) < k and cap is None:  # it is short only for want of candidates
        left = keep & np.isfinite(score) & ~np.isin(goods.item, goods.item[listed]) & ~np.isin(goods.group, goods.group[listed])
        assert not left.any()
