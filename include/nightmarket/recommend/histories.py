"""Shoppers' histories as flat columns: one row an event, sorted by shopper and time.

The lake keeps a shopper a row (`gold.features`); counting and sequence models want the events. Shoppers and items are
integer codes here, in the order of their sorted ids, so that the same events give the same codes whatever order they came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.contracts import EVENT_TYPES

VIEW, CART, PURCHASE, RETURN = range(len(EVENT_TYPES))
DAY = 86_400.0
LISTS = ("item_ids", "event_types", "event_times", "quantities", "unit_prices")
"""Parallel columns of `gold.features`, an entry an event, oldest first."""


class HistoryError(ValueError):
    """The histories do not fit the contract. The message names shopper or column and what is wrong."""


def seconds(moment: datetime) -> int:
    """Seconds since 1970-01-01 UTC. Raises ValueError for a time without zone, which would mean another instant elsewhere."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; say which, e.g. with tzinfo=timezone.utc")
    return int(moment.timestamp())


@dataclass(frozen=True)
class Histories:
    """Events of U known shoppers on I items, N rows sorted by shopper, time, item and kind."""

    user_ids: np.ndarray
    """(U,) str, sorted."""
    item_ids: np.ndarray
    """(I,) str: the given vocabulary, then items beyond it, sorted."""
    countries: np.ndarray
    """(U,) str; '' where it is not known."""
    user: np.ndarray
    """(N,) int32 code of the shopper."""
    item: np.ndarray
    """(N,) int32 code of the item."""
    kind: np.ndarray
    """(N,) int8: VIEW, CART, PURCHASE or RETURN."""
    time: np.ndarray
    """(N,) int64 seconds since 1970-01-01 UTC."""
    quantity: np.ndarray
    """(N,) float32 units; negative for returns."""
    price: np.ndarray
    """(N,) float32 shop currency for one unit; NaN where the shop does not say."""

    @classmethod
    def from_table(cls, table: pa.Table, item_ids: Sequence[str] = ()) -> Histories:
        """Histories of a `gold.features` table. Items of `item_ids` keep their places; others follow, sorted.

        Raises HistoryError where the lists of a shopper differ in length, an event type is unknown, or a shopper comes twice.
        """
        table = table.combine_chunks()
        users = table["user_id"].to_pylist()
        if len(set(users)) != len(users):
            twice = next(u for u in users if users.count(u) > 1)
            raise HistoryError(f"user_id {twice!r} has two histories; give one row a shopper")
        lengths = {c: _lengths(table, c) for c in LISTS}
        for column, found in lengths.items():
            wrong = np.flatnonzero(found != lengths["item_ids"])
            if len(wrong):
                raise HistoryError(
                    f"user_id {users[wrong[0]]!r}: {column} has {found[wrong[0]]} entries, item_ids {lengths['item_ids'][wrong[0]]}; "
                    f"the lists must be parallel"
                )
        order = np.argsort(np.array(users, dtype=object)) if users else np.empty(0, np.int64)
        place = np.empty(len(users), np.int32)
        place[order] = np.arange(len(users), dtype=np.int32)
        user = np.repeat(place, lengths["item_ids"])
        items = _flat(table, "item_ids").dictionary_encode()
        values = np.array(items.dictionary.to_pylist(), dtype=object)
        known = {item: code for code, item in enumerate(item_ids)}
        if len(known) != len(item_ids):
            raise HistoryError(f"the vocabulary names {len(item_ids) - len(known)} items twice; give each once")
        fresh = sorted(v for v in values if v not in known)
        vocabulary = [*item_ids, *fresh]
        codes = known | {item: len(known) + n for n, item in enumerate(fresh)}
        recode = np.array([codes[v] for v in values], dtype=np.int32)
        item = recode[items.indices.to_numpy(zero_copy_only=False)] if len(items) else np.empty(0, np.int32)
        kinds = _flat(table, "event_types").dictionary_encode()
        names = kinds.dictionary.to_pylist()
        unknown = [n for n in names if n not in EVENT_TYPES]
        if unknown:
            raise HistoryError(f"event_types holds {unknown[0]!r}; the contract knows {', '.join(EVENT_TYPES)}")
        lookup = np.array([EVENT_TYPES.index(n) for n in names], dtype=np.int8)
        kind = lookup[kinds.indices.to_numpy(zero_copy_only=False)] if len(kinds) else np.empty(0, np.int8)
        time = _numbers(table, "event_times", np.int64)
        quantity = np.nan_to_num(_numbers(table, "quantities", np.float32), nan=1.0)
        price = _numbers(table, "unit_prices", np.float32)
        by = np.lexsort((kind, item, time, user))
        countries = np.array([c or "" for c in table["country"].to_pylist()], dtype=object)[order]
        return cls(
            user_ids=np.array(users, dtype=object)[order], item_ids=np.array(vocabulary, dtype=object), countries=countries,
            user=user[by].astype(np.int32), item=item[by], kind=kind[by], time=time[by], quantity=quantity[by], price=price[by],
        )

    @property
    def users(self) -> int:
        return len(self.user_ids)

    @property
    def items(self) -> int:
        return len(self.item_ids)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def offsets(self) -> np.ndarray:
        """(U + 1,) where each shopper's events begin."""
        return np.searchsorted(self.user, np.arange(self.users + 1))

    def where(self, keep: np.ndarray) -> Histories:
        """The events of a (N,) mask; shoppers and items keep their codes."""
        return replace(self, user=self.user[keep], item=self.item[keep], kind=self.kind[keep], time=self.time[keep],
                       quantity=self.quantity[keep], price=self.price[keep])

    def before(self, moment: float) -> Histories:
        """Events strictly before `moment` (seconds): all that was known at it."""
        return self.where(self.time < moment)

    def between(self, first: float, end: float) -> Histories:
        """Events from `first` (included) to `end` (excluded)."""
        return self.where((self.time >= first) & (self.time < end))

    def of(self, *kinds: int) -> Histories:
        return self.where(np.isin(self.kind, kinds))

    def compact(self) -> Histories:
        """The same events with a vocabulary of only the items that occur."""
        seen = np.bincount(self.item, minlength=self.items) > 0
        recode = (np.cumsum(seen) - 1).astype(np.int32)
        return replace(self, item_ids=self.item_ids[seen], item=recode[self.item])

    def codes_of(self, user_ids: Sequence[str]) -> np.ndarray:
        """(len,) codes of shoppers; -1 for strangers."""
        known = {u: n for n, u in enumerate(self.user_ids)}
        return np.array([known.get(u, -1) for u in user_ids], dtype=np.int64)


def _flat(table: pa.Table, column: str) -> pa.Array:
    return pc.list_flatten(_chunk(table, column))


def _chunk(table: pa.Table, column: str) -> pa.Array:
    chunked = table[column]
    return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)


def _lengths(table: pa.Table, column: str) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(_chunk(table, column)), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(table: pa.Table, column: str, dtype: type) -> np.ndarray:
    return _flat(table, column).to_numpy(zero_copy_only=False).astype(dtype)
