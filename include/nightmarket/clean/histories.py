"""Every known shopper's history as of a night."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from nightmarket.clean.outliers import with_bounds
from nightmarket.contracts import EVENTS, FEATURES, USERS
from nightmarket.lake import newest

MAX_EVENTS = 20_000
"""Newest events of a shoper that are kept: nobody shops that much, but a crawler that is logged in browses more than one task holds."""


def histories(events: DataFrame, users: DataFrame, first_day: date, outlier_mads: float) -> DataFrame:
    """Rows of gold.features, sorted by user_id.

    `events` and `users` are silver rows of all nights up to the night; the newest version of each counts. An event counts
    from `first_day` on, in the shop's time zone. Quantities beyond the bound of the outlier rule (of all events in the
    window) become the bound, rounded down to whole units; prices stay as they are, null where the shop does not say. The
    country is that of the newest `users` row, else of the newest event that has one.
    """
    order = (*EVENTS.version_by, "delivered_on", "source_file", "source_row")
    needed = (*EVENTS.primary_key, *order, "event_ts", "event_date", "event_type", "user_id", "item_id", "quantity",
              "unit_price", "country")
    window = newest(events.select(*needed), EVENTS).where(F.col("event_date") >= F.lit(first_day))
    units = F.when(F.col("event_type") != "view", F.abs("quantity"))
    window = with_bounds(window, {"__most_units": units}, [], outlier_mads)
    capped = F.least(F.abs("quantity").cast("double"), F.greatest(F.lit(1.0), F.floor("__most_units").cast("double")))
    window = window.withColumn("quantity", (F.signum("quantity") * capped).cast("float"))

    latest = Window.partitionBy("user_id").orderBy(F.desc("event_ts"), F.desc("event_id"))
    own = window.where(F.col("user_id").isNotNull()).withColumn("__place", F.row_number().over(latest))
    event = F.struct("event_ts", "event_id", "item_id", "event_type", "quantity", F.col("unit_price").cast("float").alias("unit_price"))
    listed = own.where(F.col("__place") <= MAX_EVENTS).groupBy("user_id").agg(
        F.sort_array(F.collect_list(event)).alias("events"),
        F.max_by("country", F.when(F.col("country").isNotNull(), F.struct("event_ts", "event_id"))).alias("__seen_in"),
    )
    known = newest(users, USERS).select("user_id", F.col("country").alias("__lives_in"), "signed_up_at")
    rows = listed.join(known, "user_id", "left").select(
        "user_id",
        F.coalesce("__lives_in", "__seen_in").alias("country"),
        "signed_up_at",
        F.col("events.item_id").alias("item_ids"),
        F.col("events.event_type").alias("event_types"),
        F.transform("events", lambda e: F.unix_seconds(e["event_ts"])).alias("event_times"),
        F.col("events.quantity").alias("quantities"),
        F.col("events.unit_price").alias("unit_prices"),
    )
    return rows.select(*[F.col(c.name).cast(c.type).alias(c.name) for c in FEATURES.columns]).orderBy("user_id")
