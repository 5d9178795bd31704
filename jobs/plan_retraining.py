"""Decide, for every kind of model of the shop, whether it is trained tonight and how; and say why.

Gathers the evidence (the data gate's verdict, gold.drift, live quality, what the last publication noted, the champion's age and lineage, how
much is new, orders),
applies the truth table of `nightmarket.monitor.retraining` and publishes gold.retraining, one row a model, for `jobs.retrain`. A plan
stays as it is while data, drift, orders and settings do (unless --force, which also has models trained from inputs that they
were trained from before).

  python -m jobs.plan_retraining --run-date 2026-02-01
  python -m jobs.plan_retraining --run-date 2026-02-01 --order retrain --model recommender --who Ada --reason "new catalogue"
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, UsageError
from nightmarket.contracts import DRIFT, EVENTS, QUALITY, RETRAINING
from nightmarket.lake import Input, Lake, Manifest, code_version, recipe
from nightmarket.quality.verdict import passed_nights
from nightmarket.registry.kinds import CONTRADICTED, KINDS, Kind, concerned
from nightmarket.steps import step

if TYPE_CHECKING:
    from nightmarket.monitor.orders import Filed
    from nightmarket.monitor.retraining import Evidence
    from nightmarket.registry.client import RegisteredModel

log = logs.logger("plan_retraining")
SECTIONS = ("retraining", "drift")
MADE_ANEW, WARM_STARTS = "made_anew", "warm_starts"
"""Tags of a version: the night on which it, or what it was warm-started from, was made anew; and how many warm starts since."""


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--order", choices=("skip", "fine_tune", "retrain"), help="a person decides; with --who and --reason")
    parser.add_argument("--model", choices=[k.id for k in KINDS], help="the kind of model that the order is about (default: all)")
    parser.add_argument("--who", metavar="NAME", help="who orders it")
    parser.add_argument("--reason", metavar="TEXT", help="why")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.retraining. Raises UsageError for half an order, LakeError where the night was not judged."""
    import pyarrow as pa

    from nightmarket.monitor import orders
    from nightmarket.monitor.retraining import decide

    started = time.monotonic()
    settings, lake = night.settings, night.lake
    _order(night)
    open_orders = {k.id: orders.pending(settings, lake, k.id, night.run_date) for k in KINDS}
    read = _inputs(night, open_orders)
    digest = settings.digest(*SECTIONS, *sorted({k.section for k in KINDS}))
    if night.is_current(RETRAINING, night.run_date, read, digest):
        log.info(logs.said("current", run_date=night.run_date))
        return [m for m in [lake.manifest(RETRAINING, night.run_date)] if m is not None]
    rows = []
    for kind in KINDS:
        found = evidence(night, kind, open_orders[kind.id])
        decision = decide(found, settings.shop.retraining)
        log.info(logs.said("plan", model=kind.id, action=decision.action, why=decision.why))
        followed = open_orders[kind.id] if any(r.name == "ordered" for r in decision.reasons) else None
        rows.append({"model": kind.id, "action": decision.action, "why": decision.why, "inputs": decision.inputs,
                     "order_id": followed.id if followed else None, "evidence": json.dumps(asdict(found), default=str, sort_keys=True)})
    if night.dry_run:
        return []
    with lake.writer(RETRAINING, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, pa.Table.from_pylist(rows, schema=RETRAINING.arrow_schema()))
        return [writer.publish(night.run_date, inputs=read, settings=digest, code=code_version(), run_id=night.run_id,
                               seconds=time.monotonic() - started, notes={"actions": {r["model"]: r["action"] for r in rows}})]


def _order(night: Night) -> None:
    """Puts the order of the command line on file."""
    from nightmarket.monitor import orders

    args = night.args
    if args.order is None:
        return
    if not (args.who or "").strip() or not (args.reason or "").strip():
        raise UsageError("--order needs --who NAME and --reason TEXT; the plan keeps both")
    if night.dry_run:
        return
    for kind in KINDS:
        if args.model in (None, kind.id):
            orders.file(night.settings, kind.id, night.run_date, args.order, args.who.strip(), args.reason.strip())


def _inputs(night: Night, open_orders: dict[str, Filed | None]) -> list[Input]:
    """What the plan is made from, but for the state of the registry: what the plan itself sets in motion does not change it."""
    found = [m.as_input() for d in (QUALITY, DRIFT) if (m := night.lake.manifest(d, night.run_date)) is not None]
    if (watched := night.lake.manifest(DRIFT, night.run_date)) is not None:  # the live quality is in the notes alone
        told = json.dumps(watched.notes, sort_keys=True)
        found.append(Input(f"notes:{DRIFT.id}/{night.run_date}", hashlib.sha256(told.encode()).hexdigest()[:16]))
    for kind in KINDS:
        found += trained_on(night, kind)
        if (before := published_before(night.lake, night.run_date, kind)) is not None and (due := before.notes.get("due")):
            found.append(Input(f"notes:{before.dataset}/{before.run_date}", hashlib.sha256(due.encode()).hexdigest()[:16]))
    found += [Input(f"order/{o.model}/{o.night}", o.id) for o in open_orders.values() if o is not None]
    return list(dict.fromkeys(found))


