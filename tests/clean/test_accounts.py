"""Exact totals."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nightmarket.clean import accounts
from nightmarket.contracts import RAW_EVENTS, RAW_ORDERS

D = Decimal


def _lines(*lines: tuple[int | None, str | None]) -> pa.Table:
    return pa.table({
        "quantity": pa.array([q for q, _ in lines], pa.int64()),
        "unit_price": pa.array([None if p is None else D(p) for _, p in lines], pa.decimal128(18, 4)),
    })


def test_totals_are_exact_and_nulls_count_for_nothing() -> None:
    table = _lines((3, "0.1"), (-1, "0.0001"), (None, "5"), (7, None), (100_000, "99999999999999.9999"))
    assert accounts.totals(table, RAW_EVENTS) == {
        "quantity": D(100_009), "quantity * unit_price": D("9999999999999999990.0000") + D("0.3") - D("0.0001"),
    }


def test_no_rows_and_only_nulls() -> None:
    for table in (_lines(), _lines((None, None))):
        assert set(accounts.totals(table, RAW_EVENTS).values()) == {D(0)}
    orders = pa.table({"amount": pa.array([D("1.5"), None, D("-4")], pa.decimal128(18, 4))})
    assert accounts.totals(orders, RAW_ORDERS) == {"amount": D("-2.5")}


def test_written() -> None:
    assert [accounts.written(D(v)) for v in ("9747747.9340", "0E-8", "-0.5000", "100", "1E+3")] == ["9747747.934", "0", "-0.5", "100", "1000"]


def test_records_keep_every_digit() -> None:
    texts = [json.dumps({"quantity": 2**53 + 1}), '{"unit_price":12345678901234.5678,"quantity":-1}', '{"unit_price":2}']
    table = accounts.records(texts, RAW_EVENTS, ["quantity", "unit_price"])
    assert table.to_pydict() == {
        "quantity": [2**53 + 1, -1, None], "unit_price": [None, D("12345678901234.5678"), D("2.0000")],
    }


def test_read_no_files_is_an_empty_table(tmp_path: Path) -> None:
    schema = RAW_ORDERS.arrow_schema()
    assert accounts.read([], ["amount"], schema).num_rows == 0
    pq.write_table(pa.table({"amount": pa.array([D("1.5")], pa.decimal128(18, 4)), "other": [1]}), tmp_path / "a.parquet")
    assert accounts.read([tmp_path / "a.parquet"], ["amount"], schema)["amount"].to_pylist() == [D("1.5000")]
