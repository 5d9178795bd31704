"""Exact totals of rows, so that what was delivered, kept and rejected can be added up.

Totals are of the contract's `sums`: a column, or a product of columns such as `quantity * unit_price`. A product with a null
counts as nothing, as in SQL. Everything is decimal arithmetic on Arrow tables, one night at a time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightmarket.contracts import Dataset

_WIDE = 76  # digits of decimal256: products of two columns of the contract cannot overflow it


def columns_of(expression: str) -> list[str]:
    return [name.strip() for name in expression.split("*")]


def products(table: pa.Table, expression: str) -> pa.ChunkedArray:
    """`expression` of each row, as an exact decimal; null where a factor is null."""
    first, *others = [_exact(table[name]) for name in columns_of(expression)]
    for other in others:
        first = pc.multiply(first, other)
    return first


def total(table: pa.Table, expression: str) -> Decimal:
    """Sum of `expression` over the rows; 0 for no rows."""
    if not table.num_rows:
        return Decimal(0)
    each = products(table, expression)
    found = pc.sum(each.cast(pa.decimal256(_WIDE, each.type.scale))).as_py()
    return Decimal(0) if found is None else found


def totals(table: pa.Table, dataset: Dataset) -> dict[str, Decimal]:
    return {expression: total(table, expression) for expression in dataset.sums}


def written(value: Decimal) -> str:
    """Exact, without exponent or trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def read(files: Sequence[Path], columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Rows of Parquet files with the named columns in the contract's types."""
    wanted = pa.schema([schema.field(c) for c in columns])
    tables = [pq.ParquetFile(f).read(columns=list(columns)).select(list(columns)).cast(wanted) for f in files]
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def records(texts: Sequence[str], raw: Dataset, columns: Sequence[str]) -> pa.Table:
    """The named columns of quarantined bronze rows from their JSON; numbers keep every digit. Text columns and numbers only."""
    parsed: list[dict[str, Any]] = [json.loads(t, parse_float=Decimal) for t in texts]
    schema = pa.schema([raw.arrow_schema().field(c) for c in columns])
    arrays = []
    for field in schema:
        values = [row.get(field.name) for row in parsed]
        if pa.types.is_decimal(field.type):
            values = [None if v is None else Decimal(v).quantize(Decimal(1).scaleb(-field.type.scale)) for v in values]
        arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def sum_columns(dataset: Dataset) -> list[str]:
    """Columns that the contract's `sums` need."""
    return list(dict.fromkeys(c for e in dataset.sums for c in columns_of(e)))


def _exact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_decimal(column.type) else column.cast(pa.decimal128(19, 0))
