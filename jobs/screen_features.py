"""Describe what came in, as of each row's own moment: orders, accounts, reviews, and products' days (brushing).

gold.screening_features of the night is one row for each of them in the last `screening.history_days` days: who and what took part, its
features from what came before it, and the verdict where one was known by the end of the night, from the shop's deliveries and from
gold.screening_feedback up to the night. Later nights, and nights that the gate refused, change nothing in it.

Needs `jobs.clean` and `jobs.gate` of the night; refused (exit 3) where the gate refused it or never saw it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from jobs.aggregate import inputs_of
from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import EVENTS, ORDERS, REVIEWS, SCREENING_FEATURES, SCREENING_FEEDBACK, USERS, Dataset
from nightmarket.lake import Input, Manifest, Partition, code_version, nights, read_spark
from nightmarket.quality.verdict import passed_nights, require_passed

SECTIONS = ("screening", "time_zone", "currency", "clean")
EACH = 100_000
"""Rows of entities that are described in one bucket, about."""
log = logs.logger("screen_features")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.screening_features. Raises Refused."""
    require_passed(night.lake, night.run_date)
    passed = passed_nights(night.lake, night.run_date)
    rules = night.settings.shop.screening
    # a row may be delivered late, and a verdict comes with the row delivered again: all nights that can hold a row of the window
    first = night.run_date - timedelta(days=rules.history_days)
    read: dict[Dataset, list[Partition]] = {d: nights(night.lake, d, night.run_date, first, only=passed) for d in (ORDERS, REVIEWS, EVENTS)}
    read[USERS] = nights(night.lake, USERS, night.run_date, only=passed)
    read[SCREENING_FEEDBACK] = nights(night.lake, SCREENING_FEEDBACK, night.run_date)
    inputs: list[Input] = [i for partitions in read.values() for i in inputs_of(partitions, night.run_date)]
    digest = night.settings.digest(*SECTIONS)
    if night.is_current(SCREENING_FEATURES, night.run_date, inputs, digest):
        log.info(logs.said("current", run_date=night.run_date))
    elif night.dry_run:
        log.info(logs.said("would describe", run_date=night.run_date))
        return []
    else:
        _describe(night, read, inputs, digest)
    made = night.lake.manifest(SCREENING_FEATURES, night.run_date)
    return [made] if made else []


def _describe(night: Night, read: dict[Dataset, list[Partition]], inputs: list[Input], digest: str) -> None:
    from pyspark.sql import functions as F

    from nightmarket.screen.night import SUBJECTS, Tables, frame_of, narrowed, recipes_of
    from nightmarket.screen.spark_features import build, names
    from nightmarket.spark import session

    started = time.monotonic()
    rules = night.settings.shop.screening
    spark = session(night.settings, "screen_features")
    orders, users, reviews, events, told_by = (read_spark(spark, read[d], d) for d in (ORDERS, USERS, REVIEWS, EVENTS, SCREENING_FEEDBACK))
    tables = Tables(orders, users, reviews, events, told_by, night.run_date, night.settings.zone, rules.history_days, rules.label_delay_days,
                    rules.good_after_days)
    told: dict[str, Any] = {}
    with night.lake.writer(SCREENING_FEATURES, [night.run_date]) as writer, logs.stage(log, "described", run_date=night.run_date) as said:
        frame = frame_of(tables)
        found = recipes_of(frame, tables.end)
        for subject in SUBJECTS:
            if subject.kind in found:
                recipe, _ = found[subject.kind]
                told[subject.kind] = {"values": names(recipe), "entities": list(recipe.entities), "categories": list(recipe.categories)}
        if found:
            recipes = {kind: recipe for kind, (recipe, _) in found.items()}
            each = sum(rows * len(recipe.entities) for recipe, rows in found.values())
            rows = build(narrowed(frame, recipes), recipes, max(each // EACH, 2))
            whole = rows.select(
                "kind", "id", F.timestamp_micros("at").alias("at"), "first_night", "stake", F.col("label").cast("boolean").alias("is_bad"),
                F.when(F.col("label").isNotNull(), F.timestamp_micros("known_at")).alias("known_at"), "entities", "categories", "text", "values",
                F.lit(night.run_date).alias("night"))
            writer.stage_spark(whole.select(*SCREENING_FEATURES.column_names, "night"), night="night")
        manifest = writer.publish(
            night.run_date, inputs=inputs, settings=digest, code=code_version(), run_id=night.run_id, seconds=time.monotonic() - started,
            notes={"kinds": told, "first": tables.first.isoformat(), "end": tables.end.isoformat()},
        )
        said["rows"] = manifest.rows_out


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("screen_features", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
