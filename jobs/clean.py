"""Clean the bronze rows of a night, or of a range of nights in one pass: silver rows, and rejected ones with their reasons.

Deduplicates (exact, then the newest version of a key), normalises text, types, countries and currencies, separates returns
from sales, rejects what is no product, has no price or lies about its time, flags outliers by a stated robust rule. The order
of rules is the docstring of `nightmarket.clean.<entity>`. Rows in = rows out + quarantined, for every night.

A night is skipped when its bronze, the rules and the code are what they were. Needs `jobs.ingest` for the same nights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import date

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import clean_of, raw_of
from nightmarket.lake import Manifest, Partition, Writer, code_version

SETTINGS = ("clean", "time_zone", "currency")
"""Sections of shop.yaml that change what cleaning gives."""
log = logs.logger("clean")


def run(night: Night) -> list[Manifest]:
    """Manifests of all nights and entities that the shop has. Raises LakeError where a night was not ingested."""
    made: list[Manifest] = []
    for entity in night.datasets:
        if entity in night.settings.shop.datasets:
            made += _clean(night, entity)
    return made


def _clean(night: Night, entity: str) -> list[Manifest]:
    raw, clean = raw_of(entity), clean_of(entity)
    settings = night.settings.digest(*SETTINGS)
    bronze = {d: night.lake.at(raw, d) for d in night.dates}
    stale = [d for d, p in bronze.items() if not night.is_current(clean, d, [p.manifest.as_input()], settings)]
    if night.dry_run:
        log.info(logs.said("would clean", dataset=clean.id, nights=len(stale), current=len(bronze) - len(stale)))
    elif stale:
        _publish(night, entity, {d: bronze[d] for d in stale}, settings)
    else:
        log.info(logs.said("current", dataset=clean.id, nights=len(bronze)))
    return [m for d in night.dates if (m := night.lake.manifest(clean, d))]


def _publish(night: Night, entity: str, bronze: dict[date, Partition], settings: str) -> None:
    from nightmarket.clean import cleaner
    from nightmarket.lake import read_spark
    from nightmarket.spark import session

    shop = night.settings.shop
    raw, clean = raw_of(entity), clean_of(entity)
    started = time.monotonic()
    with night.lake.writer(clean, list(bronze)) as writer, logs.stage(log, "cleaned", dataset=clean.id, nights=len(bronze)) as said:
        spark = session(night.settings, "clean")
        cleaned = cleaner(entity)(read_spark(spark, bronze.values(), raw), shop.clean, shop.time_zone, shop.currency)
        cleaned.judged.persist()  # rows and rejected rows are written by one job each; judged once
        try:
            writer.stage_spark(cleaned.rows, quarantine=cleaned.rejected)
        finally:
            cleaned.judged.unpersist()
        each = (time.monotonic() - started) / len(bronze)
        made = [_account(writer, night, partition, settings, each) for partition in bronze.values()]
        said.update(rows_in=sum(m.rows_in for m in made), rows_out=sum(m.rows_out for m in made), quarantined=_reasons(made))


def _account(writer: Writer, night: Night, bronze: Partition, settings: str, seconds: float) -> Manifest:
    """Publishes a staged night with its totals: in and quarantined as delivered, out as cleaned."""
    from nightmarket.clean import accounts

    raw, clean = bronze.dataset, writer.dataset
    day = bronze.run_date
    needed = accounts.sum_columns(raw)
    extra = [c for c in ("filled", "is_outlier") if c in clean.column_names]
    rows = accounts.read(writer.staged(day), [*needed, *extra], clean.arrow_schema()) if needed or extra else None
    sums: dict[str, str] = {}
    if needed and rows is not None:
        sides = {
            "in": bronze.arrow(needed),
            "out": rows,
            "quarantined": accounts.records(_records(writer, day), raw, needed),
        }
        sums = {
            f"{side} {expression}": accounts.written(value)
            for side, table in sides.items() for expression, value in accounts.totals(table, raw).items()
        }
    notes: dict[str, object] = {}
    if extra and rows is not None:
        import pyarrow.compute as pc

        filled = pc.value_counts(pc.list_flatten(rows["filled"])).to_pylist()
        notes = {
            "filled": {f["values"]: f["counts"] for f in sorted(filled, key=lambda f: f["values"])},
            "outliers": int(pc.sum(rows["is_outlier"]).as_py() or 0),
        }
    return writer.publish(
        day, inputs=[bronze.manifest.as_input()], settings=settings, code=code_version(), notes=notes, run_id=night.run_id,
        seconds=seconds, rows_in=bronze.manifest.rows_out, sums=sums,
    )


def _records(writer: Writer, day: date) -> list[str]:
    import pyarrow.parquet as pq

    return [text for f in writer.staged_quarantine(day) for text in pq.ParquetFile(f).read(columns=["record"])["record"].to_pylist()]


def _reasons(manifests: Sequence[Manifest]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for manifest in manifests:
        for reason, n in manifest.quarantined.items():
            counts[reason] = counts.get(reason, 0) + n
    return dict(sorted(counts.items()))


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("clean", __doc__, run, argv)


if __name__ == "__main__":
    sys.exit(main())
