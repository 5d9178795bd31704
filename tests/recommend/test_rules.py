"""Rules of shop.yaml's `lists` on answers, by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from nightmarket.contracts import ITEMS
from nightmarket.recommend import rules
from nightmarket.recommend.histories import seconds
from nightmarket.shop import Lists
from tests.recommend.synthetic import features, history, moment

GOODS = {  # category, brand, price, in stock
    "a": ("lamps", "Ant", "5.00", True), "b": ("lamps", "Ant", "50.00", True), "c": ("wine", "Bee", "9.00", None),
    "d": ("lamps", "Bee", "7.00", False), "e": ("mugs", "Ant", None, True), "f": ("mugs", None, "3.00", True),
}
HISTORIES = features([history("u1", [(1, "purchase", "a"), (38, "purchase", "f")]), history("u2", [(2, "purchase", "a"), (3, "purchase", "a"), (4, "purchase", "b")])])
NOW = float(seconds(moment(40)))


def items() -> pa.Table:
    return pa.Table.from_pylist([{
        "item_id": i, "title": f"{category} {i}", "category": category, "brand": brand, "list_price": None if price is None else Decimal(price),
        "in_stock": stock, "delivered_on": date(2026, 1, 1), "source_file": "items.csv", "source_row": n,
    } for n, (i, (category, brand, price, stock)) in enumerate(GOODS.items())], ITEMS.arrow_schema())


def answered(*audiences: tuple[str, str]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for audience, key in audiences:
        rows += [{"audience": audience, "audience_id": key, "rank": n + 1, "item_id": i, "score": 1.0 - n / 10, "reason": f"because {i}"} for n, i in enumerate(GOODS)]
    return pa.Table.from_pylist(rows, pa.schema([
        ("audience", pa.string()), ("audience_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float64()), ("reason", pa.string())]))


def shown(lists: Lists, k: int = 3, audience: tuple[str, str] = ("user", "u1")) -> list[str]:
    return rules.apply(answered(audience), items(), HISTORIES, NOW, lists, k)["item_id"].to_pylist()


@pytest.mark.parametrize(("lists", "expected"), [
    ({"in_stock": False}, ["a", "b", "c"]),
    ({}, ["a", "b", "c"]),
    ({"blocked_items": ["a"]}, ["b", "c", "e"]),  # d is out of stock
    ({"blocked_brands": ["Ant"]}, ["c", "f"]),
    ({"blocked_categories": ["wine", "lamps"]}, ["e", "f"]),
    ({"price": [4, 10]}, ["a", "c"]),  # e's price is not known
    ({"brand_cap": 1}, ["a", "c", "f"]),  # f has no brand that could be full
    ({"exclude_bought_days": 7}, ["a", "b", "c"]),  # f was bought two days ago, a long before
    ({"exclude_bought_days": 100}, ["b", "c", "e"]),
])
def test_each_rule_by_hand(lists: dict[str, Any], expected: list[str]) -> None:
    assert shown(Lists(**lists)) == expected


def test_what_a_shopper_bought_is_excluded_from_nobody_elses_list() -> None:
    lists = Lists(exclude_bought_days=100)
    assert shown(lists, audience=("user", "u2")) == ["c", "e", "f"]
    assert shown(lists, audience=("everyone", "*")) == ["a", "b", "c"]


def test_ranks_begin_anew_and_reasons_stay_with_their_items() -> None:
    made = rules.apply(answered(("user", "u2"), ("country", "DE"), ("user", "u1")), items(), HISTORIES, NOW, Lists(blocked_items=("a",)), 2)
    rows = made.to_pylist()
    assert [(r["audience_id"], r["rank"], r["item_id"], r["reason"]) for r in rows] == [
        (key, rank, item, f"because {item}") for key in ("DE", "u1", "u2") for rank, item in ((1, "b"), (2, "c"))]


def test_diversity_takes_another_category_earlier() -> None:
    assert shown(Lists(in_stock=False), 2) == ["a", "b"]
    assert shown(Lists(in_stock=False, diversity=0.6), 2)[1] == "c"  # b is a lamp too


def test_novelty_takes_what_is_seldom_bought() -> None:
    # a was bought 3 times, b and f once; the rest never: of them c stands highest
    assert shown(Lists(in_stock=False, novelty=0.9), 1) == ["c"]


def test_what_nobody_may_see_is_known_before_anybody_is_answered() -> None:
    assert rules.refused(items(), Lists()) == ({"d"}, {"out_of_stock": 1})
    lists = Lists(in_stock=False, blocked_items=("a",), blocked_brands=("Bee",), blocked_categories=("mugs",), price=(4, 10))
    barred, count = rules.refused(items(), lists)
    assert barred == set("abcdef") and count == {"blocked_item": 1, "blocked_brand": 2, "blocked_category": 2, "price": 3}


def test_more_is_asked_for_only_where_a_rule_looks_at_a_list_or_its_shopper() -> None:
    assert rules.depth(Lists(blocked_items=("a",), price=(1, 2)), 20) == 20
    assert [rules.depth(Lists(**more), 20) for more in ({"brand_cap": 2}, {"exclude_bought_days": 1}, {"diversity": 0.1}, {"novelty": 0.1})] == [100] * 4


@pytest.mark.parametrize(("wrong", "said"), [({"diversity": 0.7, "novelty": 0.5}, "more than 1 together"), ({"price": [9, 4]}, "the lowest comes first")])
def test_rules_that_contradict_themselves_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Lists(**wrong)


def test_new_items_get_no_more_than_their_share_and_no_rule_is_broken() -> None:
    people = [("user", f"u{n}") for n in range(10)]
    lists = Lists(new_items_share=0.1, blocked_items=("c",))
    ruled = rules.apply(answered(*people, ("everyone", "*")), items(), HISTORIES, NOW, lists, 2)
    made, given = rules.warm(ruled, items(), HISTORIES, NOW, lists, 1)
    # d is out of stock, c is blocked; a and b are old: e, which nobody met, and f, met two days ago, are new
    changed = [(r, s) for r, s in zip(made.to_pylist(), ruled.to_pylist(), strict=True) if r != s]
    assert given == len(changed) == 2  # a tenth of the shoppers' 20 places
    assert {r["item_id"] for r, _ in changed} <= {"e", "f"} and all(r["reason"] == "new in this shop" and r["rank"] == 2 for r, _ in changed)
    assert all(r["audience"] == "user" and r["score"] == s["score"] for r, s in changed)
    assert rules.warm(ruled, items(), HISTORIES, NOW, lists, 1)[0].equals(made)
    assert rules.warm(ruled, items(), HISTORIES, NOW, lists.model_copy(update={"new_items_until": 1}), 1)[1] <= 1  # only e, and once
