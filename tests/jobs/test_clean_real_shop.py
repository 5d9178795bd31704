"""The whole UCI shop, cleaned: an oracle that never saw our cleaning recomputes it from the published CSV files, row for row.

The oracle is DuckDB over pandas' reading of the files; the rules are written once more, in SQL.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from jobs import aggregate, clean
from nightmarket.clean.reconciliation import Account, reconcile
from nightmarket.command import Night
from nightmarket.contracts import DAILY_SALES, EVENTS, FEATURES, ITEMS, ORDERS, QUALITY, USERS, Dataset
from nightmarket.lake import Lake
from nightmarket.shop import Settings

pytestmark = [pytest.mark.spark, pytest.mark.real_data, pytest.mark.soak, pytest.mark.timeout(1800)]
FIRST, LAST = date(2010, 12, 1), date(2011, 12, 9)


@pytest.fixture(scope="module")
def cleaned(online_retail: Settings) -> Settings:
    """All nights cleaned in one pass, let through, and aggregated as of the last."""
    lake = Lake(online_retail.places.lake)
    night = Night(online_retail, lake, LAST, FIRST, "", False, False, argparse.Namespace())
    clean.run(night)
    with lake.writer(QUALITY, [LAST]) as writer:
        writer.stage_arrow(LAST, QUALITY.arrow_schema().empty_table())
        writer.publish(LAST, inputs=[], settings="s", code="c", notes={"verdict": "passed", "from_date": str(FIRST)})
    aggregate.run(night)
    return online_retail


def _files(settings: Settings, dataset: Dataset, inner: str = "*.parquet") -> list[str]:
    return [str(f) for p in Lake(settings.places.lake).window(dataset, FIRST, LAST) for f in p.folder.glob(inner)]


ORACLE = """
CREATE TABLE judged AS SELECT *, CASE
    WHEN row_number() OVER (PARTITION BY file, InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country
                            ORDER BY row DESC) > 1 THEN 'exact_duplicate'
    WHEN upper(StockCode) IN ('POST', 'DOT', 'C2', 'M', 'D', 'S', 'BANK CHARGES', 'AMAZONFEE', 'CRUK', 'PADS', 'B')
         OR starts_with(lower(StockCode), 'gift_') THEN 'not_a_product'
    WHEN CAST(UnitPrice AS DECIMAL(18,4)) <= 0 THEN 'zero_or_negative_price' END AS reason
FROM lines;
CREATE TABLE good AS SELECT file, row, InvoiceDate::TIMESTAMP AS london, timezone('Europe/London', InvoiceDate::TIMESTAMP) AS ts,
    CASE WHEN InvoiceNo LIKE 'C%' OR Quantity LIKE '-%' THEN 'return' ELSE 'purchase' END AS kind,
    nullif(split_part(CustomerID, '.', 1), '') AS customer, StockCode AS item, Quantity::BIGINT AS units,
    UnitPrice::DECIMAL(18,4) AS price, InvoiceNo AS invoice,
    CASE Country WHEN 'EIRE' THEN 'Ireland' WHEN 'RSA' THEN 'South Africa' WHEN 'USA' THEN 'United States'
                 WHEN 'Unspecified' THEN NULL ELSE Country END AS place
FROM judged WHERE reason IS NULL;
CREATE TABLE logs AS SELECT file, item, ln(1 + abs(units)::DOUBLE) AS q, ln(1 + price::DOUBLE) AS p FROM good;
CREATE TABLE own AS SELECT file, item, exp(median(q) + 6 * greatest(1.4826 * mad(q), 0.25)) - 1 AS q_most,
    exp(median(p) + 6 * greatest(1.4826 * mad(p), 0.25)) - 1 AS p_most FROM logs GROUP BY file, item HAVING count(*) >= 20;
CREATE TABLE night AS SELECT file, exp(median(q) + 6 * greatest(1.4826 * mad(q), 0.25)) - 1 AS q_most,
    exp(median(p) + 6 * greatest(1.4826 * mad(p), 0.25)) - 1 AS p_most FROM logs GROUP BY file;
CREATE TABLE expected AS SELECT good.file, row, ts, kind, customer, item, units, price, invoice, place, london::DATE AS day, units * price AS revenue,
    abs(units) > coalesce(own.q_most, night.q_most) OR price > coalesce(own.p_most, night.p_most) AS strange
