"""Show every move of the model's aliases: when, from which version to which, who and why; and whether the ledger is whole.

`--json` prints the rows with their evidence. `--head HASH`, a hash noted earlier (decision reports have one), also finds a ledger
that was cut short. Exits 1 where a row is not what was written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nightmarket.registry.ledger import ALIASES, Ledger, LedgerError
from nightmarket.shop import ShopError, load_shop


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m jobs.ledger", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", action="store_true", help="rows with evidence, as JSON")
    p.add_argument("--head", metavar="HASH", help="must be among the rows")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        settings = load_shop(args.shop)
    except ShopError as error:
        print(f"ledger: {error}", file=sys.stderr)
        return 2
    model = settings.shop.model.name
    ledger = Ledger(settings.places.mlflow / "ledger.db")
    try:
        rows = ledger.history(model)
        if args.json:
            print(json.dumps([asdict(r) for r in rows], ensure_ascii=False, indent=1))
        else:
            for alias in ALIASES:
                print(f"{model}@{alias:<10} {ledger.current(model, alias) or 'nobody'}")
            for r in rows:
                print(f"{r.at}  {r.action:<8} {r.alias:<10} {r.from_version or 'nobody'} -> {r.to_version or 'nobody'}  {r.who}: {r.why}")
        whole = ledger.verify(args.head)
    except LedgerError as error:
        print(f"ledger: {error}", file=sys.stderr)
        return 1
    if not args.json:
        print(f"{whole} rows, unbroken, last {ledger.head()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
