"""Rows in = rows out + quarantined, whatever comes; and what silver promises, on generated dirt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nightmarket.clean import cleaner
from nightmarket.contracts import EVENT_TYPES, clean_of, raw_of
from nightmarket.shop import CleanRules

pytestmark = pytest.mark.spark
RULES = CleanRules(not_products=("POST",), exchange_rates={"EUR": 0.85}, country_aliases={"UK": "GB"}, default_country="GB")
FIRST = date(2026, 3, 27)  # over the change of clocks in London
BASE = datetime(2026, 3, 27, 12, tzinfo=timezone.utc)


def _texts(*usual: str) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), st.sampled_from(usual), st.text(max_size=4))


_MONEY = st.one_of(st.none(), st.decimals(Decimal("-99999999999999"), Decimal("99999999999999"), places=4), st.just(Decimal("2.5")))
_MOMENT = st.one_of(
    st.none(), st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)), st.just(BASE)
)
_PLACE = {"delivered_on": st.sampled_from([FIRST, FIRST + timedelta(days=2)]), "source_file": st.just("f")}
_ROWS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "events": st.fixed_dictionaries({
        **_PLACE, "event_id": _texts("a", "b", "row:1:2", "row:1:3"), "event_ts": _MOMENT, "event_type": _texts(*EVENT_TYPES, "refund"),
        "user_id": _texts("u"), "item_id": _texts("A", "POST"), "quantity": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.just(1)),
        "unit_price": _MONEY, "currency": _texts("GBP", "EUR", "$"), "country": _texts("UK"), "updated_at": _MOMENT,
    }),
    "items": st.fixed_dictionaries({
        **_PLACE, "item_id": _texts("A", "POST"), "title": _texts("CafÃ©"), "language": _texts("en-GB"), "list_price": _MONEY,
        "currency": _texts("GBP", "XXX"), "updated_at": _MOMENT,
    }),
    "users": st.fixed_dictionaries({**_PLACE, "user_id": _texts("u"), "country": _texts("uk"), "signed_up_at": _MOMENT, "updated_at": _MOMENT}),
    "orders": st.fixed_dictionaries({
        **_PLACE, "order_id": _texts("1", "C1"), "order_ts": _MOMENT, "amount": _MONEY, "currency": _texts("GBP"),
        "line_count": st.one_of(st.none(), st.integers(-5, 200_000)), "is_fraud": st.sampled_from([None, True, False]), "label_known_at": _MOMENT,
    }),
    "reviews": st.fixed_dictionaries({
        **_PLACE, "review_id": _texts("r"), "item_id": _texts("A"), "review_ts": _MOMENT, "rating": st.one_of(st.none(), st.integers(-9, 9)),
        "title": _texts("Good"), "text": _texts("Good"), "is_fake": st.sampled_from([None, True]), "label_known_at": _MOMENT,
    }),
}


@pytest.mark.parametrize("entity", _ROWS)
def test_every_row_is_clean_or_quarantined_once(bronze: Callable[..., Any], entity: str) -> None:
    raw, contract = raw_of(entity), clean_of(entity)

    # a Spark job costs a second: few examples, each of many rows
    @given(st.lists(_ROWS[entity], min_size=60, max_size=150))
    @hypothesis_settings(max_examples=2, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                         suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example])
    def holds(rows: list[dict[str, Any]]) -> None:
        frame = bronze(entity, rows)
        cleaned = cleaner(entity)(frame, RULES, "Europe/London", "GBP")
        cleaned.judged.persist()
        good, rejected = cleaned.rows.collect(), cleaned.rejected.collect()
        cleaned.judged.unpersist()
        places = Counter(r["source_row"] for r in [*good, *rejected])
        assert places == Counter(range(len(rows)))
        assert all(r["reason"] and r["record"] for r in rejected)
        keys = Counter((r["delivered_on"], *(r[k] for k in raw.primary_key)) for r in good)
        assert set(keys.values()) <= {1}
        for column in contract.columns:
            for row in good:
                value = row[column.name]
                assert value is not None or column.nullable, column.name
                if value is not None and column.allowed:
                    assert value in column.allowed
                if value is not None and column.minimum is not None:
                    assert column.minimum <= value <= column.maximum, column.name

    holds()


def test_one_item_and_one_row_many_thousand_times(bronze: Callable[..., Any], spark: Any) -> None:
    """Skew: a crawler's row comes 30,000 times, one item is nearly the whole night, one key has 5,000 versions."""
    one = bronze("events", [{"event_id": "seen"}])
    crawled = one.crossJoin(spark.range(30_000)).withColumn("source_row", spark_column("id")).drop("id")
    corrected = one.crossJoin(spark.range(5_000)).selectExpr(
        "'corrected' as event_id", *[c for c in one.columns if c not in ("event_id", "quantity", "source_row")],
        "id + 1 as quantity", "100000 + id as source_row",
    ).select(*one.columns)
    cleaned = cleaner("events")(crawled.unionByName(corrected), RULES.model_copy(update={"outlier_mads": 1e6}), "Europe/London", "GBP")
    cleaned.judged.persist()
    assert sorted((r["event_id"], r["quantity"], r["source_row"]) for r in cleaned.rows.collect()) == [
        ("corrected", 5_000, 104_999), ("seen", 1, 29_999),
    ]
    assert {r["reason"]: r["count"] for r in cleaned.rejected.groupBy("reason").count().collect()} == {
        "exact_duplicate": 29_999, "superseded": 4_999,
    }
    cleaned.judged.unpersist()


def spark_column(name: str) -> Any:
    from pyspark.sql import functions as F

    return F.col(name)
