"""A judged screener as the registry takes it: what training saved, the night's features, input example and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nightmarket import log as logs
from nightmarket.contracts import SCREENING_FEATURES
from nightmarket.registry.client import Submission
from nightmarket.screen.screener import Described, Screener

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from nightmarket.command import Night
    from nightmarket.registry.candidate import Candidate

log = logs.logger("register")
_EACH = 2
"""Questions of a kind in the input example."""


def package(night: Night, candidate: Candidate, folder: Path, evaluation: Mapping[str, Any]) -> Submission:
    """The candidate in `folder`, with what it answers to the input example."""
    del evaluation
    from nightmarket.screen import served

    partition = night.lake.at(SCREENING_FEATURES, night.run_date)
    table, notes = partition.arrow(), partition.manifest.notes
    given, screener = Described.of(table, notes), Screener.load(folder / "model" / "served")
    # the newest of each kind: by time and id, so always the same
    questions = [(k, str(i)) for k in screener.parts if k in given for i in given[k].ids[-_EACH:]]
    with logs.stage(log, "answered the input example", questions=len(questions)):
        answered = served.answers(screener, given, questions)

    reads_texts = any(p.texts for p in screener.parts.values())

    def snapshot(to: Path) -> None:
        to.mkdir(parents=True, exist_ok=True)
        # texts go along only where they are read
        pq.write_table(table if reads_texts else _without_texts(table), to / "features.parquet", compression="zstd")
        (to / "notes.json").write_text(json.dumps(notes))

    return Submission(night.run_date, candidate.recipe, folder / "model", Path(served.__file__), signature(),
                      pd.DataFrame(questions, columns=["kind", "id"]), answered, artifacts={"snapshot": snapshot})


def _without_texts(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("text")
    return table.set_column(place, "text", pa.nulls(len(table), pa.string()))


def signature() -> ModelSignature:
    """Questions and answers of `nightmarket.screen.served`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "kind"), ColSpec(DataType.string, "id")]),
        outputs=Schema([ColSpec(DataType.double, "score"), ColSpec(DataType.double, "probability"), ColSpec(DataType.string, "reasons")]),
    )
