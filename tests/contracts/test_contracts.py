"""Contracts agree with themselves and with what is derived from them."""

from __future__ import annotations

import pytest

from nightmarket import contracts
from nightmarket.contracts import ALL, BRONZE, EVENTS, RAW_EVENTS, SILVER, Column, Dataset

SPARK_TO_ARROW = {
    "string": "string", "bigint": "int64", "int": "int32", "double": "double", "float": "float", "timestamp": "timestamp[us, tz=UTC]",
    "date": "date32[day]", "boolean": "bool",
}


@pytest.mark.parametrize("dataset", ALL, ids=lambda d: d.id)
def test_a_contract_is_consistent(dataset: Dataset) -> None:
    names = dataset.column_names
    assert len(set(names)) == len(names)
    assert set(dataset.primary_key) <= set(names) and dataset.primary_key
    assert set(dataset.version_by) <= set(names) and set(dataset.required) <= set(names)
    assert all(c.description.endswith((".", "'")) for c in dataset.columns)
    for reference in dataset.references:
        other = contracts.dataset(reference.to)
        assert reference.column in names and reference.to_column in other.column_names


@pytest.mark.parametrize("dataset", ALL, ids=lambda d: d.id)
def test_spark_and_arrow_schemas_say_the_same(dataset: Dataset) -> None:
    arrow = dataset.arrow_schema()
    for field in dataset.spark_schema().fields:
        spark = field.dataType.simpleString()
        expected = (SPARK_TO_ARROW[spark[6:-1]] if spark.startswith("array<") else
                    spark.replace("decimal", "decimal128").replace(",", ", ") if spark.startswith("decimal") else SPARK_TO_ARROW[spark])
        found = arrow.field(field.name).type
        assert str(found.value_type if spark.startswith("array<") else found) == expected


def test_there_are_the_datasets_that_the_shop_needs() -> None:
    assert [d.name for d in BRONZE] == [d.name for d in SILVER] == ["events", "items", "users", "orders", "reviews"]
    assert {d.id for d in ALL} >= {"gold.daily_sales", "gold.features", "gold.recommendations", "gold.quality", "gold.evaluation"}


def test_personal_columns_are_the_same_in_bronze_and_silver() -> None:
    for raw, clean in zip(BRONZE, SILVER, strict=True):
        assert {c.name: c.personal for c in raw.columns if c.personal} == {c.name: c.personal for c in clean.columns if c.personal}
    marked = {c.name for d in BRONZE for c in d.columns if c.personal}
    assert marked >= {"email", "phone", "full_name", "address", "ip_address", "device_id", "shipping_address", "card_id", "text"}


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(KeyError, match=r"gold\.daily_sales"):
        contracts.dataset("gold.sales")
    with pytest.raises(KeyError, match="event_ts"):
        EVENTS.column("time")
    with pytest.raises(ValueError, match="map<string"):
        Dataset("x", "gold", "", (Column("a", "map<string,int>", ""),), ("a",)).arrow_schema()


def test_an_asset_is_the_same_wherever_the_lake_is() -> None:
    assert RAW_EVENTS.uri == "nightmarket://lake/bronze/events"
