"""The gate on hand-made nights: a healthy one passes, each way to spoil it breaks exactly the rule meant for it."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.contracts import EVENTS, QUALITY
from nightmarket.lake import Lake
from nightmarket.quality import gate, rules, suites
from nightmarket.shop import Settings, ShopError
from tests.quality import nights as n

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HISTORY = 15
"""Nights before the judged one: two earlier Mondays."""


@pytest.fixture(scope="module")
def context() -> Any:
    return suites.context(None)


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Settings:
    return n.shop(make_settings)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks of healthy, judged nights before MONDAY."""
    lake = Lake(tmp_path_factory.mktemp("history") / "lake")
    for back in range(HISTORY, 0, -1):
        night = n.MONDAY - timedelta(days=back)
        n.publish(lake, night)
        n.put(lake, QUALITY, night, [], notes={"verdict": "passed", "from_date": str(night), "failed": {}, "profiles": {
            "events.event_type": {"view": 150, "cart": 75, "purchase": 75}, "events.country": {"GB": 100, "DE": 100, "FR": 100}}})
    return lake.root


@pytest.fixture
def lake(shop: Settings, history: Path) -> Lake:
    shutil.copytree(history, shop.places.lake)
    return Lake(shop.places.lake)


def judge(context: Any, spark: SparkSession, lake: Lake, shop: Settings, night: date = n.MONDAY, first: date | None = None) -> gate.Judgement:
    run = suites.run_identifier(shop, str(night), rules.night_end(shop, night))
    return gate.judge(context, spark, lake, shop, first or night, night, run)


def broken(judged: gate.Judgement) -> set[str]:
    return {f.rule.key for f in judged.findings if not f.success}


@dataclass
class Poison:
    """How a healthy night is spoilt, and what must be found."""

    name: str
    breaks: set[str]
    verdict: str
    spoil: Callable[[list[n.Row]], list[n.Row]] = lambda rows: rows
    publish: dict[str, Any] = field(default_factory=dict)


def each(**values: Any) -> Callable[[list[n.Row]], list[n.Row]]:
    """The first row with these values."""
    return lambda rows: [{**rows[0], **values}, *rows[1:]]


def every(k: int, **values: Any) -> Callable[[list[n.Row]], list[n.Row]]:
    """Each k-th row with these values."""
    return lambda rows: [{**r, **values} if i % k == 0 else r for i, r in enumerate(rows)]


POISONS = [
    Poison("healthy", set(), "passed"),
    Poison("no item", {"events.not_null.item_id"}, "refused", each(item_id=None)),
    Poison("unknown kind", {"events.allowed.event_type"}, "refused", each(event_type="teleport")),
    Poison("negative price", {"events.range.unit_price"}, "refused", each(unit_price=Decimal("-0.01"))),
    Poison("huge quantity", {"events.range.quantity"}, "refused", each(quantity=100_001)),
    Poison("largest quantity", set(), "passed", each(quantity=100_000)),
    Poison("key twice", {"events.unique_key.event_id"}, "refused", lambda rows: [*rows, rows[7]]),
    Poison("a seventh of the rows", {"events.volume"}, "warned", lambda rows: rows[::7]),
    Poison("below the minimum", {"events.volume", "events.minimum_rows"}, "refused", lambda rows: rows[::14]),
    Poison("almost nothing", {"events.volume", "events.minimum_rows", "events.volume_lost"}, "refused", lambda rows: rows[-6:]),
    Poison("everything fourfold", {"events.volume"}, "warned",
           lambda rows: [{**r, "event_id": f"{r['event_id']}-{k}"} for k in range(4) for r in rows]),
    Poison("yesterday's file", {"events.freshness.event_ts"}, "warned",
           lambda rows: [{**r, "event_ts": r["event_ts"] - timedelta(days=2)} for r in rows]),
    Poison("one item in ten unknown", {"events.references.item_id"}, "warned", every(10, item_id="ghost")),
    Poison("one item in fifty unknown", set(), "passed", every(50, item_id="ghost")),
    Poison("most items unknown", {"events.references.item_id", "events.references_lost.item_id"}, "refused",
           lambda rows: [{**r, "item_id": f"0{r['item_id']}"} if i % 5 < 3 else r for i, r in enumerate(rows)]),
    Poison("strangers only", {"events.null_share.user_id"}, "warned", every(1, user_id=None)),
    Poison("another market", {"events.category_drift.country"}, "warned", every(2, country="US")),
    Poison("many rejected", {"events.quarantine_share"}, "refused", publish={"reasons": ["too_old"] * 60}),
    Poison("some rejected", set(), "passed", publish={"reasons": ["too_old"] * 20}),
    Poison("rows lost on the way", {"events.totals"}, "refused", publish={"bronze_extra": 1}),
    Poison("money lost on the way", {"events.totals"}, "refused", publish={
        "bronze_sums": {"out: quantity": "600", "out: quantity * unit_price": "1500.0000"},
        "silver_sums": {"in quantity": "600", "in quantity * unit_price": "1499.9999"}}),
    Poison("money the same", set(), "passed", publish={
        "bronze_sums": {"out: quantity": "600", "out: quantity * unit_price": "1500.0000"},
        "silver_sums": {"in quantity": "600", "in quantity * unit_price": "1500"}}),
    Poison("a file changed", {"events.changed_files"}, "warned", publish={"bronze_notes": {"changed_files": ["events-2026-01-30.csv"]}}),
    Poison("a file came late", {"events.late_files"}, "passed", publish={"bronze_notes": {"late_files": ["events-2026-01-31.csv"]}}),
    Poison("a new column", {"events.schema_drift"}, "warned", publish={"bronze_notes": {"new_columns": ["colour"]}}),
    Poison("items cut to a tenth", {"items.volume"}, "warned", publish={"catalogue": n.items(n.MONDAY, 3)}),
    # their source says that no file is no fault, so nothing at all is told but does not stop the night
    Poison("no items", {"items.volume"}, "warned", publish={"catalogue": []}),
]


