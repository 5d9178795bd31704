"""Lists for those of whom nothing is known but perhaps a country: what sells there now, leaning on the whole shop where it is thin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nightmarket.recommend.counts import top_k
from nightmarket.recommend.evidence import Evidence

if TYPE_CHECKING:
    from nightmarket.recommend.reasons import Reasons

EVERYONE = "*"
_PRIOR = 50.0  # decayed purchases of the whole shop that every country's counts are mixed with


def scores(evidence: Evidence) -> tuple[list[str], np.ndarray]:
    """(audience ids, (audiences, items) scores): '*' first, then every known country."""
    recent = evidence.popularity[1] + 0.05 * evidence.popularity[3]
    share = recent / max(recent.sum(), 1e-9)
    names, _ = evidence.country_codes
    countries = [n for n, name in enumerate(names) if name]
    mixed = evidence.country_popularity[countries] + _PRIOR * share[None, :]
    return [EVERYONE, *(str(names[n]) for n in countries)], np.concatenate([share[None, :], mixed / np.maximum(mixed.sum(axis=1, keepdims=True), 1e-9)])


def table(evidence: Evidence, reasons: Reasons, k: int) -> pa.Table:
    """The fallback lists with reasons, in the columns of Recommender.recommend."""
    audiences, values = scores(evidence)
    seen = np.bincount(evidence.histories.item, minlength=evidence.histories.items) > 0
    best = top_k(np.where(seen, values, -np.inf), k)
    row, column = np.nonzero(best >= 0)
    item = best[row, column]
    names = [audiences[r] for r in row]
    return pa.table({
        "audience": pa.array(["everyone" if n == EVERYONE else "country" for n in names], pa.string()),
        "audience_id": pa.array(names, pa.string()),
        "rank": pa.array(column + 1, pa.int32()),
        "item_id": pa.array(evidence.histories.item_ids[item], pa.string()),
        "score": pa.array(values[row, item], pa.float64()),
        "reason": pa.array([reasons.popular(int(i), None if n == EVERYONE else n) for i, n in zip(item, names, strict=True)], pa.string()),
    })
