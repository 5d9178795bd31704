"""The cleaning job: partitions, accounts, when it does nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from jobs import clean
from nightmarket.contracts import EVENTS, ITEMS, RAW_EVENTS, RAW_ITEMS, raw_of
from nightmarket.lake import Input, Lake
from nightmarket.shop import Settings

pytestmark = pytest.mark.spark
MONDAY = date(2026, 1, 12)
NIGHTS = [MONDAY + timedelta(days=n) for n in range(3)]


def deliver(settings: Settings, table: Callable[..., pa.Table], entity: str, night: date, rows: list[dict[str, Any]]) -> None:
    """Publishes rows as the night's bronze partition."""
    at = datetime(night.year, night.month, night.day, 12, tzinfo=timezone.utc)
    moment = {"events": "event_ts", "orders": "order_ts"}.get(entity)
    made = table(entity, [{"delivered_on": night, "source_file": f"{night}.csv", **({moment: at} if moment else {}), **r} for r in rows])
    raw = raw_of(entity)
    with Lake(settings.places.lake).writer(raw, [night]) as writer:
        writer.stage_arrow(night, made)
        writer.publish(night, inputs=[Input(f"{night}.csv", str(len(rows)), len(rows))], settings="s", code="c")


def run(settings: Settings, first: date, last: date, *more: str) -> int:
    return clean.main(["--shop", str(settings.file), "--from-date", str(first), "--run-date", str(last), *more])


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(clean={"not_products": ["POST"]})


def test_a_range_and_its_nights_one_by_one_are_the_same_partitions(
    spark: Any, make_settings: Callable[..., Settings], bronze_table: Callable[..., pa.Table]
) -> None:
    identities = []
    for spans in ([(NIGHTS[0], NIGHTS[2])], [(d, d) for d in NIGHTS]):
        settings = make_settings(clean={"not_products": ["POST"]})
        for n, night in enumerate(NIGHTS):
            rows = [{"quantity": 1 + n}, {"item_id": "POST"}, {"event_id": "again"}, {"event_id": "again"}, {"quantity": None}]
            deliver(settings, bronze_table, "events", night, rows if n != 1 else [])
        for first, last in spans:
            assert run(settings, first, last) == 0
        lake = Lake(settings.places.lake)
        identities.append([lake.at(EVENTS, d).manifest.identity() for d in NIGHTS])
    assert identities[0] == identities[1]
    first, empty, last = identities[0]
    assert (first["rows_in"], first["rows_out"], first["quarantined"]) == (5, 3, {"exact_duplicate": 1, "not_a_product": 1})
    assert (empty["rows_in"], empty["rows_out"], empty["quarantined"]) == (0, 0, {})
    assert first["notes"] == {"filled": {"quantity": 1}, "outliers": 0}
    assert first["sums"] == {
        "in quantity": "4", "in quantity * unit_price": "10", "out quantity": "3", "out quantity * unit_price": "7.5",
        "quarantined quantity": "2", "quarantined quantity * unit_price": "5",
    }
    assert last["sums"]["out quantity * unit_price"] == "12.5"


def test_a_second_run_does_nothing_and_needs_no_spark(
    spark: Any, shop: Settings, bronze_table: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    for night in NIGHTS[:2]:
        deliver(shop, bronze_table, "events", night, [{}])
    assert run(shop, *NIGHTS[:2]) == 0
    lake = Lake(shop.places.lake)
    before = [lake.manifest(EVENTS, d) for d in NIGHTS[:2]]

    def no_spark(*_: object) -> None:
        raise AssertionError("Spark was started")

    with monkeypatch.context() as patch:
        patch.setattr("nightmarket.spark.session", no_spark)
        assert run(shop, *NIGHTS[:2]) == 0
        assert [lake.manifest(EVENTS, d) for d in NIGHTS[:2]] == before
        assert run(shop, *NIGHTS[:2], "--dry-run", "--force") == 0
        assert run(shop, *NIGHTS[:2], "--force") == 1  # would have to work
    # a corrected delivery of one night makes that night again, and only that
    deliver(shop, bronze_table, "events", NIGHTS[1], [{}, {"quantity": 7}])
    assert run(shop, *NIGHTS[:2]) == 0
    after = [lake.manifest(EVENTS, d) for d in NIGHTS[:2]]
    assert after[0] == before[0]
    assert after[1] is not None and after[1].rows_out == 2


def test_all_mapped_entities_are_cleaned_or_those_asked_for(
    spark: Any, make_settings: Callable[..., Settings], bronze_table: Callable[..., pa.Table]
) -> None:
    settings = make_settings(datasets={
        "events": {"source": "events", "columns": {"event_ts": "ts", "event_type": "kind", "item_id": "item"}},
        "items": {"source": "events", "columns": {"item_id": "item"}},
    })
    for entity in ("events", "items"):
        deliver(settings, bronze_table, entity, MONDAY, [{}])
    lake = Lake(settings.places.lake)
    assert run(settings, MONDAY, MONDAY, "--datasets", "items") == 0
    assert (lake.dates(EVENTS), lake.dates(ITEMS)) == ([], [MONDAY])
    assert lake.at(ITEMS, MONDAY).arrow(["title_normalised"])["title_normalised"].to_pylist() == ["kettle"]
    assert run(settings, MONDAY, MONDAY) == 0
    assert lake.dates(EVENTS) == [MONDAY]


def test_a_night_that_was_not_ingested_is_a_fault_that_names_it(
    spark: Any, shop: Settings, bronze_table: Callable[..., pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(shop, bronze_table, "events", NIGHTS[0], [{}])
    assert run(shop, NIGHTS[0], NIGHTS[1]) == 1
    assert f"bronze.events of {NIGHTS[1]} is not published; run `python -m jobs.ingest --run-date {NIGHTS[1]}` first" in capsys.readouterr().err
    assert Lake(shop.places.lake).dates(EVENTS) == []


def test_what_was_rejected_is_kept_with_its_reason(spark: Any, shop: Settings, bronze_table: Callable[..., pa.Table]) -> None:
    deliver(shop, bronze_table, "events", MONDAY, [{"unit_price": Decimal(0), "item_id": "free"}, {}])
    assert run(shop, MONDAY, MONDAY) == 0
    (row,) = Lake(shop.places.lake).at(EVENTS, MONDAY).quarantine().to_pylist()
    assert (row["reason"], row["detail"]) == ("zero_or_negative_price", "unit_price: not above 0")
    assert (row["source_file"], row["source_row"], row["delivered_on"]) == (f"{MONDAY}.csv", 0, MONDAY)
    assert '"item_id":"free"' in row["record"]


def test_other_rules_make_other_partitions(spark: Any, make_settings: Callable[..., Settings], bronze_table: Callable[..., pa.Table]) -> None:
    settings = make_settings(clean={"not_products": []})
    deliver(settings, bronze_table, "events", MONDAY, [{"item_id": "POST"}])
    lake = Lake(settings.places.lake)
    assert run(settings, MONDAY, MONDAY) == 0
    assert lake.at(EVENTS, MONDAY).manifest.rows_out == 1
    settings.file.write_text(settings.file.read_text().replace("not_products: []", "not_products: [POST]"))
    assert run(settings, MONDAY, MONDAY) == 0
    assert lake.at(EVENTS, MONDAY).manifest.quarantined == {"not_a_product": 1}
    assert lake.at(RAW_EVENTS, MONDAY).manifest.rows_out == 1
    assert lake.dates(RAW_ITEMS) == []
