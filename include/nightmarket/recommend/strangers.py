"""Lists for those of whom nothing is known but perhaps a country: what sells there now, leaning on the whole shop where it is thin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from nightmarket.recommend.causes import Causes
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.histories import Histories
from nightmarket.recommend.signals import Signals

EVERYONE = "*"


def added(held: Histories) -> Histories:
    """The histories with shoppers who never came: one from each country, by name, then one from nowhere."""
    names = sorted({str(c) for c in held.countries if c})
    return replace(held, user_ids=np.concatenate([held.user_ids, np.array([*names, EVERYONE], dtype=object)]),
                   countries=np.concatenate([held.countries, np.array([*names, ""], dtype=object)]))


def codes(held: Histories) -> dict[str | None, int]:
    """By country, and None for nowhere, the code of the stranger among histories made by `added`. All of them come after the shoppers'."""
    names = sorted({str(c) for c in held.countries if c})
    first = held.users - 1 - len(names)
    return {**{name: first + n for n, name in enumerate(names)}, None: held.users - 1}


def table(signals: Signals, causes: Causes, k: int, allowed: np.ndarray) -> pa.Table:
    """The fallback lists with reasons, in the columns of Recommender.recommend; for everyone first. `signals` are of histories made by `added`;
    `allowed` (items,) is what may be listed."""
    events = signals.past.events
    found = codes(events)
    users = np.array([found[None], *(code for country, code in found.items() if country is not None)])
    values = signals.popular(users).astype(np.float64)
    best = top_k(np.where(allowed, values, -np.inf), k)
    row, column = np.nonzero(best >= 0)
    item = best[row, column]
    return pa.table({
        "audience": pa.array(["country" if r else "everyone" for r in row], pa.string()),
        "audience_id": pa.array([str(events.user_ids[users[r]]) for r in row], pa.string()),
        "rank": pa.array(column + 1, pa.int32()),
        "item_id": pa.array(events.item_ids[item], pa.string()),
        "score": pa.array(values[row, item], pa.float64()),
        "reason": pa.array([causes.popular(int(i), int(users[r])) for i, r in zip(item, row, strict=True)], pa.string()),
    })
