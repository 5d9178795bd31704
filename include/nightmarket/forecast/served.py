"""The registered forecaster as MLflow serves it: a model defined by this file, not by a pickle.

A question is a row with `series`, 'level/key' as in 'item/85123A' or 'total/*', and `days`, how many days ahead (the horizon where it is
not said). The answer has a row for each question, in order: `first_day`, `mean`, `low` and `high` (lists, one entry a day; the widest
interval), `model`. It answers as of the night that it was fitted on, before forecasts are made to add up; what serves the shop is
`gold.forecasts`. A series it does not know has empty lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from nightmarket.forecast.fitted import Fitted

COLUMNS = ("first_day", "mean", "low", "high", "model")


def answers(model: Fitted, series: Sequence[str], days: Sequence[int | None]) -> list[dict[str, Any]]:
    """One answer a question; see the module's docstring."""
    place = {i: (part, k) for part in model.pieces for k, i in enumerate(part.ids)}
    first = (model.made_on + timedelta(days=1)).isoformat()
    made = []
    for name, asked in zip(series, days, strict=True):
        if name not in place:
            made.append({"first_day": first, "mean": [], "low": [], "high": [], "model": "unknown"})
            continue
        part, k = place[name]
        count = model.reach if asked is None else asked
        if not 1 <= count <= model.reach:
            raise ValueError(f"days is {count}; this forecaster reaches 1 to {model.reach}")
        low, high = part.made.bounds[max(part.made.bounds)]
        made.append({"first_day": first, "mean": part.made.mean[k, :count].tolist(), "low": low[k, :count].tolist(),
                     "high": high[k, :count].tolist(), "model": part.made.model[k]})
    return made


class Served(PythonModel):
    """The pyfunc."""

    def load_context(self, context: Any) -> None:
        self._fitted = Fitted.load(Path(context.artifacts["saved"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answers of a frame of questions, as a frame."""
        asked = model_input["days"] if "days" in model_input else [None] * len(model_input)
        days = [None if d is None or pd.isna(d) else int(d) for d in asked]
        return pd.DataFrame(answers(self._fitted, [str(s) for s in model_input["series"]], days), columns=list(COLUMNS))


mlflow.models.set_model(Served())
