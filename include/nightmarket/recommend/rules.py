"""A shop's rules on its published lists: `lists` of shop.yaml applied to answers that are longer than what is shown.

Brands stand for sellers. Items whose stock, price or brand is not known are judged as `reranking` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.histories import CART, DAY, PURCHASE, Histories
from nightmarket.recommend.reranking import Goods, Rules, allowed, choose
from nightmarket.recommend.warmup import Exposure, Thompson, WarmUp
from nightmarket.shop import Lists

_DEEPER = 5
"""How many times `top_k` candidates the rules choose from."""
_NEW_DAYS = 28.0


def rules_of(lists: Lists) -> Rules:
    low, high = lists.price or (None, None)
    return Rules(
        in_stock=lists.in_stock, blocked_items=frozenset(lists.blocked_items), blocked_sellers=frozenset(lists.blocked_brands), adult=False,
        lowest_price=low, highest_price=high, seller_cap=lists.brand_cap, exclude_bought_days=lists.exclude_bought_days or None,
        diversity=lists.diversity, novelty=lists.novelty)


def depth(lists: Lists, k: int) -> int:
    """How many items to ask for, so that k are left by the rules that look at a whole list or at its shopper."""
    return _DEEPER * k if lists.brand_cap or lists.exclude_bought_days or lists.diversity or lists.novelty else k


def refused(items: pa.Table, lists: Lists) -> tuple[frozenset[str], dict[str, int]]:
    """(items that nobody's list may show, how many by rule). items: rows of silver.items."""
    names = np.array(items["item_id"].to_pylist(), dtype=object)
    goods = _goods(names, items, lists)
    every = rules_of(lists)
    none = Rules(in_stock=False, adult=True)
    by_rule = {
        "out_of_stock": replace(none, in_stock=every.in_stock), "blocked_item": replace(none, blocked_items=every.blocked_items),
        "blocked_brand": replace(none, blocked_sellers=every.blocked_sellers), "blocked_category": replace(none, adult=False),
        "price": replace(none, lowest_price=every.lowest_price, highest_price=every.highest_price),
    }
    counts = {rule: int((~allowed(goods, alone)).sum()) for rule, alone in by_rule.items()}
    kept = allowed(goods, replace(every, exclude_bought_days=None))
    return frozenset(names[~kept]), {rule: count for rule, count in counts.items() if count}


def apply(answered: pa.Table, items: pa.Table, histories: pa.Table, as_of: float, lists: Lists, k: int) -> pa.Table:
    """At most `k` rows of each audience of `answered` (columns of Recommender.recommend), ranks from 1 anew, in the order of audiences.

    items: rows of silver.items; histories: rows of gold.features; as_of: seconds. Scores stay those of the model: with weights for
    diversity or novelty they need not fall from rank to rank.
    """
    rules = rules_of(lists)
    answered = answered.combine_chunks()
    names, place = np.unique(np.array(answered["item_id"].to_pylist(), dtype=object), return_inverse=True)
    goods = _goods(names, items, lists, histories, as_of)
    last = _last_bought(histories, as_of, names) if rules.exclude_bought_days else {}
    audience, key = answered["audience"].to_pylist(), answered["audience_id"].to_pylist()
    score, rank = answered["score"].to_numpy(), answered["rank"].to_numpy()
    order = np.lexsort((rank, np.array(key, dtype=object).astype(str), np.array(audience, dtype=object).astype(str)))
    heads = [n for n, row in enumerate(order) if not n or (audience[row], key[row]) != (audience[order[n - 1]], key[order[n - 1]])]
    plain = allowed(replace(goods, group=None), replace(rules, exclude_bought_days=None))
    kept: list[np.ndarray] = []
    for begin, end in zip(heads, [*heads[1:], len(order)], strict=True):
        rows = order[begin:end]
        part = _of(goods, place[rows])
        keep = plain[place[rows]]
        if audience[rows[0]] == "user" and (had := last.get(key[rows[0]])):
            keep &= allowed(part, replace(rules, in_stock=False, lowest_price=None, highest_price=None), np.array(list(had), dtype=object), np.array(list(had.values())))
        kept.append(rows[choose(score[rows], part, rules, k, keep)])
    chosen = np.concatenate(kept) if kept else np.empty(0, np.int64)
    made = answered.take(pa.array(chosen))
    ranks = np.concatenate([np.arange(1, len(rows) + 1) for rows in kept]) if kept else np.empty(0)
    column = made.schema.get_field_index("rank")
    return made.set_column(column, "rank", pa.array(ranks, pa.int32()))


def _goods(names: np.ndarray, items: pa.Table, lists: Lists, histories: pa.Table | None = None, as_of: float = 0.0) -> Goods:
    """What is known of items; without histories nothing of how often they are bought."""
    row = {item: n for n, item in enumerate(items["item_id"].to_pylist())}
    at = [row.get(name) for name in names]

    def column(name: str, unknown: object) -> list[object]:
        values = items[name].to_pylist()
        return [unknown if n is None or values[n] is None else values[n] for n in at]

    stock = np.array(column("in_stock", True), bool)
    price = np.array([float(str(p)) for p in column("list_price", "nan")], np.float64)
    brand = np.array(column("brand", ""), dtype=object)
    blocked = np.isin(np.array(column("category", ""), dtype=object), list(lists.blocked_categories))
    vectors = purchases = None
    if lists.diversity and histories is not None:
        vectors = Catalogue.of(names, items).tfidf().toarray()
    if lists.novelty and histories is not None:
        events = Histories.from_table(histories).before(as_of).of(PURCHASE)
        count = dict(zip(events.item_ids, np.bincount(events.item, minlength=events.items), strict=True))
        purchases = np.array([count.get(n, 0) for n in names])
    return Goods(names, seller=brand, price=price, in_stock=stock, adult=blocked, vectors=vectors, purchases=purchases)


def _of(goods: Goods, places: np.ndarray) -> Goods:
    pick: Callable[[np.ndarray | None], np.ndarray | None] = lambda values: None if values is None else values[places]  # noqa: E731
    return Goods(goods.item[places], None, pick(goods.seller), pick(goods.price), pick(goods.in_stock), pick(goods.adult), pick(goods.vectors),
                 pick(goods.purchases))


def _last_bought(histories: pa.Table, as_of: float, names: np.ndarray) -> dict[str, dict[str, float]]:
    """By shopper, seconds since the last purchase of each item of `names`."""
    events = Histories.from_table(histories).before(as_of).of(PURCHASE)
    wanted = np.isin(events.item_ids, names)
    events = events.where(wanted[events.item])
    found: dict[str, dict[str, float]] = {}
    for user, item, time in zip(events.user, events.item, events.time, strict=True):  # by time: the last stays
        found.setdefault(str(events.user_ids[user]), {})[str(events.item_ids[item])] = as_of - float(time)
    return found


def warm(rows: pa.Table, items: pa.Table, histories: pa.Table, as_of: float, lists: Lists, seed: int) -> tuple[pa.Table, int]:
    """(rows in which new items have some last places of shoppers' lists, how many).

    New is what the rules let through, nobody met before `_NEW_DAYS` days ago, and fewer than `new_items_until` shoppers have met since.
    Which one gets a place is drawn by Thompson sampling: a shopper who bought or carted it is a success, one who met it a trial. Never
    more than `new_items_share` of all places at any moment, in a seeded order of shoppers. The row keeps the score of its place.
    """
    events = Histories.from_table(histories).before(as_of)
    names = np.array(items["item_id"].to_pylist(), dtype=object)
    place = {name: n for n, name in enumerate(names)}
    old = set(events.item_ids[np.unique(events.before(as_of - _NEW_DAYS * DAY).item)])
    barred, _ = refused(items, lists)
    keep = ~np.isin(names, list(barred))

    def shoppers(part: Histories) -> np.ndarray:
        pairs = np.unique(part.user.astype(np.int64) * max(part.items, 1) + part.item)
        counts = np.bincount(pairs % max(part.items, 1), minlength=part.items)
        made = np.zeros(len(names))
        for item, count in zip(part.item_ids, counts, strict=True):
            if item in place:
                made[place[item]] = count
        return made

    met, won = shoppers(events), shoppers(events.of(CART, PURCHASE))
    fresh = np.flatnonzero(keep & (met < lists.new_items_until) & ~np.isin(names, list(old)))
    if not len(fresh):
        return rows, 0
    policy = Thompson(len(fresh), seed=seed)
    policy.won, policy.lost = 1.0 + won[fresh], 1.0 + met[fresh] - won[fresh]
    warming = WarmUp(policy, Exposure(lists.new_items_share), lists.new_items_until)
    audience, key, item = (np.array(rows[c].to_pylist(), dtype=object) for c in ("audience", "audience_id", "item_id"))
    reason = np.array(rows["reason"].to_pylist(), dtype=object)
    by_user: dict[str, list[int]] = {}
    for n in np.flatnonzero(audience == "user"):
        by_user.setdefault(key[n], []).append(int(n))
    order = sorted(by_user)
    given = 0
    for n in np.random.default_rng(seed).permutation(len(order)):
        mine = by_user[order[n]]
        _, picked = warming.serve(item[mine], names[fresh])
        if picked is not None:
            item[mine[-1]], reason[mine[-1]] = names[fresh[picked]], "new in this shop"
            given += 1
    made = rows
    for name, values in (("item_id", item), ("reason", reason)):
        made = made.set_column(made.schema.get_field_index(name), name, pa.array(values.tolist(), pa.string()))
    return made, given
