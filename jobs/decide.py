"""Decide about what the shop took in: allow, review or block, with score, reasons, threshold and model.

Reads the night's gold.screening_features and asks the screener that may answer for the night (never one that learned from later data) about every
row that no earlier night decided about, and about those whose verdict has come to contradict what was decided. What costs least by shop.yaml's `screening.costs` is done, within what
the analysts can look at in a day; an entry of the blocklist that holds at the night's end blocks what it names. Publishes
gold.screening_decisions; its notes keep what the night looked like: alerts, precision among what was reviewed, drift of the scores, time
from event to decision.

`--check` recomputes what was published from its features and its model and exits 3 where anything differs. Exits 3 too where the gate
refused the night or no screener may answer it; what was decided before stays.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.judge_screener import costs_of
from jobs.train_screener import options_of
from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import SCREENING_DECISIONS, SCREENING_FEATURES
from nightmarket.lake import Input, Manifest, Partition, code_version, nights
from nightmarket.quality.verdict import require_passed
from nightmarket.registry.kinds import SCREENER

if TYPE_CHECKING:
    from nightmarket.registry.client import RegisteredModel
    from nightmarket.screen.deciding import Made

log = logs.logger("decide")
SECTIONS = ("screening", "time_zone")


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="recompute the published decisions and compare; publish nothing")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.screening_decisions. Raises Refused."""
    from nightmarket.registry.client import Registry
    from nightmarket.screen import ledger

    require_passed(night.lake, night.run_date)
    features = night.lake.at(SCREENING_FEATURES, night.run_date)
    registry = Registry(night.settings, SCREENER)
    if night.args.check:
        return _check(night, registry, features)
    model = registry.for_night(night.run_date)
    if model is None:
        raise Refused(f"no screener may answer the night of {night.run_date}: none was promoted on data up to it; run jobs.train_screener to "
                      f"jobs.bless --model screener for it")
    earlier = _earlier(night)
    logs.identify(model_version=model.version)
    entries = ledger.holding(night.settings, night.run_date)
    read = [features.manifest.as_input(), *(p.manifest.as_input() for p in earlier), Input(f"model/{model.name}/{model.version}", model.tags["weights"]),
            Input("blocklist", ledger.digest(entries))]
    digest = night.settings.digest(*SECTIONS)
    if night.is_current(SCREENING_DECISIONS, night.run_date, read, digest, night.settings.shop.screening.seed):
        log.info(logs.said("current", run_date=night.run_date, version=model.version))
    elif night.dry_run:
        log.info(logs.said("would decide", run_date=night.run_date, version=model.version))
        return []
    else:
        _publish(night, model, features, earlier, read, digest)
    made = night.lake.manifest(SCREENING_DECISIONS, night.run_date)
    return [made] if made else []


def _earlier(night: Night) -> list[Partition]:
    """Decisions of the nights before that can be about a row of tonight's features."""
    from datetime import timedelta

    first = night.run_date - timedelta(days=night.settings.shop.screening.history_days)
    return nights(night.lake, SCREENING_DECISIONS, night.run_date - timedelta(days=1), first)


def _made(night: Night, model: RegisteredModel, features: Partition, earlier: Sequence[Partition]) -> Made:
    from nightmarket.screen import ledger
    from nightmarket.screen.deciding import make
    from nightmarket.screen.screener import Described, Screener

    given = Described.of(features.arrow(), features.manifest.notes)
    columns = ["kind", "id", "decision"]
    decided = {(k, i): d for p in earlier for k, i, d in zip(*(p.arrow(columns)[c].to_pylist() for c in columns), strict=True)}
    return make(given, Screener.load(model.folder / "served"), decided, features.manifest.notes["end"], costs_of(night.settings), options_of(night),
                ledger.holding(night.settings, night.run_date), model.name, model.version)


def _publish(night: Night, model: RegisteredModel, features: Partition, earlier: Sequence[Partition], read: list[Input], digest: str) -> None:
    from nightmarket.screen.monitoring import reviewed, worse

    started = time.monotonic()
    with logs.stage(log, "decided", run_date=night.run_date, version=model.version) as said:
        made = _made(night, model, features, earlier)
        said |= {k: v for k, v in made.counts().items() if v}
    notes: dict[str, Any] = {**made.notes(), "model_version": model.version, "trained_on": model.run_date.isoformat(),
                             "reviewed": reviewed(night.settings, night.lake, night.run_date), "due": _due(night, model, features),
                             "worse": worse(night.settings, night.lake, night.run_date, model.version)}
    with night.lake.writer(SCREENING_DECISIONS, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, made.table)
        writer.publish(night.run_date, inputs=read, settings=digest, code=code_version(), seed=night.settings.shop.screening.seed, run_id=night.run_id,
                       seconds=time.monotonic() - started, notes=notes)


def _due(night: Night, model: RegisteredModel, features: Partition) -> str | None:
    """Why another screener is worth making: frauds became known since this one learnt. For the plan of the next night."""
    from nightmarket.evaluate.protocol import Holdout

    learnt = Holdout.of(model.run_date, 1, night.settings.zone).end
    table = features.arrow(["is_bad", "known_at"])
    new = sum(bool(bad) and known is not None and known >= learnt
              for bad, known in zip(*(table[c].to_pylist() for c in ("is_bad", "known_at")), strict=True))
    return f"{new} frauds became known since it learnt" if new else None


def _check(night: Night, registry: Any, features: Partition) -> list[Manifest]:
    published = night.lake.at(SCREENING_DECISIONS, night.run_date)
    wanted = published.arrow().sort_by([("kind", "ascending"), ("id", "ascending")])
    if features.manifest.as_input() not in published.manifest.inputs:
        raise Refused(f"gold.screening_decisions of {night.run_date} was made from other features than those published now; run jobs.decide again")
    model = registry.version(str(published.manifest.notes["model_version"]))
    logs.identify(model_version=model.version)
    again = _made(night, model, features, _earlier(night)).table.sort_by([("kind", "ascending"), ("id", "ascending")])
    if not wanted.equals(again.select(wanted.column_names).cast(wanted.schema)):
        rows = [i for i, (a, b) in enumerate(zip(wanted.to_pylist(), again.to_pylist(), strict=False)) if a != b]
        where = f"first at {wanted['kind'][rows[0]]} {wanted['id'][rows[0]]}" if rows and rows[0] < len(wanted) else f"{len(wanted)} rows then, {len(again)} now"
        raise Refused(f"gold.screening_decisions of {night.run_date} cannot be recomputed: {len(rows)} rows differ, {where}; settings, blocklist or code have changed since")
    log.info(logs.said("recomputed", run_date=night.run_date, rows=len(wanted), version=model.version))
    return [published.manifest]


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("decide", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
