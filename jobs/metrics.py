"""Metrics of the newest night in Prometheus form: a text file always, and the push gateway where shop.yaml names one.

`<root>/metrics/nightmarket.prom` is for a text-file collector and for the lookup service, which shows it beside its own metrics;
`monitoring.push_gateway` of shop.yaml is for a Prometheus that cannot reach this machine's files. A gateway that does not answer is a
fault (exit 1): the file is written by then. A past night is collected only with --force, since the newest is what alerts are about;
with --newest it is the newest judged night, whatever --run-date says: what changes between nights (updates, switches, mails) is seen then.

  python -m jobs.metrics --run-date 2026-02-01
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import QUALITY
from nightmarket.lake import Manifest, write_atomically

log = logs.logger("metrics")
JOB = "nightmarket"


def run(night: Night) -> list[Manifest]:
    """Publishes no dataset. Raises OSError where the push gateway does not take the metrics."""
    from prometheus_client import push_to_gateway

    from nightmarket.monitor.metrics import collect, text_file

    settings = night.settings
    if night.args.newest:
        judged = max(night.lake.dates(QUALITY), default=None)
        if judged is None:
            log.info(logs.said("not collected", why="no night was judged yet"))
            return []
        night = replace(night, run_date=judged)
    newest = max(night.lake.dates(QUALITY), default=night.run_date)
    if newest > night.run_date and not night.force:
        log.info(logs.said("not collected", run_date=night.run_date, why=f"{newest} is newer; --force to collect all the same"))
        return []
    gauges = collect(settings, night.lake, night.run_date, datetime.now(timezone.utc))
    if night.dry_run:
        log.info(logs.said("would collect", run_date=night.run_date, bytes=len(gauges.text())))
        return []
    file, gateway = text_file(settings), settings.shop.monitoring.push_gateway
    write_atomically(file, gauges.text().decode())
    log.info(logs.said("collected", run_date=night.run_date, file=file.name, bytes=file.stat().st_size))
    if gateway is not None:
        # everything pushed before under the same shop is replaced: a metric that is gone is gone
        push_to_gateway(gateway, JOB, gauges.registry, grouping_key={"shop": settings.shop.shop}, timeout=30)
        log.info(logs.said("pushed", gateway=gateway))
    return []


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--newest", action="store_true", help="the newest judged night, whatever --run-date says")


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("metrics", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
