"""Numbers that describe a shopper, an item and the two together: what the ranking heads read.

All are as of one moment. Counts enter as logarithms, times as logarithms of days, scores also relative to the shopper's best,
because "the best of this shopper's" means the same for a shopper of three purchases and one of three hundred.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.candidates import GENERATORS, TOWER, Candidates
from nightmarket.recommend.evidence import BROWSING_HALF_LIVES, HALF_LIVES, POPULARITY_HALF_LIVES, Evidence

_PROPOSERS = (*GENERATORS, TOWER)


def names() -> tuple[str, ...]:
    """The features, in the order of the last axis of `assemble`."""
    made = [f"bought_{_days(h)}" for h in HALF_LIVES]
    made += ["ever_bought", "last_bought", "first_bought", "baskets_since", "basket_rate", "due_own", "due_item", "units", "returned"]
    made += [f"viewed_{_days(h)}" for h in BROWSING_HALF_LIVES] + [f"carted_{_days(h)}" for h in BROWSING_HALF_LIVES]
    made += ["last_viewed", "last_carted", "carted_not_bought"]
    for proposer in _PROPOSERS:
        made += [f"{proposer}_score", f"{proposer}_relative", f"{proposer}_place"]
    made += [f"sold_{_days(h)}" for h in POPULARITY_HALF_LIVES]
    made += ["trend", "attention", "in_country", "country_lift", "buyers", "repeat_share", "repeat_interval", "item_first", "item_last", "item_price"]
    made += ["price_distance", "purchase_days", "days_since_purchase", "days_since_event", "mean_gap", "basket_size", "user_repeats", "lines", "events"]
    return tuple(made)


def _days(half_life: float | None) -> str:
    return "ever" if half_life is None else f"{half_life:g}d"


def assemble(evidence: Evidence, candidates: Candidates) -> np.ndarray:
    """(n, L, F) float32 features of the candidates; all 0 where there is no candidate."""
    users, items = candidates.users, candidates.items
    listed = items >= 0
    safe = np.where(listed, items, 0)
    row = np.broadcast_to(np.arange(len(users))[:, None], items.shape)

    def pair(matrix: sp.csr_matrix) -> np.ndarray:
        return matrix[users].toarray()[row, safe]

    def shopper(name: str) -> np.ndarray:
        return np.broadcast_to(evidence.shopper[name][users][:, None], items.shape)

    def item(values: np.ndarray) -> np.ndarray:
        return values[safe]

    columns: list[np.ndarray] = []
    counts = [pair(m) for m in evidence.personal]
    columns += [np.log1p(8.0 * c) for c in counts]
    ever = counts[-1]
    fresh, oldest = pair(evidence.last_bought), pair(evidence.first_bought)
    bought = ever > 0
    age = np.where(bought, 1.0 / np.maximum(fresh, 1e-6) - 1.0, 1e4)
    tenure = np.where(bought, 1.0 / np.maximum(oldest, 1e-6) - 1.0, 1e4)
    own = pair(evidence.own_interval)
    typical = item(evidence.repeat_interval)
    columns += [
        bought, np.log1p(age), np.log1p(tenure), pair(evidence.baskets_since), ever / np.maximum(shopper("purchase_days"), 1.0),
        np.where(own > 0, np.log((age + 1.0) / (own + 1.0)), 0.0), np.where(bought, np.log((age + 1.0) / (typical + 1.0)), 0.0),
        np.log1p(pair(evidence.units)), np.log1p(pair(evidence.returns)),
    ]
    views, carts = [pair(m) for m in evidence.views], [pair(m) for m in evidence.carts]
    columns += [np.log1p(8.0 * v) for v in views] + [np.log1p(8.0 * c) for c in carts]
    seen, carted = pair(evidence.last_viewed), pair(evidence.last_carted)
    columns += [seen, carted, carted > fresh]
    for proposer in _PROPOSERS:
        if proposer in candidates.scores:
            score, place = candidates.scores[proposer], candidates.places[proposer]
        else:
            score = place = np.zeros(items.shape, np.float32)
        top = np.maximum(np.max(np.abs(score), axis=1, keepdims=True), 1e-9)
        columns += [np.sign(score) * np.log1p(np.abs(score)), score / top, place]
    sold = [item(p) for p in evidence.popularity]
    columns += [np.log1p(s) for s in sold]
    _, code = evidence.country_codes
    here = evidence.country_popularity[code[users][:, None], safe]
    total = np.maximum(evidence.country_popularity.sum(axis=1), 1.0)
    share_here = (here + 0.5) / (total[code[users]][:, None] + 100.0)
    overall = evidence.country_popularity.sum(axis=0)
    share_all = (item(overall) + 0.5) / (overall.sum() + 100.0)
    first, last = evidence.item_age
    columns += [
        np.log((sold[0] * 4.0 + 1.0) / (sold[2] + 1.0)), np.log1p(item(evidence.attention)), np.log1p(here), np.log(share_here / share_all),
        np.log1p(item(evidence.buyers)), item(evidence.repeat_share), np.log(typical), np.log1p(item(first)), np.log1p(item(last)),
        item(evidence.log_price),
        np.abs(item(evidence.log_price) - shopper("log_price")) / shopper("price_spread"),
    ]
    for name in ("purchase_days", "days_since_purchase", "days_since_event", "mean_gap", "basket_size"):
        columns.append(np.log1p(shopper(name)))
    columns += [shopper("repeat_share"), np.log1p(shopper("lines")), np.log1p(shopper("events"))]
    made = np.stack([np.asarray(c, dtype=np.float32) for c in columns], axis=-1)
    return np.where(listed[..., None], made, 0.0).astype(np.float32)
