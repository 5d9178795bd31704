"""Values of deliveries as the contract's types: by hand, and against Python's own parsers."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.contracts import RAW_EVENTS, RAW_ITEMS
from nightmarket.sources import casts

LONDON = ZoneInfo("Europe/London")
UTC = timezone.utc


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]


@pytest.mark.parametrize(("given_value", "expected"), [
    ("2010-12-01 08:26:00", utc(2010, 12, 1, 8, 26)),  # winter: London is UTC
    ("2011-07-01T08:26", utc(2011, 7, 1, 7, 26)),  # summer: an hour ahead
    ("2011-07-01", utc(2011, 6, 30, 23)),  # midnight in London
    ("2011-07-01T08:26:00Z", utc(2011, 7, 1, 8, 26)),
    ("2011-07-01 08:26:00 UTC", utc(2011, 7, 1, 8, 26)),
    ("2011-07-01T08:26:00+0530", utc(2011, 7, 1, 2, 56)),
    ("2011-07-01T08:26:00-03", utc(2011, 7, 1, 11, 26)),
    ("2011-07-01T08:26:00.123456789Z", utc(2011, 7, 1, 8, 26, 0, 123456)),
    ("2011-07-01T08:26:00,5+01:00", utc(2011, 7, 1, 7, 26, 0, 500000)),
    (" 2010-12-01 08:26:00 ", utc(2010, 12, 1, 8, 26)),
    ("2011-10-30 01:30:00", utc(2011, 10, 30, 0, 30)),  # twice that night: the first one
    ("2011-03-27 01:30:00", utc(2011, 3, 27, 1, 30)),  # never that night: an hour later, 02:30 summer time
    ("1291190760", utc(2010, 12, 1, 8, 6)),
    ("1291190760.5", utc(2010, 12, 1, 8, 6, 0, 500000)),
    ("1291190760250", utc(2010, 12, 1, 8, 6, 0, 250000)),
    (1291190760, utc(2010, 12, 1, 8, 6)),
    (1.29119076e9, utc(2010, 12, 1, 8, 6)),
    (1291190760250.0, utc(2010, 12, 1, 8, 6, 0, 250000)),
    (datetime(2011, 7, 1, 8, 26), utc(2011, 7, 1, 7, 26)),
    (utc(2011, 7, 1, 8, 26), utc(2011, 7, 1, 8, 26)),
    (date(2011, 7, 1), utc(2011, 6, 30, 23)),
    ("2011-02-30", None), ("2011-13-01 00:00", None), ("2011-01-01 24:00", None), ("2011-01-01 10:60", None),
    ("2011", None), ("20110101", None), ("01/12/2010 08:26", None), ("yesterday", None), ("2011-1-1", None),
    ("2011-07-01T08:26:00+25:00", None), ("٢٠١١-٠٧-٠١", None), (True, None), ("0001-01-01 00:00+05:00", None), (float("inf"), None),
])
def test_timestamps(given_value: object, expected: datetime | None) -> None:
    assert casts.read_timestamp(given_value, LONDON) == expected


@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)), st.integers(-23 * 60, 23 * 60))
def test_iso_with_an_offset_is_what_python_reads(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert casts.read_timestamp(aware.isoformat(), LONDON) == aware


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)))
def test_naive_times_are_the_shops_clock(moment: datetime) -> None:
    read = casts.read_timestamp(moment.isoformat(" "), LONDON)
    assert read == moment.replace(tzinfo=LONDON).astimezone(UTC)


@pytest.mark.parametrize(("given_value", "comma", "expected"), [
    ("2.55", False, "2.55"), ("£2.55", False, "2.55"), ("2.55 £", False, "2.55"), ("€ 1,234.50", False, "1234.50"),
    ("GBP 3.00", False, "3.00"), ("3.00EUR", False, "3.00"), ("-$4.10", False, "-4.10"), ("($4.10)", False, "-4.10"),
    ("4.10-", False, "-4.10"), ("1'234.5", False, "1234.5"), ("1 234.5", False, "1234.5"), ("1,234,567", False, "1234567"),
    (".5", False, "0.5"), ("5.", False, "5"), ("1e3", False, "1000"), ("1.5E-05", False, "0.000015"), ("+7", False, "7"),
    ("1.234,50", True, "1234.50"), ("12,5", True, "12.5"), ("1.234", True, "1234"), ("€ 3,20", True, "3.20"), ("(3,20)", True, "-3.20"),
    ("¥1,200", False, "1200"), ("1,200元", False, "1200"), (7, False, "7"), (2.55, False, "2.55"), (Decimal("1.10"), False, "1.10"),
    ("12,5", False, None), ("1,23,456", False, None), ("1.2.3", False, None), ("abc", False, None), ("1/2", False, None),
    ("--1", False, None), ("NaN", False, None), ("Infinity", False, None), (float("inf"), False, None), ("12 apples", False, None),
    ("1.234.50", True, None), (True, False, None), ("٣", False, None), ("0x10", False, None), ("5%", False, None),
])
def test_numbers(given_value: object, comma: bool, expected: str | None) -> None:
    assert casts.read_number(given_value, comma) == (None if expected is None else Decimal(expected))


@given(st.decimals(min_value=-(10**13), max_value=10**13, allow_nan=False, places=6))
def test_decimals_are_rounded_half_up_to_the_contracts_scale(number: Decimal) -> None:
    assert casts.read_decimal(str(number), 18, 4) == number.quantize(Decimal("0.0001"), rounding=ROUND_HALF_UP)
    assert casts.read_decimal(f"{number:,f}", 18, 4) == casts.read_decimal(str(number), 18, 4)


def test_decimals_that_do_not_fit_cannot_be_read() -> None:
    assert casts.read_decimal("99999999999999.99994", 18, 4) == Decimal("99999999999999.9999")
    assert casts.read_decimal("99999999999999.99995", 18, 4) is None  # would round to 15 digits before the point
    assert casts.read_decimal("1e999", 18, 4) is None
    assert casts.read_decimal("0.00001", 18, 4) == 0


@pytest.mark.parametrize(("given_value", "kind", "expected"), [
    ("6", "long", 6), ("6.0", "long", 6), ("-12", "long", -12), ("1,000", "long", 1000), ("6.5", "long", None), (6.0, "long", 6),
    (6.5, "long", None), ("9223372036854775807", "long", 2**63 - 1), ("9223372036854775808", "long", None), ("2147483648", "int", None),
    ("-2147483648", "int", -(2**31)), ("1e2", "long", 100), ("five", "long", None), ("1e400", "long", None), ("", "long", None),
])
def test_whole_numbers(given_value: object, kind: str, expected: int | None) -> None:
    assert casts.read_whole(given_value, kind) == expected


@given(st.integers(-(2**70), 2**70))
def test_whole_numbers_are_pythons(number: int) -> None:
    assert casts.read_whole(str(number), "long") == (number if -(2**63) <= number < 2**63 else None)
    assert casts.read_whole(f"{number:,}", "long") == casts.read_whole(str(number), "long")


@pytest.mark.parametrize(("given_value", "expected"), [
    ("true", True), ("T", True), ("Yes", True), ("1", True), (1, True), (1.0, True), (True, True), (" y ", True),
    ("FALSE", False), ("n", False), ("0", False), ("0.0", False), (False, False), ("maybe", None), ("2", None), ("on", None),
])
def test_booleans(given_value: object, expected: bool | None) -> None:
    assert casts.read_boolean(given_value) is expected


@given(st.text())
def test_nothing_that_is_delivered_breaks_a_reader(text: str) -> None:
    for column in ("event_ts", "quantity", "unit_price", "event_id"):
        casts.reader(RAW_EVENTS.column(column), LONDON, decimal_comma=False)(text)
    casts.reader(RAW_ITEMS.column("in_stock"), LONDON, decimal_comma=True)(text)


def test_a_column_tells_blank_from_unreadable() -> None:
    column = RAW_EVENTS.column("quantity")
    given_values = pa.array(["3", "", "  ", None, "x", "3", "6.5"])
    read, blank, bad = casts.convert(given_values, casts.reader(column, LONDON, False), pa.int64())
    assert read.to_pylist() == [3, None, None, None, None, 3, None]
    assert blank.to_pylist() == [False, True, True, True, False, False, False]
    assert bad.to_pylist() == [False, False, False, False, True, False, True]


def test_nan_is_blank_and_infinity_is_not() -> None:
    column = RAW_EVENTS.column("unit_price")
    read, blank, bad = casts.convert(
        pa.array([1.5, float("nan"), float("inf"), None]), casts.reader(column, LONDON, False), pa.decimal128(18, 4))
    assert read.to_pylist() == [Decimal("1.5000"), None, None, None]
    assert (blank.to_pylist(), bad.to_pylist()) == ([False, True, False, True], [False, False, True, False])
