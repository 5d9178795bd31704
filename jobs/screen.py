"""Screen a table of your own for fraud: payments, sign-ups, orders, reviews.

`python -m jobs.screen --train TRAIN.parquet --score NEW.parquet --out DECISIONS.parquet` judges every row of NEW, once, in its
order, from what was known at that row's moment: rows of both files up to then, and labels from when they were known. Files are
Parquet, CSV, TSV or JSON Lines. No shop.yaml, no lake, no Airflow.

Columns of TRAIN and NEW: an id, a timestamp (UTC where it names no zone), entities (what acts or is used: customer, device,
card, IP address, terminal, reviewer, product), and any numeric, categorical, further time and text columns; in TRAIN a label (1
suspicious, 0 not, empty unknown) and when it became known. Roles are found by name and type; the flags say otherwise. Columns that
NEW lacks are not looked at, nor are columns that only tell the time or identify a row.

Columns of DECISIONS: id (and the same under its own name), score (0 to 1, higher is more suspicious), probability (calibrated; empty
where no labels were known to learn from), decision (allow, review, block), reasons (the top ones in words), threshold (the score's or
probability's value from which a row is looked at), model (digest), notes (what is wrong with the row itself).

Outcomes of bad input. Refused (3): an id of NEW that is missing or there twice, one of TRAIN that stands for different rows, no usable
row in TRAIN. Usage (2): a missing file or column, a label of other than two meanings, none of TRAIN's columns in NEW. Mended, counted in
the log: exact copies in TRAIN (left out), rows of TRAIN without a time or from the future (left out), rows of TRAIN that NEW holds too
(left out), infinities (missing), labels known before their event (known from the event on), times of a row later than its own (missing;
the row is reviewed at least), rows of NEW without a readable time or from the future (judged, reviewed at least), control characters
in texts (blanks), texts beyond 20,000 characters (read to there), values never seen before (unknown). With fewer than 10 known rows of
either class, or no label column, rows are judged by strangeness alone and none is blocked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from nightmarket import log as logs
from nightmarket import standalone
from nightmarket.command import UsageError


def build_parser() -> argparse.ArgumentParser:
    p = standalone.parser("screen", __doc__ or "")
    p.add_argument("--train", type=Path, required=True, metavar="TRAIN", help="rows of the past, with labels where there are some")
    p.add_argument("--score", type=Path, required=True, metavar="NEW", help="rows to judge")
    p.add_argument("--out", type=Path, required=True, metavar="DECISIONS", help="where to write, Parquet or .csv")
    p.add_argument("--label-delay-days", type=float, default=None, metavar="N",
                   help="days from an event to its label, where no column says when it was known (default: 0)")
    p.add_argument("--id", metavar="COLUMN", help="default: by name; without one, the row's number")
    p.add_argument("--timestamp", metavar="COLUMN", help="default: by name and type; without one, all of TRAIN comes before all of NEW")
    p.add_argument("--label", metavar="COLUMN", help="default: by name, or the one two-valued column that NEW lacks")
    p.add_argument("--label-known-at", metavar="COLUMN", help="default: by name (label_known_at, known_at, …)")
    p.add_argument("--entities", type=_names, metavar="A,B", help="default: by name (customer, device, card, ip, …)")
    p.add_argument("--text", type=_names, metavar="A,B", help="default: long strings")
    p.add_argument("--drop", type=_names, default=(), metavar="A,B", help="columns not to look at (those that give the label away)")
    p.add_argument("--ip-countries", type=Path, metavar="FILE",
                   help="first address, last address and country of IP ranges, v4 or v6: columns called ip… get a country")
    p.add_argument("--train-from", type=_moment, metavar="TIME", help="earlier rows of TRAIN are history only, not examples")
    p.add_argument("--follow-labels", action="store_true",
                   help="labels that NEW carries count for its later rows, from when they are known (default: they are not looked at)")
    p.add_argument("--cost-missed", type=float, default=100.0, metavar="C", help="of a fraud let pass (default: 100)")
    p.add_argument("--cost-review", type=float, default=5.0, metavar="C", help="of a row looked at (default: 5)")
    p.add_argument("--cost-blocked", type=float, default=50.0, metavar="C", help="of a good row blocked (default: 50)")
    p.add_argument("--capacity", type=int, metavar="ROWS", help="rows that analysts can look at in a day (default: as many as pay)")
    p.add_argument("--threads", type=int, default=0, metavar="N", help="default: all that the process may use")
    return p


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-11-01 or 2026-11-01T06:00:00") from None
    return int(moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() * 1_000_000)


def run(args: argparse.Namespace) -> int:
    """Returns the number of rows judged."""
    from nightmarket.screen.decisions import Costs
    from nightmarket.screen.screening import Options, screen
    from nightmarket.screen.table import Asked
    from nightmarket.sources.ip_ranges import Ranges

    if args.label_delay_days is not None and not 0 <= args.label_delay_days < 36500:
        raise UsageError(f"--label-delay-days {args.label_delay_days:g}: write 0 or more days")
    try:
        costs = Costs(args.cost_missed, args.cost_review, args.cost_blocked, args.capacity)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not args.out.parent.is_dir():
        raise UsageError(f"--out {args.out}: no folder {args.out.parent}; make it first")
    train, new = standalone.read(args.train, "--train"), standalone.read(args.score, "--score")
    asked = Asked(args.id, args.timestamp, args.label, args.label_known_at, args.entities, args.text, args.drop)
    options = Options(args.label_delay_days or 0.0, args.seed, costs, threads=args.threads, follow_new_labels=args.follow_labels,
                      train_from=args.train_from)
    ranges = Ranges.read(args.ip_countries, "--ip-countries") if args.ip_countries else None
    judged = screen(train, new, asked, options, int(time.time() * 1_000_000), ranges)
    standalone.write(judged.table, args.out)
    for model in judged.summary.get("models", []):
        logs.logger("screen").info(logs.said("model", **model))
    logs.logger("screen").info(logs.said("judged", **judged.summary.get("decisions", {})))
    return len(judged.table)


def main(argv: Sequence[str] | None = None) -> int:
    return standalone.main("screen", build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
