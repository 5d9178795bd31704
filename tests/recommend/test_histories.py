"""Histories as flat columns: order, codes, spans, and what is refused."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.contracts import FEATURES
from nightmarket.recommend.histories import CART, PURCHASE, VIEW, Histories, HistoryError, seconds
from tests.recommend.synthetic import features, history, moment

ROWS = [
    history("zoe", [(2, "purchase", "b"), (1, "view", "b"), (3, "return", "a")], None),
    history("ann", [(1, "cart", "c")]),
]


def test_events_are_sorted_by_shopper_and_time_whatever_the_order_of_rows() -> None:
    one, other = Histories.from_table(features(ROWS)), Histories.from_table(features(ROWS[::-1]))
    assert one.user_ids.tolist() == ["ann", "zoe"]
    assert one.item_ids.tolist() == ["a", "b", "c"]
    assert one.countries.tolist() == ["DE", ""]
    assert one.user.tolist() == [0, 1, 1, 1]
    assert one.item.tolist() == [2, 1, 1, 0]
    assert one.kind.tolist() == [CART, VIEW, PURCHASE, 3]
    assert one.offsets.tolist() == [0, 1, 4]
    for name in ("user", "item", "kind", "time", "quantity", "price"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_vocabulary_keeps_its_places_and_new_items_follow() -> None:
    assert Histories.from_table(features(ROWS), ["c", "x"]).item_ids.tolist() == ["c", "x", "a", "b"]


def test_spans_take_the_first_moment_and_leave_the_last() -> None:
    held = Histories.from_table(features(ROWS))
    assert len(held.before(seconds(moment(2)))) == 2
    assert held.between(seconds(moment(1)), seconds(moment(2))).item.tolist() == [2, 1]
    assert held.of(PURCHASE, CART).kind.tolist() == [CART, PURCHASE]


def test_compact_forgets_items_without_events() -> None:
    held = Histories.from_table(features(ROWS)).before(seconds(moment(2))).compact()
    assert held.item_ids.tolist() == ["b", "c"]
    assert held.item_ids[held.item].tolist() == ["c", "b"]


def test_no_shoppers_at_all() -> None:
    held = Histories.from_table(FEATURES.arrow_schema().empty_table())
    assert (held.users, held.items, len(held)) == (0, 0, 0)


def test_strangers_have_no_code() -> None:
    assert Histories.from_table(features(ROWS)).codes_of(["zoe", "nobody"]).tolist() == [1, -1]


def test_lists_that_are_not_parallel_are_refused() -> None:
    row = history("ann", [(1, "view", "a"), (2, "view", "b")])
    row["quantities"] = [1.0]
    with pytest.raises(HistoryError, match="user_id 'ann': quantities has 1 entries, item_ids 2"):
        Histories.from_table(features([row]))


def test_an_unknown_event_type_is_refused() -> None:
    with pytest.raises(HistoryError, match="event_types holds 'wish'"):
        Histories.from_table(features([history("ann", [(1, "wish", "a")])]))


def test_two_histories_of_one_shopper_are_refused() -> None:
    with pytest.raises(HistoryError, match="user_id 'zoe' has two histories"):
        Histories.from_table(pa.concat_tables([features(ROWS), features(ROWS[:1])]))


def test_a_moment_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        seconds(datetime(2026, 1, 1))
    assert seconds(datetime(1970, 1, 2, tzinfo=timezone.utc)) == 86_400
