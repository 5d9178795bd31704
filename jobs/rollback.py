"""Take the champion out of service: go back to the one before it, or to a version of your choice, and serve from that.

Moves the alias in the ledger, publishes the night that serves once more with the version gone back to and proves that it did: of
recommendations every list that the lookup serves is compared with what was published. A mail to the owner goes into the outbox. What
was taken out of service does not come back by itself: `jobs.bless` asks for a person's approval first.

Typed again it finishes what a kill left undone and changes nothing else. Exits 3 where there is nothing to go back to, or where
the version before was itself taken out of service and is not named with --to.

  python -m jobs.rollback --model recommender --reason "complaints since the morning"
  python -m jobs.rollback --model recommender --to 7 --reason "both newer ones were bad" --who Ada
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused, UsageError
from nightmarket.contracts import RECOMMENDATIONS, Dataset
from nightmarket.lake import Lake, Manifest
from nightmarket.monitor.account import Account
from nightmarket.registry.kinds import KINDS, RECOMMENDER, Kind
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings, load_shop
from nightmarket.steps import step

log = logs.logger("rollback")


class NotServed(Exception):
    """The alias moved, but what serves is not what it should be; the message says what and the remedy."""


@dataclass(frozen=True)
class Rolled:
    """What a rollback came to."""

    kind: Kind
    model: str
    was: str | None
    """The version that served; None where this call only finished an earlier one."""
    now: str
    night: date | None
    """The night whose publication was made again; None where nothing is published."""
    seconds: float
    manifests: tuple[Manifest, ...] = ()


def roll_back(
    settings: Settings, model: str, to: str | None, who: str, why: str, *, run_id: str = "", dry_run: bool = False,
    evidence: Mapping[str, Any] | None = None, out: Sequence[str] = (),
) -> Rolled:
    """Moves the alias, publishes again, verifies. Raises UsageError, Refused, NotServed, RegistryError and LedgerError.

    `evidence` is kept in the ledger with the move; `out` are versions that leave service with the champion, which came from them.
    """
    from nightmarket.registry.client import Registry

    started = time.monotonic()
    kind = kind_of(settings, model)
    logs.identify(model_kind=kind.id)
    registry = Registry(settings, kind)
    champion = registry.ledger.current(registry.model, "champion")
    if champion is None:
        raise Refused(f"{registry.model} has no champion to take out of service; see `python -m jobs.ledger`")
    target = to or _before(registry.ledger, registry.model, champion)
    logs.identify(model_version=target)
    known = registry.version(target)  # also the proof that the registry can be reached, before anything moves
    lake, was = Lake(settings.places.lake), champion if champion != target else None
    night = serving_night(settings, lake, kind)
    if dry_run:
        log.info(logs.said("would go back", model=registry.model, champion=champion, to=target, publishes=night))
        return Rolled(kind, registry.model, was, target, night, time.monotonic() - started)
    if was is not None:
        registry.ledger.back(registry.model, champion, who, why, {**(evidence or {}), "rollback": {"from": champion, "to": target, "out": list(out)}},
                             to=target, run_date=known.run_date)
        log.info(logs.said("went back", model=registry.model, was=champion, now=target, who=who, why=why))
    registry.sync()
    manifests = publish_again(settings, lake, kind, night, target, run_id) if night is not None else []
    return Rolled(kind, registry.model, was, target, night, round(time.monotonic() - started, 1), tuple(manifests))


def kind_of(settings: Settings, model: str) -> Kind:
    """The kind whose registered model, or whose id, this is. Raises UsageError that lists them."""
    for kind in KINDS:
        if model in (kind.name(settings.shop), kind.id):
            return kind
    raise UsageError(f"--model {model}: the shop has no such model; there is {', '.join(k.name(settings.shop) for k in KINDS)}")


def _before(ledger: Ledger, model: str, champion: str) -> str:
    """The version before the champion; the champion itself where the newest move went back to it, so that a call that is typed
    again, or retried, does not undo the first. Raises Refused."""
    newest, previous = ledger.newest(model, "champion"), ledger.current(model, "previous")
    if newest is not None and newest.action == "back":
        log.info(logs.said("went back already", model=model, champion=champion, at=newest.at, who=newest.who))
        return champion
    if previous is None:
        raise Refused(f"{model} has no champion before version {champion}; name a version with --to, see `python -m jobs.ledger`")
    if (out := ledger.gone_back_from(model).get(previous)) is not None:
        raise Refused(f"the champion before, version {previous}, was itself taken out of service by {out.who} ({out.why}); "
                      f"name a version with --to, see `python -m jobs.ledger`")
    return previous


def _published(kind: Kind) -> Dataset:
    return step(kind.publish).writes[0]


def serving_night(settings: Settings, lake: Lake, kind: Kind) -> date | None:
    """The night that serves: of recommendations what the lookup says, else the newest publication. None where there is none."""
    from nightmarket.recommend.lookup import serving

    if kind == RECOMMENDER and (now := serving(settings.places.root / "published")) is not None:
        return now.run_date
    return max(lake.dates(_published(kind)), default=None)


def publish_again(settings: Settings, lake: Lake, kind: Kind, night: date, version: str, run_id: str) -> list[Manifest]:
    """Publishes the night again and proves that the version did it. Raises NotServed.

    Where an answer between nights serves, that is what is made again, with what the stream brought; a night's own publication is none of it.
    """
    from nightmarket.recommend.lookup import About, difference, serving

    published = settings.places.root / "published"
    live = kind == RECOMMENDER and (now := serving(published)) is not None and now.live
    job_name = "update" if live else kind.publish
    job = importlib.import_module(step(job_name).runs)
    p = command.parser(job_name, "")
    getattr(job, "extend", lambda _: None)(p)
    args = p.parse_args(["--run-date", night.isoformat()])
    asked = Night(settings, lake, night, night, run_id, False, False, args)
    made: list[Manifest] = []
    with logs.stage(log, "verified", run_date=night, version=version) as said:
        if live:
            rows, about = job.answer(asked)
            by = about.model_version
        else:
            made = job.run(asked)
            by = made[0].notes.get("model_version")
            rows = lake.at(RECOMMENDATIONS, night).arrow() if kind == RECOMMENDER else None
            about = About(night, kind.name(settings.shop), version, made[0].digest)
        said["rows"] = made[0].rows_out if rows is None else rows.num_rows
        apart = "" if by == version else f"{night} was published by version {by}"
        if not apart and rows is not None:
            apart = difference(published, rows, about)
    if apart:
        raise NotServed(f"version {version} is the champion, but {apart}; run `python -m jobs.{job_name} --run-date {night} --force`")
    return made


def tell(settings: Settings, rolled: Rolled, who: str, why: str) -> None:
    """Writes the owner's letter and queues its mail."""
    from nightmarket.monitor.summary import gone_back
    from nightmarket.quality import letter
    from nightmarket.quality.outbox import Outbox
    from nightmarket.registry import candidate as candidates

    if rolled.was is None or rolled.night is None:
        return
    told = gone_back(settings, rolled.night, rolled.model, rolled.was, rolled.now, who, why)
    folder = candidates.report_of(settings, rolled.night, rolled.kind)
    entry, new = letter.post(told, folder, Outbox(settings.places.outbox), settings.shop.mail.sender)
    log.info(logs.said("told", mail=entry.id, queued=new))


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m jobs.rollback", description=__doc__, epilog=command.EPILOG,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, metavar="NAME", help="the registered model")
    p.add_argument("--to", type=_version, metavar="VERSION", help="the version to go back to (default: the champion before)")
    p.add_argument("--reason", required=True, type=_said, metavar="TEXT", help="why, for the ledger and the owner's mail")
    p.add_argument("--who", type=_said, metavar="NAME", help="who decided (default: who is logged in here)")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    p.add_argument("--run-id", default="", help="who asks, for the manifest; the Airflow run id")
    p.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing")
    p.add_argument("--result", type=Path, metavar="FILE", help="write the paths of the published manifests here, as JSON")
    p.add_argument("--verbose", action="store_true", help="more lines, and tracebacks")
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)

    account = Account("rollback", date.min, args.run_id or command.by_hand())

    def body(_: Callable[[], float]) -> None:
        settings, who = load_shop(args.shop), args.who or _me()
        kind = kind_of(settings, args.model)
        # an account is a night's: that of the night which serves
        account.model = kind.id
        account.run_date = serving_night(settings, Lake(settings.places.lake), kind) or datetime.now(settings.zone).date()
        if not args.dry_run:
            account.begin(settings.places.logs)
        done = roll_back(settings, args.model, args.to, who, args.reason, run_id=args.run_id, dry_run=args.dry_run)
        if not args.dry_run:
            tell(settings, done, who, args.reason)
        if args.result:
            lake, dataset = Lake(settings.places.lake), _published(done.kind)
            args.result.write_text(json.dumps([str(lake.manifest_path(dataset, date.fromisoformat(m.run_date))) for m in done.manifests]))
        log.info(logs.said("done", model=done.model, was=done.was, now=done.now, run_date=done.night, seconds=done.seconds))

    return command.guarded("rollback", args.verbose, body, account, model=args.model)


def _version(text: str) -> str:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a version; write its number, see `python -m jobs.ledger`")
    return str(int(text))


def _said(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty; the ledger keeps it")
    return text.strip()


def _me() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without an account of that number
        return f"uid {os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
