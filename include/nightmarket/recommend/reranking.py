"""Lists, not scores: from scored candidates to what is shown. Pure functions on arrays; nothing is read or learnt here.

Order of work: `allowed` says which candidates may be shown at all (stock, blocks, adult goods, price band, what was bought a short
while ago, duplicates); `choose` then fills the list one place at a time, always with the allowed candidate of highest marginal
value, whose seller has a place left. Marginal value is maximal marginal relevance (Carbonell & Goldstein 1998) with a share for
novelty: relevance x (1 - diversity - novelty) - diversity x nearest similarity to what is listed + novelty x unfamiliarity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAY = 86_400.0


@dataclass(frozen=True)
class Rules:
    """What a shop says about its lists. None: no such rule."""

    in_stock: bool = True
    blocked_items: frozenset[str] = frozenset()
    blocked_sellers: frozenset[str] = frozenset()
    adult: bool = False
    """Whether goods for adults may be shown."""
    lowest_price: float | None = None
    highest_price: float | None = None
    seller_cap: int | None = None
    """Items of one seller in a list, at most. An item without a known seller is not counted."""
    exclude_bought_days: float | None = None
    """An item bought within so many days is not shown; 0 allows all repeats, infinity none."""
    diversity: float = 0.0
    """0 … 1: weight of being unlike what is already listed."""
    novelty: float = 0.0
    """0 … 1: weight of being seldom bought."""

    def __post_init__(self) -> None:
        """Raises ValueError for weights outside 0 … 1 or above 1 together, an empty price band, or a cap below 1."""
        if not (0 <= self.diversity <= 1 and 0 <= self.novelty <= 1 and self.diversity + self.novelty <= 1):
            raise ValueError(f"diversity {self.diversity} and novelty {self.novelty}: each 0 … 1, and 1 at most together")
        if self.lowest_price is not None and self.highest_price is not None and self.lowest_price > self.highest_price:
            raise ValueError(f"lowest_price {self.lowest_price} is above highest_price {self.highest_price}; swap them")
        if self.seller_cap is not None and self.seller_cap < 1:
            raise ValueError(f"seller_cap {self.seller_cap}: 1 at least, or None for no cap")
        if self.exclude_bought_days is not None and not self.exclude_bought_days >= 0:
            raise ValueError(f"exclude_bought_days {self.exclude_bought_days}: 0 or more")


@dataclass(frozen=True)
class Goods:
    """What is known of n candidates, in their order. None: of no candidate.

    item (n,) ids; group (n,) ids of what is one product (variants), item itself by default; seller (n,) names, "" unknown; price
    (n,) NaN unknown; in_stock and adult (n,) bool; vectors (n, d) for similarity; purchases (n,) counts for novelty.
    """

    item: np.ndarray
    group: np.ndarray | None = None
    seller: np.ndarray | None = None
    price: np.ndarray | None = None
    in_stock: np.ndarray | None = None
    adult: np.ndarray | None = None
    vectors: np.ndarray | None = None
    purchases: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.item)


def allowed(goods: Goods, rules: Rules, bought_item: np.ndarray | None = None, bought_age: np.ndarray | None = None) -> np.ndarray:
    """(n,) bool: what may be shown to a shopper who bought `bought_item` (m,) ids `bought_age` (m,) seconds ago.

    A price that is not known is outside every band; without a rule nothing is refused. An item is excluded up to and including
    `exclude_bought_days` after its last purchase; its variants with it.
    """
    keep = np.ones(len(goods), bool)
    if rules.in_stock and goods.in_stock is not None:
        keep &= goods.in_stock
    if rules.blocked_items:
        keep &= ~np.isin(goods.item, list(rules.blocked_items))
    if rules.blocked_sellers and goods.seller is not None:
        keep &= ~np.isin(goods.seller, list(rules.blocked_sellers))
    if not rules.adult and goods.adult is not None:
        keep &= ~goods.adult
    if goods.price is not None:
        if rules.lowest_price is not None:
            keep &= goods.price >= rules.lowest_price
        if rules.highest_price is not None:
            keep &= goods.price <= rules.highest_price
    if rules.exclude_bought_days and bought_item is not None and len(bought_item):
        age = np.zeros(len(bought_item)) if bought_age is None else np.asarray(bought_age, np.float64)
        recent = np.asarray(bought_item)[age <= rules.exclude_bought_days * DAY]
        same = goods.item if goods.group is None else goods.group
        keep &= ~np.isin(same, same[np.isin(goods.item, recent)]) & ~np.isin(goods.item, recent)
    return keep


def choose(score: np.ndarray, goods: Goods, rules: Rules, k: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Places of at most `k` candidates, best first: (≤k,) int into `score` (n,), higher is better.

    `keep` (n,) bool is what `allowed` says. A score that is not finite is not shown. No item, and no two variants of one, comes
    twice. Equal values are ordered by the place in `score`, so the answer depends on the input alone.
    """
    if len(score) != len(goods):
        raise ValueError(f"{len(score)} scores for {len(goods)} candidates")
    open_ = np.isfinite(score) & (np.ones(len(score), bool) if keep is None else keep)
    relevance = _unit(score, open_)
    fresh = unfamiliarity(goods.purchases) if rules.novelty and goods.purchases is not None else np.zeros(len(score))
    base = relevance * (1.0 - rules.diversity - rules.novelty) + rules.novelty * fresh
    vectors = None
    if rules.diversity and goods.vectors is not None:
        length = np.linalg.norm(goods.vectors, axis=1, keepdims=True)
        vectors = np.divide(goods.vectors, length, out=np.zeros_like(goods.vectors, dtype=np.float64), where=length > 0)
    nearest = np.zeros(len(score))
    same = goods.item if goods.group is None else goods.group
    sold: dict[str, int] = {}
    chosen: list[int] = []
    while len(chosen) < k and open_.any():
        value = np.where(open_, base - rules.diversity * nearest, -np.inf)
        # of equal values the more relevant, then the earlier
        best = int(np.lexsort((np.arange(len(score)), -relevance, -value))[0]) if rules.diversity or rules.novelty else int(np.argmax(value))
        chosen.append(best)
        open_ &= (same != same[best]) & (goods.item != goods.item[best])
        if rules.seller_cap is not None and goods.seller is not None and (seller := str(goods.seller[best])):
            sold[seller] = sold.get(seller, 0) + 1
            if sold[seller] >= rules.seller_cap:
                open_ &= goods.seller != goods.seller[best]
        if vectors is not None:
            nearest = np.maximum(nearest, vectors @ vectors[best])
    return np.array(chosen, np.int64)


def unfamiliarity(purchases: np.ndarray) -> np.ndarray:
    """(n,) 0 … 1: self-information -log2(share of purchases) with one added to each count, 1 for the most seldom bought."""
    counts = np.asarray(purchases, np.float64) + 1.0
    said = -np.log2(counts / counts.sum()) if len(counts) else counts
    span = said.max(initial=0.0) - said.min(initial=np.inf) if len(said) else 0.0
    return (said - said.min()) / span if span > 0 else np.zeros(len(said))


def _unit(score: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Scores as 0 … 1 over those that may be shown, so that weights mean the same for every model."""
    out = np.zeros(len(score))
    if among.any():
        low, high = float(score[among].min()), float(score[among].max())
        out[among] = (score[among] - low) / (high - low) if high > low else 1.0
    return out
