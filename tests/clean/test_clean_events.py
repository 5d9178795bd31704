"""Each rule and each value of clean events, expected by hand. One Spark job judges all the rows of a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import functions as F

from nightmarket.clean import cleaner
from nightmarket.clean.values import local_date, night_end, night_start
from nightmarket.contracts import EVENTS
from nightmarket.shop import CleanRules

pytestmark = pytest.mark.spark
RULES = CleanRules(
    not_products=("POST", "gift_.*"), exchange_rates={"EUR": 0.85, "JPY": 0.005}, country_aliases={"uk": "United Kingdom", "Unspecified": ""},
    default_country="United Kingdom", oldest_days=30, max_future_minutes=60, outlier_mads=5,
)
NIGHT = date(2026, 1, 15)  # winter: London is at UTC
MIDNIGHT = datetime(2026, 1, 16, tzinfo=timezone.utc)
Make = Callable[..., Any]


def clean(
    frame: Any, rules: CleanRules = RULES, zone: str = "Europe/London", home: str = "GBP"
) -> tuple[dict[str, Any], dict[int, str]]:
    """Good rows by key, and the reasons of the rejected ones by their place in the file."""
    cleaned = cleaner("events")(frame, rules, zone, home)
    cleaned.judged.persist()
    found = ({r["event_id"]: r for r in cleaned.rows.collect()}, {r["source_row"]: r["reason"] for r in cleaned.rejected.collect()})
    cleaned.judged.unpersist()
    return found


D = Decimal
REASONS: list[tuple[str, dict[str, Any], str | None]] = [
    ("as it should be", {}, None),
    ("blank key", {"event_id": " \t"}, "missing_required"),
    ("blank item", {"item_id": "\u200b"}, "missing_required"),
    ("no time", {"event_ts": None}, "missing_required"),
    ("no type", {"event_type": ""}, "missing_required"),
    ("unknown type", {"event_type": "wishlist"}, "unknown_event_type"),
    ("postage", {"item_id": "POST"}, "not_a_product"),
    ("postage in lower case", {"item_id": "post"}, "not_a_product"),
    ("only part of the code", {"item_id": "POSTER"}, None),
    ("voucher", {"item_id": "gift_0001_20"}, "not_a_product"),
    ("an hour after the night", {"event_ts": MIDNIGHT + timedelta(minutes=60)}, None),
    ("more than an hour after it", {"event_ts": MIDNIGHT + timedelta(minutes=60, microseconds=1)}, "from_the_future"),
    ("30 days before the night's day", {"event_ts": MIDNIGHT - timedelta(days=31)}, None),
    ("a moment earlier", {"event_ts": MIDNIGHT - timedelta(days=31, microseconds=1)}, "too_old"),
    ("no rate", {"currency": "USD"}, "unknown_currency"),
    ("free", {"unit_price": D(0)}, "zero_or_negative_price"),
    ("free return", {"unit_price": D(0), "event_type": "return", "quantity": -1}, "zero_or_negative_price"),
    ("free to look at", {"unit_price": D(0), "event_type": "view"}, None),
    ("paid to take it", {"unit_price": D("-0.01")}, "zero_or_negative_price"),
    ("paid to look at it", {"unit_price": D("-0.01"), "event_type": "view"}, "unit_price_out_of_range"),
    ("as dear as can be", {"unit_price": D(1_000_000), "item_id": "dear"}, None),
    ("dearer", {"unit_price": D("1000000.01")}, "unit_price_out_of_range"),
    ("dearer once converted", {"unit_price": D(99_999_999_999_999), "currency": "EUR"}, "unit_price_out_of_range"),
    ("no price known", {"unit_price": None}, None),
    ("none", {"quantity": 0}, "quantity_zero"),
    ("none of a return", {"quantity": 0, "event_type": "refund"}, "quantity_zero"),
    ("less than none in the cart", {"quantity": -1, "event_type": "cart"}, "negative_quantity"),
    ("as many as can be", {"quantity": 100_000, "item_id": "many"}, None),
    ("more", {"quantity": 100_001}, "quantity_out_of_range"),
    ("more back", {"quantity": -100_001}, "quantity_out_of_range"),
    # the first rule that is broken is the reason
    ("free postage from the future", {"item_id": "POST", "unit_price": D(0), "event_ts": MIDNIGHT + timedelta(days=2)}, "not_a_product"),
    ("old, foreign and none", {"event_ts": MIDNIGHT - timedelta(days=99), "currency": "USD", "quantity": 0}, "too_old"),
    ("foreign and free", {"currency": "USD", "unit_price": D(0)}, "unknown_currency"),
]


@pytest.fixture(scope="module")
def judged(bronze: Make) -> tuple[dict[int, Any], dict[int, Any]]:
    # other shoppers, so that no row repeats another
    rows = [{"user_id": f"shopper {n}", **changes} for n, (_, changes, _) in enumerate(REASONS)]
    cleaned = cleaner("events")(bronze("events", rows), RULES, "Europe/London", "GBP")
    return ({r["source_row"]: r for r in cleaned.rows.collect()}, {r["source_row"]: r for r in cleaned.rejected.collect()})


@pytest.mark.parametrize("n", range(len(REASONS)), ids=[what for what, _, _ in REASONS])
def test_reason(judged: tuple[dict[int, Any], dict[int, Any]], n: int) -> None:
    good, rejected = judged
    want = REASONS[n][2]
    assert (n in good, n in rejected) == (want is None, want is not None)
    if want:
        assert rejected[n]["reason"] == want


def test_the_record_is_the_row_as_delivered(judged: tuple[dict[int, Any], dict[int, Any]]) -> None:
    n = [what for what, _, _ in REASONS].index("postage in lower case")
    row = judged[1][n]
    assert (row["source_file"], row["source_row"], row["delivered_on"]) == ("day.csv", n, NIGHT)
    assert row["detail"] == "item_id: matches not_products"
    assert json.loads(row["record"], parse_float=Decimal) == {
        "event_id": f"k{n}", "event_ts": "2026-01-15T12:00:00.000000Z", "event_type": "purchase", "user_id": f"shopper {n}",
        "item_id": "post", "quantity": 1, "unit_price": D("2.5000"), "currency": "GBP", "delivered_on": "2026-01-15",
        "source_file": "day.csv", "source_row": n,
    }


VALUES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("types by customary names", {"event_type": "Page View", "quantity": None},
     {"event_type": "view", "quantity": 1, "revenue": D(0), "filled": ["country", "quantity"]}),
    ("add to cart", {"event_type": " add-to-cart "}, {"event_type": "cart", "revenue": D(0)}),
    ("a view of nothing is a view", {"event_type": "view", "quantity": 0}, {"quantity": 1, "filled": ["country", "quantity"]}),
    ("a purchase of less than nothing is a return", {"quantity": -3}, {"event_type": "return", "quantity": -3, "revenue": D("-7.5")}),
    ("returns are negative", {"event_type": "refunded", "quantity": 3}, {"event_type": "return", "quantity": -3, "revenue": D("-7.5")}),
    ("a return of an unsaid number is of one", {"event_type": "return", "quantity": None}, {"quantity": -1, "revenue": D("-2.5")}),
    ("euros", {"currency": "eur", "unit_price": D("1.0001")}, {"currency": "GBP", "unit_price": D("0.8501")}),  # 0.850085
    ("half up", {"currency": "¥", "unit_price": D("30.01")}, {"unit_price": D("0.1501")}),  # 0.15005
    ("half up below", {"currency": "JPY", "unit_price": D("30.0099")}, {"unit_price": D("0.1500")}),  # 0.1500495
    ("no currency is the shop's", {"currency": None}, {"currency": "GBP", "unit_price": D("2.5"), "filled": ["country", "currency"]}),
    ("currency of three", {"currency": " gbp "}, {"currency": "GBP", "filled": ["country"]}),
    ("alias", {"country": " UK"}, {"country": "United Kingdom", "filled": []}),
    ("alias to nothing is filled", {"country": "unspecified"}, {"country": "United Kingdom", "filled": ["country"]}),
    ("other countries stay", {"country": "New\u00a0 Zealand"}, {"country": "New Zealand", "filled": []}),
    ("words for nothing", {"user_id": "NULL", "order_id": "n/a", "session_id": " none "},
     {"user_id": None, "order_id": None, "session_id": None}),
    ("keys keep their case", {"item_id": " 85123a\ufeff", "user_id": "\tAda  L "}, {"item_id": "85123a", "user_id": "Ada L"}),
    ("unknown price", {"unit_price": None, "quantity": 4}, {"unit_price": None, "revenue": None, "quantity": 4}),
    ("revenue is exact", {"unit_price": D("0.0001"), "quantity": 99_999, "item_id": "exact"}, {"revenue": D("9.9999")}),
]


@pytest.fixture(scope="module")
def values(bronze: Make) -> dict[int, Any]:
    rows = [{"user_id": f"v{n}", **changes} for n, (_, changes, _) in enumerate(VALUES)]
    good = cleaner("events")(bronze("events", rows), RULES, "Europe/London", "GBP").rows.collect()
    assert len(good) == len(VALUES)
    return {r["source_row"]: r for r in good}


@pytest.mark.parametrize("n", range(len(VALUES)), ids=[what for what, _, _ in VALUES])
def test_value(values: dict[int, Any], n: int) -> None:
    assert {name: values[n][name] for name in VALUES[n][2]} == VALUES[n][2]


def test_silver_fits_its_contract(bronze: Make) -> None:
    rows = cleaner("events")(bronze("events", [{}]), RULES, "Europe/London", "GBP").rows
    assert [(f.name, f.dataType) for f in rows.schema] == [(f.name, f.dataType) for f in EVENTS.spark_schema()]


def test_without_split_returns_a_negative_purchase_is_rejected(bronze: Make) -> None:
    rules = RULES.model_copy(update={"split_returns": False})
    good, rejected = clean(bronze("events", [{"quantity": -1}, {"event_type": "return", "quantity": -1}]), rules)
    assert rejected == {0: "negative_quantity"}
    assert good["k1"]["quantity"] == -1


def test_exact_duplicates(bronze: Make) -> None:
    good, rejected = clean(bronze("events", [
        {"event_id": "a"}, {"event_id": "a"}, {"event_id": "a"},  # the last stays
        {"event_id": "b"}, {"event_id": "b", "quantity": 2},  # another version, not a duplicate
        {"event_id": "c", "user_id": None}, {"event_id": "c", "user_id": None},  # nulls are equal
        {"event_id": "d", "item_id": "POST"}, {"event_id": "d", "item_id": "POST"},  # a duplicate before it is no product
        {"event_id": "e", "delivered_on": NIGHT}, {"event_id": "f", "delivered_on": NIGHT},
    ]))
    assert {k: r["source_row"] for k, r in good.items()} == {"a": 2, "b": 4, "c": 6, "e": 9, "f": 10}
    assert rejected == {
        0: "exact_duplicate", 1: "exact_duplicate", 3: "superseded", 5: "exact_duplicate", 7: "exact_duplicate", 8: "not_a_product",
    }


def test_a_row_of_another_night_is_no_duplicate(bronze: Make) -> None:
    rows = [{"event_id": "a"}, {"event_id": "a", "delivered_on": NIGHT + timedelta(days=1)}]
    cleaned = cleaner("events")(bronze("events", rows), RULES, "Europe/London", "GBP")
    assert cleaned.rows.count() == 2  # the newest view decides between nights


def test_keys_made_from_the_place_do_not_hide_duplicates(bronze: Make) -> None:
    """The key of a made row starts with row: and the digest of its line, columns that the shop does not map included."""
    rows = [{"event_id": f"row:{line}:{n}"} for n, line in enumerate(["same", "same", "other description"])]
    good, rejected = clean(bronze("events", [*rows, {"event_id": "own key"}]))
    assert sorted(good) == ["own key", "row:other description:2", "row:same:1"]
    assert rejected == {0: "exact_duplicate"}


def test_the_newest_good_version_of_a_key_stays(bronze: Make) -> None:
    early, late = (datetime(2026, 1, 15, hour, tzinfo=timezone.utc) for hour in (1, 2))
    good, rejected = clean(bronze("events", [
        {"event_id": "a", "quantity": 5, "updated_at": late}, {"event_id": "a", "quantity": 6, "updated_at": early},
        {"event_id": "b", "quantity": 5, "updated_at": early}, {"event_id": "b", "quantity": 6, "updated_at": None},  # nulls first
        {"event_id": "c", "quantity": 5}, {"event_id": " c ", "quantity": 6},  # the same key once tidied; then the later row
        {"event_id": "d", "quantity": 5}, {"event_id": "d", "quantity": 0},  # a rejected correction leaves what was
        {"event_id": "e", "quantity": 1}, {"event_id": "e", "quantity": 2}, {"event_id": "e", "quantity": 1},  # back again
    ]))
    assert {k: (r["quantity"], r["source_row"]) for k, r in good.items()} == {
        "a": (5, 0), "b": (5, 2), "c": (6, 5), "d": (5, 6), "e": (1, 10),
    }
    assert rejected == {
        1: "superseded", 3: "superseded", 4: "superseded", 7: "quantity_zero", 8: "exact_duplicate", 9: "superseded",
    }


DAYS = [  # zone, instant, its day in the shop
    ("Europe/London", datetime(2011, 3, 27, 22, 59), date(2011, 3, 27)),  # 23 hours long
    ("Europe/London", datetime(2011, 3, 27, 23, 0), date(2011, 3, 28)),
    ("Europe/London", datetime(2011, 10, 29, 23, 0), date(2011, 10, 30)),  # 25 hours long
    ("Europe/London", datetime(2011, 10, 30, 23, 59), date(2011, 10, 30)),
    ("America/New_York", datetime(2026, 3, 8, 4, 59), date(2026, 3, 7)),
    ("America/New_York", datetime(2026, 3, 9, 3, 59), date(2026, 3, 8)),
    ("Asia/Kathmandu", datetime(2026, 1, 15, 18, 14), date(2026, 1, 15)),  # UTC+5:45
    ("Asia/Kathmandu", datetime(2026, 1, 15, 18, 15), date(2026, 1, 16)),
]
ENDS = [  # zone, night, beginning and end of its day in UTC
    ("Europe/London", date(2011, 3, 27), datetime(2011, 3, 27, 0), datetime(2011, 3, 27, 23)),
    ("Europe/London", date(2011, 10, 30), datetime(2011, 10, 29, 23), datetime(2011, 10, 31, 0)),
    ("America/New_York", date(2026, 11, 1), datetime(2026, 11, 1, 4), datetime(2026, 11, 2, 5)),
    ("Asia/Shanghai", date(2026, 1, 15), datetime(2026, 1, 14, 16), datetime(2026, 1, 15, 16)),
]


def test_days_are_the_shops_also_when_clocks_change(spark: Any) -> None:
    one = spark.range(1)
    days = one.select(*[local_date(F.lit(at.replace(tzinfo=timezone.utc)), zone) for zone, at, _ in DAYS]).first()
    assert list(days) == [day for _, _, day in DAYS]
    edges = one.select(*[
        F.date_format(edge(F.lit(night), zone), "yyyy-MM-dd HH:mm") for zone, night, _, _ in ENDS for edge in (night_start, night_end)
    ]).first()
    assert list(edges) == [f"{at:%Y-%m-%d %H:%M}" for _, _, start, end in ENDS for at in (start, end)]


def test_an_event_after_midnight_in_the_shop_is_of_the_next_day(bronze: Make) -> None:
    """Half past midnight on the first day of summer time: the night before is over, though in UTC it is still that day."""
    strict = RULES.model_copy(update={"max_future_minutes": 0})
    night, end = date(2011, 3, 27), datetime(2011, 3, 27, 23, tzinfo=timezone.utc)
    good, rejected = clean(bronze("events", [
        {"event_ts": end - timedelta(minutes=30), "delivered_on": night}, {"event_ts": end + timedelta(minutes=30), "delivered_on": night},
    ]), strict)
    assert good["k0"]["event_date"] == night
    assert rejected == {1: "from_the_future"}


def test_outliers_by_item_and_night(bronze: Make) -> None:
    """Item A: 20 purchases of 1, 2, 3, 4 units in turn. log1p median = ln sqrt(3 x 4), so the bound follows by hand."""
    many = [{"item_id": "A", "quantity": 1 + n % 4, "user_id": f"a{n}"} for n in range(20)]
    # logs ln2 ln3 ln4 ln5, five each: median (ln3+ln4)/2 = 1.24245; distances 0.14384 (10 times), 0.54931, 0.36698
    # sorted: ten 0.14384, five 0.36698, five 0.54931: median (0.14384+0.36698)/2 = 0.25541; scale 0.37868; bound at k=5:
    # expm1(1.24245 + 5 x 0.37868) = 22.0
    rows = [
        *many,
        {"item_id": "A", "quantity": 22, "user_id": "x", "event_id": "below"},
        {"item_id": "A", "quantity": -60, "user_id": "x", "event_id": "above"},
        {"item_id": "A", "event_type": "view", "quantity": 60, "user_id": "x", "event_id": "a view has no quantity"},
        {"item_id": "A", "quantity": 60, "user_id": "x", "event_id": "alone in its night", "delivered_on": NIGHT + timedelta(days=1)},
        {"item_id": "A", "unit_price": D(2000), "user_id": "x", "event_id": "dear"},
    ]
    good, rejected = clean(bronze("events", rows))
    assert not rejected
    assert {k for k, r in good.items() if r["is_outlier"]} == {"above", "dear"}
    assert good["above"]["quantity"] == -60  # flagged, not changed


def test_thin_items_are_judged_by_the_night(bronze: Make) -> None:
    # median ln 2, MAD 0, scale 0.25: bound at k=5 is expm1(ln 2 + 1.25) = 5.98
    rows = [{"item_id": f"I{n}", "quantity": 1} for n in range(30)]
    good, _ = clean(bronze("events", [*rows, {"item_id": "thin", "quantity": 6}, {"item_id": "thin", "quantity": 5}]))
    assert {k for k, r in good.items() if r["is_outlier"]} == {"k30"}


def test_a_range_gives_what_its_nights_give_one_by_one(bronze: Make, dirty_events: Make) -> None:
    rows = dirty_events(seed=3, nights=3, rows=200)
    frame = bronze("events", rows).persist()
    whole = cleaner("events")(frame, RULES, "Europe/London", "GBP")
    together = (set(whole.rows.drop("filled").collect()), set(whole.rejected.collect()))
    good: set[Any] = set()
    rejected: set[Any] = set()
    for night in sorted({r["delivered_on"] for r in rows}):
        alone = cleaner("events")(frame.where(f"delivered_on = date'{night}'"), RULES, "Europe/London", "GBP")
        good |= set(alone.rows.drop("filled").collect())
        rejected |= set(alone.rejected.collect())
    assert together == (good, rejected)
    assert len(good) > 40
    assert len(rejected) > 100
