"""Do what was said about the night's proposals: enter them into the blocklist, or not.

`--approve --by NAME` blocks what is waiting, until `screening.block_days` from now; `--refuse --by NAME` records that it was not. Without either
nothing is blocked and nothing recorded: the proposals wait on. Every entry can be taken out again: `python -m jobs.blocklist unblock`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, UsageError
from nightmarket.lake import Manifest

log = logs.logger("enter")


def extend(parser: argparse.ArgumentParser) -> None:
    said = parser.add_mutually_exclusive_group()
    said.add_argument("--approve", action="store_true", help="block what is proposed")
    said.add_argument("--refuse", action="store_true", help="block nothing, and say so in the ledger")
    parser.add_argument("--by", metavar="NAME", help="who says so")


def run(night: Night) -> list[Manifest]:
    """Appends to the ledger; publishes no dataset. Raises UsageError for an answer without a name."""
    from nightmarket.screen import ledger
    from nightmarket.screen.blocklist import BLOCK, REFUSE, Action, waiting

    args, settings = night.args, night.settings
    if (args.approve or args.refuse) and not (args.by or "").strip():
        raise UsageError("--approve and --refuse need --by NAME; the ledger keeps who decided")
    open_ = waiting(ledger.read(settings), ledger.end_of(settings, night.run_date))
    what = BLOCK if args.approve else REFUSE if args.refuse else None
    if what is None or night.dry_run:
        log.info(logs.said("waiting", run_date=night.run_date, proposals=len(open_)))
        return []
    now = datetime.now(timezone.utc)
    expires = now + timedelta(days=settings.shop.screening.block_days) if what == BLOCK else None
    made = ledger.append(settings, [Action(now, a.kind, a.identifier, what, args.by.strip(), a.evidence, expires) for a in open_.values()])
    log.info(logs.said("entered" if what == BLOCK else "refused by a person", run_date=night.run_date, entries=made, by=args.by))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("enter", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