FROM good LEFT JOIN own USING (file, item) JOIN night USING (file);
"""


@pytest.fixture(scope="module")
def oracle(cleaned: Settings, real_data: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    connection.execute("SET timezone = 'UTC'")
    frames = []
    for path in sorted((real_data / "online_retail").glob("*.csv.gz")):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frames.append(frame.assign(file=path.name, row=range(len(frame))))
    connection.register("lines", pd.concat(frames))
    connection.execute(ORACLE)
    connection.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet({_files(cleaned, EVENTS)!r}, hive_partitioning=false)")
    connection.execute(f"CREATE VIEW rejected AS SELECT * FROM read_parquet({_files(cleaned, EVENTS, '_quarantine/*.parquet')!r}, hive_partitioning=false)")
    yield connection
    connection.close()


def same(connection: duckdb.DuckDBPyConnection, found: str, expected: str) -> None:
    for one, other in ((expected, found), (found, expected)):
        rows = connection.sql(f"({one}) EXCEPT ALL ({other})").limit(5).fetchall()
        assert not rows, f"only in {'expected' if one == expected else 'found'}: {rows}"


def test_clean_events_row_for_row(oracle: duckdb.DuckDBPyConnection) -> None:
    same(oracle, """SELECT source_file, source_row, event_ts, event_type, user_id, item_id, quantity, unit_price, order_id, country, event_date,
                           revenue, is_outlier FROM events""", "SELECT * FROM expected")
    assert oracle.sql("SELECT count(*), count(DISTINCT event_id), count(*) FILTER (currency <> 'GBP' OR len(filled) > 0) FROM events").fetchall()[0] == (
        531_205, 531_205, 0,
    )
    strange = oracle.sql("SELECT count(*) FROM expected WHERE strange").fetchall()[0]
    assert strange is not None and 0 < strange[0] < 5_000
    assert oracle.sql("SELECT count(*) FROM events WHERE is_outlier AND quantity IN (80995, -80995, 74215, -74215)").fetchall()[0] == (4,)


def test_every_rejected_line_and_its_reason(oracle: duckdb.DuckDBPyConnection) -> None:
    same(oracle, "SELECT source_file, source_row, reason FROM rejected", "SELECT file, row, reason FROM judged WHERE reason IS NOT NULL")
    assert dict(oracle.sql("SELECT reason, count(*) FROM rejected GROUP BY 1").fetchall()) == {
        "exact_duplicate": 5_268, "not_a_product": 2_944, "zero_or_negative_price": 2_492,
    }


@pytest.fixture(scope="module")
def account(cleaned: Settings) -> Account:
    return reconcile(Lake(cleaned.places.lake), "events", FIRST, LAST, cleaned.shop.clean.cancellations)


def test_it_reconciles_to_what_was_published(account: Account) -> None:
    assert account.problems == []
    assert account.delivered.rows == account.accounted.rows == 541_909
    for line in (account.delivered, account.accounted):
        assert line.totals == {"quantity": Decimal(5_176_450), "quantity * unit_price": Decimal("9747747.934")}
    assert account.rejected["exact_duplicate"].rows == 5_268
    assert account.cancelled.rows == 9_288
    assert account.changed == {}


@pytest.mark.parametrize("entity", ["items", "users", "orders"])
def test_the_other_datasets_add_up(cleaned: Settings, entity: str) -> None:
    found = reconcile(Lake(cleaned.places.lake), entity, FIRST, LAST)
    assert found.problems == []
    assert found.nights == 374
    assert found.clean.rows > 10_000


def test_cancelled_orders_and_titles(cleaned: Settings) -> None:
    orders = _files(cleaned, ORDERS)
    count = duckdb.sql(f"SELECT count(DISTINCT order_id), bool_and(starts_with(order_id, 'C')) FROM read_parquet({orders!r}) WHERE is_cancellation").fetchall()[0]
    assert count == (3_836, True)
    items = _files(cleaned, ITEMS)
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet({items!r}) WHERE title_normalised <> lower(title)").fetchall()[0] == (0,)
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet({items!r}) WHERE item_id IN ('POST', 'M', 'DOT')").fetchall()[0] == (0,)
    assert duckdb.sql(f"SELECT count(DISTINCT user_id) FROM read_parquet({_files(cleaned, USERS)!r})").fetchall()[0] == (4_372,)


def test_daily_sales_are_those_of_the_clean_lines(cleaned: Settings, oracle: duckdb.DuckDBPyConnection) -> None:
    oracle.execute(f"CREATE OR REPLACE VIEW sales AS SELECT * FROM read_parquet({_files(cleaned, DAILY_SALES)!r}, hive_partitioning=false)")
    same(oracle, """SELECT sale_date, item_id, country, units_sold::HUGEINT, units_returned::HUGEINT, revenue_sold::DECIMAL(28,8),
                           revenue_returned::DECIMAL(28,8), order_count FROM sales""",
         """SELECT day, item, coalesce(place, 'unknown'), coalesce(sum(units) FILTER (kind = 'purchase'), 0),
                   coalesce(-sum(units) FILTER (kind = 'return'), 0), coalesce(sum(revenue) FILTER (kind = 'purchase'), 0)::DECIMAL(28,8),
                   coalesce(-sum(revenue) FILTER (kind = 'return'), 0)::DECIMAL(28,8),
                   count(DISTINCT invoice) FILTER (kind = 'purchase') FROM expected GROUP BY ALL""")


def test_histories_are_those_of_the_clean_lines(cleaned: Settings, oracle: duckdb.DuckDBPyConnection) -> None:
    """Each shopper's items, kinds, times and capped quantities; lines of one instant in the order of their keys."""
    oracle.register("features", Lake(cleaned.places.lake).at(FEATURES, LAST).arrow())
    oracle.execute("""
        CREATE OR REPLACE TABLE everything AS SELECT item, ln(1 + abs(units)::DOUBLE) AS q FROM expected;
        CREATE OR REPLACE TABLE item_cap AS SELECT item, floor(exp(median(q) + 6 * greatest(1.4826 * mad(q), 0.25)) - 1) AS cap FROM everything
            GROUP BY item HAVING count(*) >= 20;
        CREATE OR REPLACE TABLE shop_cap AS SELECT floor(exp(median(q) + 6 * greatest(1.4826 * mad(q), 0.25)) - 1) AS cap FROM everything""")
    same(oracle, "SELECT user_id, item_ids, event_types, event_times, quantities, unit_prices FROM features",
         """SELECT customer, list(e.item ORDER BY ts, event_id), list(kind ORDER BY ts, event_id), list(epoch(ts)::BIGINT ORDER BY ts, event_id),
                   list((sign(units) * least(abs(units), greatest(1, coalesce(i.cap, s.cap))))::FLOAT ORDER BY ts, event_id),
                   list(price::FLOAT ORDER BY ts, event_id)
            FROM expected e JOIN events ON source_file = file AND source_row = row LEFT JOIN item_cap i ON i.item = e.item CROSS JOIN shop_cap s
            WHERE customer IS NOT NULL GROUP BY customer""")