@pytest.mark.spark
@pytest.mark.parametrize("poison", POISONS, ids=lambda p: p.name)
def test_each_poison_breaks_its_rule_and_no_other(poison: Poison, context: Any, spark: SparkSession, lake: Lake, shop: Settings) -> None:
    n.publish(lake, n.MONDAY, poison.spoil(n.events(n.MONDAY)), **poison.publish)
    judged = judge(context, spark, lake, shop)
    assert broken(judged) == poison.breaks
    assert judged.verdict == poison.verdict


@pytest.mark.spark
def test_what_was_seen_is_told_with_examples(context: Any, spark: SparkSession, lake: Lake, shop: Settings) -> None:
    rows = n.events(n.MONDAY)
    rows[3]["unit_price"] = rows[8]["unit_price"] = Decimal("-7")
    for row in rows[::10]:
        row["item_id"] = "ghost"
    n.publish(lake, n.MONDAY, rows)
    judged = {f.rule.key: f for f in judge(context, spark, lake, shop).findings}
    price = judged["events.range.unit_price"]
    assert (price.unexpected_rows, price.checked_rows, price.observed) == (2, 300, "2 / 300")
    assert json.loads(price.examples) == [
        {"value": "-7.0000", "file": f"events-{n.MONDAY}.csv", "row": 3}, {"value": "-7.0000", "file": f"events-{n.MONDAY}.csv", "row": 8}]
    known = judged["events.references.item_id"]
    assert (known.observed, known.unexpected_rows) == ("90 %", 30)
    assert json.loads(known.examples) == [{"value": "ghost", "rows": 30}]
    assert judged["events.volume"].observed == "300 / 300 = 1"
    assert judged["events.recount"].observed == "300"
    assert judged["events.unique_key.event_id"].observed == "100 %"
    # London is on UTC in February; the newest event is 86,000 * 299 // 300 s into the day
    assert judged["events.freshness.event_ts"].observed == "2026-02-02 23:48 UTC"
    assert judged["events.freshness.event_ts"].rule.expected == "≥ 2026-02-01 12:00 UTC"


