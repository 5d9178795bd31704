"""Add up what was delivered, cleaned and quarantined, by dataset, from the Parquet files themselves.

Prints a table of rows and totals by layer and reason. Exit code 3 where anything does not add up: a row that is nowhere or
twice, a total that changed without a stated cause, a manifest that says otherwise, a night that was never made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from nightmarket import command
from nightmarket import log as logs
from nightmarket.contracts import ENTITIES
from nightmarket.lake import Lake, LakeError
from nightmarket.shop import ShopError, load_shop


def build_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m jobs.reconcile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 everything adds up, 1 fault, 2 usage, 3 it does not add up",
    )
    p.add_argument("--from", dest="first", type=command._date, required=True, metavar="YYYY-MM-DD", help="first night")
    p.add_argument("--to", dest="last", type=command._date, required=True, metavar="YYYY-MM-DD", help="last night")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    p.add_argument("--datasets", type=command._entities, default=ENTITIES, metavar="NAMES",
                   help=f"only these, comma separated, of {','.join(ENTITIES)} (default: all)")
    p.add_argument("--verbose", action="store_true", help="more lines")
    return p


def run(shop: Path | None, first: date, last: date, datasets: Sequence[str] = ENTITIES) -> list[str]:
    """Prints the table; returns what does not add up."""
    from nightmarket.clean.reconciliation import reconcile, table

    settings = load_shop(shop)
    lake, log = Lake(settings.places.lake), logs.logger("reconcile")
    accounts = []
    for entity in datasets:
        if entity in settings.shop.datasets:
            with logs.stage(log, "recounted", dataset=entity) as said:
                accounts.append(reconcile(lake, entity, first, last, settings.shop.clean.cancellations))
                said["nights"] = accounts[-1].nights
    print(table(accounts))
    return [problem for account in accounts for problem in account.problems]


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    logs.configure(args.verbose)
    logs.identify(run_id=command.by_hand(), step="reconcile")
    if args.first > args.last:
        print(f"reconcile: --from {args.first} is after --to {args.last}; swap them", file=sys.stderr)
        return command.USAGE
    try:
        problems = run(args.shop, args.first, args.last, args.datasets)
    except ShopError as error:
        print(f"reconcile: {error}", file=sys.stderr)
        return command.USAGE
    except (LakeError, OSError) as error:
        print(f"reconcile: {error}", file=sys.stderr)
        return command.FAULT
    for problem in problems:
        print(f"reconcile: {problem}", file=sys.stderr)
    return command.REFUSED if problems else command.DONE


if __name__ == "__main__":
    sys.exit(main())
