"""Propose for the blocklist what several blocked cases share: a shopper, a card, a device.

Reads the decisions of the last `screening.block_days` days up to the night. What `screening.evidence_cases` or more blocked orders, accounts or
reviews have in common, is not on the list and was not refused by a person within that time is proposed, with those cases as evidence. A proposal blocks nothing:
`jobs.enter`, or a person by `jobs.blocklist approve`, does. Run again it proposes nothing twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import SCREENING_DECISIONS, SCREENING_FEATURES
from nightmarket.lake import Manifest, nights

log = logs.logger("propose")
SHARED = ("shopper", "card", "device")
"""Entities that are one party's own; addresses and networks are shared by strangers."""


def run(night: Night) -> list[Manifest]:
    """Appends proposals to the ledger; publishes no dataset. Raises LakeError where the night was not decided about."""
    from nightmarket.screen import ledger
    from nightmarket.screen.blocklist import NOBODY, PROPOSE, REFUSE, Action, holds, waiting
    from nightmarket.screen.deciding import LISTED

    rules, settings = night.settings.shop.screening, night.settings
    night.lake.at(SCREENING_DECISIONS, night.run_date)
    first = night.run_date - timedelta(days=rules.block_days)
    columns = ["kind", "id", "decision", "rule"]
    blocked = {(k, i): rule for p in nights(night.lake, SCREENING_DECISIONS, night.run_date, first)
               for k, i, d, rule in zip(*(p.arrow(columns)[c].to_pylist() for c in columns), strict=True) if d == "block" and rule != "blocklist"}
    features = night.lake.at(SCREENING_FEATURES, night.run_date)
    named = features.manifest.notes["kinds"]
    cases: dict[tuple[str, str], list[str]] = {}
    for row in features.arrow(["kind", "id", "entities"]).to_pylist():
        if (row["kind"], row["id"]) not in blocked:
            continue
        mine = dict(zip(named[row["kind"]]["entities"], row["entities"], strict=True)) | ({"shopper": row["id"]} if row["kind"] == "account" else {})
        for name in SHARED:
            if mine.get(name):
                cases.setdefault((LISTED[name], mine[name]), []).append(f"{row['kind']} {row['id']}")
    end = ledger.end_of(settings, night.run_date)
    actions = ledger.read(settings)
    known = set(holds(actions, end)) | set(waiting(actions, end)) | {
        (a.kind, a.identifier) for a in actions if a.what == REFUSE and a.decided_by != NOBODY and a.at > end - timedelta(days=rules.block_days)}
    # within the night: what is known at its end
    moment = end - timedelta(microseconds=1)
    made = [Action(moment, kind, key, PROPOSE, "jobs.propose", f"{len(found)} blocked: {', '.join(sorted(found)[:8])}")
            for (kind, key), found in sorted(cases.items()) if len(found) >= rules.evidence_cases and (kind, key) not in known]
    if not night.dry_run:
        ledger.append(settings, made)
    log.info(logs.said("would propose" if night.dry_run else "proposed", run_date=night.run_date, entries=len(made)))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("propose", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