@pytest.mark.spark
def test_statistics_agree_with_an_independent_count(context: Any, spark: SparkSession, lake: Lake, shop: Settings) -> None:
    """DuckDB counts the same Parquet files."""
    draw = random.Random(4)
    rows = n.events(n.MONDAY, 500)
    for row in rows:
        if draw.random() < 0.1:
            row["user_id"] = None
        if draw.random() < 0.07:
            row["item_id"] = f"i{draw.randint(25, 60)}"
        if draw.random() < 0.05:
            row["item_id"] = None
        if draw.random() < 0.05:
            row["event_type"] = draw.choice(["teleport", "", "VIEW"])
        if draw.random() < 0.04:
            row["quantity"] = draw.choice([None, 100_001, -100_001, -100_000])
        if draw.random() < 0.03:
            row["event_id"] = rows[draw.randrange(500)]["event_id"]
    n.publish(lake, n.MONDAY, rows)
    found = {f.rule.key: f for f in judge(context, spark, lake, shop).findings}
    files = [str(f) for f in lake.at(EVENTS, n.MONDAY).files]
    items = [str(f) for d in lake.dates(n.ITEMS) for f in lake.at(n.ITEMS, d).files]
    (want,) = duckdb.sql(f"""
        SELECT count(*), count(DISTINCT event_id), count(*) FILTER (item_id IS NULL),
               count(*) FILTER (event_type NOT IN ('view', 'cart', 'purchase', 'return')),
               count(*) FILTER (quantity < -100000 OR quantity > 100000), count(quantity), count(*) FILTER (user_id IS NULL),
               count(*) FILTER (item_id IS NOT NULL AND item_id NOT IN (SELECT item_id FROM read_parquet({items}))), count(item_id)
        FROM read_parquet({files})""").fetchall()
    total, keys, no_item, strange, outside, quantities, strangers, ghosts, with_item = want
    assert min(no_item, strange, outside, ghosts) > 0 and keys < total
    assert found["events.not_null.item_id"].unexpected_rows == no_item
    assert found["events.allowed.event_type"].unexpected_rows == strange
    quantity = found["events.range.quantity"]
    assert (quantity.unexpected_rows, quantity.checked_rows) == (outside, quantities)
    assert found["events.unique_key.event_id"].observed == f"{math.floor(keys / total * 1e6) / 1e4:.10g} %"
    assert found["events.null_share.user_id"].observed == f"{strangers / total:.4g}"
    references = found["events.references.item_id"]
    assert (references.unexpected_rows, references.checked_rows) == (ghosts, with_item)


@pytest.mark.spark
def test_files_changed_behind_the_lake_are_noticed(context: Any, spark: SparkSession, lake: Lake, shop: Settings) -> None:
    n.publish(lake, n.MONDAY)
    file = lake.at(EVENTS, n.MONDAY).files[0]
    table = pq.ParquetFile(file).read()
    pq.write_table(table.slice(0, 299), file)
    assert broken(judge(context, spark, lake, shop)) == {"events.recount"}
    pq.write_table(table.drop_columns(["referrer"]).append_column("surprise", pa.nulls(300, pa.int32())), file)
    judged = judge(context, spark, lake, shop)
    assert broken(judged) == {"events.schema"}
    assert next(f for f in judged.findings if f.rule.key == "events.schema").observed == "referrer, surprise"


@pytest.mark.spark
def test_a_night_without_clean_data_fails_delivery_and_the_rest_is_judged(
    context: Any, spark: SparkSession, lake: Lake, shop: Settings
) -> None:
    catalogue = n.items(n.MONDAY)
    n.put(lake, n.RAW_ITEMS, n.MONDAY, n.raw(n.ITEMS, catalogue))
    n.put(lake, n.ITEMS, n.MONDAY, catalogue)
    judged = judge(context, spark, lake, shop)
    assert broken(judged) == {"events.delivery"} and judged.verdict == "refused"
    assert [f.rule.name for f in judged.findings if f.rule.entity == "events"] == ["delivery"]
    assert any(f.rule.key == "items.unique_key.item_id" for f in judged.findings)


@pytest.mark.spark
def test_an_empty_night_of_a_quiet_shop_passes(context: Any, spark: SparkSession, make_settings: Callable[..., Settings]) -> None:
    """No row is no offence by itself: shares of nothing are not judged."""
    shop = n.shop(make_settings, gate={"minimum_rows": {}})
    lake = Lake(shop.places.lake)
    n.publish(lake, n.MONDAY, [], catalogue=[])
    judged = judge(context, spark, lake, shop)
    assert judged.verdict == "passed" and broken(judged) == set()
    unjudged = {f.rule.name for f in judged.findings if f.observed is None}
    assert {"volume", "quarantine_share", "references", "not_null"} <= unjudged


@pytest.mark.parametrize(("bad", "rows"), [(1, 4), (3, 27), (60, 360), (10, 10), (0, 5), (5_000, 40_000)])
def test_a_share_is_proven_as_scipy_has_it(bad: int, rows: int) -> None:
    from scipy.stats import binomtest

    assert gate.proven_share(bad, rows) == pytest.approx(binomtest(bad, rows).proportion_ci(0.90, method="wilson").low, abs=1e-5)
    assert gate.proven_share(1, 4) < 0.1 < gate.proven_share(4, 8)  # chance, and no chance


