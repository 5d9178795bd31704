"""Parts of the holdout in which a model may be worse than its mean says: by history length, country, and head or tail of the catalogue."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nightmarket.evaluate.protocol import Trial
from nightmarket.recommend.counts import Occasions
from nightmarket.recommend.histories import PURCHASE, seconds

HISTORY_BANDS = (("new", 1, 1), ("light", 2, 4), ("established", 5, 10**9))
"""Name, fewest and most purchase days before the cut."""
HEAD_SHARE = 0.5
"""The most bought items that together make this share of purchases are the head; the others the tail."""


def of_users(trial: Trial, minimum: int) -> dict[str, np.ndarray]:
    """'dimension=value' to (n,) bool masks of the judged shoppers. Countries of fewer than `minimum` of them are left out."""
    occasions = Occasions.of(trial.histories, float(seconds(trial.holdout.cut)), PURCHASE)
    key = np.unique(occasions.user.astype(np.int64) << 32 | occasions.day)
    days = np.bincount(key >> 32, minlength=trial.histories.users)[trial.users]
    made = {f"history={name}": (days >= low) & (days <= high) for name, low, high in HISTORY_BANDS}
    country = trial.histories.countries[trial.users]
    for name in sorted({str(c) for c in country if c}):
        mask = country == name
        if mask.sum() >= minimum:
            made[f"country={name}"] = mask
    return {name: mask for name, mask in made.items() if mask.any()}


def of_items(trial: Trial) -> dict[str, sp.csr_matrix]:
    """'items=head' and 'items=tail' to the part of the truth that they hold, same shape."""
    past = trial.histories.before(float(seconds(trial.holdout.cut))).of(PURCHASE)
    sold = np.bincount(past.item, minlength=trial.histories.items)
    order = np.argsort(-sold, kind="stable")
    before = np.cumsum(sold[order]) - sold[order]
    head = np.zeros(trial.histories.items, bool)
    head[order[before < HEAD_SHARE * sold.sum()]] = True
    made = {}
    for name, mask in (("head", head), ("tail", ~head)):
        part = sp.csr_matrix(trial.truth @ sp.diags(mask.astype(np.float64)))
        part.eliminate_zeros()
        if part.nnz:
            made[f"items={name}"] = sp.csr_matrix(part, dtype=bool)
    return made
