"""Tables of a database as deliveries: SQLite everywhere, a real PostgreSQL where its programs are installed, JDBC through Derby."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from jobs import ingest
from nightmarket import contracts
from nightmarket.lake import Lake
from nightmarket.shop import Settings
from nightmarket.sources.sql import as_text
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

D1, D2, D3 = date(2026, 7, 1), date(2026, 7, 2), date(2026, 7, 3)
MAPPING = {
    "events": {"source": "sales", "columns": {
        "event_id": "id", "event_ts": "at", "event_type": "kind", "item_id": "item", "quantity": "qty", "unit_price": "price"}},
}


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    """Settings of a shop whose events are in a database at `url`; source fields are keywords."""

    def make(url: str, datasets: dict[str, Any] = MAPPING, **source: Any) -> Settings:
        settings = make_settings(
            sources={"sales": {"kind": "sql", "url": "shop_db", "table": "sales", **source}}, datasets=datasets,
            secrets={"shop_db": {"file": "keys/db"}, "pseudonym_key": {"file": "keys/p", "create": True},
                     "encryption_key": {"file": "keys/e", "create": True}})
        settings.places.keys.mkdir(parents=True)
        secret = settings.places.keys / "db"
        secret.write_text(url)
        secret.chmod(0o600)
        return settings

    return make


def take(settings: Settings, first: date, last: date, *argv: str) -> int:
    return ingest.main(["--shop", str(settings.file), "--from-date", str(first), "--run-date", str(last), *argv])


def rows(settings: Settings, day: date) -> list[dict[str, Any]]:
    return sorted(Lake(settings.places.lake).at(contracts.RAW_EVENTS, day).arrow().to_pylist(), key=lambda r: r["source_row"])


@pytest.mark.parametrize(("value", "text"), [
    (None, None), ("x", "x"), (7, "7"), (True, "true"), (2.5, "2.5"), (Decimal("1.10"), "1.10"), (Decimal("1E+3"), "1000"),
    (date(2026, 7, 1), "2026-07-01"), (datetime(2026, 7, 1, 9, tzinfo=timezone.utc), "2026-07-01T09:00:00+00:00"),
    (b"caf\xc3\xa9", "café"), (b"\xff\x00", "ff00"), (memoryview(b"a"), "a"), ({"b": 1, "a": [2]}, '{"a": [2], "b": 1}'),
])
def test_values_as_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


# --- PostgreSQL ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a database of a PostgreSQL server started for this module, whose zone is not ours."""
    with postgres_server("-c timezone=America/New_York") as server:
        yield server.url


def execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.spark
def test_a_table_of_a_real_postgresql(postgres: str, shop: Callable[..., Settings], spark: SparkSession) -> None:
    execute(postgres, 'CREATE SCHEMA shop', '''CREATE TABLE shop."Sales" (id text, at timestamptz, kind text, item int, qty numeric, price money,
            extra jsonb)''', """INSERT INTO shop."Sales" VALUES
            ('a', '2026-07-01 23:30:00+00', 'purchase', 1, 2.0, 1234.50, '{"x": 1}'),   -- already the 2nd in London
            ('b', '2026-07-01 22:30:00+00', 'purchase', 2, 1, 3.25, NULL),
            ('c', '2026-07-02 09:00:00+01', 'view', 3, NULL, NULL, NULL),
            ('d', '2026-07-02 09:00:00+01', 'view', NULL, 1, 1.00, NULL),               -- no item
            ('e', NULL, 'view', 5, 1, 1.00, NULL),                                       -- no date: of the first night
            ('f', '2026-07-04 00:00:00+01', 'view', 6, 2.5, 1.00, NULL)""")
    settings = shop(postgres, table="shop.Sales", slice_by="at", on_missing="empty")
    assert take(settings, D1, D3) == 0
    lake = Lake(settings.places.lake)
    first, second, third = (lake.at(contracts.RAW_EVENTS, d).manifest for d in (D1, D2, D3))
    assert (first.rows_out, first.quarantined) == (1, {"missing_event_ts": 1})
    assert (second.rows_out, second.quarantined) == (2, {"missing_item_id": 1})
    assert (third.rows_in, third.notes) == (0, {"no_delivery": True})
    assert second.inputs[0].name == "shop.Sales"
    assert [(r["event_id"], r["event_ts"], r["quantity"], r["unit_price"], r["source_row"]) for r in rows(settings, D2)] == [
        ("a", datetime(2026, 7, 1, 23, 30, tzinfo=timezone.utc), 2, Decimal("1234.5000"), 0),
        ("c", datetime(2026, 7, 2, 8, tzinfo=timezone.utc), None, None, 1)]
    assert not list((settings.places.landing / ".sql").glob("*")), "rows were left behind in clear"

    # the same rows: current, whatever else happened to the table; another row: only its night is made again
    execute(postgres, "UPDATE shop.\"Sales\" SET kind = 'view' WHERE id = 'f'", 'ANALYZE shop."Sales"')
    assert take(settings, D1, D3) == 0
    assert lake.at(contracts.RAW_EVENTS, D2).manifest == second
    execute(postgres, "UPDATE shop.\"Sales\" SET qty = 3 WHERE id = 'a'")
    assert take(settings, D1, D3) == 0
    assert lake.at(contracts.RAW_EVENTS, D1).manifest == first
    assert lake.at(contracts.RAW_EVENTS, D2).manifest.digest != second.digest
    assert [r["quantity"] for r in rows(settings, D2)] == [3, None]


@pytest.mark.spark
def test_a_query_of_a_real_postgresql_in_chunks(
    postgres: str, shop: Callable[..., Settings], spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.sources import sql

    monkeypatch.setattr(sql, "_CHUNK_ROWS", 100)
    execute(postgres, "CREATE TABLE lines (id int, at timestamp, price numeric(12,4))",
            "INSERT INTO lines SELECT n, timestamp '2026-07-01 00:00' + n * interval '1 minute', n * 0.0125 FROM generate_series(0, 2879) n")
    query = "(SELECT id::text AS id, at, 'purchase' AS kind, id % 10 AS item, 1 AS qty, price FROM lines)"
    settings = shop(postgres, table=query, slice_by="at")
    assert take(settings, D1, D2) == 0
    lake = Lake(settings.places.lake)
    made = [lake.at(contracts.RAW_EVENTS, d).manifest for d in (D1, D2)]
    assert [m.rows_out for m in made] == [1440, 1440]
    # 0.0125 x (0 + 1 + … + 2879) = 0.0125 x 2879 x 2880 / 2
    assert sum(Decimal(m.sums["value"]) for m in made) == Decimal("51822.00")
    assert [r["event_id"] for r in rows(settings, D2)][:2] == ["1440", "1441"]
    assert take(settings, D3, D3) == 3  # no rows for that night, and the shop does not say that this is fine


# --- without a server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    execute(url, "CREATE TABLE sales (id TEXT, at TEXT, kind TEXT, item TEXT, qty INTEGER, price REAL)",
            "INSERT INTO sales VALUES ('a', '2026-07-01 10:00', 'view', 'i1', 1, 2.5), ('b', '2026-07-01T23:30:00Z', 'view', 'i2', 1, 2.5), "
            "('c', 'soon', 'view', 'i3', 1, 0.1), ('d', '2026-07-02', 'view', 'i4', 1, 3)")
    return url


@pytest.mark.spark
def test_text_dates_are_read_as_any_other(sqlite: str, shop: Callable[..., Settings], spark: SparkSession) -> None:
    settings = shop(sqlite, slice_by="at")
    assert take(settings, D1, D2) == 0
    assert [r["event_id"] for r in rows(settings, D1)] == ["a"]
    assert Lake(settings.places.lake).at(contracts.RAW_EVENTS, D1).manifest.quarantined == {"bad_event_ts": 1}
    assert sorted(r["event_id"] for r in rows(settings, D2)) == ["b", "d"]


