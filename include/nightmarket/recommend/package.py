"""A judged recommender as the registry takes it: saved model, every shopper's history as of the night, input example and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from nightmarket import log as logs
from nightmarket.contracts import FEATURES
from nightmarket.recommend import served
from nightmarket.recommend.served import Question, Snapshot, answers
from nightmarket.registry.candidate import saved_in
from nightmarket.registry.client import Child, Submission

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from nightmarket.command import Night
    from nightmarket.registry.candidate import Candidate

log = logs.logger("register")


def package(night: Night, candidate: Candidate, folder: Path, evaluation: Mapping[str, Any]) -> Submission:
    """The candidate in `folder`, with what it answers to the input example. What all kinds have in common `jobs.register` adds."""
    from nightmarket.recommend.model import Recommender

    snapshot = Snapshot(night.lake.at(FEATURES, night.run_date).arrow(), datetime.fromisoformat(candidate.end))
    questions = example(snapshot.histories)
    with logs.stage(log, "answered the input example", questions=len(questions)):
        answered = answers(Recommender.load(saved_in(folder)).standing(snapshot.histories, snapshot.as_of), questions)
    made = replace(submission(night.run_date, candidate.recipe, saved_in(folder), snapshot, questions, answered), children=trials(candidate))
    compression = folder / "evaluation" / "compression.json"
    if not compression.is_file():
        return made
    said = json.loads(compression.read_text(encoding="utf-8"))
    metrics = {f"compression/{name}_{column}": value for name, row in said["table"].items() for column, value in row.items()}
    lost = {f"compression/{name}_lost": smaller["lost"]["value"] for name, smaller in said["smaller"].items()}
    return replace(made, documents={"compression.json": said}, metrics=metrics | lost)


def trials(candidate: Candidate) -> list[Child]:
    """The trials of the search that this very candidate made; of one that an earlier night made, that night's model has them."""
    search = candidate.training.get("search")
    if search is None or search["night"] != candidate.run_date:
        return []
    return [
        Child(f"trial {t['number']}", t["settings"],
              {"loss": [v for v in t["losses"] if v is not None], **({} if t["value"] is None else {"value": [t["value"]]})}, {"state": t["state"]})
        for t in search["trials"]
    ]


def submission(
    run_date: Any, recipe: str, saved: Path, snapshot: Snapshot, questions: Sequence[Question], answered: Sequence[Mapping[str, Any]],
) -> Submission:
    """The parts that only a recommender has."""
    return Submission(
        run_date, recipe, saved, Path(served.__file__), signature(), pd.DataFrame([asdict(q) | {"item_ids": list(q.item_ids)} for q in questions]),
        answered, artifacts={"snapshot": snapshot.save},
    )


def example(histories: pa.Table) -> list[Question]:
    """The input example: two shoppers, a stranger from a country, anyone, and a shopper on a visit. By key, so always the same."""
    known = sorted((r["user_id"], r["country"], r["item_ids"]) for r in
                   histories.select(["user_id", "country", "item_ids"]).to_pylist() if r["item_ids"])[:2]
    country = next((c for c in sorted({c for c in histories["country"].to_pylist() if c})), None)
    made = [Question(user_id=u) for u, _, _ in known]
    made += [Question(country=country)] if country else []
    made.append(Question())
    made += [Question(user_id=u, item_ids=(items[0],)) for u, _, items in known[:1]]
    return made


def signature() -> ModelSignature:
    """Questions and answers of `nightmarket.recommend.served`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    strings = Array(DataType.string)
    return ModelSignature(
        inputs=Schema([
            ColSpec(DataType.string, "user_id", required=False), ColSpec(DataType.string, "country", required=False),
            ColSpec(strings, "item_ids", required=False), ColSpec(DataType.long, "k", required=False),
        ]),
        outputs=Schema([
            ColSpec(strings, "item_ids"), ColSpec(Array(DataType.double), "scores"), ColSpec(strings, "reasons"),
            ColSpec(DataType.string, "source"),
        ]),
    )