def trained_on(night: Night, kind: Kind) -> list[Input]:
    """The night's partitions that the kind's training is made from, and that are there before its own steps prepare anything."""
    steps = [step(name) for name in (*kind.prepare, kind.train)]
    made = {d.id for s in steps for d in s.writes}
    reads = dict.fromkeys(d for s in steps for d in s.reads if d.id not in made)
    return [m.as_input() for d in reads if (m := night.lake.manifest(d, night.run_date)) is not None]


def evidence(night: Night, kind: Kind, order: Filed | None) -> Evidence:
    """All that the decision about one kind rests on. Raises RegistryError."""
    from nightmarket.monitor.retraining import Evidence, Live
    from nightmarket.registry.client import Registry

    lake, settings = night.lake, night.settings
    verdict, drift = lake.manifest(QUALITY, night.run_date), lake.manifest(DRIFT, night.run_date)
    training = importlib.import_module(step(kind.train).runs)
    wanted = settings.digest(*getattr(training, "SECTIONS", (kind.section, "time_zone")))
    inputs = recipe(tuple(trained_on(night, kind)), wanted, code_version(), kind.settings(settings.shop).seed)
    registry = Registry(settings, kind)
    champion = registry.champion()
    notes: dict[str, Any] = drift.notes if drift else {}
    anew = _made_anew(champion) if champion else None
    return Evidence(
        model=kind.id,
        data_gate=verdict.notes["verdict"] if verdict else "missing",
        inputs=inputs,
        trained_from=(inputs,) if _trained(night, kind, registry, wanted) else (),
        forced=night.force,
        order=order.as_order() if order else None,
        champion=champion.version if champion else None,
        compatible=champion is None or champion.tags.get("settings") == wanted,
        warm=bool(getattr(training, "WARM", False)),
        # labels that contradict a screener that was right are a person's matter first: it would learn them
        drifted=tuple(d for d in notes.get("drifted", ()) if kind in concerned(d) and d != CONTRADICTED),
        live=Live(**notes["live"]) if notes.get("live") and kind.id == "recommender" else None,
        due=_due(night, kind, champion),
        age_days=(night.run_date - anew).days if anew else None,
        warm_starts=int(champion.tags.get(WARM_STARTS, "0")) if champion else 0,
        rows_learnt=_rows(night, champion.run_date) if champion else None,
        rows_now=_rows(night, night.run_date),
    )


def published_before(lake: Lake, night: date, kind: Kind) -> Manifest | None:
    """The kind's newest publication of the nights before: tonight's comes after the plan."""
    dataset = step(kind.publish).writes[0]
    return next((m for d in sorted(lake.dates(dataset), reverse=True) if d < night and (m := lake.manifest(dataset, d))), None)


def _due(night: Night, kind: Kind, champion: RegisteredModel | None) -> str | None:
    """Why the kind's own rules ask for another model than the one that serves."""
    before = published_before(night.lake, night.run_date, kind)
    if before is None or champion is None or before.notes.get("model_version") != champion.version:
        return None
    due = before.notes.get("due")
    return str(due) if due else None


def _made_anew(champion: RegisteredModel) -> date:
    return date.fromisoformat(champion.tags.get(MADE_ANEW, champion.run_date.isoformat()))


def _trained(night: Night, kind: Kind, registry: Any, settings: str) -> bool:
    """Whether the night's candidate was made by this code from what its training would read now, and is registered. A champion that was
    kept was not made anew."""
    from nightmarket.registry import candidate as candidates

    manifests = [night.lake.manifest(d, night.run_date) for d in step(kind.train).reads]
    read = {m.as_input() for m in manifests if m is not None}
    made = candidates.Candidate.read(candidates.folder_of(night.settings, night.run_date, kind))
    if made is None or made.training.get("kept") or (made.settings, made.code) != (settings, code_version()) or not read or not read <= set(made.inputs):
        return False
    return registry.find(made.recipe) is not None


def _rows(night: Night, until: date) -> int:
    """Events delivered up to a night, of nights that the gate let through."""
    passed = passed_nights(night.lake, until)
    return sum(m.rows_out for d in night.lake.dates(EVENTS) if d in passed and (m := night.lake.manifest(EVENTS, d)) is not None)


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("plan_retraining", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
