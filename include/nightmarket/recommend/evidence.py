"""Everything counted about shoppers, items and pairs of them as of one moment: what candidates, features and reasons rest on.

Recomputed from the histories at hand whenever a model answers; nothing here is learnt. Nothing at or after the moment counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.counts import Occasions, bm25, strongest
from nightmarket.recommend.histories import CART, DAY, PURCHASE, RETURN, VIEW, Histories

HALF_LIVES = (7.0, 21.0, 60.0, 180.0, None)
"""Days; of personal purchase counts. None: all time alike."""
BROWSING_HALF_LIVES = (0.5, 3.0, 14.0)
"""Days; of views and carts, whose meaning fades much sooner."""
POPULARITY_HALF_LIVES = (3.5, 14.0, 45.0, None)
ITEM_ITEM_HALF_LIFE = 60.0
NEIGHBOURS_PER_ITEM = 200
NEIGHBOURS_PER_USER = 200
_NEIGHBOUR_POOL = 20_000  # most recently active shoppers among whom neighbours are sought: bounds memory in large shops
_FAR = 1e4  # days; "never"


@dataclass(frozen=True)
class Evidence:
    """Counts of the histories before `as_of`."""

    histories: Histories
    catalogue: Catalogue
    as_of: float

    @classmethod
    def of(cls, histories: Histories, catalogue: Catalogue, as_of: float) -> Evidence:
        """Raises ValueError where catalogue and histories do not code items alike."""
        if len(catalogue.item_ids) != histories.items:
            raise ValueError(f"catalogue of {len(catalogue.item_ids)} items, histories of {histories.items}; align it first")
        return cls(histories.before(as_of), catalogue, as_of)

    # -- occasions

    @cached_property
    def bought(self) -> Occasions:
        return Occasions.of(self.histories, self.as_of, PURCHASE)

    @cached_property
    def viewed(self) -> Occasions:
        return Occasions.of(self.histories, self.as_of, VIEW)

    @cached_property
    def carted(self) -> Occasions:
        return Occasions.of(self.histories, self.as_of, CART)

    @cached_property
    def acted(self) -> Occasions:
        """Purchases and, where the shop tells of them, views and carts."""
        return Occasions.of(self.histories, self.as_of, PURCHASE, VIEW, CART)

    # -- shopper x item

    @cached_property
    def personal(self) -> tuple[sp.csr_matrix, ...]:
        return tuple(_single(self.bought.matrix(h)) for h in HALF_LIVES)

    @cached_property
    def views(self) -> tuple[sp.csr_matrix, ...]:
        return tuple(_single(self.viewed.matrix(h)) for h in BROWSING_HALF_LIVES)

    @cached_property
    def carts(self) -> tuple[sp.csr_matrix, ...]:
        return tuple(_single(self.carted.matrix(h)) for h in BROWSING_HALF_LIVES)

    @cached_property
    def returns(self) -> sp.csr_matrix:
        return _single(Occasions.of(self.histories, self.as_of, RETURN).matrix())

    @cached_property
    def units(self) -> sp.csr_matrix:
        """Units bought."""
        part = self.histories.of(PURCHASE)
        made = sp.csr_matrix((np.maximum(part.quantity, 0), (part.user, part.item)), shape=(part.users, part.items))
        made.sum_duplicates()
        return _single(made)

    @cached_property
    def last_bought(self) -> sp.csr_matrix:
        """Freshness 1 / (1 + days since the last purchase); 0 (absent) for never. Likewise below."""
        return _extreme(self.bought, newest=True)

    @cached_property
    def first_bought(self) -> sp.csr_matrix:
        return _extreme(self.bought, newest=False)

    @cached_property
    def last_viewed(self) -> sp.csr_matrix:
        return _extreme(self.viewed, newest=True)

    @cached_property
    def last_carted(self) -> sp.csr_matrix:
        return _extreme(self.carted, newest=True)

    @cached_property
    def baskets_since(self) -> sp.csr_matrix:
        """1 / (1 + purchase days of the shopper since the item's last one): 1 for the newest basket; 0 for never."""
        oc = self.bought
        if not len(oc):
            return sp.csr_matrix((oc.users, oc.items), dtype=np.float32)
        key = oc.user.astype(np.int64) << 32 | oc.day
        days = np.unique(key)
        last_of_user = np.searchsorted(days, (oc.user.astype(np.int64) + 1) << 32) - 1
        behind = last_of_user - np.searchsorted(days, key)
        return _maximum(oc.users, oc.items, oc.user, oc.item, 1.0 / (1.0 + behind))

    # -- item x item, shopper x shopper

    @cached_property
    def together(self) -> sp.csr_matrix:
        """(items, items) strongest BM25 cosines over decayed purchases (with views and carts where there are any, at less weight)."""
        weights = self.taste
        made = bm25(weights)
        norm = np.sqrt(np.asarray(made.multiply(made).sum(axis=0)).ravel())
        scaled = _single(made @ sp.diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)))
        return strongest((scaled.T @ scaled).tocsr(), NEIGHBOURS_PER_ITEM)

    @cached_property
    def taste(self) -> sp.csr_matrix:
        """(users, items) decayed purchases; a cart counts a third, a view a tenth of a purchase."""
        made = self.bought.matrix(ITEM_ITEM_HALF_LIFE)
        if len(self.carted):
            made = made + self.carted.matrix(ITEM_ITEM_HALF_LIFE / 4) / 3.0
        if len(self.viewed):
            made = made + self.viewed.matrix(ITEM_ITEM_HALF_LIFE / 4) / 10.0
        return _single(sp.csr_matrix(made))

    @cached_property
    def next_basket(self) -> sp.csr_matrix:
        """(items, items) how often j was bought on the purchase day after one with i, over i's next days and j's rarity."""
        oc = self.bought
        key = oc.user.astype(np.int64) << 32 | oc.day
        days, basket = np.unique(key, return_inverse=True)
        incidence = sp.csr_matrix((np.exp2(-oc.age / 180.0), (basket, oc.item)), shape=(len(days), oc.items))
        owner = days >> 32
        follows = np.flatnonzero(owner[1:] == owner[:-1]) if len(days) else np.empty(0, np.int64)
        size = np.asarray((incidence > 0).sum(axis=1)).ravel()
        # a basket of a hundred lines says less about each pair than one of three
        early = sp.diags(1.0 / np.sqrt(np.maximum(size[follows], 1))) @ incidence[follows]
        later = sp.diags(1.0 / np.sqrt(np.maximum(size[follows + 1], 1))) @ incidence[follows + 1]
        seen = np.asarray(incidence.sum(axis=0)).ravel()
        rarity = 1.0 / np.sqrt(seen + 1.0)
        made = sp.diags(rarity) @ (early.T @ later) @ sp.diags(rarity)
        return strongest(_single(sp.csr_matrix(made)), NEIGHBOURS_PER_ITEM)

    @cached_property
    def _pool(self) -> np.ndarray:
        """Shoppers among whom neighbours are sought: those with purchases or carts, the most recently active first."""
        newest = np.full(self.histories.users, -np.inf)
        np.maximum.at(newest, self.histories.user, self.histories.time)
        active = np.flatnonzero(np.diff(self.taste.indptr) > 0)
        return np.sort(active[np.argsort(-newest[active], kind="stable")][:_NEIGHBOUR_POOL])

    @cached_property
    def _unit_taste(self) -> sp.csr_matrix:
        rarity = np.log1p(self.histories.users / (1.0 + np.bincount(self.taste.indices, minlength=self.histories.items)))
        rows = self.taste.copy()
        rows.data = np.sqrt(rows.data)
        rows = sp.csr_matrix(rows @ sp.diags(rarity))
        norm = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
        return _single(sp.csr_matrix(sp.diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)) @ rows))

    def neighbours(self, users: np.ndarray) -> sp.csr_matrix:
        """(len, users) similarity to the NEIGHBOURS_PER_USER shoppers of most similar taste (TIFU-KNN, Hu et al. 2020)."""
        pool = self._pool
        similar = (self._unit_taste[users] @ self._unit_taste[pool].T).tocoo()
        column = pool[similar.col]
        own = column == users[similar.row]
        made = sp.csr_matrix((similar.data[~own], (similar.row[~own], column[~own])), shape=(len(users), self.histories.users))
        return strongest(made, NEIGHBOURS_PER_USER)

    # -- items

    @cached_property
    def content(self) -> sp.csr_matrix:
        """(items, words and categories) of titles, L2-normalised TF-IDF."""
        return _single(self.catalogue.tfidf())

    @cached_property
    def popularity(self) -> tuple[np.ndarray, ...]:
        return tuple(
            np.bincount(self.bought.item, weights=self.bought.decayed(h), minlength=self.histories.items) for h in POPULARITY_HALF_LIVES
        )

    @cached_property
    def attention(self) -> np.ndarray:
        """(items,) decayed views and carts."""
        return np.sum([
            np.bincount(o.item, weights=o.decayed(7.0), minlength=self.histories.items) for o in (self.viewed, self.carted)
        ], axis=0)

    @cached_property
    def country_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """(names, (users,) code); '' is a country of its own."""
        names, code = np.unique(self.histories.countries.astype(str), return_inverse=True)
        return names, code

    @cached_property
    def country_popularity(self) -> np.ndarray:
        """(countries, items) decayed purchases, 30 days."""
        names, code = self.country_codes
        out = np.zeros((len(names), self.histories.items), np.float32)
        np.add.at(out, (code[self.bought.user], self.bought.item), self.bought.decayed(30.0).astype(np.float32))
        return out

    @cached_property
    def buyers(self) -> np.ndarray:
        return self.bought.buyers().astype(np.float64)

    @cached_property
    def gaps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Days between purchase days of the same item by the same shopper: (shopper, item, gap), one row a repeat."""
        oc = self.bought
        order = np.lexsort((oc.day, oc.item, oc.user))
        user, item, age = oc.user[order], oc.item[order], oc.age[order]
        same = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
        return user[1:][same], item[1:][same], (age[:-1] - age[1:])[same]

    @cached_property
    def repeat_interval(self) -> np.ndarray:
        """(items,) typical days between repeats: geometric mean, shrunk to the shop's own with the weight of 5 repeats."""
        _, item, gap = self.gaps
        logs = np.log(np.maximum(gap, 0.5))
        overall = logs.mean() if len(logs) else np.log(30.0)
        total = np.bincount(item, weights=logs, minlength=self.histories.items)
        count = np.bincount(item, minlength=self.histories.items)
        return np.exp((total + 5.0 * overall) / (count + 5.0))

    @cached_property
    def repeat_share(self) -> np.ndarray:
        """(items,) share of an item's occasions that were repeats, shrunk to the shop's own with the weight of 10."""
        _, item, _ = self.gaps
        repeats = np.bincount(item, minlength=self.histories.items)
        occasions = np.bincount(self.bought.item, minlength=self.histories.items)
        overall = repeats.sum() / max(occasions.sum(), 1)
        return (repeats + 10.0 * overall) / (occasions + 10.0)

    @cached_property
    def own_interval(self) -> sp.csr_matrix:
        """(users, items) mean days between this shopper's repeats of the item; absent without a repeat."""
        user, item, gap = self.gaps
        shape = (self.histories.users, self.histories.items)
        total = sp.csr_matrix((np.maximum(gap, 0.5), (user, item)), shape=shape)
        count = sp.csr_matrix((np.ones(len(gap)), (user, item)), shape=shape)
        total.sum_duplicates()
        count.sum_duplicates()
        total.data = total.data / count.data
        return _single(total)

    @cached_property
    def item_age(self) -> tuple[np.ndarray, np.ndarray]:
        """(days since first, days since last) event of each item."""
        first, last = np.zeros(self.histories.items), np.full(self.histories.items, _FAR)
        age = (self.as_of - self.histories.time) / DAY
        np.maximum.at(first, self.histories.item, age)
        np.minimum.at(last, self.histories.item, age)
        return first, last

    @cached_property
    def log_price(self) -> np.ndarray:
        """(items,) log of what it is sold for (mean paid, else list price); the shop's mean where neither is known."""
        priced = ~np.isnan(self.histories.price) & (self.histories.price > 0) & (self.histories.kind == PURCHASE)
        logs = np.log(self.histories.price[priced])
        item = self.histories.item[priced]
        count = np.bincount(item, minlength=self.histories.items)
        total = np.bincount(item, weights=logs, minlength=self.histories.items)
        with np.errstate(invalid="ignore", divide="ignore"):
            listed = np.log(self.catalogue.prices.astype(np.float64))
        made = np.where(count > 0, total / np.maximum(count, 1), listed)
        known = np.isfinite(made)
        return np.where(known, made, made[known].mean() if known.any() else 0.0)

    # -- shoppers

    @cached_property
    def shopper(self) -> dict[str, np.ndarray]:
        """(users,) numbers of each shopper's purchasing."""
        oc, users = self.bought, self.histories.users
        key = np.unique(oc.user.astype(np.int64) << 32 | oc.day)
        days = np.bincount(key >> 32, minlength=users).astype(np.float64)
        last, first = np.full(users, _FAR), np.zeros(users)
        np.minimum.at(last, oc.user, oc.age)
        np.maximum.at(first, oc.user, oc.age)
        distinct = np.diff(self.personal[-1].indptr).astype(np.float64)
        lines = np.bincount(oc.user, minlength=users).astype(np.float64)
        price = np.bincount(oc.user, weights=self.log_price[oc.item], minlength=users) / np.maximum(lines, 1)
        spread = np.bincount(oc.user, weights=(self.log_price[oc.item] - price[oc.user]) ** 2, minlength=users) / np.maximum(lines, 1)
        events = np.bincount(self.histories.user, minlength=users).astype(np.float64)
        active = np.full(users, _FAR)
        np.minimum.at(active, self.histories.user, (self.as_of - self.histories.time) / DAY)
        return {
            "purchase_days": days, "days_since_purchase": last, "days_since_event": active, "lines": lines, "events": events,
            "mean_gap": np.where(days > 1, (first - last) / np.maximum(days - 1, 1), _FAR),
            "basket_size": lines / np.maximum(days, 1), "repeat_share": 1.0 - distinct / np.maximum(lines, 1),
            "log_price": np.where(lines > 0, price, self.log_price.mean() if len(self.log_price) else 0.0),
            "price_spread": np.sqrt(spread + 0.25),
        }


def _single(matrix: sp.csr_matrix) -> sp.csr_matrix:
    return sp.csr_matrix(matrix, dtype=np.float32)


def _extreme(occasions: Occasions, newest: bool) -> sp.csr_matrix:
    """1 / (1 + age) of the newest or oldest occasion of each pair."""
    fresh = 1.0 / (1.0 + occasions.age)
    return _maximum(occasions.users, occasions.items, occasions.user, occasions.item, fresh if newest else -fresh, negate=not newest)


def _maximum(users: int, items: int, user: np.ndarray, item: np.ndarray, value: np.ndarray, negate: bool = False) -> sp.csr_matrix:
    """(users, items) largest value of each pair (CSR constructors sum duplicates instead)."""
    order = np.lexsort((-value, item, user))
    u, i, v = user[order], item[order], value[order]
    head = np.ones(len(u), bool)
    head[1:] = (u[1:] != u[:-1]) | (i[1:] != i[:-1])
    # double precision: the second of the event is read back from it
    return sp.csr_matrix(((-v if negate else v)[head], (u[head], i[head])), shape=(users, items))
