"""Register the night's judged candidate in MLflow, and load it again in a fresh process.

Needs the night's training and evaluation of the kind of model that `--model` names (default: recommender). One MLflow run holds
settings, metrics with intervals beside the baselines', slices, pictures, the manifests it was made from and a model card; the logged
model carries what the trained model saved and what it answers from, signature, input example and pinned requirements, and is defined
by code, never by a pickle. The version becomes the challenger in the ledger. Then a fresh process that may not unpickle loads it and must answer the input example as
this one did; the result is a tag that `jobs.bless` asks for. A candidate that is registered already keeps its version.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.lake import Manifest
from nightmarket.registry import kinds
from nightmarket.registry.kinds import RECOMMENDER, Kind

if TYPE_CHECKING:
    from nightmarket.registry.candidate import Candidate
    from nightmarket.registry.client import Submission

log = logs.logger("register")


def run(night: Night) -> list[Manifest]:
    """Publishes no dataset. Raises Refused where the night has no candidate, or it was not judged."""
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.client import Registry, Verification, weights_digest

    kind = kinds.kind(night.args.model)
    candidate = candidates.require(night.settings, night.run_date, kind)
    folder = candidates.folder_of(night.settings, night.run_date, kind)
    evaluation = judged(night, candidate, folder, kind)
    registry = Registry(night.settings, kind)
    version = registry.find(candidate.recipe, weights_digest(candidates.saved_in(folder)))
    logs.identify(model_version=version)
    if night.dry_run:
        log.info(logs.said("would register" if version is None else "current", run_date=night.run_date, version=version))
        return []
    with ExitStack() as stack:
        # it imports what loading takes while the candidate is packaged
        stranger = stack.enter_context(registry.stranger()) if version is None else None
        if version is None:
            version = registry.register(_submission(night, kind, candidate, folder, evaluation))
            logs.identify(model_version=version)
        else:
            registry.adopt(version, night.run_date)
            log.info(logs.said("current", run_date=night.run_date, version=version))
        known = Verification.from_tag(registry.version(version).tags.get("verification"))
        if known is None or not known.passed or night.force:
            registry.verify(version, stranger)
    return []


def judged(night: Night, candidate: Candidate, folder: Path, kind: Kind = RECOMMENDER) -> dict[str, Any]:
    """evaluation.json of this very candidate. Raises Refused where it, or what the evaluation dataset says, is of another one."""
    remedy = f"run `python -m jobs.{kind.evaluate} --run-date {night.run_date}`"
    manifest = night.lake.manifest(kind.evaluation, night.run_date)
    path = folder / "evaluation" / "evaluation.json"
    if manifest is None or not path.is_file():
        raise Refused(f"the candidate of {night.run_date} was not judged; {remedy} first")
    evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    said = manifest.notes
    if said.get("candidate") != candidate.recipe or said["holdout"]["digest"] != evaluation["holdout"]["digest"]:
        raise Refused(f"{kind.evaluation.id} of {night.run_date} judges another candidate than the one in {folder}; {remedy} again")
    return evaluation


def _submission(night: Night, kind: Kind, candidate: Candidate, folder: Path, evaluation: Mapping[str, Any]) -> Submission:
    """What its kind packages, and what every kind has."""
    from dataclasses import asdict, replace

    shop = night.settings.shop
    packaged: Submission = kind.load(kind.package)(night, candidate, folder, evaluation)
    settings = kind.settings(shop).model_dump(mode="json")
    plots = folder / "evaluation" / "plots"
    return replace(
        packaged,
        params={**settings, "cut": candidate.cut, "end": candidate.end, **packaged.params},
        metrics={**dict(_metrics(evaluation)), **packaged.metrics},
        tags={
            "code": candidate.code, "settings": candidate.settings, "seed": str(candidate.seed), "holdout": evaluation["holdout"]["digest"],
            "holdout_from": candidate.cut, "holdout_until": candidate.end, "trained_in_seconds": str(candidate.seconds), **packaged.tags,
        },
        documents={
            "model_card.md": kind.load(kind.card)(shop.title or shop.shop, candidate, evaluation, kind.blessing(shop).metric),
            "inputs.json": [asdict(i) for i in candidate.inputs], "evaluation.json": dict(evaluation), "training.json": candidate.training,
            "shop.json": {"shop": shop.shop, "time_zone": shop.time_zone, "currency": shop.currency, kind.section: settings,
                          "blessing": kind.blessing(shop).model_dump(mode="json")},
            **packaged.documents,
        },
        folders={**({"plots": plots} if plots.is_dir() else {}), **packaged.folders},
    )


def _metrics(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """ndcg@10, ndcg@10_low, …; baselines, champion and slices with their name before it: popularity/ndcg@10, slices/country=DE/mrr."""
    import math

    def of(prefix: str, values: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
        for metric, interval in values.items():
            for end in ("value", "low", "high"):
                if math.isfinite(interval[end]):
                    yield f"{prefix}{metric}" + ("" if end == "value" else f"_{end}"), interval[end]

    for name, model in evaluation["models"].items():
        yield from of("" if name == "challenger" else f"{name}/", model["slices"]["all"])
    for task, values in evaluation.get("heads", {}).get("challenger", {}).items():
        yield from of(f"heads/{task}_", values)
    for part, values in evaluation["models"]["challenger"]["slices"].items():
        if part != "all":
            yield from of(f"slices/{part}/", values)


def kind_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=[k.id for k in kinds.KINDS], default=RECOMMENDER.id, metavar="KIND",
                        help=f"kind of model: {', '.join(k.id for k in kinds.KINDS)} (default: {RECOMMENDER.id})")


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("register", __doc__ or "", run, argv, kind_argument)


if __name__ == "__main__":
    sys.exit(main())
