"""The frozen holdout: the newest days before the end of a night, which no candidate of that night has seen.

Judged are shoppers with a purchase before the cut and one in the holdout. Everything that had an event before the cut may be
recommended, what the shopper bought before included; right is what they bought in the holdout. Items first seen in the holdout
could not have been known and are not asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.histories import PURCHASE, Histories, seconds


@dataclass(frozen=True)
class Holdout:
    """Half-open span of time: a candidate learns from events before `cut`, and is judged on purchases before `end`."""

    cut: datetime
    end: datetime

    @classmethod
    def of(cls, run_date: date, days: int, zone: ZoneInfo) -> Holdout:
        """The last `days` days of the shop's calendar up to the end of `run_date`; days of 23 or 25 hours count as one."""
        after = run_date + timedelta(days=1)
        first = after - timedelta(days=days)
        return cls(datetime.combine(first, time(), zone), datetime.combine(after, time(), zone))


@dataclass(frozen=True)
class Trial:
    """Who is judged on what. Codes are those of `histories`."""

    histories: Histories
    """All events, the holdout's too."""
    holdout: Holdout
    users: np.ndarray
    """(n,) codes of the judged shoppers, ascending."""
    truth: sp.csr_matrix
    """(n, items) bool: what each bought in the holdout."""
    allowed: np.ndarray
    """(items,) bool: what may be recommended."""

    @classmethod
    def of(cls, histories: Histories, holdout: Holdout) -> Trial:
        cut, end = float(seconds(holdout.cut)), float(seconds(holdout.end))
        past, future = histories.before(cut), histories.between(cut, end).of(PURCHASE)
        allowed = np.bincount(past.item, minlength=histories.items) > 0
        users = np.intersect1d(np.unique(past.of(PURCHASE).user), np.unique(future.user[allowed[future.item]]))
        inside = np.isin(future.user, users) & allowed[future.item]
        truth = sp.csr_matrix(
            (np.ones(int(inside.sum()), bool), (np.searchsorted(users, future.user[inside]), future.item[inside])),
            shape=(len(users), histories.items), dtype=bool)
        truth.sum_duplicates()
        return cls(histories, holdout, users, truth, allowed)

    @property
    def digest(self) -> str:
        """Of the question itself: span, shoppers and what they bought. Two judgements with one digest can be compared."""
        seen = hashlib.sha256(f"{seconds(self.holdout.cut)} {seconds(self.holdout.end)}\n".encode())
        for row, user in enumerate(self.users):
            items = self.truth.indices[self.truth.indptr[row] : self.truth.indptr[row + 1]]
            names = sorted(str(i) for i in self.histories.item_ids[items])
            seen.update(f"{self.histories.user_ids[user]}\t{chr(9).join(names)}\n".encode())
        return seen.hexdigest()[:16]
