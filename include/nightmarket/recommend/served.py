"""The registered recommender as MLflow serves it: a model defined by this file, not by a pickle.

`Registry.register` logs this file with two artifacts: the saved `Recommender` (weights, vocabulary, items, settings) and a
serving snapshot (every known shopper's history as of training, and that moment). So a loaded version answers alone,
without the lake: `mlflow.pyfunc.load_model("models:/recommender@champion").predict(questions)`.

A question is a row with any of
- `user_id`: a known shopper gets his own answer; an unknown one that of his country, then of everyone;
- `country`: for strangers;
- `item_ids`: the products of the visit under way, oldest first; the answer then follows the visit;
- `k`: how many items, 10 where it is not said.

The answer has a row for each question, in order: `item_ids`, `scores` (comparable within the row only), `reasons`, and
`source`: user, session, country or everyone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.pyfunc import PythonModel

from nightmarket.contracts import FEATURES

DEFAULT_K = 10


@dataclass(frozen=True)
class Question:
    """What is asked of the model: see the module's docstring."""

    user_id: str | None = None
    country: str | None = None
    item_ids: tuple[str, ...] = ()
    k: int = DEFAULT_K


@dataclass(frozen=True)
class Snapshot:
    """Histories (a table of `gold.features`) and the moment as of which the model answers."""

    histories: pa.Table
    as_of: datetime

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.histories.select(list(FEATURES.column_names)).cast(FEATURES.arrow_schema()),
                       folder / "histories.parquet", compression="zstd")
        (folder / "snapshot.json").write_text(json.dumps({"as_of": self.as_of.isoformat()}))

    @classmethod
    def load(cls, folder: Path) -> Snapshot:
        moment = datetime.fromisoformat(json.loads((folder / "snapshot.json").read_text())["as_of"])
        return cls(pq.ParquetFile(folder / "histories.parquet").read().cast(FEATURES.arrow_schema()), moment)


def answers(standing: Any, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """One answer a question: {"item_ids", "scores", "reasons", "source"}; best first, at most k of each.

    `standing` is what `Recommender.standing` makes. Questions without a visit are answered together; a visit changes what is known of
    its shopper alone, so each is answered by itself, and no answer depends on who else asks.
    """
    plain = [n for n, q in enumerate(questions) if not q.item_ids]
    made: dict[int, dict[str, Any]] = {}
    if plain:
        asked = sorted({u for n in plain if (u := questions[n].user_id) is not None})
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in standing.recommend(max(questions[n].k for n in plain), asked).sort_by("rank").to_pylist():
            found.setdefault((row["audience"], row["audience_id"]), []).append(row)
        made = {n: _answer(questions[n], found) for n in plain}
    for n, q in enumerate(questions):
        if q.item_ids:
            rows = standing.visit(q.user_id, q.country, q.item_ids, q.k).sort_by("rank").to_pylist()
            made[n] = _said(rows, "session")
    return [made[n] for n in range(len(questions))]


def _answer(q: Question, found: dict[tuple[str, str], list[dict[str, Any]]]) -> dict[str, Any]:
    places = [("user", q.user_id), ("country", q.country), ("everyone", "*")]
    audience, key = next(((a, i) for a, i in places if i is not None and (a, i) in found), ("everyone", "*"))
    return _said(found.get((audience, key), [])[: q.k], audience)


def _said(rows: Sequence[dict[str, Any]], source: str) -> dict[str, Any]:
    return {"item_ids": [r["item_id"] for r in rows], "scores": [float(r["score"]) for r in rows],
            "reasons": [r["reason"] for r in rows], "source": source}


def questions_of(frame: pd.DataFrame) -> list[Question]:
    """Questions of a frame; columns and values may be missing."""
    made = []
    for row in frame.to_dict("records"):
        items = row.get("item_ids")
        k = row.get("k")
        made.append(Question(
            user_id=_text(row.get("user_id")), country=_text(row.get("country")),
            item_ids=() if items is None or isinstance(items, float) else tuple(str(i) for i in items),
            k=DEFAULT_K if k is None or pd.isna(k) else int(k),
        ))
    for q in made:
        if q.k < 1:
            raise ValueError(f"k is {q.k}; ask for at least one item")
    return made


def _text(value: Any) -> str | None:
    return None if value is None or (isinstance(value, float) and pd.isna(value)) or value == "" else str(value)


class Served(PythonModel):
    """The pyfunc: loads the recommender and the snapshot once, then answers frames of questions."""

    def load_context(self, context: Any) -> None:
        from nightmarket.recommend.model import Recommender

        snapshot = Snapshot.load(Path(context.artifacts["snapshot"]))
        self._standing = Recommender.load(Path(context.artifacts["saved"])).standing(snapshot.histories, snapshot.as_of)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answers of a frame of questions, as a frame. The signature is stated when the model is registered."""
        made = answers(self._standing, questions_of(model_input))
        return pd.DataFrame(made, columns=["item_ids", "scores", "reasons", "source"])


mlflow.models.set_model(Served())
