"""What other models leave out: events of blocked orders and accounts, and sales of blocked products' days, as decided before a night.

A night's data is put together before the night is screened, so what a night decides counts from the next night on. A later decision
about the same thing takes the earlier one back.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from nightmarket.contracts import EVENTS, SCREENING_DECISIONS
from nightmarket.lake import Lake, Partition, nights, read_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_LATER = "9999-01-01 00:00:00"


def decided_before(lake: Lake, night: date) -> list[Partition]:
    """Decisions of the nights before that decided anything, oldest first."""
    return [p for p in nights(lake, SCREENING_DECISIONS, night - timedelta(days=1)) if p.manifest.rows_out]


def changes(spark: SparkSession, partitions: list[Partition]) -> DataFrame:
    """kind, id, `from` (the night on which it counts), `blocked`: where a decision differs from the one before, or blocks as the first."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    # the night of a row is in the name of its folder
    night = F.regexp_extract(F.col("_metadata.file_path"), r"run_date=(\d{4}-\d{2}-\d{2})", 1).cast("date")
    whole = read_spark(spark, partitions, SCREENING_DECISIONS).select(
        "kind", "id", (F.col("decision") == "block").alias("blocked"), F.date_add(night, 1).alias("from"))
    order = Window.partitionBy("kind", "id").orderBy("from")
    was = F.coalesce(F.lag("blocked").over(order), F.lit(False))
    return whole.withColumn("was", was).where("blocked <> was").drop("was")


def kept(events: DataFrame, changed: DataFrame, night: date) -> DataFrame:
    """`events` (with order_id, user_id, item_id, event_date) without those that are blocked as of a night."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    order = Window.partitionBy("kind", "id").orderBy(F.desc("from"))
    now = changed.where(F.col("from") <= F.lit(night)).withColumn("place", F.row_number().over(order)).where("place = 1 AND blocked")
    for kind, key in _KEYS.items():
        held = now.where(F.col("kind") == kind).select(F.col("id").alias("__id"))
        events = events.join(held, _key(key) == F.col("__id"), "left_anti")
    return events


def revised(events: DataFrame, changed: DataFrame) -> DataFrame:
    """Silver `events` with a version more of each event on every night on which a decision about it began to count: one that sold
    nothing where it is blocked, the newest delivered one where it no longer is. So the sales of each night say what it took away or gave back.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    touched = None
    for kind, key in _KEYS.items():
        mine = changed.where(F.col("kind") == kind).select(F.col("id").alias("__id"), F.col("from").alias("__from"), F.col("blocked").alias("__blocked"))
        found = events.select("event_id", "delivered_on", "order_id", "user_id", "item_id", "event_date").join(mine, _key(key) == F.col("__id")).select(
            "event_id", F.greatest("__from", "delivered_on").alias("__from"), "__blocked")
        touched = found if touched is None else touched.unionByName(found)
    assert touched is not None
    # of decisions that begin to count on one night, blocking counts
    states = touched.groupBy("event_id", "__from").agg(F.max("__blocked").alias("__blocked"))
    newest = Window.partitionBy("event_id", "__from").orderBy(*[F.desc_nulls_last(c) for c in (*EVENTS.version_by, "delivered_on", "source_file", "source_row")])
    seen = events.join(states, "event_id").where(F.col("delivered_on") <= F.col("__from")).withColumn("__place", F.row_number().over(newest)).where("__place = 1")
    rank = F.datediff(F.col("__from"), F.lit("1970-01-01").cast("date"))
    made = seen.select(*[
        F.when(F.col("__blocked"), F.lit("view")).otherwise(F.col("event_type")).alias("event_type") if c == "event_type"
        else F.timestamp_seconds(F.unix_timestamp(F.lit(_LATER)) + rank).alias(c) if c == "updated_at"
        else F.col("__from").alias(c) if c == "delivered_on" else F.col(c) for c in events.columns])
    # a row that came in the night its decision begins to count is replaced by what the decision makes of it
    gone = made.select("event_id", "delivered_on")
    return events.join(gone, ["event_id", "delivered_on"], "left_anti").unionByName(made)


_KEYS = {"order": ("order_id",), "account": ("user_id",), "brushing": ("item_id", "event_date")}
"""What of an event a decision of a kind is about."""


def _key(columns: tuple[str, ...]):  # type: ignore[no-untyped-def]
    from pyspark.sql import functions as F

    return F.col(columns[0]) if len(columns) == 1 else F.concat_ws("/", *[F.col(c).cast("string") for c in columns])
