"""The task that types and judges, on Arrow batches without Spark: whatever comes, every row is good or kept with a reason."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.contracts import RAW_EVENTS, RAW_ORDERS, RAW_REVIEWS, RAW_USERS, Dataset
from nightmarket.protect.keys import Keyring
from nightmarket.sources import casts
from nightmarket.sources.ip_ranges import Ranges
from nightmarket.sources.records import BAD, DETAIL, FILE, LINE, NIGHT, ROW
from nightmarket.sources.typed import REASON, RECORD, typing

KEYRING = Keyring("aaaaaaaa", "bbbbbbbb", b"p" * 32, {"bbbbbbbb": b"e" * 32}, b"n" * 32)
DAY = date(2026, 1, 5)


def judged(contract: Dataset, columns: dict[str, list[Any]], lines: list[str | None] | None = None, places: list[int] | None = None,
           ranges: Ranges | None = None) -> list[dict[str, Any]]:
    """Rows that the task makes of `columns` (by contract column), each also a source column of the same name."""
    rows = len(next(iter(columns.values())))
    lines = lines or [None] * rows
    batch = pa.table({
        NIGHT: pa.array([DAY] * rows), FILE: ["f.csv"] * rows, ROW: pa.array(places or range(rows), pa.int64()),
        BAD: pa.array([None if x is None else "malformed_row" for x in lines], pa.string()),
        DETAIL: pa.array([None if x is None else "why" for x in lines], pa.string()), LINE: pa.array(lines, pa.string()),
        **{f"m_{c}": pa.array(v) for c, v in columns.items()}, **{f"r_{c}": pa.array(v) for c, v in columns.items()},
    }).to_batches()
    task = typing(contract, tuple(columns), {f"r_{c}": c for c in columns}, KEYRING, "Europe/London", False, ranges)
    out = pa.Table.from_batches(list(task(iter(batch))))
    expected = [*contract.arrow_schema(), *(pa.field(n, pa.string()) for n in (REASON, DETAIL, RECORD))]
    assert [(f.name, f.type) for f in out.schema] == [(f.name, f.type) for f in expected]
    return out.to_pylist()


_TEXT = st.none() | st.text(max_size=6) | st.sampled_from(["1", "2.5", "2026-01-05", "2026-01-05T10:00Z", " ", "£3", "purchase", "1e9"])


@given(st.lists(st.tuples(_TEXT, _TEXT, _TEXT, _TEXT, _TEXT, st.none() | st.text(max_size=5)), min_size=1, max_size=20))
def test_every_row_is_good_or_kept_with_a_reason(rows: list[tuple[str | None, ...]]) -> None:
    names = ("event_id", "event_ts", "event_type", "item_id", "quantity")
    columns = {n: pa.array(list(v), pa.string()).to_pylist() for n, v in zip(names, zip(*(r[:5] for r in rows), strict=True), strict=True)}
    lines = [r[5] for r in rows]
    # a record that could not be split has no columns
    columns = {n: [None if line is not None else v for v, line in zip(values, lines, strict=True)] for n, values in columns.items()}
    found = judged(RAW_EVENTS, {n: pa.array(v, pa.string()) for n, v in columns.items()}, lines)  # type: ignore[misc]
    assert len(found) == len(rows)
    zone = ZoneInfo("Europe/London")
    for n, row in enumerate(found):
        given_row = {c: columns[c][n] for c in names}
        if lines[n] is not None:
            expected = "malformed_row"
        else:
            expected = ""
            for c in names:  # the contract's order; read value by value
                blank = casts.is_blank(given_row[c])
                unreadable = not blank and casts.reader(RAW_EVENTS.column(c), zone, False)(given_row[c]) is None
                if unreadable:
                    expected = f"bad_{c}"
                elif blank and c != "quantity":
                    expected = f"missing_{c}"
                if expected:
                    break
        assert (row[REASON] or "") == expected
        assert (row[RECORD] is None) == (expected == "")
        if expected:
            text = KEYRING.decrypt(row[RECORD])
            assert text == lines[n] if lines[n] is not None else json.loads(text) == {c: v for c, v in given_row.items() if v is not None}
        else:
            assert all(row[c] is not None for c in ("event_id", "event_ts", "event_type", "item_id"))
        assert (row["delivered_on"], row["source_file"], row["source_row"]) == (DAY, "f.csv", n)


def test_a_key_that_the_shop_does_not_have_is_made_from_file_and_row() -> None:
    columns = {"event_ts": ["2026-01-05"] * 3, "event_type": ["view"] * 3, "item_id": ["a", "a", "b"]}
    first, again, other = judged(RAW_EVENTS, columns)
    assert len({r["event_id"] for r in (first, again, other)}) == 3
    assert [r["event_id"] for r in judged(RAW_EVENTS, columns)] == [r["event_id"] for r in (first, again, other)]
    # the second part tells lines that are alike in every delivered column
    assert first["event_id"].split(":")[1] == again["event_id"].split(":")[1] != other["event_id"].split(":")[1]
    assert [r["event_id"] for r in judged(RAW_EVENTS, columns, places=[7, 8, 9])] != [r["event_id"] for r in (first, again, other)]
    assert first["quantity"] == 1


def test_types_other_than_text() -> None:
    row = judged(RAW_EVENTS, {
        "event_ts": pa.array([datetime(2026, 7, 1, 12)], pa.timestamp("us")), "event_type": ["view"], "item_id": pa.array([17850.0]),
        "quantity": pa.array([3.0]), "unit_price": pa.array([0.1 + 0.2]), "device_id": pa.array([7])})[0]  # type: ignore[dict-item]
    assert row["event_ts"] == datetime(2026, 7, 1, 11, tzinfo=timezone.utc)
    assert (row["item_id"], row["quantity"], row["unit_price"]) == ("17850.0", 3, Decimal("0.3000"))
    assert row["device_id"] == KEYRING.pseudonym("device_id", "7")


def test_text_is_masked_and_ratings_are_whole() -> None:
    good, bad = judged(RAW_REVIEWS, {
        "review_id": ["r1", "r2"], "item_id": ["i", "i"], "review_ts": ["2026-01-05", "2026-01-05"], "rating": ["4.0", "4.5"],
        "text": ["call +44 20 7946 0018", "x"]})
    assert (good["rating"], good["text"], good[REASON]) == (4, "call [phone]", None)
    assert (bad[REASON], bad[DETAIL]) == ("bad_rating", "rating: cannot be read as int")


def test_an_address_leaves_its_country_behind() -> None:
    ranges = Ranges.of([("198.18.0.0", "198.18.63.255", "GB"), ("2001:db8::", "2001:db8:1fff:ffff:ffff:ffff:ffff:ffff", "DE")])
    ips = ["198.18.3.4", " 2001:DB8:7::1 ", "203.0.113.9", "unknown", None, "198.18.3.4"]
    orders = {"order_id": list("abcdef"), "order_ts": ["2026-01-05"] * 6, "ip_address": ips}
    found = judged(RAW_ORDERS, orders, ranges=ranges)
    assert [r["ip_country"] for r in found] == ["GB", "DE", None, None, None, "GB"]
    assert [r["ip_address"] for r in found] == [None if v is None else KEYRING.pseudonym("ip_address", v) for v in ips]
    assert not [r for r in found for text in ("198.18", "2001:db8", "203.0") if text in str(r).lower()], "no address in clear"
    assert [r["ip_country"] for r in judged(RAW_ORDERS, orders)] == [None] * 6
    assert [r["ip_country"] for r in judged(RAW_ORDERS, {**orders, "ip_country": list("uvwxyz")}, ranges=ranges)] == list("uvwxyz"), "what the shop says itself"
    assert judged(RAW_ORDERS, {k: v for k, v in orders.items() if k != "ip_address"}, ranges=ranges)[0]["ip_country"] is None
    assert [r["ip_country"] for r in judged(RAW_USERS, {"user_id": ["u"], "ip_address": ["198.18.0.0"]}, ranges=ranges)] == ["GB"]
    assert "ip_country" not in judged(RAW_EVENTS, {"event_id": ["e"], "event_ts": ["2026-01-05"], "event_type": ["view"], "item_id": ["a"], "ip_address": ["198.18.0.0"]},
                                      ranges=ranges)[0]
