"""The registered screener as MLflow serves it: a model defined by this file, not by a pickle.

Logged with two artifacts: `saved` (what training saved) and `snapshot` (the night's gold.screening_features and the names of its lists). A
question is a row with `kind` and `id`, one of the snapshot's; its answer is `score`, `probability` (-1 where strangeness alone judges)
and `reasons`. Nightly decisions do not go this way: `jobs.decide` asks the same model about the night's own features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from mlflow.pyfunc import PythonModel

from nightmarket.contracts import SCREENING_FEATURES
from nightmarket.screen.screener import Described, Screener
from nightmarket.screen.screening import Options


def answers(screener: Screener, given: dict[str, Described], questions: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """One answer a question, in order. Raises KeyError for a kind or id that the snapshot does not have."""
    made: list[dict[str, Any]] = []
    for kind, key in questions:
        rows = given[kind]
        at = np.flatnonzero(rows.ids == key)
        if not len(at):
            raise KeyError(f"no {kind} {key!r} in the snapshot")
        found = screener.parts[kind].ask(rows, at, Options())
        probability = float(found.probability[0])
        made.append({"score": float(found.score[0]), "probability": -1.0 if np.isnan(probability) else probability, "reasons": "; ".join(found.reasons[0])})
    return made


class Served(PythonModel):
    """The pyfunc: loads the screener and the snapshot once, then answers frames of questions."""

    def load_context(self, context: Any) -> None:
        self._screener = Screener.load(Path(context.artifacts["saved"]) / "served")
        folder = Path(context.artifacts["snapshot"])
        table = pq.ParquetFile(folder / "features.parquet").read().cast(SCREENING_FEATURES.arrow_schema())
        self._given = Described.of(table, json.loads((folder / "notes.json").read_text()))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answers of a frame of questions, as a frame."""
        asked = list(zip(model_input["kind"], model_input["id"].astype(str), strict=True))
        return pd.DataFrame(answers(self._screener, self._given, asked), columns=["score", "probability", "reasons"])


mlflow.models.set_model(Served())
