"""What went wrong, on one screen: the failing step, its log's part that matters, what it read, what changed, what to type next.

Reads the account that every step leaves of every night, Airflow's logs, the manifests and the outbox; changes nothing.

  python -m jobs.diagnose --run-date 2026-02-01
  python -m jobs.diagnose --run-id manual__2026-02-02T02:00:00+00:00
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from nightmarket import command
from nightmarket.command import UsageError
from nightmarket.shop import load_shop

if TYPE_CHECKING:
    from nightmarket.monitor.diagnosis import Diagnosis


def text(found: Diagnosis) -> str:
    """The screen."""
    lines = [f"night {found.night}" + (f", run {found.run_id}" if found.run_id else "")]
    lines.append(f"step  {found.step}: {found.state}" if found.step else f"state {found.state}")
    if found.model:
        lines.append(f"model {found.model}")
    if found.why:
        lines.append(f"why   {found.why}")
    lines += ["", "likely cause", f"  {found.cause}", "next", f"  {found.command}"]
    if found.log:
        lines += ["", f"log{f' ({found.log_file})' if found.log_file else ''}", *(f"  {line}" for line in found.log)]
    if found.inputs:
        lines += ["", "what it reads", *(f"  {name}: {said}" for name, said in found.inputs)]
    if found.last_good:
        lines += ["", f"since the last good night, {found.last_good}"]
        lines += [f"  {c.what}: {c.before} -> {c.now}" for c in found.changes] or ["  nothing that the manifests tell"]
    if found.notes:
        lines += ["", "also", *(f"  {n}" for n in found.notes)]
    if found.steps:
        lines += ["", "the night's steps", "  " + ", ".join(f"{s} {state}" for s, state in found.steps)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m jobs.diagnose", description=__doc__, epilog=command.EPILOG,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--run-date", type=command._date, metavar="YYYY-MM-DD", help="the night")
    which.add_argument("--run-id", metavar="ID", help="the Airflow run")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    p.add_argument("--json", action="store_true", help="as JSON")
    p.add_argument("--verbose", action="store_true", help="tracebacks")
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)

    def body(_: Callable[[], float]) -> None:
        from nightmarket.monitor import diagnosis

        settings = load_shop(args.shop)
        night: date | None = args.run_date
        if night is None:
            night = diagnosis.night_of(settings, args.run_id)
            if night is None:
                known = diagnosis.known_runs(settings)
                raise UsageError(f"--run-id {args.run_id}: no step of it was ever recorded; known are {', '.join(known) or 'none'}. "
                                 f"Name the night with --run-date")
        found = diagnosis.diagnose(settings, night, args.run_id)
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if args.json else text(found))

    return command.guarded("diagnose", args.verbose, body)


if __name__ == "__main__":
    sys.exit(main())
