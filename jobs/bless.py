"""Decide whether the night's challenger may serve, and move the aliases.

Needs `jobs.register` of the night for the same kind of model (`--model`, default: recommender). Gathers the evidence (the data gate's verdict, the evaluation on the frozen holdout with paired
intervals, the fresh-process verification, who serves), applies the truth table of `nightmarket.evaluate.blessing`, writes the
decision into the ledger with its evidence, lets MLflow's aliases follow, and leaves decision.json, decision.md and the model card
under <root>/reports/models/<run date>/<model name>/. A version that was decided about stays decided (unless --force, or a person approves).

A challenger trained on older data than the champion, or one that was taken out of service before (`jobs.rollback`), is never
promoted by itself: `--approve NAME --reason TEXT` lifts these two conditions, and the ledger keeps name and reason.

Exits 0 when the challenger was promoted or the champion goes on serving, 3 when the challenger was refused and nothing serves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

from jobs.register import judged, kind_argument
from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused, UsageError
from nightmarket.contracts import QUALITY
from nightmarket.lake import Manifest, write_atomically
from nightmarket.registry import kinds

if TYPE_CHECKING:
    from nightmarket.evaluate.blessing import Approval, Decision, Evidence, Measured
    from nightmarket.registry.client import Registry

log = logs.logger("bless")


def extend(parser: argparse.ArgumentParser) -> None:
    kind_argument(parser)
    parser.add_argument("--approve", metavar="NAME", help="a person takes it upon them to promote older data's model, or one that was rolled back")
    parser.add_argument("--reason", metavar="TEXT", help="why, for the ledger")


def run(night: Night) -> list[Manifest]:
    """Publishes no dataset. Raises Refused where nothing serves afterwards, or evidence is missing."""
    from nightmarket.evaluate.blessing import decide
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.client import Registry, weights_digest

    approval = _approval(night.args)
    settings, kind = night.settings, kinds.kind(night.args.model)
    rules = kind.blessing(settings.shop)
    candidate = candidates.require(settings, night.run_date, kind)
    folder = candidates.folder_of(settings, night.run_date, kind)
    evaluation = judged(night, candidate, folder, kind)
    registry = Registry(settings, kind)
    registry.sync()
    version = registry.find(candidate.recipe, weights_digest(candidates.saved_in(folder)))
    if version is None:
        raise Refused(f"the candidate of {night.run_date} is not registered; run "
                      f"`python -m jobs.register --model {kind.id} --run-date {night.run_date}` first")
    logs.identify(model_version=version)
    champion = registry.ledger.current(registry.model, "champion")
    decided = registry.ledger.decision(registry.model, version)
    if (decided is not None and not (night.force or approval)) or version == champion:
        said: Mapping[str, Any] = decided.evidence["decision"] if decided else {"outcome": "promoted", "champion": None, "why": "by hand"}
        log.info(logs.said("current", run_date=night.run_date, version=version, outcome=said["outcome"], why=said["why"]))
        if decided is not None and not night.dry_run:
            _report(night, registry, decided.evidence, registry.ledger.head())
        return _end(registry, version, said)
    evidence = gather(night, registry, version, evaluation, approval)
    decision = decide(evidence, rules)
    of_its_night = None
    if decision.outcome != "promoted" and champion is not None and registry.for_night(night.run_date) is None:
        # every champion learnt from later nights: in its own night this one would have been the first
        of_its_night = decide(replace(evidence, champion=None), rules)
    if night.dry_run:
        log.info(logs.said("would decide", run_date=night.run_date, version=version, outcome=decision.outcome, why=decision.why))
        return []
    _move(night, registry, decision, of_its_night, approval)
    return _end(registry, version, decision.to_json())


def _approval(args: argparse.Namespace) -> Approval | None:
    from nightmarket.evaluate.blessing import Approval

    if (args.approve is None) != (args.reason is None):
        raise UsageError("--approve NAME and --reason TEXT belong together; the ledger keeps both")
    if args.approve is None:
        return None
    if not args.approve.strip() or not args.reason.strip():
        raise UsageError("--approve and --reason must not be empty; the ledger keeps both")
    return Approval(args.approve.strip(), args.reason.strip())


def gather(night: Night, registry: Registry, version: str, evaluation: Mapping[str, Any], approval: Approval | None) -> Evidence:
    """Everything that the decision rests on. Raises Refused where the champion moved since the evaluation."""
    from nightmarket.evaluate.blessing import Evidence, Slice
    from nightmarket.registry.client import Verification

    metric = registry.kind.blessing(night.settings.shop).metric
    models, differences = evaluation["models"], evaluation["differences"]
    challenger = models["challenger"]["slices"]
    serving = registry.ledger.newest(registry.model, "champion")
    champion = serving.to_version if serving else None
    unreadable = evaluation.get("unreadable", {})
    judged_against = models.get("champion", unreadable).get("version")
    if judged_against != champion:
        raise Refused(
            f"the challenger of {night.run_date} was judged against champion {judged_against or 'none'}, but {champion or 'none'} serves; "
            f"run `python -m jobs.{registry.kind.evaluate} --run-date {night.run_date} --force` and decide again"
        )
    verdict = night.lake.manifest(QUALITY, night.run_date)
    verification = Verification.from_tag(registry.version(version).tags.get("verification"))
    against = models["champion"]["slices"] if "champion" in models else {}
    return Evidence(
        challenger=version,
        challenger_date=night.run_date,
        data_gate=verdict.notes["verdict"] if verdict else "missing",
        metric=metric,
        measured={m: i["value"] for m, i in challenger["all"].items()},
        quality=measured(challenger["all"].get(metric)),
        baselines=_all(models, metric, skip=("challenger", "champion")),
        ahead_of={n: m for n, d in differences.items() if n != "champion" and (m := measured(d["all"].get(metric)))},
        verified=verification.passed if verification else None,
        verification=verification.detail if verification else "",
        slices=tuple(
            Slice(name, m, measured(against.get(name, {}).get(metric)),
                  measured(differences.get("champion", {}).get(name, {}).get(metric)))
            for name, values in sorted(challenger.items()) if name != "all" and (m := measured(values.get(metric)))
        ),
        champion=champion,
        champion_date=date.fromisoformat(serving.run_date) if champion is not None and serving and serving.run_date else None,
        champion_quality=measured(against.get("all", {}).get(metric)),
        ahead_of_champion=measured(differences.get("champion", {}).get("all", {}).get(metric)),
        rolled_back=registry.taken_out(registry.version(version).tags["recipe"]),
        unreadable=unreadable.get("why", ""),
        same_holdout=True if "champion" in models else None,  # judged in one pass over one trial, whose digest `judged` has compared
        approval=approval,
    )


def _all(models: Mapping[str, Any], metric: str, skip: Sequence[str]) -> dict[str, Measured]:
    return {n: m for n, model in models.items() if n not in skip and (m := measured(model["slices"]["all"].get(metric)))}


def measured(interval: Mapping[str, Any] | None) -> Measured | None:
    from nightmarket.evaluate.blessing import Measured

    return None if interval is None else Measured(interval["value"], interval["low"], interval["high"], interval["users"])


def _move(night: Night, registry: Registry, decision: Decision, of_its_night: Decision | None, approval: Approval | None) -> None:
    """Ledger first: it is the truth. What follows can be done again from it."""
    evidence: dict[str, Any] = {"decision": decision.to_json()}
    if of_its_night is not None:
        evidence["of_its_night"] = of_its_night.to_json()
    who, why, ledger = "jobs.bless", decision.why, registry.ledger
    if approval is not None:
        who, why = approval.who, f"{approval.why} ({why})"
        evidence["approval"] = {"who": approval.who, "why": approval.why}
    if decision.outcome == "promoted":
        ledger.promote(registry.model, decision.challenger, decision.champion, who, why, evidence, night.run_date)
    else:
        # a decision that moves nothing is on record too; the challenger's alias ends with it
        at = ledger.current(registry.model, "challenger")
        action = {"kept": "keep", "refused": "refuse"}[decision.outcome]
        ledger.move(registry.model, "challenger", at, None if at == decision.challenger else at, who, why, evidence, night.run_date, action)
    registry.sync()
    _report(night, registry, evidence, ledger.head())
    log.info(logs.said(decision.outcome, run_date=night.run_date, version=decision.challenger, champion=decision.champion, why=why))


def _report(night: Night, registry: Registry, evidence: Mapping[str, Any], head: str) -> None:
    """The decision as a tag of the version, and for people to read. The ledger's hash is noted outside it, so that a ledger cut
    short is found."""
    from nightmarket.evaluate.markdown import table
    from nightmarket.registry import candidate as candidates

    decision, shop, kind = evidence["decision"], night.settings.shop, registry.kind
    registry.tag(decision["challenger"], "decision", json.dumps({k: decision[k] for k in ("outcome", "champion", "why")}))
    folder = candidates.report_of(night.settings, night.run_date, kind)
    if (folder / "decision.json").is_file() and json.loads((folder / "decision.json").read_text())["decision"] == decision:
        return
    candidate = candidates.require(night.settings, night.run_date, kind)
    evaluation = json.loads((candidates.folder_of(night.settings, night.run_date, kind) / "evaluation" / "evaluation.json").read_text())
    serving = {"promoted": f"version {decision['challenger']} serves now", "kept": f"champion {decision['champion']} goes on serving",
               "refused": "nothing serves"}[decision["outcome"]]
    lines = [
        f"# {registry.model} version {decision['challenger']} of {night.run_date}: {decision['outcome']}", "",
        f"{serving[0].upper()}{serving[1:]}: {decision['why']}.", "",
        *([f"Approved by {evidence['approval']['who']}: {evidence['approval']['why']}", ""] if "approval" in evidence else []),
        *table(("check", "", "observed", "required"),
               [(c["name"], "passed" if c["passed"] else "FAILED", c["observed"], c["required"]) for c in decision["checks"]]), "",
        *(f"- {c['text']}" for c in decision["checks"] if not c["passed"]), "",
        f"Ledger: {registry.ledger.path.name}, last row `{head}`.", "",
    ]
    write_atomically(folder / "model_card.md", kind.load(kind.card)(shop.title or shop.shop, candidate, evaluation, kind.blessing(shop).metric))
    write_atomically(folder / "decision.md", "\n".join(lines))
    write_atomically(folder / "decision.json", json.dumps(
        {**evidence, "run_date": night.run_date.isoformat(), "model": registry.model, "ledger_head": head},
        indent=1, sort_keys=True, ensure_ascii=False))


def _end(registry: Registry, version: str, decision: Mapping[str, Any]) -> list[Manifest]:
    if registry.ledger.current(registry.model, "champion") is None:
        raise Refused(f"{registry.model} version {version} was not promoted ({decision['why']}) and nothing serves; see the decision report")
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("bless", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
