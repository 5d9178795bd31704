"""Take a night's delivery in: find it, check it, type it, pseudonymise it, account for every row.

Reads the shop's sources (drop folders of CSV, JSON Lines or Parquet, or a database) and publishes one bronze partition for
each mapped dataset and night, with rejected rows in quarantine, encrypted. Where `screening.ip_countries` names a file, IP
addresses of orders and sign-ups leave their country behind before they become pseudonyms. A delivery that cannot be used (missing, empty,
cut off, without a required column) refuses the run: exit code 3, nothing published. A night whose inputs, settings
and code are those of its partition is left as it is, unless --force.

A first load of history is one run: --from-date 2010-12-01 --run-date 2011-12-09.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from nightmarket import command
from nightmarket.command import Night, Refused, UsageError
from nightmarket.contracts import ENTITIES
from nightmarket.lake import Manifest, Writer
from nightmarket.log import logger, said, stage
from nightmarket.protect.keys import Keyring
from nightmarket.sources import intake, sql
from nightmarket.sources.files import Inspected
from nightmarket.sources.ip_ranges import Supplied
from nightmarket.sources.records import Layout


def run(night: Night) -> list[Manifest]:
    log = logger("ingest")
    entities = _entities(night)
    keyring = Keyring.load(night.settings)
    inspected: dict[tuple[str, Layout], Inspected] = {}
    supplied = Supplied.of(night.settings)
    with ExitStack() as stack:
        scratch = stack.enter_context(sql.Scratch.of(night.settings))
        with stage(log, "checked", nights=len(night.dates), datasets=len(entities)) as told:
            found = [intake.prepare(night, entity, keyring, inspected, scratch, supplied) for entity in entities]
            told["files"] = len(inspected)
        stale = [f for f in found if f.stale]
        for each in found:
            log.info(said("delivery", dataset=each.contract.id, to_make=len(each.stale), current=len(each.manifests),
                          files=len(each.chosen())))
        if night.dry_run:
            return []
        if stale:
            writers = {f.entity: stack.enter_context(night.lake.writer(f.contract, f.stale)) for f in stale}
            seconds = _stage(night, stale, writers, keyring)
            for each in stale:
                intake.publish(writers[each.entity], night, each, log, seconds[each.entity])
    return [each.manifests[day] for each in found for day in night.dates]


def _entities(night: Night) -> list[str]:
    mapped = [e for e in ENTITIES if e in night.settings.shop.datasets]
    chosen = [e for e in mapped if e in night.datasets]
    if not chosen:
        raise UsageError(f"--datasets {','.join(night.datasets)}: {night.settings.file.name} maps only {', '.join(mapped)}")
    return chosen


def _stage(night: Night, stale: Sequence[intake.Intake], writers: dict[str, Writer], keyring: Keyring) -> dict[str, float]:
    """Writes all rows to staging; seconds by dataset. Spark starts only where something was delivered."""
    log = logger("ingest")
    seconds = dict.fromkeys((f.entity for f in stale), 0.0)
    delivered = [f for f in stale if f.chosen()]
    if not delivered:
        return seconds
    from pyspark.errors import PythonException

    from nightmarket.spark import session

    spark = session(night.settings, "nightmarket-ingest")
    frames = {f.entity: intake.frame(spark, night, f, keyring) for f in delivered}
    for each in delivered:
        rows = frames[each.entity]
        if rows is None:
            continue
        started = time.monotonic()
        with stage(log, "typed", dataset=each.contract.id, nights=len(each.stale)) as told:
            try:
                intake.stage(writers[each.entity], rows, each)
            except PythonException as error:
                if unreadable := re.search(r"UnreadableFile: (.+)", str(error)):
                    raise Refused(unreadable[1]) from None
                raise
            told["rows"] = sum(each.rows_in.values())
        seconds[each.entity] = time.monotonic() - started
    for each in delivered:
        intake.unchanged(each)
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("ingest", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
