"""Take events of the shop's stream into the lake, exactly once: what is there now, or with --follow as it comes.

Reads `stream` of shop.yaml: a folder into which whole files of JSON Lines are moved, or Kafka. Each micro-batch is typed, pseudonymised,
cleaned and judged like a night's delivery and joins silver.live_events of the night (with --today or --follow: of the shop's day on
which it arrives). Where it stood is in Spark's checkpoint under <root>/work/stream/; killed at any moment and started again it loses nothing and
counts nothing twice. A bad line costs that line, a bad batch that batch: both are in quarantine with the reason, and the stream goes on.

  python -m jobs.stream --run-date 2026-03-01
  python -m jobs.stream --run-date 2026-03-01 --follow --every "10 seconds"
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import LIVE_EVENTS
from nightmarket.lake import Manifest

if TYPE_CHECKING:
    from pyspark.sql.streaming import StreamingQuery

log = logs.logger("stream")


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="until told to stop (Ctrl-C, SIGTERM), instead of what is there now")
    parser.add_argument("--today", action="store_true", help="into the shop's day on which each batch arrives, whatever --run-date says")
    parser.add_argument("--every", default="10 seconds", metavar="SPAN", help="with --follow: how often (default: 10 seconds)")


def run(night: Night) -> list[Manifest]:
    """Manifests of the live partitions that got something. Raises Refused where shop.yaml has no stream."""
    from nightmarket.online.stream import Intake, start
    from nightmarket.spark import session

    settings = night.settings
    intake = Intake(settings, night.lake, settings.places.work / "stream", None if night.args.follow or night.args.today else night.run_date)
    if night.dry_run:
        log.info(logs.said("would take", source="kafka" if intake.rules.kafka else intake.rules.path))
        return []
    # the function of each micro-batch runs in this process: a session of its own, not one on a server
    spark = session(replace(settings, spark_remote=None), "nightmarket-stream")
    query = start(spark, intake, night.args.every if night.args.follow else None)
    if night.args.follow:
        _stop_on_signal(query)
    query.awaitTermination()
    taken = intake.taken
    log.info(logs.said("stream", batches=len(taken), rows_in=sum(t.rows_in for t in taken), rows_out=sum(t.rows_out for t in taken),
                       refused=sum(bool(t.refused) for t in taken)))
    return [m for d in sorted({t.night for t in taken}) if (m := night.lake.manifest(LIVE_EVENTS, d))]


def _stop_on_signal(query: StreamingQuery) -> None:
    def stop(_: int, __: FrameType | None) -> None:
        query.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("stream", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
