"""Judge the night with Great Expectations, and say whether it may feed what comes after.

Reads the clean partition of every dataset the shop maps, evaluates the contract (required values, allowed values, ranges,
unique keys) and the business rules (volume, freshness, references, drift, totals between layers …), publishes one row an
expectation as gold.quality, and builds Data Docs. Exits 3 where a critical rule failed, after publishing; a warning passes.

  python -m jobs.gate --run-date 2026-02-01
  python -m jobs.gate --from-date 2026-01-05 --run-date 2026-02-01    a first load, judged as one batch

Where shop.yaml `responses` has a rule that widens the gate, the rules that refused the night become warnings and it is judged again at
once, for a person to review: see `jobs.respond`.

A night that was judged with earlier ones is always judged with them again: its verdict is theirs too, and without one they would feed
nothing downstream.
"""

from __future__ import annotations

import sys
import time
from datetime import date

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import QUALITY
from nightmarket.lake import Manifest, code_version
from nightmarket.monitor.switches import reviewed
from nightmarket.quality import docs, gate, rules, suites

log = logs.logger("gate")


def run(night: Night) -> list[Manifest]:
    """Publishes gold.quality of the night. Raises Refused, afterwards, where a critical rule failed."""
    try:
        return _judge(night)
    except Refused:
        from jobs.respond import answer_refusal

        if night.dry_run or not answer_refusal(night):
            raise
        log.warning(logs.said("judged again, for review", run_date=night.run_date))
        return _judge(night)


def _judge(night: Night) -> list[Manifest]:
    import pyarrow as pa

    from nightmarket.spark import session

    settings, lake = reviewed(night.settings, night.run_date), night.lake
    rules.check_severities(settings)
    made = lake.manifest(QUALITY, night.run_date)
    first = night.from_date if made is None else min(night.from_date, date.fromisoformat(made.notes["from_date"]))
    if first < night.from_date:
        log.info(logs.said("judged with the nights it was judged with before", run_date=night.run_date, from_date=first))
    read = gate.inputs(lake, settings, first, night.run_date)
    digest = settings.digest("gate", "datasets", "sources", "time_zone")
    if made is not None and made.notes["from_date"] == str(first) and night.is_current(QUALITY, night.run_date, read, digest):
        log.info(logs.said("current", run_date=night.run_date, verdict=made.notes["verdict"]))
        return _answer(made)
    if night.dry_run:
        log.info(logs.said("would judge", run_date=night.run_date, from_date=first, datasets=list(settings.shop.datasets)))
        return []

    started = time.monotonic()
    with docs.site(settings) as context:
        run_id = suites.run_identifier(settings, str(night.run_date), rules.night_end(settings, night.run_date))
        with logs.stage(log, "judged", run_date=night.run_date) as said:
            judged = gate.judge(context, session(settings, "gate"), lake, settings, first, night.run_date, run_id)
            said |= {"verdict": judged.verdict, "rules": len(judged.findings), "failed": sum(not f.success for f in judged.findings)}
        with logs.stage(log, "data docs") as said:
            index = docs.build(context, settings, run_id)
            said["index"] = index
    for finding in judged.failed():
        log.error(logs.said("failed", rule=finding.rule.key, observed=finding.observed, expected=finding.rule.expected))
    for finding in judged.failed("warning"):
        log.warning(logs.said("failed", rule=finding.rule.key, observed=finding.observed, expected=finding.rule.expected))

    table = pa.Table.from_pylist([f.row() for f in judged.findings], schema=QUALITY.arrow_schema())
    with lake.writer(QUALITY, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, table)
        made = writer.publish(
            night.run_date, inputs=read, settings=digest, code=code_version(), run_id=night.run_id,
            seconds=time.monotonic() - started,
            notes={
                "verdict": judged.verdict, "from_date": str(first), "counts": judged.counts,
                "failed": {s: [f.rule.key for f in judged.failed(s)] for s in ("critical", "warning", "info")},
                "profiles": judged.profiles, "data_docs": str(index.relative_to(settings.places.root)),
            },
        )
    return _answer(made)


def _answer(made: Manifest) -> list[Manifest]:
    if made.notes["verdict"] == "refused":
        failed = ", ".join(made.notes["failed"]["critical"])
        raise Refused(f"the night of {made.run_date} broke {failed}; nothing downstream may use it. "
                      f"Mend the delivery and run ingest, clean and gate of that date again, or see the report")
    return [made]


def main(argv: list[str] | None = None) -> int:
    return command.main("gate", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
