"""Sales of every item, category and country and of the whole shop on a complete calendar, as known on the night.

Reads gold.daily_sales and silver.items of the nights up to --run-date that the gate let through, and publishes gold.sales_series:
days, whole weeks and whole months, zeros told apart from days that nobody knows and days on which the shop was closed, returns
netted, outliers and stock-outs kept out of what forecasts learn from. Nights after it change nothing in it.

Needs `jobs.aggregate` of the nights; refused (exit 3) where the gate refused the night or nothing was ever sold.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta

from jobs.aggregate import folded
from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused, UsageError
from nightmarket.contracts import DAILY_SALES, ITEMS, SALES_SERIES
from nightmarket.lake import Input, Manifest, Partition, code_version, nights, read_spark
from nightmarket.quality.verdict import passed_nights, require_passed

SECTIONS = ("clean", "time_zone", "currency", "forecast")
log = logs.logger("series")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.sales_series. Raises Refused."""
    require_passed(night.lake, night.run_date)
    passed = passed_nights(night.lake, night.run_date)
    sales, items = (nights(night.lake, d, night.run_date, only=passed) for d in (DAILY_SALES, ITEMS))
    if not any(p.run_date == night.run_date for p in sales):
        night.lake.at(DAILY_SALES, night.run_date)  # says which step is missing
    read = [*folded(DAILY_SALES.id, sales), *folded(ITEMS.id, items), Input("nights", _span(passed))]
    settings = night.settings.digest(*SECTIONS)
    if night.is_current(SALES_SERIES, night.run_date, read, settings):
        log.info(logs.said("current", run_date=night.run_date))
    elif night.dry_run:
        log.info(logs.said("would make series", run_date=night.run_date, nights=len(sales)))
        return []
    else:
        _series(night, sales, items, passed, read, settings)
    found = night.lake.manifest(SALES_SERIES, night.run_date)
    return [found] if found else []


def _span(passed: frozenset[date]) -> str:
    """Digest of which nights were let through: a night that no sale came from tells a closed day from a missing one."""
    import hashlib

    return hashlib.sha256(",".join(sorted(d.isoformat() for d in passed)).encode()).hexdigest()[:16]


def _series(night: Night, sales: list[Partition], items: list[Partition], passed: frozenset[date], read: list[Input], settings: str) -> None:
    from pyspark.sql import functions as F

    from nightmarket.forecast.explaining import holiday_code
    from nightmarket.forecast.sales_series import calendar, netted, sales_series
    from nightmarket.spark import session

    started = time.monotonic()
    rules, last = night.settings.shop.forecast, night.run_date
    if rules.holidays is not None and holiday_code(rules.holidays) is None:
        raise UsageError(f"{night.settings.file}: forecast.holidays: no holidays are known for {rules.holidays!r}; give an ISO 3166 code, such as GB")
    first = last - timedelta(days=rules.history_days - 1)
    with night.lake.writer(SALES_SERIES, [last]) as writer, logs.stage(log, "series", run_date=last) as said:
        spark = session(night.settings, "series")
        rows = netted(read_spark(spark, sales, DAILY_SALES), first, last, night.settings.shop.clean.outlier_mads).cache()
        sums = rows.groupBy("sale_date", "country").agg(
            F.sum("units_sold").alias("sold"), F.sum("units").alias("units"), F.sum("beyond").alias("beyond"),
            F.sum(F.col("units") - F.col("demand")).alias("capped")).collect()
        if not any(r["sold"] > 0 for r in sums):
            raise Refused(f"gold.daily_sales: nothing was sold from {first} to {last}; there is nothing to forecast from yet")
        plan = calendar([(r["sale_date"], r["country"], r["sold"]) for r in sums], first, last, passed, rules.holidays)
        made = sales_series(spark, rows, read_spark(spark, items, ITEMS), plan, rules.levels)
        writer.stage_spark(made.withColumn("night", F.lit(last)), night="night")
        rows.unpersist()
        notes = {
            "first_day": plan.days[0].isoformat(), "days": plan.counts, "holidays": plan.country, "units": sum(r["units"] for r in sums),
            "returned_beyond_sales": sum(r["beyond"] for r in sums), "outlier_units": round(sum(r["capped"] for r in sums), 1),
        }
        manifest = writer.publish(last, inputs=read, settings=settings, code=code_version(), run_id=night.run_id,
                                  seconds=time.monotonic() - started, notes=notes)
        said |= {"rows": manifest.rows_out, **plan.counts, "holidays": plan.country}


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("series", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