@pytest.mark.spark
def test_a_first_load_is_one_batch(context: Any, spark: SparkSession, make_settings: Callable[..., Settings]) -> None:
    """The same key on two nights is a correction; twice in one night is not. The newest night is compared with the range."""
    shop = n.shop(make_settings)
    lake = Lake(shop.places.lake)
    first = n.MONDAY - timedelta(days=21)
    for back in range(22):
        night = first + timedelta(days=back)
        rows = n.events(night)
        rows[0]["event_id"] = "corrected every night"
        n.publish(lake, night, rows[:40] if night == n.MONDAY else rows)
    judged = judge(context, spark, lake, shop, first=first)
    assert broken(judged) == {"events.volume"}
    found = {f.rule.key: f for f in judged.findings}
    assert found["events.volume"].observed == "40 / 300 = 0.133"
    assert found["events.recount"].observed == f"{21 * 300 + 40:,}"
    assert judged.counts["events"] == {"delivered": 6340, "clean": 6340, "quarantined": {}}


@pytest.mark.spark
def test_personal_values_are_never_examples(context: Any, spark: SparkSession, lake: Lake, shop: Settings) -> None:
    finding = suites.Finding("silver.events", rules.Rule("events", "allowed", "in_set", "critical", "", "device_id", allowed=("x",)), False, "")
    rows = n.events(n.MONDAY)
    rows[0]["device_id"] = "secret-device"
    rows[1]["event_type"] = "call mallory@example.com or +44 20 7946 0018"  # a shifted column
    n.publish(lake, n.MONDAY, rows)
    batch = gate.gather(lake, shop, "events", n.MONDAY, n.MONDAY, set())
    shown = gate.examples(gate.frame(spark, lake, shop, batch, n.MONDAY), finding, EVENTS)
    assert shown is not None and "secret-device" not in shown and gate.HIDDEN in shown
    kind = next(r for r in rules.contract_rules(shop, EVENTS) if r.name == "allowed")
    told = gate.examples(gate.frame(spark, lake, shop, batch, n.MONDAY), suites.Finding("silver.events", kind, False, ""), EVENTS)
    assert told is not None and json.loads(told)[0]["value"] == "call [mail] or [phone]"


@pytest.mark.spark
def test_severities_are_the_shops_choice(context: Any, spark: SparkSession, make_settings: Callable[..., Settings]) -> None:
    shop = n.shop(make_settings, gate={"severity": {"range": "warning", "events.range.quantity": "info"}})
    lake = Lake(shop.places.lake)
    rows = n.events(n.MONDAY)
    rows[0]["quantity"] = 10**6
    n.publish(lake, n.MONDAY, rows)
    assert judge(context, spark, lake, shop).verdict == "passed"
    rows[0]["unit_price"] = Decimal(-1)
    n.publish(lake, n.MONDAY, rows)
    assert judge(context, spark, lake, shop).verdict == "warned"


@pytest.mark.parametrize("key", ["volumes", "events.volumes", "reviews.volume", "events.range.colour"])
def test_a_severity_for_no_rule_is_an_error(key: str, make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(ShopError, match=f"gate.severity.{key}: no such rule"):
        rules.check_severities(n.shop(make_settings, gate={"severity": {key: "info"}}))


def test_known_severities_are_accepted(make_settings: Callable[..., Settings]) -> None:
    keys = ["volume", "events.volume", "range.quantity", "events.range.quantity", "category_drift.country"]
    rules.check_severities(n.shop(make_settings, gate={"severity": dict.fromkeys(keys, "info")}))


def test_stability_index_by_hand() -> None:
    """3 of 4 against 1 of 4: smoothed shares 3.5/5, 1.5/5; (0.7-0.3) ln(7/3) twice."""
    assert gate.stability_index({"a": 3, "b": 1}, {"a": 1, "b": 3}) == pytest.approx(2 * 0.4 * math.log(7 / 3))
    assert gate.stability_index({"a": 5}, {"a": 5}) == 0


_counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1)


@given(_counts, _counts)
def test_stability_index_is_a_divergence(now: dict[str, int], before: dict[str, int]) -> None:
    index = gate.stability_index(now, before)
    assert index >= 0
    assert index == pytest.approx(gate.stability_index(before, now))
    assert gate.stability_index(now, now) == 0


@pytest.mark.parametrize(("zone", "night", "end"), [
    ("Europe/London", date(2026, 2, 2), "2026-02-03T00:00:00+00:00"), ("Europe/London", date(2026, 6, 1), "2026-06-01T23:00:00+00:00"),
    ("Asia/Shanghai", date(2026, 2, 2), "2026-02-02T16:00:00+00:00"), ("America/New_York", date(2026, 3, 8), "2026-03-09T04:00:00+00:00"),
])
def test_a_night_ends_at_midnight_of_the_shop(zone: str, night: date, end: str, make_settings: Callable[..., Settings]) -> None:
    assert rules.night_end(n.shop(make_settings, time_zone=zone), night).isoformat() == end