@pytest.mark.spark
def test_a_snapshot_is_the_whole_table(sqlite: str, shop: Callable[..., Settings], spark: SparkSession) -> None:
    settings = shop(sqlite, snapshot="daily", table="(SELECT * FROM sales WHERE id <> 'c')")
    assert take(settings, D1, D2) == 0
    assert [len(rows(settings, d)) for d in (D1, D2)] == [3, 3]


@pytest.mark.parametrize(("url", "source", "said"), [
    (None, {"table": "nothing_here", "slice_by": "at"}, r"sources\.sales\.table: cannot be read \(no such table: nothing_here\)"),
    (None, {"table": "(SELECT oops FROM sales)", "slice_by": "at"}, r"sources\.sales\.table: cannot be read"),
    (None, {"slice_by": "when"}, r"sources\.sales\.slice_by: sales has no column 'when'; it has id, at, kind"),
    ("postgres-secret-word", {"slice_by": "at"}, r"the secret 'shop_db' is no SQLAlchemy URL"),
    ("nosuchdb://night:secret-word@host/db", {"slice_by": "at"}, r"the secret 'shop_db' is no SQLAlchemy URL"),
])
def test_a_source_that_cannot_be_read_is_told_without_its_password(
    sqlite: str, shop: Callable[..., Settings], capsys: pytest.CaptureFixture[str], url: str | None, source: dict[str, str], said: str
) -> None:
    import re

    assert take(shop(url or sqlite, **source), D1, D1) == 2
    told = capsys.readouterr().err
    assert re.search(said, told)
    assert "secret-word" not in told


# --- Spark's JDBC reader ---------------------------------------------------------------------------------------------------


@pytest.mark.spark
def test_a_table_through_jdbc(shop: Callable[..., Settings], spark: SparkSession, tmp_path: Path) -> None:
    """Derby comes with Spark: a real driver on the class path without a download."""
    url = f"jdbc:derby:{tmp_path / 'derby'}"
    connection = spark._jvm.java.sql.DriverManager.getConnection(f"{url};create=true")  # type: ignore[union-attr]
    statement = connection.createStatement()
    for text in ("CREATE TABLE sales (id VARCHAR(9), happened TIMESTAMP, kind VARCHAR(9), item INT, qty INT, price DECIMAL(9,2))",
                 "INSERT INTO sales VALUES ('a', '2026-07-01 10:00:00', 'view', 1, 1, 2.50), ('b', '2026-07-02 00:30:00', 'view', 2, 1, 1.25), "
                 "('c', NULL, 'view', 3, 1, 1), ('d', '2026-07-03 00:00:00', 'view', 4, 1, 1)"):
        statement.execute(text)
    statement.close()
    connection.close()
    columns = {"event_id": "ID", "event_ts": "HAPPENED", "event_type": "KIND", "item_id": "ITEM", "quantity": "QTY", "unit_price": "PRICE"}
    settings = shop(url, engine="spark", slice_by="HAPPENED", datasets={"events": {"source": "sales", "columns": columns}})
    assert take(settings, D1, D2) == 0
    assert [(r["event_id"], r["event_ts"]) for r in rows(settings, D1)] == [("a", datetime(2026, 7, 1, 9, tzinfo=timezone.utc))]
    assert Lake(settings.places.lake).at(contracts.RAW_EVENTS, D1).manifest.quarantined == {"missing_event_ts": 1}
    assert [(r["event_id"], r["unit_price"]) for r in rows(settings, D2)] == [("b", Decimal("1.2500"))]


@pytest.mark.spark
@pytest.mark.parametrize(("url", "said"), [
    ("jdbc:nosuch://host/db?password=secret-word", "no driver for it on its class path"),
    ("postgresql://night:secret-word@host/db", "is no JDBC URL"),
])
def test_jdbc_without_a_driver_is_told(
    shop: Callable[..., Settings], spark: SparkSession, capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    assert take(shop(url, engine="spark", slice_by="at"), D1, D1) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "secret-word" not in told
