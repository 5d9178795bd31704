"""Published shops, whole: what was published about them must come out of the lake to the unit and the penny."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from jobs import ingest
from nightmarket import contracts
from nightmarket.lake import Lake, Manifest
from nightmarket.shop import PROJECT, Places, Settings, load_shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.real_data, pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def shop_of(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Settings]:
    """A shipped shop on the published data, with a lake of its own."""

    def make(name: str) -> Settings:
        root = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NIGHTMARKET_REAL_DATA", str(real_data))
            patch.setenv("NIGHTMARKET_ROOT", str(root))
            return replace(load_shop(PROJECT / "shops" / f"{name}.yaml"), places=Places(root))

    return make


def take(settings: Settings, real_data: Path, first: date, last: date) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTMARKET_REAL_DATA", str(real_data))
        patch.setenv("NIGHTMARKET_ROOT", str(settings.places.root))
        return ingest.main(["--shop", str(settings.file), "--from-date", str(first), "--run-date", str(last)])


def manifests(settings: Settings, entity: str) -> list[Manifest]:
    lake, contract = Lake(settings.places.lake), contracts.raw_of(entity)
    return [lake.at(contract, d).manifest for d in lake.dates(contract)]


def view(settings: Settings, entity: str, name: str, connection: duckdb.DuckDBPyConnection) -> None:
    lake, contract = Lake(settings.places.lake), contracts.raw_of(entity)
    files = [str(f) for d in lake.dates(contract) for f in lake.at(contract, d).files]
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({files!r}, hive_partitioning=false)")


@pytest.fixture(scope="module")
def retail(online_retail: Settings, real_data: Path) -> duckdb.DuckDBPyConnection:
    """`lines` as published and `events`, `items`, `users`, `orders` as taken, for DuckDB to compare."""
    connection = duckdb.connect()
    connection.execute(f"""CREATE TABLE lines AS SELECT *, regexp_extract(filename, '[^/]+$') AS file
        FROM read_csv('{real_data}/online_retail/*.csv.gz', all_varchar=true, filename=true, header=true, delim=',', quote='"')""")
    for entity in ("events", "items", "users", "orders"):
        view(online_retail, entity, entity, connection)
    return connection


def test_online_retail_reconciles_to_what_was_published(online_retail: Settings, retail: duckdb.DuckDBPyConnection) -> None:
    made = manifests(online_retail, "events")
    assert len(made) == 374
    assert sum(m.rows_in for m in made) == 541_909
    assert sum(m.rows_out + sum(m.quarantined.values()) for m in made) == 541_909
    assert sum(int(m.sums["quantity"]) for m in made) == 5_176_450
    assert sum(Decimal(m.sums["value"]) for m in made) == Decimal("9747747.934")
    # bronze holds them all: nothing of this shop is untypable
    assert sum(m.rows_out for m in made) == 541_909
    total = retail.sql("SELECT count(*), sum(quantity), sum(quantity * unit_price), count(DISTINCT event_id) FROM events").fetchall()[0]
    assert (total[0], total[1], total[3]) == (541_909, 5_176_450, 541_909)
    assert Decimal(total[2]) == Decimal("9747747.934")


def test_online_retail_keeps_every_line_as_it_was(retail: duckdb.DuckDBPyConnection) -> None:
    """Row for row against DuckDB's own reading: stranger or not, described or not, whatever the price."""
    expected = """SELECT file, InvoiceNo, StockCode, CAST(Quantity AS BIGINT), CAST(UnitPrice AS DECIMAL(18,4)), Country,
                         nullif(split_part(CustomerID, '.', 1), ''),
                         CAST(CAST(InvoiceDate AS TIMESTAMP) AT TIME ZONE 'Europe/London' AS TIMESTAMPTZ),
                         CASE WHEN InvoiceNo LIKE 'C%' OR Quantity LIKE '-%' THEN 'return' ELSE 'purchase' END FROM lines"""
    found = "SELECT source_file, order_id, item_id, quantity, unit_price, country, user_id, event_ts, event_type FROM events"
    for one, other in ((expected, found), (found, expected)):
        difference = retail.sql(f"SELECT count(*) FROM (({one}) EXCEPT ALL ({other}))").fetchall()[0]
        assert difference == (0,)


