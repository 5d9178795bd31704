"""Register the night's judged candidate in MLflow, and load it again in a fresh process.

Needs `jobs.train` and `jobs.evaluate` of the night. One MLflow run holds settings, metrics with intervals beside the baselines',
slices, pictures, the manifests it was made from and a model card; the logged model carries the saved recommender, every shopper's
history as of the night, signature, input example and pinned requirements, and is defined by code, never by a pickle. The version
becomes the challenger in the ledger. Then a fresh process that may not unpickle loads it and must answer the input example as
this one did; the result is a tag that `jobs.bless` asks for. A candidate that is registered already keeps its version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import EVALUATION, FEATURES
from nightmarket.lake import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from nightmarket.recommend.candidate import Candidate
    from nightmarket.recommend.served import Question
    from nightmarket.registry.client import Submission

log = logs.logger("register")


def run(night: Night) -> list[Manifest]:
    """Publishes no dataset. Raises Refused where the night has no candidate, or it was not judged."""
    from nightmarket.recommend import candidate as candidates
    from nightmarket.registry.client import Registry, Verification, weights_digest

    candidate = candidates.require(night.settings, night.run_date)
    folder = candidates.folder_of(night.settings, night.run_date)
    evaluation = judged(night, candidate, folder)
    registry = Registry(night.settings)
    version = registry.find(candidate.recipe, weights_digest(folder / "model"))
    if night.dry_run:
        log.info(logs.said("would register" if version is None else "current", run_date=night.run_date, version=version))
        return []
    if version is None:
        version = registry.register(_submission(night, candidate, folder, evaluation))
    else:
        registry.adopt(version, night.run_date)
        log.info(logs.said("current", run_date=night.run_date, version=version))
    known = Verification.from_tag(registry.version(version).tags.get("verification"))
    if known is None or not known.passed or night.force:
        registry.verify(version)
    return []


def judged(night: Night, candidate: Candidate, folder: Path) -> dict[str, Any]:
    """evaluation.json of this very candidate. Raises Refused where it, or what gold.evaluation says, is of another one."""
    remedy = f"run `python -m jobs.evaluate --run-date {night.run_date}`"
    manifest = night.lake.manifest(EVALUATION, night.run_date)
    path = folder / "evaluation" / "evaluation.json"
    if manifest is None or not path.is_file():
        raise Refused(f"the candidate of {night.run_date} was not judged; {remedy} first")
    evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    said = manifest.notes
    if said.get("candidate") != candidate.recipe or said["holdout"]["digest"] != evaluation["holdout"]["digest"]:
        raise Refused(f"gold.evaluation of {night.run_date} judges another candidate than the one in {folder}; {remedy} again")
    return evaluation


def _submission(night: Night, candidate: Candidate, folder: Path, evaluation: Mapping[str, Any]) -> Submission:
    from dataclasses import asdict
    from datetime import datetime

    from nightmarket.recommend.model import Recommender
    from nightmarket.recommend.served import Snapshot, answers
    from nightmarket.registry.card import card
    from nightmarket.registry.client import Submission

    shop = night.settings.shop
    snapshot = Snapshot(night.lake.at(FEATURES, night.run_date).arrow(), datetime.fromisoformat(candidate.end))
    questions = example(snapshot.histories)
    with logs.stage(log, "answered the input example", questions=len(questions)):
        answered = answers(Recommender.load(folder / "model"), snapshot, questions)
    inputs = [asdict(i) for i in candidate.inputs]
    return Submission(
        run_date=night.run_date,
        recipe=candidate.recipe,
        recommender=folder / "model",
        snapshot=snapshot,
        questions=questions,
        answers=answered,
        params={**shop.model.model_dump(), "cut": candidate.cut, "end": candidate.end},
        metrics=dict(_metrics(evaluation)),
        tags={
            "code": candidate.code, "settings": candidate.settings, "seed": str(candidate.seed), "holdout": evaluation["holdout"]["digest"],
            "holdout_from": candidate.cut, "holdout_until": candidate.end, "trained_in_seconds": str(candidate.seconds),
        },
        documents={
            "model_card.md": card(shop.title or shop.shop, candidate, evaluation, shop.blessing.metric),
            "inputs.json": inputs, "evaluation.json": dict(evaluation), "training.json": candidate.training,
            "shop.json": {s: shop.model_dump(mode="json")[s] for s in ("shop", "model", "blessing", "time_zone", "currency")},
        },
        folders={"plots": folder / "evaluation" / "plots"} if (folder / "evaluation" / "plots").is_dir() else {},
    )


def example(histories: pa.Table) -> list[Question]:
    """The input example: two shoppers, a stranger from a country, anyone, and a shopper on a visit. By key, so always the same."""
    from nightmarket.recommend.served import Question

    known = sorted((r["user_id"], r["country"], r["item_ids"]) for r in
                   histories.select(["user_id", "country", "item_ids"]).to_pylist() if r["item_ids"])[:2]
    country = next((c for c in sorted({c for c in histories["country"].to_pylist() if c})), None)
    made = [Question(user_id=u) for u, _, _ in known]
    made += [Question(country=country)] if country else []
    made.append(Question())
    made += [Question(user_id=u, item_ids=(items[0],)) for u, _, items in known[:1]]
    return made


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


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("register", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
