"""What all jobs share: arguments, the night they are about, exit codes, and the account they give.

Exit codes: 0 done (or nothing to do), 1 fault (a retry may help), 2 usage (arguments or shop.yaml), 3 refused by a gate
or by the delivery itself (a retry cannot help; a person must act).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path

from nightmarket import log as logs
from nightmarket.contracts import ENTITIES, Dataset
from nightmarket.lake import Input, Lake, LakeError, Manifest, code_version, days, recipe
from nightmarket.monitor.account import Account
from nightmarket.registry.kinds import about
from nightmarket.shop import Settings, ShopError, load_shop

DONE, FAULT, USAGE, REFUSED = 0, 1, 2, 3
EPILOG = "exit codes: 0 done, 1 fault (retry may help), 2 usage, 3 refused (a person must act)"


class Refused(Exception):
    """A gate, or a delivery that no retry can mend, says no. The message says what, where and the remedy."""


class UsageError(Exception):
    """The arguments ask for something that cannot be; the message says what would be right."""


@dataclass(frozen=True)
class Night:
    """What a job is handed: the shop, the lake, and the nights it is about."""

    settings: Settings
    lake: Lake
    run_date: date
    from_date: date
    """First night; equal to run_date except for a first load of history."""
    run_id: str
    force: bool
    dry_run: bool
    args: argparse.Namespace
    datasets: tuple[str, ...] = ENTITIES
    """Entities that ingest and clean are asked for; the rest of the night's steps look at all of them."""

    @property
    def dates(self) -> list[date]:
        return days(self.from_date, self.run_date)

    def is_current(
        self, dataset: Dataset, run_date: date, inputs: Sequence[Input], settings: str, seed: int | None = None
    ) -> bool:
        """Whether the partition was already made from exactly this; then there is nothing to do, unless forced."""
        made = self.lake.manifest(dataset, run_date)
        return not self.force and made is not None and made.recipe() == recipe(tuple(inputs), settings, code_version(), seed)


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """The arguments that every job takes."""
    p = argparse.ArgumentParser(
        prog=f"python -m jobs.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    p.add_argument("--run-date", type=_date, required=True, metavar="YYYY-MM-DD", help="the night")
    p.add_argument("--from-date", type=_date, metavar="YYYY-MM-DD", help="all nights from this one to --run-date")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    p.add_argument("--run-id", default="", metavar="ID", help="who asks, for manifest and log; the Airflow run id (default: one of its own, hand-…)")
    p.add_argument("--datasets", type=_entities, default=ENTITIES, metavar="NAMES",
                   help=f"only these, comma separated, of {','.join(ENTITIES)} (ingest and clean; default: all)")
    p.add_argument("--force", action="store_true", help="run although the same inputs were processed already")
    p.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing")
    p.add_argument("--result", type=Path, metavar="FILE", help="write the paths of the published manifests here, as JSON")
    p.add_argument("--verbose", action="store_true", help="more lines, and tracebacks")
    return p


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write YYYY-MM-DD") from None


def _entities(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    unknown = [n for n in names if n not in ENTITIES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no dataset {', '.join(map(repr, unknown))}; write some of {','.join(ENTITIES)}")
    return names


def main(
    name: str, doc: str, run: Callable[[Night], Sequence[Manifest]], argv: Sequence[str] | None = None,
    extend: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Runs one job and returns its exit code. `run` returns the manifests it published (or found current)."""
    p = parser(name, doc)
    if extend:
        extend(p)
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    started = time.monotonic()
    run_id = args.run_id or by_hand()
    account = Account(name, args.run_date, run_id, about(name, getattr(args, "model", None)))

    def body(peak_mb: Callable[[], float]) -> None:
        first = args.from_date or args.run_date
        if first > args.run_date:
            raise UsageError(f"--from-date {first} is after --run-date {args.run_date}; swap them")
        settings = load_shop(args.shop)
        if not args.dry_run:
            account.begin(settings.places.logs)
        night = Night(settings, Lake(settings.places.lake), args.run_date, first, run_id, args.force, args.dry_run, args,
                      args.datasets)
        manifests = run(night)
        if args.result:
            paths = [str(night.lake.root / m.dataset.replace(".", "/") / f"run_date={m.run_date}" / "manifest.json") for m in manifests]
            args.result.write_text(json.dumps(paths))
        logs.logger(name).info(logs.said(
            "done", run_date=args.run_date, partitions=len(manifests), rows=sum(m.rows_out for m in manifests),
            seconds=round(time.monotonic() - started, 1), peak_memory_mb=round(peak_mb())))

    return guarded(name, args.verbose, body, account, run_date=args.run_date)


def by_hand() -> str:
    """Id of a run that nobody gave one: `jobs.diagnose --run-id` finds it too."""
    return f"hand-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{os.getpid()}"


def guarded(
    name: str, verbose: bool, body: Callable[[Callable[[], float]], None], account: Account | None = None, run_id: str = "", **said: object
) -> int:
    """The process boundary of every command: `body` is run, and whatever it raises becomes an exit code and one reason.

    `body` is given a function that returns the peak memory so far in MiB; `account` is told how it ended, and says, as `run_id` does where
    there is none, what every line of the log is about; `said` is logged with an end that is not a good one.
    """
    logs.configure(verbose)
    if account is None:
        with logs.about(run_id=run_id or by_hand(), step=name):
            return _guarded(name, verbose, body, said)[0]
    with logs.about(run_id=account.run_id, step=name, model_kind=account.model), account.listening():
        code, why = _guarded(name, verbose, body, said)
    account.end(code, why)
    return code


def _guarded(name: str, verbose: bool, body: Callable[[Callable[[], float]], None], said: dict[str, object]) -> tuple[int, str]:
    """(exit code, reason). The log has the reason as a line of its own; a terminal's last line says it in plain words."""
    log = logs.logger(name)
    with MemoryWatch() as memory:
        try:
            body(memory.peak)
        except (UsageError, ShopError) as error:
            log.error(logs.said("wrong usage", **said, why=str(error)))
            print(f"{name}: {error}", file=sys.stderr)
            return USAGE, str(error)
        except Refused as error:
            log.error(logs.said("refused", **said, why=str(error)))
            print(f"{name}: refused: {error}", file=sys.stderr)
            return REFUSED, str(error)
        except KeyboardInterrupt:
            log.error(logs.said("interrupted", **said))
            return 130, "interrupted"
        except LakeError as error:
            log.error(logs.said("failed", **said, why=str(error)), exc_info=verbose)
            print(f"{name}: {error}", file=sys.stderr)
            return FAULT, str(error)
        except Exception as error:  # everything becomes an exit code and a reason
            log.exception(logs.said("failed", **said, why=f"{type(error).__name__}: {error}"))
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            return FAULT, "".join(traceback.format_exception(error))
    return DONE, ""


class MemoryWatch:
    """Samples the proportional memory of a process (this one, unless `pid` says another) and all it started; the peak is what a
    machine must have free."""

    def __init__(self, every: float = 0.5, pid: int | None = None):
        self.peak_mb = 0.0
        self._every = every
        self._pid = os.getpid() if pid is None else pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def peak(self) -> float:
        """MiB so far, this moment included."""
        self._look()
        return self.peak_mb

    def stop(self) -> None:
        self._end.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._end.wait(self._every):
            self._look()

    def _look(self) -> None:
        import psutil

        try:
            me = psutil.Process(self._pid)
            family = [me, *me.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        total = 0
        for process in family:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it ended while we looked
        self.peak_mb = max(self.peak_mb, total / 2**20)
