"""A recommender that counts instead of learning: the interface of `nightmarket.recommend.model.Recommender`, no TensorFlow.

An item's score is how often everyone had it, plus 100 for each time the shopper (or country) did. `model.json` holds a
`bias` that is added, so that two saved models can differ, and a `fault` for tests: "" or what `load` does wrong.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema([("audience", pa.string()), ("audience_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()),
                    ("score", pa.float64()), ("reason", pa.string())])


class ModelError(ValueError):
    """As of the recommender's own."""


class Recommender:
    def __init__(self, bias: float = 0.0, fault: str = ""):
        self.bias, self.fault = bias, fault

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps({"bias": self.bias, "fault": self.fault}))

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        made = cls(**json.loads((folder / "model.json").read_text()))
        if made.fault == "crash":
            raise RuntimeError("weights.h5 is truncated")
        if made.fault == "earlier":
            raise ModelError("it is of format 1, this code reads 2; train again")
        if made.fault == "hang":
            time.sleep(600)
        if made.fault == "drift":
            made.bias += 0.001
        return made

    def recommend(
        self, histories: pa.Table, as_of: datetime, k: int, user_ids: Sequence[str] | None = None, items: pa.Table | None = None,
        barred: Collection[str] = (),
    ) -> pa.Table:
        everyone: Counter[str] = Counter()
        own: dict[tuple[str, str], Counter[str]] = {("everyone", "*"): Counter()}
        for row in histories.to_pylist():
            seen = Counter(i for i, t in zip(row["item_ids"], row["event_times"], strict=True) if t < as_of.timestamp())
            everyone += seen
            if user_ids is None or row["user_id"] in user_ids:
                own[("user", row["user_id"])] = seen
            if row["country"]:
                own.setdefault(("country", row["country"]), Counter()).update(seen)
        rows = []
        for (audience, key), counts in sorted(own.items()):
            score = {i: n + 100.0 * counts[i] + self.bias for i, n in everyone.items() if i not in barred}
            best = sorted(score, key=lambda i: (-score[i], i))[:k]
            rows += [{"audience": audience, "audience_id": key, "rank": r, "item_id": i, "score": score[i],
                      "reason": "popular"} for r, i in enumerate(best, 1)]
        return pa.Table.from_pylist(rows, SCHEMA)

    def standing(self, histories: pa.Table, as_of: datetime, items: pa.Table | None = None) -> Standing:
        return Standing(self, histories, as_of)


class Standing:
    """The interface of `nightmarket.recommend.model.Standing`."""

    def __init__(self, model: Recommender, histories: pa.Table, as_of: datetime):
        self._model, self._histories, self._as_of = model, histories, as_of

    def recommend(self, k: int, user_ids: Sequence[str] | None = None) -> pa.Table:
        return self._model.recommend(self._histories, self._as_of, k, user_ids)

    def visit(self, user_id: str | None, country: str | None, item_ids: Sequence[str], k: int) -> pa.Table:
        rows = self._histories.to_pylist()
        own = next((r for r in rows if r["user_id"] == user_id), {"user_id": "visitor", "country": country, "item_ids": [], "event_times": []})
        seen = {**own, "item_ids": [*own["item_ids"], *item_ids], "event_times": [*own["event_times"], *[self._as_of.timestamp() - 1] * len(item_ids)]}
        table = pa.Table.from_pylist([*(r for r in rows if r is not own), seen])
        made = self._model.recommend(table, self._as_of, k, [own["user_id"]])
        return made.filter(pc.equal(made["audience"], "user"))
