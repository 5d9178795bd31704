"""A registry without TensorFlow: the counting stand-in takes the recommender's place, here and in fresh processes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from nightmarket.contracts import FEATURES
from nightmarket.registry.client import Registry, Submission
from nightmarket.shop import Settings

AS_OF = datetime(2026, 3, 2, tzinfo=timezone.utc)
NIGHT = date(2026, 3, 1)


def history(user: str, country: str | None, items: list[str]) -> dict[str, Any]:
    n = len(items)
    return {"user_id": user, "country": country, "signed_up_at": None, "item_ids": items, "event_types": ["purchase"] * n,
            "event_times": [int(AS_OF.timestamp()) - 86_400 + i for i in range(n)], "quantities": [1.0] * n,
            "unit_prices": [2.5] * n}


def histories() -> pa.Table:
    """a is everyone's best (5), then b (3), c (2), d (1). France has d and b; u4 says no country."""
    rows = [history("u1", "DE", ["a", "a", "b"]), history("u2", "DE", ["a", "c", "c"]), history("u3", "FR", ["d", "b"]),
            history("u4", None, ["a", "a", "b"])]
    return pa.Table.from_pylist(rows, FEATURES.arrow_schema())


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = Path(__file__).parent / "stand_in"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    import stand_in

    monkeypatch.setitem(sys.modules, "nightmarket.recommend.model", stand_in)
    return stand_in


@pytest.fixture
def submission(tmp_path: Path, stand_in: ModuleType) -> Callable[..., Submission]:
    """Makes a candidate of the stand-in: `submission(recipe="r1", bias=0.0, fault="", run_date=NIGHT)`."""
    from dataclasses import replace

    from nightmarket.recommend.package import submission as packaged
    from nightmarket.recommend.served import Question, Snapshot, answers

    def make(recipe: str = "r1", bias: float = 0.0, fault: str = "", run_date: date = NIGHT, **more: Any) -> Submission:
        folder = tmp_path / f"candidate-{recipe}"
        recommender = stand_in.Recommender(bias, fault)
        recommender.save(folder)
        snapshot = Snapshot(histories(), AS_OF)
        questions = [Question("u1", k=3), Question("nobody", "FR", k=3), Question(k=3), Question("u1", item_ids=("d", "d"), k=3)]
        made = packaged(run_date, recipe, folder, snapshot, questions, answers(recommender.standing(snapshot.histories, snapshot.as_of), questions))
        return replace(made, **more)

    return make


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database, made once: its migrations take seconds."""
    import mlflow

    from nightmarket.registry.client import prepare

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    prepare("")
    mlflow.MlflowClient(f"sqlite:///{file}").search_registered_models()
    return file


@pytest.fixture
def prepared(empty_database: Path) -> Callable[[Settings], None]:
    """Gives settings an MLflow database that is migrated already."""

    def prepare(settings: Settings) -> None:
        settings.places.mlflow.mkdir(parents=True)
        shutil.copy(empty_database, settings.places.mlflow / "mlflow.db")

    return prepare


@pytest.fixture
def registry(settings: Settings, prepared: Callable[[Settings], None]) -> Registry:
    prepared(settings)
    return Registry(settings)
