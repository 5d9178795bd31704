"""Every series of the shop on a complete calendar, as known on a night: from the lake's daily sales, in Spark.

Stated rules:

- A return takes back the newest sales of the item in the country before it, so no day is negative; what was returned beyond all
  sales of the window is left out of units and noted. Value is netted on the day itself.
- A day is `missing` where its own night was not let through and later ones brought less than half of what the weekday usually
  sells; `closed` where the whole shop sold nothing; else `open`, and a zero on it is a true zero.
- `demand` is units without outliers: a day of an item in a country beyond the bound of the outlier rule of cleaning counts as the
  bound. It is unknown where the day is missing or the item was out of stock.
- An item is out of stock on a day without a sale on which the newest catalogue row of then says so, or within a run of such
  days between two sales that is longer than chance explains once in 10,000 times.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from nightmarket.clean.outliers import with_bounds
from nightmarket.contracts import ITEMS, SALES_SERIES
from nightmarket.forecast.explaining import holiday, holiday_code

TOTAL = "*"
"""series_id of the whole shop."""
PROMOTION = 0.95
"""Share of the list price at and below which a price is a promotion."""
_CHANCE = 1e-4
_USUAL = 0.5  # of the weekday's median, below which a day that was not let through is missing
_KEY = ("level", "series_id")


@dataclass(frozen=True)
class Calendar:
    """What each day was, and the country whose holidays the shop keeps."""

    days: tuple[date, ...]
    status: tuple[str, ...]
    country: str | None
    countries: tuple[str, ...]
    """All that something was sold to."""

    @property
    def counts(self) -> dict[str, int]:
        return {s: self.status.count(s) for s in ("open", "closed", "missing")}


def netted(sales: DataFrame, first: date, last: date, mads: float) -> DataFrame:
    """One row an item, country and day with sales or returns: units (net), demand (capped), revenue, units_sold, revenue_sold,
    beyond (returned beyond all sales).

    `sales` are rows of gold.daily_sales; days outside `first` to `last` do not count.
    """
    by_day = sales.where(F.col("sale_date").between(first, last)).groupBy("item_id", "country", "sale_date").agg(
        *[F.sum(c).alias(c) for c in ("units_sold", "units_returned", "revenue_sold", "revenue_returned")])
    sold, back = F.greatest("units_sold", F.lit(0)), F.greatest("units_returned", F.lit(0))
    # from the newest day backwards, what is still to be taken back is a walk reflected at zero (Lindley)
    order = Window.partitionBy("item_id", "country").orderBy(F.desc("sale_date"))
    until = order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    walked = by_day.withColumn("walk", F.sum(back - sold).over(until)).withColumn("lowest", F.least(F.lit(0), F.min("walk").over(until)))
    left = F.col("walk") - F.col("lowest")
    before = F.coalesce(F.lag(left).over(order), F.lit(0))
    units = sold + left - before - back
    oldest = F.row_number().over(Window.partitionBy("item_id", "country").orderBy("sale_date")) == 1
    rows = walked.select(
        "item_id", "country", "sale_date", units.cast("long").alias("units"), (F.col("revenue_sold") - F.col("revenue_returned")).alias("revenue"),
        "units_sold", "revenue_sold", F.when(oldest, left).otherwise(0).cast("long").alias("beyond"),
    )
    bound = with_bounds(rows, {"most": F.when(F.col("units") > 0, F.col("units"))}, [], mads)
    capped = F.least(F.col("units").cast("double"), F.greatest(F.lit(1.0), F.floor("most").cast("double")))
    return bound.withColumn("demand", F.coalesce(capped, F.lit(0.0))).drop("most")


def calendar(sums: Sequence[tuple[date, str, int]], first: date, last: date, delivered: Collection[date], country: str | None) -> Calendar:
    """The calendar from (day, country, units sold) sums and the nights that were let through; it starts at the first open day.

    `country`: whose holidays the shop keeps; None for the one of most sales that has any.
    """
    by_day: dict[date, int] = {}
    by_country: dict[str, int] = {}
    for day, place, units in sums:
        by_day[day] = by_day.get(day, 0) + units
        by_country[place] = by_country.get(place, 0) + units
    start = min((d for d, units in by_day.items() if units > 0), default=last)
    days = [start + timedelta(days=n) for n in range((last - max(start, first)).days + 1)]
    usual = {w: median([by_day.get(d, 0) for d in days if d.weekday() == w and d in delivered] or [0]) for w in range(7)}
    status = []
    for day in days:
        units = by_day.get(day, 0)
        if day not in delivered and units <= _USUAL * usual[day.weekday()]:
            status.append("missing")
        else:
            status.append("open" if units > 0 else "closed")
    if country is None:
        ranked = sorted(by_country, key=lambda c: (-by_country[c], c))
        country = next((c for c in ranked if holiday_code(c)), None)
    begin = status.index("open") if "open" in status else len(days) - 1
    return Calendar(tuple(days[begin:]), tuple(status[begin:]), country, tuple(sorted(by_country)))


def sales_series(spark: SparkSession, rows: DataFrame, items: DataFrame, plan: Calendar, levels: Sequence[str]) -> DataFrame:
    """Rows of gold.sales_series: days, whole weeks and whole months of the items, the levels asked for and the total. The days are
    cached.

    `rows` as `netted` returns them; `items` are rows of silver.items of all nights up to the night.
    """
    versions = _versions(items)
    newest = versions.where(F.col("until").isNull()).select("item_id", F.coalesce("category", F.lit("unknown")).alias("category"))
    known = rows.join(newest, "item_id", "left").withColumn("category", F.coalesce("category", F.lit("unknown")))
    keys = {"total": F.lit(TOTAL), "item": F.col("item_id"), **{level: F.col(level) for level in levels}}
    sums = ("units", "demand", "revenue", "units_sold", "revenue_sold")
    series = [F.struct(F.lit(level).alias("level"), key.alias("series_id"), (F.col("category") if level == "item" else F.lit(None).cast("string")).alias(
        "category")) for level, key in keys.items()]
    summed = known.select(F.explode(F.array(*series)).alias("of"), "sale_date", *sums).groupBy(
        F.col("of.level").alias("level"), F.col("of.series_id").alias("series_id"), F.col("of.category").alias("category"), "sale_date",
    ).agg(*[F.sum(c).alias(c) for c in sums])
    daily = _complete(spark, summed, plan)
    daily = _stocked_out(daily, versions)
    daily = daily.join(F.broadcast(_holidays(spark, plan)),
                       (F.col("sale_date") == F.col("holiday_date"))
                       & (F.when(F.col("level") == "country", F.col("series_id")).otherwise(F.lit(TOTAL)) == F.col("of_country")), "left")
    gone = F.col("status") == "missing"
    days = daily.select(
        F.lit("D").alias("freq"), *_KEY, "category", "sale_date", "status",
        F.when(~gone, F.coalesce("units", F.lit(0))).cast("long").alias("units"),
        F.when(~gone & ~F.col("stocked_out"), F.coalesce("demand", F.lit(0.0))).alias("demand"),
        F.when(~gone, F.coalesce("revenue", F.lit(0))).alias("revenue"),
        "unit_price", "on_promotion", "stocked_out", F.col("holiday_date").isNotNull().alias("holiday"),
    ).cache()
    every = days.unionByName(_longer(days, plan, "W")).unionByName(_longer(days, plan, "MS"))
    return every.select(*[F.col(c.name).cast(c.type).alias(c.name) for c in SALES_SERIES.columns])


def _versions(items: DataFrame) -> DataFrame:
    """Versions of each item in the order of the newest view, with the night of the next one (`until`, null for the newest)."""
    order = [F.col(c).asc_nulls_first() for c in (*ITEMS.version_by, "delivered_on", "source_file", "source_row")]
    own = Window.partitionBy("item_id").orderBy(*order)
    return items.select("item_id", "category", "list_price", "in_stock", F.col("delivered_on").alias("since"),
                        F.lead("delivered_on").over(own).alias("until"))


def _complete(spark: SparkSession, summed: DataFrame, plan: Calendar) -> DataFrame:
    """A row for every day from a series' first sale to the night, with the day's status."""
    last = F.lit(plan.days[-1])
    begun = summed.groupBy(*_KEY, "category").agg(F.min(F.when(F.col("units_sold") > 0, F.col("sale_date"))).alias("begun"))
    frame = begun.where(F.col("begun").isNotNull()).select(*_KEY, "category", F.explode(F.sequence("begun", last)).alias("sale_date"))
    told = spark.createDataFrame(list(zip(plan.days, plan.status, strict=True)), "sale_date date, status string")
    return frame.join(F.broadcast(told), "sale_date").join(summed.drop("category"), [*_KEY, "sale_date"], "left")


def _stocked_out(daily: DataFrame, versions: DataFrame) -> DataFrame:
    """Adds unit_price, on_promotion and stocked_out."""
    item = F.col("level") == "item"
    held = versions.select(F.col("item_id").alias("__item"), "since", "until", "list_price", "in_stock")
    valid = (F.col("since") <= F.col("sale_date")) & (F.col("until").isNull() | (F.col("until") > F.col("sale_date")))
    daily = daily.join(held, (F.when(item, F.col("series_id")) == F.col("__item")) & valid, "left")
    sold = F.coalesce("units_sold", F.lit(0)) > 0
    ordered = Window.partitionBy(*_KEY).orderBy("sale_date")
    whole, so_far = Window.partitionBy(*_KEY), ordered.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    is_open = (F.col("status") == "open").cast("long")
    price = F.when(sold & (F.col("revenue_sold") > 0), F.col("revenue_sold").cast("double") / F.col("units_sold"))
    daily = daily.withColumn("__sold", sold.cast("long")).withColumn("__open", is_open).withColumn("__own", price)
    daily = daily.withColumn("__run", F.sum("__sold").over(so_far)).withColumn("__sales", F.sum("__sold").over(whole)).withColumn(
        "__days", F.sum("__open").over(whole))
    run = Window.partitionBy(*_KEY, "__run")
    share = F.least(F.col("__sales") / F.greatest(F.col("__days"), F.lit(1)), F.lit(0.999))
    length = F.sum(F.col("__open") * (1 - F.col("__sold"))).over(run)
    by_chance = length * F.log(1 - share) < float(np.log(_CHANCE))
    between = (F.col("__run") > 0) & (F.col("__run") < F.col("__sales"))
    quiet = item & (F.col("__sold") == 0) & (F.col("status") != "missing")
    on_list = F.col("list_price").cast("double")
    return daily.select(
        *_KEY, "category", "sale_date", "status", "units", "demand", "revenue",
        F.last("__own", ignorenulls=True).over(so_far).alias("unit_price"),
        F.when(item & (on_list > 0), F.col("__own") <= PROMOTION * on_list).alias("on_promotion"),
        F.coalesce(quiet & ((~F.col("in_stock")) | ((F.col("status") == "open") & between & by_chance)), F.lit(False)).alias("stocked_out"),
    )


def _holidays(spark: SparkSession, plan: Calendar) -> DataFrame:
    """of_country ('*' for the shop's own) and holiday_date."""
    days = np.array(plan.days, "M8[D]")
    rows: list[tuple[str, date]] = []
    for name, country in [(TOTAL, plan.country), *((c, c) for c in plan.countries)]:
        code = holiday_code(country)
        if code is not None:
            rows += [(name, d.item()) for d in days[holiday(days, code)]]
    return spark.createDataFrame(rows, "of_country string, holiday_date date")


def _longer(days: DataFrame, plan: Calendar, freq: str) -> DataFrame:
    """Whole weeks or months; unknown where a day of it is. A day before a series began counts as a day without sales."""
    unit = {"W": "week", "MS": "month"}[freq]
    start = F.trunc("sale_date", unit)
    end = F.date_add(start, 6) if freq == "W" else F.last_day(start)
    whole = (start >= F.lit(plan.days[0])) & (end <= F.lit(plan.days[-1]))

    def known_sum(name: str) -> Column:
        return F.when(F.count(name) == F.count(F.lit(1)), F.sum(name)).alias(name)

    return days.where(whole).groupBy(F.lit(freq).alias("freq"), *_KEY, "category", start.alias("sale_date")).agg(
        F.when(F.max((F.col("status") == "missing").cast("int")) == 1, "missing").when(F.max((F.col("status") == "open").cast("int")) == 1, "open")
        .otherwise("closed").alias("status"),
        known_sum("units"), known_sum("demand"), known_sum("revenue"),
        F.max_by("unit_price", "sale_date").alias("unit_price"), F.max("on_promotion").alias("on_promotion"),
        F.max("stocked_out").alias("stocked_out"), F.max("holiday").alias("holiday"),
    )
