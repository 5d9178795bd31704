"""Recommendations from your own files: no shop.yaml, no lake, no Airflow.

EVENTS   user_id, item_id, event_type (view, cart, purchase, return), event_ts (a time, or a whole number that is only a place
         in each shopper's order), and optional quantity, unit_price, order_id, session_id
ITEMS    item_id, title, and any attributes
USERS    user_id and any attributes (country, …)
TARGETS  user_id and optional attributes; shoppers never seen are answered by these
--context     further events of targets, e.g. a first basket: they count for these shoppers only
--candidates  item_id of what may be answered, never sold items included; without it, everything that EVENTS names

The answer has a row an item: user_id, item_id, rank (1 is best), score (comparable within a shopper), reason. Several models are tried
on the last period of EVENTS itself; what was chosen is said on standard error. Every target has min(k, items that may be answered) rows.

What files may hold, and what comes of it. No purchases: carts, else views are foretold, with a warning; returns only, or no event at all:
refused (3). One shopper, one item, one event, all targets new, more targets than EVENTS has shoppers: answered, by what is popular where nothing
else is known. Ids: text, whole numbers, UUIDs, emoji, each back as it came; ids, times or types that are missing: the row is left out, with a
warning. Times of mixed zones are instants. Exact repetitions count once; of a robot's events the newest 20,000 do. Items without a title are
ranked by who buys them. Events at or after --as-of are not there. A type, time or number that is none: usage (2), with file, row and value.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from nightmarket import log as logs
from nightmarket import standalone
from nightmarket.command import UsageError

log = logs.logger("recommend")


def build_parser() -> argparse.ArgumentParser:
    p = standalone.parser("recommend", __doc__ or "")
    p.add_argument("--events", type=Path, required=True, metavar="FILE")
    p.add_argument("--items", type=Path, metavar="FILE")
    p.add_argument("--users", type=Path, metavar="FILE")
    p.add_argument("--targets", type=Path, required=True, metavar="FILE", help="for whom")
    p.add_argument("--context", type=Path, metavar="FILE", help="further known events of the targets")
    p.add_argument("--candidates", type=Path, metavar="FILE", help="what may be answered")
    p.add_argument("--k", type=int, default=20, metavar="N", help="items for each target (default: 20)")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="Parquet, or .csv")
    p.add_argument("--repeats", choices=("allow", "exclude"), default="allow", help="whether what a shopper had before may be answered (default: allow)")
    p.add_argument("--as-of", metavar="TIMESTAMP", help="events from then on are not looked at (default: after the last one)")
    p.add_argument("--objective", choices=("purchase", "cart", "view"), help="what is to be foretold (default: purchase, where there is any)")
    p.add_argument("--budget", choices=standalone.BUDGETS, default="balanced", help="how much is tried (default: balanced)")
    return p


def run(args: argparse.Namespace) -> int:
    """Writes the answer and returns its number of rows."""
    if args.k < 1:
        raise UsageError(f"--k {args.k}: ask for at least 1")
    standalone.check_out(args.out)
    events = standalone.read(args.events, "--events", ("user_id", "item_id", "event_type", "event_ts"))
    targets = standalone.read(args.targets, "--targets", ("user_id",))
    items = standalone.read(args.items, "--items", ("item_id",)) if args.items else None
    users = standalone.read(args.users, "--users", ("user_id",)) if args.users else None
    context = standalone.read(args.context, "--context", ("user_id", "item_id")) if args.context else None
    candidates = standalone.read(args.candidates, "--candidates", ("item_id",)) if args.candidates else None
    from nightmarket.recommend import alone, tables

    with logs.stage(log, "read") as said:
        asked = tables.question(events, targets, items, users, context, candidates, args.as_of, args.objective)
        said |= {"events": len(asked.histories), "shoppers": asked.histories.users, "items": asked.histories.items,
                 "targets": len(asked.targets), "may_be_answered": int(asked.allowed.sum()), "order_only": asked.ordered}
    del events, context
    if args.k > int(asked.allowed.sum()):
        log.warning(logs.said("k_is_larger_than_the_catalogue", k=args.k, items=int(asked.allowed.sum()), outcome="lists are shorter"))
    with tempfile.TemporaryDirectory(prefix="recommend-") as work:
        table, _ = alone.recommend(asked, args.k, args.repeats == "allow", alone.budget(args.budget, args.seed), Path(work))
    standalone.write(table, args.out)
    return int(table.num_rows)


def main(argv: list[str] | None = None) -> int:
    return standalone.main("recommend", build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
