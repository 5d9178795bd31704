"""The newest state of a dataset as of a night: corrections and repeated deliveries resolved by a stated order.

Of the rows with one primary key the last wins, ordered by the contract's `version_by` (nulls first), then the night that
delivered it, then file and row. Only nights up to the asked one count, so a backfill sees what that night would have seen.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import TYPE_CHECKING

from nightmarket.contracts import Dataset
from nightmarket.lake.partitions import Lake, Partition, read_spark

if TYPE_CHECKING:
    import pyarrow
    from pyspark.sql import DataFrame, SparkSession

_BEGINNING = date(1, 1, 1)


def nights(
    lake: Lake, dataset: Dataset, as_of: date, first: date | None = None, only: Collection[date] | None = None
) -> list[Partition]:
    """Published partitions up to `as_of`; `only` restricts them, e.g. to nights that the gate let through."""
    found = lake.window(dataset, first or _BEGINNING, as_of)
    return [p for p in found if only is None or p.run_date in only]


def newest(frame: DataFrame, dataset: Dataset) -> DataFrame:
    """One row a primary key: the last in the stated order."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    order = [F.col(c).desc_nulls_last() for c in (*dataset.version_by, "delivered_on", "source_file", "source_row")]
    ranked = frame.withColumn("__place", F.row_number().over(Window.partitionBy(*dataset.primary_key).orderBy(*order)))
    return ranked.where("__place = 1").drop("__place")


def newest_spark(
    spark: SparkSession, lake: Lake, dataset: Dataset, as_of: date, first: date | None = None,
    only: Collection[date] | None = None,
) -> DataFrame:
    """The newest state as of a night, as a Spark frame with the contract's schema."""
    return newest(read_spark(spark, nights(lake, dataset, as_of, first, only), dataset), dataset)


def newest_arrow(
    lake: Lake, dataset: Dataset, as_of: date, first: date | None = None, only: Collection[date] | None = None,
    columns: Collection[str] | None = None,
) -> pyarrow.Table:
    """The newest state as of a night as an Arrow table, sorted by key: for datasets that fit in memory (items, users)."""
    import pyarrow as pa

    order = [*dataset.version_by, "delivered_on", "source_file", "source_row"]
    wanted = list(dict.fromkeys([*(columns or dataset.column_names), *dataset.primary_key, *order]))
    tables = [p.arrow(wanted) for p in nights(lake, dataset, as_of, first, only)]
    picked = pa.schema([dataset.arrow_schema().field(n) for n in wanted])
    table = pa.concat_tables(tables) if tables else picked.empty_table()
    table = table.sort_by([(k, "ascending") for k in dataset.primary_key])
    frame = table.select([*dataset.primary_key, *order]).to_pandas()
    keep = (
        frame.sort_values([*dataset.primary_key, *order], kind="stable", na_position="first")
        .groupby(list(dataset.primary_key), sort=True, dropna=False).tail(1).index
    )
    return table.take(pa.array(sorted(keep), pa.int64())).select(list(columns or dataset.column_names))
