"""Take in what analysts found and shoppers reported: verdicts that count from when they were known.

Reads the file of the night that `screening.feedback` of shop.yaml names ({date} in it), or the one given by `--file`, or one verdict from
the command line, and publishes gold.screening_feedback of the night. Later screenings learn from it. Without a file the night has
none. Columns of a file (CSV, Parquet, JSON Lines): kind (order, account, review, brushing), id (order_id, user_id, review_id, item_id/day),
is_bad; and, where there are, known_at (default: the night's end), said_by, source (analyst or shopper), why. Of two verdicts about one thing by
one source the later counts; what `--file` and `--verdict` bring is added to what the night has.

  python -m jobs.feedback --run-date 2026-02-01 --verdict order:o123=bad --by Ada --why "stolen card, bank confirms"
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused, UsageError
from nightmarket.contracts import SCREENED, SCREENING_FEEDBACK
from nightmarket.lake import Input, Manifest, code_version

log = logs.logger("feedback")
_BAD = {"bad": True, "1": True, "true": True, "fraud": True, "fake": True, "good": False, "0": False, "false": False, "genuine": False}


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, metavar="FILE", help="verdicts to add to the night's (default: the file that shop.yaml names)")
    parser.add_argument("--verdict", action="append", default=[], metavar="KIND:ID=bad|good", help="one verdict to add; with --by")
    parser.add_argument("--by", metavar="NAME", help="who says so")
    parser.add_argument("--why", default=None, metavar="TEXT", help="in their words")
    parser.add_argument("--source", choices=("analyst", "shopper"), default="analyst", help="of --verdict and of rows that do not say")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.screening_feedback. Raises UsageError, Refused."""
    import pyarrow as pa

    args, pattern = night.args, night.settings.shop.screening.feedback
    if args.verdict and not (args.by or "").strip():
        raise UsageError("--verdict needs --by NAME; the dataset keeps who said so")
    asked = args.file or (night.settings.resolve(pattern.replace("{date}", night.run_date.isoformat())) if pattern else None)
    if args.file is not None and not args.file.is_file():
        raise UsageError(f"--file {args.file}: no such file")
    found = asked if asked is not None and asked.is_file() else None
    read = [Input(found.name, sha256(found.read_bytes()).hexdigest())] if found else []
    read += [Input(f"verdict/{v}", f"{args.by}/{args.source}/{args.why}") for v in args.verdict]
    there = night.lake.manifest(SCREENING_FEEDBACK, night.run_date)
    if there is not None and {(i.name, i.digest) for i in read} <= {(i.name, i.digest) for i in there.inputs} and not night.force:
        log.info(logs.said("current", run_date=night.run_date, verdicts=there.rows_out))
        return [there]
    started = time.monotonic()
    rows = _rows(night, found) + [_verdict(night, v) for v in args.verdict]
    if night.dry_run:
        log.info(logs.said("would take in", run_date=night.run_date, verdicts=len(rows)))
        return []
    adds = args.file is not None or bool(args.verdict)
    old = night.lake.at(SCREENING_FEEDBACK, night.run_date).arrow().to_pylist() if there is not None and adds else []
    kept = {(r["kind"], r["id"], r["source"]): r for r in sorted([*old, *rows], key=lambda r: r["known_at"])}
    with night.lake.writer(SCREENING_FEEDBACK, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, pa.Table.from_pylist([kept[k] for k in sorted(kept)], SCREENING_FEEDBACK.arrow_schema()))
        made = writer.publish(night.run_date, inputs=[*(there.inputs if there is not None and adds else ()), *read],
                              settings=night.settings.digest("screening"), code=code_version(), run_id=night.run_id, seconds=time.monotonic() - started)
    log.info(logs.said("taken in", run_date=night.run_date, verdicts=made.rows_out))
    return [made]


def _rows(night: Night, file: Path | None) -> list[dict[str, Any]]:
    """Verdicts of a file. Raises UsageError for a column that is missing, Refused for the first row that cannot be read."""
    if file is None:
        return []
    from nightmarket import standalone

    made = []
    table = standalone.read(file, "feedback", ("kind", "id", "is_bad"))
    for number, row in enumerate(table.to_pylist(), start=1):
        try:
            made.append(_row(night, str(row["kind"]), row["id"], row["is_bad"], row.get("known_at"), row.get("said_by"), row.get("source"), row.get("why")))
        except ValueError as error:
            raise Refused(f"{file} row {number}: {error}") from None
    return made


def _verdict(night: Night, text: str) -> dict[str, Any]:
    name, _, verdict = text.rpartition("=")
    kind, _, key = name.partition(":")
    try:
        return _row(night, kind, key, verdict, None, night.args.by, night.args.source, night.args.why)
    except ValueError as error:
        raise UsageError(f"--verdict {text}: {error}; write KIND:ID=bad or KIND:ID=good") from None


def _row(night: Night, kind: str, key: Any, is_bad: Any, known_at: Any, said_by: Any, source: Any, why: Any) -> dict[str, Any]:
    from nightmarket.protect.masking import mask
    from nightmarket.screen.ledger import end_of

    verdict = is_bad if isinstance(is_bad, bool) else _BAD.get(str(is_bad).strip().lower())
    if kind not in SCREENED:
        raise ValueError(f"kind {kind!r}: write one of {', '.join(SCREENED)}")
    if key is None or not str(key).strip():
        raise ValueError("id is empty")
    if verdict is None:
        raise ValueError(f"is_bad {is_bad!r}: write bad or good")
    if source not in (None, "analyst", "shopper"):
        raise ValueError(f"source {source!r}: write analyst or shopper")
    end = end_of(night.settings, night.run_date)
    moment = known_at if isinstance(known_at, datetime) else datetime.fromisoformat(str(known_at)) if known_at else None
    # known at the latest when the night is over: that is when it has come in
    told = min((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) if moment else end, end)
    # the last microsecond of the night is within it
    return {"kind": kind, "id": str(key).strip(), "is_bad": verdict, "known_at": datetime.fromtimestamp(min(told.timestamp(), end.timestamp() - 1e-6), timezone.utc),
            "said_by": str(said_by or night.args.by or "the file"), "source": source or night.args.source, "why": mask(str(why)) if why else None}


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("feedback", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
