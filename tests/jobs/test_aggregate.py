"""Daily sales and histories: by hand on a few nights, and the laws that hold on any."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from jobs import aggregate
from nightmarket.contracts import DAILY_SALES, EVENTS, FEATURES, QUALITY, USERS
from nightmarket.lake import Input, Lake, days, newest_arrow
from nightmarket.shop import Settings

pytestmark = pytest.mark.spark
D1 = date(2026, 1, 12)
D2, D3, D4 = (D1 + timedelta(days=n) for n in (1, 2, 3))


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=timezone.utc)


def event(event_id: str, night: date, **changes: Any) -> dict[str, Any]:
    """A silver event: a purchase of one A at 2.50 by u1 at noon of the night's day, in France."""
    base: dict[str, Any] = dict.fromkeys(EVENTS.column_names) | {
        "event_id": event_id, "event_ts": at(night), "event_type": "purchase", "user_id": "u1", "item_id": "A", "quantity": 1,
        "unit_price": Decimal("2.5"), "currency": "GBP", "order_id": f"o-{event_id}", "country": "France", "is_outlier": False,
        "filled": [], "delivered_on": night, "source_file": f"{night}.csv", "source_row": 0,
    } | changes
    base["event_date"] = base["event_ts"].date()
    traded = base["event_type"] in ("purchase", "return")
    base["revenue"] = None if base["unit_price"] is None else base["quantity"] * base["unit_price"] if traded else Decimal(0)
    return base


def publish(settings: Settings, nights: Iterable[date], events: list[dict[str, Any]], users: list[dict[str, Any]] = []) -> None:  # noqa: B006
    """Silver partitions of all nights, judged and passed one by one."""
    lake = Lake(settings.places.lake)
    for night in nights:
        for contract, rows in ((EVENTS, events), (USERS, users)):
            own = [{**r, "source_row": n} for n, r in enumerate(rows) if r["delivered_on"] == night]
            with lake.writer(contract, [night]) as writer:
                writer.stage_arrow(night, pa.Table.from_pylist(own, contract.arrow_schema()))
                writer.publish(night, inputs=[Input("x", str(night))], settings="s", code="c")
        judge(settings, night, "passed")


def judge(settings: Settings, night: date, verdict: str, first: date | None = None) -> None:
    with Lake(settings.places.lake).writer(QUALITY, [night]) as writer:
        writer.stage_arrow(night, QUALITY.arrow_schema().empty_table())
        writer.publish(night, inputs=[], settings="s", code="c", notes={"verdict": verdict, "from_date": str(first or night)})


def run(settings: Settings, last: date, first: date | None = None, *more: str) -> int:
    span = ["--from-date", str(first)] if first else []
    return aggregate.main(["--shop", str(settings.file), "--run-date", str(last), *span, *more])


def sales(settings: Settings, night: date) -> list[tuple[Any, ...]]:
    rows = Lake(settings.places.lake).at(DAILY_SALES, night).arrow().to_pylist()
    return sorted((str(r["sale_date"]), r["item_id"], r["country"], r["units_sold"], r["units_returned"], r["revenue_sold"],
                   r["revenue_returned"], r["order_count"]) for r in rows)


def features(settings: Settings, night: date) -> dict[str, dict[str, Any]]:
    return {r["user_id"]: r for r in Lake(settings.places.lake).at(FEATURES, night).arrow().to_pylist()}


def test_sales_of_nights_with_corrections_by_hand(spark: Any, settings: Settings) -> None:
    publish(settings, [D1, D2, D3, D4], [
        event("a", D1, quantity=2, order_id="o1"),
        event("b", D1, quantity=3, order_id="o1"),
        event("r", D1, event_type="return", quantity=-1, order_id="o0"),
        event("v", D1, event_type="view"),
        event("n", D1, country=None, order_id=None, unit_price=None, item_id="B"),
        event("a", D2, event_ts=at(D1), quantity=5, order_id="o1"),  # a correction of the day before
        event("late", D2, event_ts=at(D1), order_id="o1"),  # a late line of the same order
        event("b", D3, event_ts=at(D1), event_type="view"),  # was no purchase after all
        event("a", D4, event_ts=at(D1), quantity=2, order_id="o1", updated_at=None),  # back to what it was
        event("late", D4, event_ts=at(D1), item_id="B", order_id="o1"),  # was another item
    ])
    assert run(settings, D4, D1) == 0
    day = str(D1)
    assert sales(settings, D1) == [
        (day, "A", "France", 5, 1, Decimal("12.5"), Decimal("2.5"), 1),
        (day, "B", "unknown", 1, 0, Decimal(0), Decimal(0), 1),
    ]
    assert sales(settings, D2) == [(day, "A", "France", 4, 0, Decimal("10"), Decimal(0), 0)]
    assert sales(settings, D3) == [(day, "A", "France", -3, 0, Decimal("-7.5"), Decimal(0), 0)]
    assert sales(settings, D4) == [
        (day, "A", "France", -4, 0, Decimal("-10"), Decimal(0), 0), (day, "B", "France", 1, 0, Decimal("2.5"), Decimal(0), 1),
    ]
    # nights run one by one, also again in another order, are the same partitions
    lake = Lake(settings.places.lake)
    together = [lake.at(DAILY_SALES, d).manifest.identity() for d in (D1, D2, D3, D4)]
    for night in (D3, D1):
        assert run(settings, night, None, "--force") == 0
    assert [lake.at(DAILY_SALES, d).manifest.identity() for d in (D1, D2, D3, D4)] == together


