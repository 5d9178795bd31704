"""Spark's features are the single machine's, on random rows that share moments and lack values."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.contracts import EVENTS, ORDERS, REVIEWS, SCREENING_FEEDBACK, USERS, Dataset
from nightmarket.screen.features import build, make_recipe
from nightmarket.screen.windows import DAY
from tests.screen.test_features import some

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.mark.spark
@pytest.mark.parametrize("seed", [1, 2])
def test_spark_and_one_machine_agree(spark: SparkSession, seed: int) -> None:
    from nightmarket.screen import spark_features

    rows = some(seed, 200)
    recipe = make_recipe(rows, True, int(rows.times[-1]) + 1, 10 * DAY)
    own = build(rows, recipe)
    countries = ["DE", "FR", "IT"]

    def word(prefix: str, code: int) -> str | None:
        return None if code < 0 else f"{prefix}{code}"

    def number(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    card, shop, country, amount = (*rows.entities.values(), rows.categories["country"][0], rows.numbers["amount"])
    told = [("order", i, int(rows.times[i]), int(rows.known_at[i]), number(rows.label[i]), [word("c", card[i]), word("s", shop[i])], [number(amount[i])],
             [number(amount[i])], [], [None if country[i] < 0 else countries[country[i]]]) for i in range(len(rows))]
    # rows of another kind, of the same cards, change nothing
    told += [("other", i, int(rows.times[i]), 0, None, [word("c", card[i])], [], [], [], []) for i in range(40)]
    schema = "kind string, row_id long, at long, known_at long, label double, entities array<string>, numbers array<double>, leading array<double>, " \
             "elapsed array<double>, categories array<string>"
    given = spark.createDataFrame(told, schema)
    other = replace(recipe, entities=("card",), numbers=(), leading=(), scales={}, categories={}, pairs=(), graph=False)
    names = spark_features.names(recipe)
    assert sorted(names) == sorted(n for n in own.names if not n.startswith("category."))
    for buckets in (1, 5):
        found = spark_features.build(given, {"order": recipe, "other": other}, buckets).where("kind = 'order'").toPandas().sort_values("row_id")
        values = dict(zip(names, np.array(found["values"].tolist(), np.float32).T, strict=True))
        for name, column in zip(own.names, own.columns, strict=True):
            if name in values:
                np.testing.assert_array_equal(values[name], column.astype(np.float32), err_msg=name)


def test_a_night_that_has_all_entities_is_narrowed_to_itself() -> None:
    """Spark Connect refuses to add no columns at all."""
    from nightmarket.screen.night import narrowed

    frame = object()
    assert narrowed(frame, {}) is frame  # type: ignore[arg-type]


NIGHT = date(2026, 1, 12)
_PLACES: dict[str, tuple[str | None, str | None, str | None, float | None]] = {
    "o1": ("DE", "GB", "u1", 1.0), "o2": ("FR", "GB", "u1", 0.0), "o3": ("GB", "GB", "u1", 0.0), "o4": (None, "GB", "u1", None),
    "o5": ("DE", "GB", None, 1.0), "o6": ("DE", "Germany", None, None), "o7": ("DE", "Germany", "u1", 1.0), "o8": ("DE", None, "u2", None),
}
"""By order: country of its address, country it is sent to, who ordered (u1 lives in FR, u2 nobody knows where), and whether it is abroad."""


def _frame(spark: SparkSession, dataset: Dataset, rows: list[dict[str, Any]]) -> DataFrame:
    whole = [dict.fromkeys(dataset.column_names) | {"delivered_on": NIGHT, "source_file": "f", "source_row": n} | r for n, r in enumerate(rows)]
    table = pa.Table.from_pylist([{c: r[c] for c in dataset.column_names} for r in whole], dataset.arrow_schema())
    given = spark.createDataFrame(table) if rows else spark.createDataFrame([], dataset.spark_schema())
    return given.selectExpr(*[f"cast(`{c.name}` as {c.type}) as `{c.name}`" for c in dataset.columns])


@pytest.mark.spark
def test_countries_of_addresses_are_features_only_where_there_are_some(spark: SparkSession) -> None:
    from nightmarket.screen import spark_features
    from nightmarket.screen.night import Tables, frame_of, narrowed, recipes_of

    noon = datetime(2026, 1, 12, 12, tzinfo=timezone.utc)
    orders = [{"order_id": k, "user_id": user, "order_ts": noon, "amount": 10, "line_count": 1, "payment_method": "card", "card_id": "c1", "country": ship,
               "ip_address": "p1:k:a", "ip_country": ip, "order_date": NIGHT, "is_cancellation": False} for k, (ip, ship, user, _) in _PLACES.items()]
    users = [{"user_id": "u1", "signed_up_at": noon, "country": "FR", "device_id": "d1", "ip_address": "p1:k:b", "ip_country": "DE"},
             {"user_id": "u2", "signed_up_at": noon, "device_id": "d1", "ip_address": "p1:k:b", "ip_country": "DE"}]
    found: dict[bool, dict[str, Any]] = {}
    for told in (True, False):
        some_orders, some_users = ([r if told else {**r, "ip_country": None} for r in rows] for rows in (orders, users))
        others = (_frame(spark, d, []) for d in (REVIEWS, EVENTS, SCREENING_FEEDBACK))
        tables = Tables(_frame(spark, ORDERS, some_orders), _frame(spark, USERS, some_users), *others, NIGHT, ZoneInfo("UTC"), 30)
        frame = frame_of(tables)
        recipes = {k: r for k, (r, _) in recipes_of(frame, tables.end).items()}
        rows = {(r["kind"], r["id"]): r for r in narrowed(frame, recipes).select("kind", "id", "entities", "numbers", "leading", "categories").collect()}
        found[told] = {"recipes": recipes, "rows": rows, "names": {k: spark_features.names(r) for k, r in recipes.items()}}
    known, unknown = found[True], found[False]
    assert {k: known["rows"]["order", k]["numbers"][3] for k in _PLACES} == {k: v[3] for k, v in _PLACES.items()}
    assert {k: known["rows"]["order", k]["categories"][2] for k in _PLACES} == {k: v[0] for k, v in _PLACES.items()}
    assert {k: (r["numbers"], r["categories"]) for (kind, k), r in known["rows"].items() if kind == "account"} == {
        "u1": ([1.0], [None, "DE"]), "u2": ([None], [None, "DE"])}
    assert known["recipes"]["account"].entities == ("device", "country", "ip")
    # without a file nothing tells that there could be one
    assert unknown["recipes"]["order"].numbers == ("amount", "lines", "abroad") and list(unknown["recipes"]["order"].categories) == ["payment", "country"]
    assert unknown["recipes"]["account"].numbers == () and list(unknown["recipes"]["account"].categories) == ["referrer"]
    for kind in ("order", "account"):
        assert unknown["names"][kind] == [n for n in known["names"][kind] if "ip_" not in n]
    for (kind, key), row in unknown["rows"].items():
        beside = known["rows"][kind, key]
        assert (row["entities"], row["leading"]) == (beside["entities"], beside["leading"])
        assert row["numbers"] == beside["numbers"][: -1] and row["categories"] == beside["categories"][: -1]
