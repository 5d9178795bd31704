"""Daily sales of each night, and every known shopper's history as of the last night.

gold.daily_sales of a night is what the night added to the sales of each item, day and country: its new rows, and the
differences made by its corrections of earlier rows. Summed over nights up to a date it is the sales as known on that date.

gold.features of the last night is one row a known shopper: the events of the last `model.history_days` days as of that night,
corrections applied, oldest first, quantities capped at the bound of the outlier rule. Labels are no part of it. Nights after
it, and nights that the gate refused, change nothing in it.

Both leave out what the screening of earlier nights blocked, from the night after its decision on; a decision that is taken back gives it back.

Needs `jobs.clean` and `jobs.gate` for the same nights; refused (exit 3) where the gate refused the last night or never saw it.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import DAILY_SALES, EVENTS, FEATURES, USERS
from nightmarket.lake import Input, Manifest, Partition, code_version, nights, read_spark
from nightmarket.quality.verdict import passed_nights, require_passed
from nightmarket.screen.consequence import changes, decided_before, kept, revised

SALES_SETTINGS = ("clean", "time_zone", "currency")
FEATURE_SETTINGS = ("clean", "time_zone", "currency", "model")
log = logs.logger("aggregate")


def run(night: Night) -> list[Manifest]:
    """Manifests of daily_sales of each night that the gate let through, and of features. Raises Refused."""
    require_passed(night.lake, night.run_date)
    passed = passed_nights(night.lake, night.run_date)
    refused = [d for d in night.dates if d not in passed]
    if refused:
        log.warning(logs.said("not aggregated", nights=len(refused), first=refused[0], why="the gate did not let them through"))
    return [*_daily_sales(night, passed), *_features(night, passed)]


def folded(dataset_id: str, partitions: Sequence[Partition]) -> list[Input]:
    """Many nights as one input: `layer.dataset/first..last`, the digest of their digests. None for no nights."""
    if not partitions:
        return []
    digests = hashlib.sha256("\n".join(f"{p.run_date}={p.manifest.digest}" for p in partitions).encode()).hexdigest()[:16]
    span = f"{partitions[0].run_date}..{partitions[-1].run_date}"
    return [Input(f"{dataset_id}/{span}", digests, sum(p.manifest.rows_out for p in partitions))]


def inputs_of(partitions: Sequence[Partition], run_date: date) -> list[Input]:
    """The night's own partition, and its history as one."""
    own = [p.manifest.as_input() for p in partitions if p.run_date == run_date]
    history = [p for p in partitions if p.run_date < run_date]
    return own + (folded(history[0].dataset.id, history) if history else [])


def _daily_sales(night: Night, passed: Iterable[date]) -> list[Manifest]:
    allowed = frozenset(passed)
    wanted = [d for d in night.dates if d in allowed]
    events = nights(night.lake, EVENTS, night.run_date, only=allowed)
    settings = night.settings.digest(*SALES_SETTINGS)
    decided = decided_before(night.lake, night.run_date)
    inputs = {d: [*inputs_of([p for p in events if p.run_date <= d], d), *inputs_of([p for p in decided if p.run_date < d], d)] for d in wanted}
    stale = [d for d in wanted if not night.is_current(DAILY_SALES, d, inputs[d], settings)]
    if night.dry_run or not stale:
        log.info(logs.said("would aggregate" if night.dry_run else "current", dataset=DAILY_SALES.id, nights=len(stale or wanted)))
    else:
        from nightmarket.clean.sales import daily_sales
        from nightmarket.spark import session

        started = time.monotonic()
        with night.lake.writer(DAILY_SALES, stale) as writer, logs.stage(
            log, "aggregated", dataset=DAILY_SALES.id, nights=len(stale)
        ) as said:
            spark = session(night.settings, "aggregate")
            rows = read_spark(spark, [p for p in events if p.run_date <= max(stale)], EVENTS)
            if screened := [p for p in decided if p.run_date < max(stale)]:
                rows = revised(rows, changes(spark, screened))
            writer.stage_spark(daily_sales(rows, stale), night="night")
            each = (time.monotonic() - started) / len(stale)
            made = [
                writer.publish(d, inputs=inputs[d], settings=settings, code=code_version(), run_id=night.run_id, seconds=each)
                for d in stale
            ]
            said["rows"] = sum(m.rows_out for m in made)
    return [m for d in wanted if (m := night.lake.manifest(DAILY_SALES, d))]


def _features(night: Night, passed: Iterable[date]) -> list[Manifest]:
    allowed = frozenset(passed)
    model = night.settings.shop.model
    first = night.run_date - timedelta(days=model.history_days - 1)
    # an event of a day is delivered that day at the earliest, but for a clock that runs ahead over midnight
    events = nights(night.lake, EVENTS, night.run_date, first - timedelta(days=1), only=allowed)
    users = nights(night.lake, USERS, night.run_date, only=allowed)
    settings = night.settings.digest(*FEATURE_SETTINGS)
    decided = decided_before(night.lake, night.run_date)
    inputs = [*inputs_of(events, night.run_date), *inputs_of(users, night.run_date), *inputs_of(decided, night.run_date)]
    if night.is_current(FEATURES, night.run_date, inputs, settings):
        log.info(logs.said("current", dataset=FEATURES.id, run_date=night.run_date))
    elif night.dry_run:
        log.info(logs.said("would aggregate", dataset=FEATURES.id, run_date=night.run_date))
    else:
        from pyspark.sql import functions

        from nightmarket.clean.histories import histories
        from nightmarket.spark import session

        started = time.monotonic()
        with night.lake.writer(FEATURES, [night.run_date]) as writer, logs.stage(log, "aggregated", dataset=FEATURES.id) as said:
            spark = session(night.settings, "aggregate")
            seen = read_spark(spark, events, EVENTS)
            if decided:
                seen = kept(seen, changes(spark, decided), night.run_date)
            rows = histories(
                seen, read_spark(spark, users, USERS), first, night.settings.shop.clean.outlier_mads
            )
            writer.stage_spark(rows.withColumn("night", functions.lit(night.run_date)), night="night")
            made = writer.publish(
                night.run_date, inputs=inputs, settings=settings, code=code_version(), run_id=night.run_id,
                seconds=time.monotonic() - started, notes={"first_day": first.isoformat()},
            )
            said["shoppers"] = made.rows_out
    found = night.lake.manifest(FEATURES, night.run_date)
    return [found] if found else []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("aggregate", __doc__, run, argv)


if __name__ == "__main__":
    sys.exit(main())