def test_histories_by_hand(spark: Any, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(model={"history_days": 10}, clean={"outlier_mads": 5})
    users = [
        {"user_id": "u1", "country": "Spain", "signed_up_at": at(D1), "delivered_on": D1, "source_file": "u"},
        {"user_id": "u1", "country": "Peru", "signed_up_at": at(D1), "delivered_on": D2, "source_file": "u"},
        {"user_id": "idle", "country": "Chile", "delivered_on": D1, "source_file": "u"},
    ]
    publish(settings, [D1 - timedelta(days=12), D1, D2], [
        event("old", D1 - timedelta(days=12)),
        event("day 10", D1, event_ts=at(D2 - timedelta(days=9))),
        event("day 11", D1, event_ts=at(D2 - timedelta(days=10))),
        event("z", D1, item_id="first by time", event_ts=at(D1, 8)),
        event("b", D1, item_id="B", event_type="return", quantity=-2, unit_price=None),
        event("a", D1, item_id="A", quantity=4),
        event("a", D2, item_id="corrected", event_ts=at(D1), quantity=3),
        event("huge", D2, item_id="C", quantity=5_000),
        event("stranger", D2, user_id=None),
        event("other", D2, user_id="u2", country="Italy", event_ts=at(D2, 1)),
        event("other place", D2, user_id="u2", country=None, event_ts=at(D2, 2), event_type="view"),
    ], users)
    assert run(settings, D2) == 0
    found = features(settings, D2)
    assert sorted(found) == ["u1", "u2"]
    one = found["u1"]
    assert one["item_ids"] == ["A", "first by time", "corrected", "B", "C"]
    assert one["event_types"] == ["purchase", "purchase", "purchase", "return", "purchase"]
    assert one["event_times"] == [int(t.timestamp()) for t in (at(D2 - timedelta(days=9)), at(D1, 8), at(D1), at(D1), at(D2))]
    # units of the window: 1 1 3 2 5000 1 1, median ln 2, MAD 0, scale 0.25: bound expm1(ln 2 + 1.25) = 5.98, whole units 5
    assert one["quantities"] == [1, 1, 3, -2, 5]
    assert one["unit_prices"] == [2.5, 2.5, 2.5, None, 2.5]
    assert (one["country"], one["signed_up_at"]) == ("Peru", at(D1))
    assert (found["u2"]["country"], found["u2"]["signed_up_at"], found["u2"]["event_types"]) == ("Italy", None, ["purchase", "view"])


def _random_nights(seed: int, nights: list[date]) -> list[dict[str, Any]]:
    """Events with corrections, late rows, changed days, items and shoppers."""
    draw = random.Random(seed)
    made: dict[tuple[str, date], dict[str, Any]] = {}
    for night in nights:
        for _ in range(40):
            key = f"e{draw.randrange(90)}"
            kind = draw.choice(["view", "cart", "purchase", "purchase", "purchase", "return"])
            made[key, night] = event(
                key, night, event_type=kind, quantity=draw.randint(1, 5) * (-1 if kind == "return" else 1), item_id=draw.choice("ABC"),
                event_ts=at(night - timedelta(days=draw.choice([0, 0, 0, 1, 2])), draw.randrange(24)), user_id=draw.choice(["u1", "u2", None]),
                unit_price=draw.choice([Decimal("2.5"), Decimal("0.01"), None]), order_id=draw.choice(["o1", "o2", "o3", None]),
                country=draw.choice(["France", None]),
                updated_at=draw.choice([None, at(night), at(night - timedelta(days=3))]),
            )
    return list(made.values())


def test_sales_up_to_a_night_are_those_of_the_newest_view(spark: Any, settings: Settings) -> None:
    """The law of daily_sales, against DuckDB over the newest view, for every night."""
    nights = days(D1, D1 + timedelta(days=5))
    publish(settings, nights, _random_nights(1, nights))
    assert run(settings, nights[-1], nights[0]) == 0
    lake = Lake(settings.places.lake)
    for night in nights:
        newest = newest_arrow(lake, EVENTS, night)  # noqa: F841 (DuckDB finds it by name)
        parts = pa.concat_tables([lake.at(DAILY_SALES, d).arrow() for d in nights if d <= night])  # noqa: F841
        expected = duckdb.sql("""
            SELECT event_date, item_id, coalesce(country, 'unknown') AS place,
                   coalesce(sum(quantity) FILTER (WHERE event_type = 'purchase'), 0)::BIGINT AS sold,
                   coalesce(-sum(quantity) FILTER (WHERE event_type = 'return'), 0)::BIGINT AS returned,
                   coalesce(sum(revenue) FILTER (WHERE event_type = 'purchase'), 0) AS value_sold,
                   coalesce(-sum(revenue) FILTER (WHERE event_type = 'return'), 0) AS value_returned,
                   count(DISTINCT coalesce(order_id, event_id)) FILTER (WHERE event_type = 'purchase') AS orders
            FROM newest WHERE event_type IN ('purchase', 'return') GROUP BY ALL ORDER BY ALL""").fetchall()
        found = duckdb.sql("""
            SELECT sale_date, item_id, country, sum(units_sold)::BIGINT AS a, sum(units_returned)::BIGINT AS b, sum(revenue_sold) AS c,
                   sum(revenue_returned) AS d, sum(order_count)::BIGINT AS e
            FROM parts GROUP BY ALL HAVING a <> 0 OR b <> 0 OR c <> 0 OR d <> 0 OR e <> 0 ORDER BY ALL""").fetchall()
        assert found == expected


def test_nights_after_it_change_nothing(spark: Any, settings: Settings) -> None:
    nights = days(D1, D1 + timedelta(days=5))
    events = _random_nights(2, nights)
    publish(settings, nights[:4], events)
    assert run(settings, nights[3]) == 0
    lake = Lake(settings.places.lake)
    before = [lake.at(d, nights[3]).manifest.identity() for d in (FEATURES, DAILY_SALES)]
    publish(settings, nights[4:], events)
    assert run(settings, nights[3], None, "--force") == 0
    assert [lake.at(d, nights[3]).manifest.identity() for d in (FEATURES, DAILY_SALES)] == before
    assert run(settings, nights[5]) == 0
    assert lake.at(FEATURES, nights[5]).manifest.digest != before[0]["digest"]


def test_a_refused_night_feeds_nothing(spark: Any, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    publish(settings, [D1, D2, D3], [event("a", D1), event("bad", D2, item_id="poison"), event("c", D3)])
    judge(settings, D2, "refused")
    assert run(settings, D2) == 3
    assert "the gate refused the night of 2026-01-13" in capsys.readouterr().err
    assert run(settings, D3, D1) == 0
    lake = Lake(settings.places.lake)
    assert lake.dates(DAILY_SALES) == [D1, D3]
    assert lake.dates(FEATURES) == [D3]
    assert features(settings, D3)["u1"]["item_ids"] == ["A", "A"]
    assert run(settings, D4) == 3
    assert "was not judged" in capsys.readouterr().err


def test_a_night_of_a_first_load_can_be_run_again_alone(spark: Any, settings: Settings) -> None:
    """It was judged together with the last night of the load; judged again alone, it still sees the nights before it."""
    lake = Lake(settings.places.lake)
    publish(settings, [D1, D2, D3], [event("a", D1), event("b", D2), event("c", D3)])
    for night in (D1, D2, D3):
        lake.drop(QUALITY, night)
    judge(settings, D3, "warned", first=D1)
    assert run(settings, D3, D1) == 0
    judge(settings, D2, "passed")
    assert run(settings, D2) == 0
    assert len(features(settings, D2)["u1"]["item_ids"]) == 2


def test_nothing_new_is_nothing_to_do(spark: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(settings, [D1, D2], [event("a", D1), event("b", D2)])
    assert run(settings, D2, D1) == 0
    lake = Lake(settings.places.lake)
    manifest = lake.at(FEATURES, D2).manifest
    assert [i.name for i in manifest.inputs] == [
        "silver.events/2026-01-12..2026-01-12", "silver.events/2026-01-13", "silver.users/2026-01-12..2026-01-12", "silver.users/2026-01-13",
    ]
    monkeypatch.setattr("nightmarket.spark.session", lambda *_: pytest.fail("Spark was started"))
    assert run(settings, D2, D1) == 0
    assert run(settings, D2, D1, "--dry-run", "--force") == 0
    assert lake.at(FEATURES, D2).manifest == manifest


def test_a_crawler_that_is_logged_in_does_not_fill_a_task(spark: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightmarket.clean.histories.MAX_EVENTS", 3)
    publish(settings, [D1], [event(f"e{n}", D1, event_ts=at(D1, n), item_id=f"I{n}") for n in range(6)])
    assert run(settings, D1) == 0
    assert features(settings, D1)["u1"]["item_ids"] == ["I3", "I4", "I5"]  # the newest, oldest first


def test_result_names_the_manifests(spark: Any, settings: Settings, tmp_path: Any) -> None:
    publish(settings, [D1], [event("a", D1)])
    assert run(settings, D1, None, "--result", str(tmp_path / "r.json")) == 0
    names = [p.split("/lake/")[1] for p in json.loads((tmp_path / "r.json").read_text())]
    assert names == ["gold/daily_sales/run_date=2026-01-12/manifest.json", "gold/features/run_date=2026-01-12/manifest.json"]