def test_online_retail_nights_are_its_files(online_retail: Settings, retail: duckdb.DuckDBPyConnection) -> None:
    wrong = retail.sql("SELECT count(*) FROM events WHERE source_file <> CAST(delivered_on AS VARCHAR) || '.csv.gz'").fetchall()[0]
    assert wrong == (0,)
    # positions are 0 … n-1 in each file
    gaps = retail.sql("""SELECT count(*) FROM (SELECT max(source_row) AS last, min(source_row) AS first, count(DISTINCT source_row) AS n
                         FROM events GROUP BY source_file) WHERE first <> 0 OR last <> n - 1""").fetchall()[0]
    assert gaps == (0,)
    closed = [m for m in manifests(online_retail, "events") if m.notes.get("no_delivery")]
    assert len(closed) == 374 - 305
    assert all(m.rows_in == 0 for m in closed)


def test_online_retail_has_its_customers_orders_and_products(retail: duckdb.DuckDBPyConnection) -> None:
    def same(found: str, expected: str) -> None:
        assert retail.sql(found).fetchall() == retail.sql(expected).fetchall()

    same("SELECT count(DISTINCT user_id) FROM users", "SELECT count(DISTINCT CustomerID) FROM lines")
    same("SELECT count(*), sum(line_count) FROM orders", "SELECT count(DISTINCT file || InvoiceNo), count(*) FROM lines")
    same("SELECT round(sum(amount), 3) FROM orders", "SELECT round(sum(CAST(Quantity AS BIGINT) * CAST(UnitPrice AS DECIMAL(18,4))), 3) FROM lines")
    same("SELECT count(DISTINCT item_id) FROM items", "SELECT count(DISTINCT StockCode) FROM lines")
    assert retail.sql("SELECT count(*) FROM users WHERE user_id LIKE '%.%'").fetchall()[0] == (0,)


def test_online_retail_taken_again_is_left_as_it_is(
    online_retail: Settings, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifests(online_retail, "events")

    def no_spark(*_: object) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr("nightmarket.spark.session", no_spark)
    assert take(online_retail, real_data, date(2010, 12, 1), date(2011, 12, 9)) == 0
    assert manifests(online_retail, "events") == before


def test_complete_journey_is_only_another_file_of_settings(
    shop_of: Callable[[str], Settings], real_data: Path, spark: SparkSession
) -> None:
    """Two months of a shop with another schema: slices of a whole-table extract, monthly snapshots, a clock in UTC."""
    settings = shop_of("complete_journey")
    assert take(settings, real_data, date(2017, 1, 1), date(2017, 2, 28)) == 0
    connection = duckdb.connect()
    for entity in ("events", "items", "users", "orders"):
        view(settings, entity, entity, connection)
    source = f"{real_data}/complete_journey"
    connection.execute(f"""CREATE VIEW sold AS SELECT *, CAST(transaction_timestamp AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York' AS DATE) AS day
                           FROM '{source}/transactions_sample.parquet' WHERE day BETWEEN DATE '2017-01-01' AND DATE '2017-02-28'""")
    found = connection.sql("SELECT delivered_on, count(*), sum(quantity), count(DISTINCT order_id) FROM events GROUP BY 1 ORDER BY 1").fetchall()
    expected = connection.sql("SELECT day, count(*), CAST(sum(quantity) AS BIGINT), count(DISTINCT basket_id) FROM sold GROUP BY 1 ORDER BY 1").fetchall()
    assert found == expected
    assert len(found) == 59
    # the price of a unit times the units is what the till took, within the four decimals of a price
    error = connection.sql("""SELECT max(abs(e.unit_price * e.quantity - s.sales_value) / greatest(s.quantity, 1)) FROM events e JOIN sold s
                              ON e.event_id = s.basket_id || '-' || s.product_id WHERE s.quantity > 0""").fetchall()[0]
    assert error is not None and error[0] <= 0.00005 + 1e-9
    days = [d for d, n in connection.sql("SELECT delivered_on, count(*) FROM items GROUP BY 1 ORDER BY 1").fetchall() if n == 92_331]
    assert days == [date(2017, 1, 1), date(2017, 2, 1)]
    ages = connection.sql("SELECT age_group, count(DISTINCT user_id) FROM users GROUP BY 1 ORDER BY 1").fetchall()
    assert ages == connection.sql(f"SELECT CAST(age AS VARCHAR), count(*) FROM '{source}/demographics.parquet' GROUP BY 1 ORDER BY 1").fetchall()
    amounts = connection.sql("SELECT sum(amount) FROM orders").fetchall()[0]
    taken = connection.sql("SELECT sum(CAST(sales_value AS DECIMAL(18,4))) FROM sold").fetchall()[0]
    assert amounts == taken
