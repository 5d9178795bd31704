"""`jobs.register`: what a judged candidate becomes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import register
from nightmarket.registry.client import Registry, Verification
from nightmarket.shop import Settings
from tests.registry import nights
from tests.registry.conftest import empty_database, prepared, stand_in  # noqa: F401
from tests.registry.nights import D


def job(settings: Settings, night: Any, *more: str) -> int:
    return register.main(["--shop", str(settings.file), "--run-date", str(night), *more])


@pytest.fixture
def night(settings: Settings, prepared: Callable[[Settings], None]) -> Settings:  # noqa: F811
    prepared(settings)
    nights.publish_inputs(settings, D(0))
    return settings


def test_a_judged_candidate_becomes_a_verified_challenger(night: Settings, stand_in: Any) -> None:  # noqa: F811
    import mlflow

    nights.judged(night, stand_in, D(0))
    assert job(night, D(0)) == 0
    registry = Registry(night)
    assert registry.ledger.current("recommender", "challenger") == "1"
    registered = registry.version("1")
    assert registered.run_date == D(0)
    assert (registered.tags["code"], registered.tags["holdout"], registered.tags["recipe"]) == ("c0de", "holdout", f"recipe-{D(0)}")
    verification = Verification.from_tag(registered.tags["verification"])
    assert verification is not None and verification.passed
    client = mlflow.MlflowClient(registry.uri)
    run = client.get_run(registered.run_id)
    assert run.data.metrics["ndcg_at_10"] == 0.20 and run.data.metrics["ndcg_at_10_low"] == pytest.approx(0.19)
    assert run.data.metrics["popularity/ndcg_at_10"] == 0.10
    assert run.data.metrics["slices/country_DE/ndcg_at_10_high"] == pytest.approx(0.21)
    assert run.data.metrics["heads/purchase_roc_auc"] == 0.8
    assert run.data.params["embedding_dim"] == "64"
    names = {a.path for a in client.list_artifacts(registered.run_id)}
    assert names >= {"model_card.md", "inputs.json", "evaluation.json", "training.json", "shop.json", "plots"}
    card = Path(client.download_artifacts(registered.run_id, "model_card.md")).read_text()
    assert "| challenger | 0.2000 [0.1900, 0.2100] |" in card and "| popularity | 0.1000 [0.0900, 0.1100] |" in card
    inputs = json.loads(Path(client.download_artifacts(registered.run_id, "inputs.json")).read_text())
    assert inputs[0]["name"] == f"gold.features/{D(0)}" and inputs[0]["rows"] == 4


def test_again_changes_nothing(night: Settings, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    nights.judged(night, stand_in, D(0))
    assert job(night, D(0)) == 0
    before = Registry(night).ledger.head()
    monkeypatch.setattr(Registry, "verify", lambda *_: pytest.fail("verified already"))
    assert job(night, D(0)) == 0
    assert [v.version for v in Registry(night).versions()] == ["1"]
    assert Registry(night).ledger.head() == before


def test_a_model_that_cannot_be_loaded_is_registered_but_not_verified(
    night: Settings, stand_in: Any, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    folder = nights.judged(night, stand_in, D(0))
    load = stand_in.Recommender.load

    def load_and_break(path: Path) -> Any:
        made = load(path)
        (path / "model.json").write_text(json.dumps({"bias": 0.0, "fault": "crash"}))  # between answering and the fresh process
        return made

    monkeypatch.setattr(stand_in.Recommender, "load", load_and_break)
    assert job(night, D(0)) == 0
    verification = Verification.from_tag(Registry(night).version("1").tags["verification"])
    assert verification is not None and not verification.passed and "truncated" in verification.detail
    assert folder.is_dir()


def test_other_weights_of_the_same_recipe_are_another_version(
    night: Settings, stand_in: Any, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    monkeypatch.setattr(Registry, "verify", lambda *_: None)
    nights.judged(night, stand_in, D(0))
    assert job(night, D(0)) == 0
    nights.judged(night, stand_in, D(0), bias=0.5)
    assert job(night, D(0)) == 0
    assert [v.version for v in Registry(night).versions()] == ["1", "2"]


def test_a_dry_run_writes_nothing(night: Settings, stand_in: Any) -> None:  # noqa: F811
    nights.judged(night, stand_in, D(0))
    assert job(night, D(0), "--dry-run") == 0
    assert Registry(night).versions() == []


def test_no_candidate_is_refused(night: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert job(night, D(0)) == 3
    assert f"python -m jobs.train --run-date {D(0)}" in capsys.readouterr().err


def test_a_candidate_that_was_not_judged_is_refused(
    night: Settings, stand_in: Any, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:
    folder = nights.judged(night, stand_in, D(0))
    (folder / "evaluation" / "evaluation.json").unlink()
    assert job(night, D(0)) == 3
    assert "was not judged; run `python -m jobs.evaluate" in capsys.readouterr().err


def test_a_judgement_of_another_candidate_is_refused(
    night: Settings, stand_in: Any, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:
    folder = nights.judged(night, stand_in, D(0))
    data = json.loads((folder / "candidate.json").read_text())
    (folder / "candidate.json").write_text(json.dumps({**data, "recipe": "retrained"}))
    assert job(night, D(0)) == 3
    assert "judges another candidate" in capsys.readouterr().err


def test_a_registry_that_is_down_is_a_fault(night: Settings, stand_in: Any, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
                                            capsys: pytest.CaptureFixture[str]) -> None:
    nights.judged(night, stand_in, D(0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert job(night, D(0)) == 1
    assert "the model registry at http://127.0.0.1:9 does not answer" in capsys.readouterr().err
