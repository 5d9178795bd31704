"""Compare the night with the nights before: data, publications, and labels as they arrive.

Reads silver of the night and of the same weekdays before, the publications of the window, and what shoppers bought since. Publishes
gold.drift, one row a test, with the names of what drifted in its notes. A drift is no failure: `jobs.plan_retraining` and
`jobs.respond` act on it. Methods and their sources: `nightmarket.monitor.drift`.

  python -m jobs.drift --run-date 2026-02-01
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import DRIFT
from nightmarket.lake import Manifest, code_version
from nightmarket.quality.verdict import require_passed

log = logs.logger("drift")
SECTIONS = ("drift", "retraining", "model", "screening")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.drift. Raises Refused where the gate refused the night: it is judged already."""
    from nightmarket.monitor import watch

    started = time.monotonic()
    settings, lake = night.settings, night.lake
    verdict = require_passed(lake, night.run_date)
    read = [verdict.as_input(), *watch.inputs(lake, settings, night.run_date)]
    digest = settings.digest(*SECTIONS)
    if night.is_current(DRIFT, night.run_date, read, digest):
        log.info(logs.said("current", run_date=night.run_date))
        return [m for m in [lake.manifest(DRIFT, night.run_date)] if m is not None]
    if night.dry_run:
        log.info(logs.said("would compare", run_date=night.run_date, nights=len(watch.window(lake, settings, night.run_date))))
        return []
    found = watch.watch(settings, lake, night.run_date)
    with lake.writer(DRIFT, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, found.table())
        made = writer.publish(night.run_date, inputs=read, settings=digest, code=code_version(), run_id=night.run_id,
                              seconds=time.monotonic() - started, notes=found.notes())
    for finding in found.findings:
        if finding.drifted:
            log.warning(logs.said("drifted", feature=finding.feature, test=finding.test, q_value=finding.q_value, effect=finding.effect,
                                  now=finding.now, before=finding.before))
    log.info(logs.said("compared", run_date=night.run_date, tests=len(found.findings), drifted=len(found.drifted)))
    return [made]


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("drift", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
