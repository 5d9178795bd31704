"""Daily sales, night by night: what each night added to what was known.

A night delivers rows of new keys and newer versions of known ones. When a version becomes the newest of its key, the night
adds it and takes away the version that was newest before; a late delivery of an older version changes nothing. So the sum of
all nights up to D is the sales of the newest view as of D, and a range of nights gives what they give one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from nightmarket.contracts import DAILY_SALES, EVENTS

_GROUP = ("sale_date", "item_id", "country")
_SUMS = ("units_sold", "units_returned", "revenue_sold", "revenue_returned")


def daily_sales(events: DataFrame, only: Sequence[date]) -> DataFrame:
    """Rows of gold.daily_sales with the column `night`, for the nights in `only`.

    `events` are silver events of those nights and of every night before them, one row a key and night. Rows that come to
    nothing are left out. An order counts once for each item, day and country of which it has a sale; a sale without an order
    counts as one of its own.
    """
    order = Window.partitionBy(*_GROUP, "order_id").orderBy("night")
    by_order = _changes(events).groupBy("night", *_GROUP, "order_id").agg(
        *[F.sum(c).alias(c) for c in _SUMS], F.sum("lines").alias("lines")
    )
    after = F.sum("lines").over(order.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    by_order = by_order.withColumn("__after", after).withColumn("__before", F.col("__after") - F.col("lines"))
    opened = (F.col("__after") > 0).cast("long") - (F.col("__before") > 0).cast("long")
    wanted = by_order.withColumn("orders", opened).where(F.col("night").isin(list(only)))
    summed = wanted.groupBy("night", *_GROUP).agg(
        *[F.coalesce(F.sum(c), F.lit(0)).cast(DAILY_SALES.column(c).type).alias(c) for c in _SUMS], F.sum("orders").cast("long").alias("order_count")
    )
    something = F.lit(False)
    for name in (*_SUMS, "order_count"):
        something = something | (F.col(name) != 0)
    return summed.where(something)


def _changes(events: DataFrame) -> DataFrame:
    """One row for each version that a night made the newest (+) and each that it thereby replaced (-): `night`, the group,
    `order_id`, the sums and `lines` (1 for a sale) with their signs. Only sales and returns."""
    sold, taken_back = F.col("event_type") == "purchase", F.col("event_type") == "return"
    zero = F.lit(0)
    order = (*EVENTS.version_by, "delivered_on", "source_file", "source_row")
    version = F.struct(
        *order,
        (sold | taken_back).alias("traded"),
        F.col("event_date").alias("sale_date"), "item_id", F.coalesce("country", F.lit("unknown")).alias("country"),
        F.coalesce("order_id", "event_id").alias("order_id"),
        F.when(sold, F.col("quantity")).otherwise(zero).alias("units_sold"),
        F.when(taken_back, -F.col("quantity")).otherwise(zero).alias("units_returned"),
        F.when(sold, F.col("revenue")).otherwise(zero).alias("revenue_sold"),
        F.when(taken_back, -F.col("revenue")).otherwise(zero).alias("revenue_returned"),
        sold.cast("long").alias("lines"),
    )
    # a struct compares column by column, nulls first: the order of the newest view
    history = Window.partitionBy(*EVENTS.primary_key).orderBy("delivered_on")
    seen = (
        events.select(*EVENTS.primary_key, "delivered_on", version.alias("own"))
        .withColumn("newest", F.max("own").over(history.rowsBetween(Window.unboundedPreceding, Window.currentRow)))
        .withColumn("before", F.max("own").over(history.rowsBetween(Window.unboundedPreceding, -1)))
        .where(F.col("newest.delivered_on") == F.col("delivered_on"))
    )
    added = F.struct(F.lit(1).alias("sign"), F.col("own").alias("version"))
    replaced = F.struct(F.lit(-1).alias("sign"), F.col("before").alias("version"))
    changes = seen.select(
        F.col("delivered_on").alias("night"), F.explode(F.array(added, replaced)).alias("change")
    ).where("change.version.traded")
    return changes.select(
        "night", *[f"change.version.{c}" for c in (*_GROUP, "order_id")],
        *[(F.col("change.sign") * F.col(f"change.version.{c}")).alias(c) for c in (*_SUMS, "lines")],
    )
