"""Did a warm start forget? The new model beside the one it started from, on days that both have learnt from.

Catastrophic forgetting (McCloskey & Cohen 1989) shows as a loss on what was learnt before. The days judged are the newest that the
earlier model learnt from; the later holdout says nothing about them.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from nightmarket.evaluate import metrics
from nightmarket.evaluate.bootstrap import Interval, difference
from nightmarket.evaluate.protocol import Holdout, Trial
from nightmarket.recommend.baselines import Bought
from nightmarket.recommend.histories import Histories, seconds
from nightmarket.recommend.model import Recommender

SHOPPERS = 400
"""At most, drawn with the seed: both models are asked for each of them."""
_DEPTH = 20


def older(last: datetime, days: int, zone: ZoneInfo) -> Holdout:
    """The `days` days of the shop's calendar before `last`."""
    night: date = last.astimezone(zone).date() - timedelta(days=1)
    return Holdout.of(night, days, zone)


def lost(
    table: pa.Table, items: pa.Table, holdout: Holdout, new: Recommender, old: Recommender, metric: str, seed: int, resamples: int,
) -> Interval | None:
    """`metric` of new minus old over the same shoppers of the holdout, paired; None where nobody can be judged.

    table: rows of gold.features; items: rows of silver.items.
    """
    trial = Trial.of(Histories.from_table(table), holdout)
    if not len(trial.users):
        return None
    rows = np.arange(len(trial.users))
    if len(rows) > SHOPPERS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SHOPPERS, replace=False))
    bought = Bought(trial.histories, float(seconds(holdout.cut)))
    shares = metrics.self_information_share(bought.buyers, bought.shoppers)
    values = [metrics.per_user(lists(m, table, items, trial, rows), trial.truth[rows], shares)[metric] for m in (new, old)]
    return difference(values[0], values[1], resamples, seed)


def lists(model: Recommender, table: pa.Table, items: pa.Table, trial: Trial, rows: np.ndarray) -> np.ndarray:
    """(rows, _DEPTH) item codes of the trial's histories, -1 where a list is shorter."""
    held = Histories.from_table(table, list(model.catalogue.item_ids))
    place = {item: n for n, item in enumerate(trial.histories.item_ids)}
    recode = np.array([place.get(item, -1) for item in held.item_ids], dtype=np.int64)
    lists = np.full((len(rows), _DEPTH), -1, np.int64)
    wanted = trial.users[rows]
    for block in model.rank(model.signals(held, trial.holdout.cut, items), wanted, _DEPTH):
        at = np.searchsorted(wanted, block.users)
        lists[at, : block.items.shape[1]] = np.where(block.items >= 0, recode[np.maximum(block.items, 0)], -1)
    return lists
