"""A judged forecaster as the registry takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nightmarket.forecast import served
from nightmarket.forecast.fitted import Fitted
from nightmarket.registry.client import Submission

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from nightmarket.command import Night
    from nightmarket.registry.candidate import Candidate

EXAMPLES = 4
"""Series of the input example."""


def package(night: Night, candidate: Candidate, folder: Path, evaluation: Mapping[str, Any]) -> Submission:
    """The candidate in `folder`, with what it answers to the input example."""
    model = Fitted.load(folder / "model")
    known = sorted(i for p in model.pieces for i in p.ids)
    chosen = known[:: max(1, len(known) // EXAMPLES)][:EXAMPLES]
    example = pd.DataFrame({"series": chosen, "days": [min(7, model.reach)] * len(chosen)})
    return Submission(
        night.run_date, candidate.recipe, folder / "model", Path(served.__file__), signature(), example,
        served.answers(model, chosen, list(example["days"])),
        params={"series": str(len(known)), "reach": str(model.reach), "made_on": model.made_on.isoformat()},
        documents={"quarantined.json": {str(q.series_id): q.reason for q in model.quarantined}},
    )


def signature() -> ModelSignature:
    """Questions and answers of `nightmarket.forecast.served`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    numbers = Array(DataType.double)
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "series"), ColSpec(DataType.long, "days", required=False)]),
        outputs=Schema([ColSpec(DataType.string, "first_day"), ColSpec(numbers, "mean"), ColSpec(numbers, "low"), ColSpec(numbers, "high"),
                        ColSpec(DataType.string, "model")]),
    )
