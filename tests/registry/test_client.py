"""Versions in a real MLflow, directly and through its server; aliases that follow the ledger; the fresh process."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nightmarket.registry.client import (
    Child,
    Registry,
    RegistryError,
    Submission,
    Verification,
    _compare,
    fetched,
    metric_name,
)
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings, child_environment
from tests.registry.conftest import NIGHT


def test_a_registered_version_carries_all_that_it_needs(registry: Registry, submission: Callable[..., Submission]) -> None:
    import mlflow

    handed_in = submission(
        params={"embedding_dim": 8}, metrics={"ndcg@10": 0.25, "popularity/ndcg@10": 0.1}, tags={"code": "c0de"},
        documents={"card.md": "# Card", "inputs.json": [{"name": "gold.features/2026-03-01"}]},
    )
    version = registry.register(handed_in)
    assert version == "1"
    registered = registry.version("1")
    assert (registered.run_date, registered.tags["recipe"], registered.tags["code"]) == (NIGHT, "r1", "c0de")
    assert (registered.folder / "model.json").is_file()
    client = mlflow.MlflowClient(registry.uri)
    run = client.get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"embedding_dim": "8"}
    assert run.data.metrics == {"ndcg_at_10": 0.25, "popularity/ndcg_at_10": 0.1}
    assert {a.path for a in client.list_artifacts(registered.run_id)} >= {"card.md", "inputs.json"}
    loaded = mlflow.pyfunc.load_model(str(registry.version("1").model_folder))
    assert [c.name for c in loaded.metadata.signature.inputs.inputs] == ["user_id", "country", "item_ids", "k"]
    assert "mlflow==" in (registered.model_folder / "requirements.txt").read_text()
    assert not list(registered.model_folder.rglob("*.pkl"))

    # another shop finds it by this registry's URI
    elsewhere = replace(registry.settings, mlflow_uri="sqlite:////nowhere/mlflow.db")
    assert fetched(elsewhere, "models:/recommender@challenger", registry.uri) == registered.model_folder
    assert fetched(registry.settings, "models:/recommender/1") == registered.model_folder
    with pytest.raises(RegistryError, match="write models:/NAME@ALIAS"):
        fetched(registry.settings, "models:/recommender")


def test_a_loaded_version_answers_users_strangers_and_visits(registry: Registry, submission: Callable[..., Submission]) -> None:
    import mlflow

    registry.register(submission())
    loaded = mlflow.pyfunc.load_model(str(registry.version("1").model_folder))
    got = loaded.predict(pd.DataFrame({
        "user_id": ["u1", "nobody", "nobody", "u1", None], "country": [None, "FR", "XX", None, "DE"],
        "item_ids": [None, None, None, ["d", "d"], None], "k": [2, 2, 2, 2, 2],
    }))
    # u1: a 2, b 1. FR: d 1, b 1, of which everyone prefers b. Everyone: a 5, b 3. On the visit u1 has d twice too, as a.
    # DE: a 3, c 2, b 1, whatever u1 looks at in the question before
    assert got["item_ids"].tolist() == [["a", "b"], ["b", "d"], ["a", "b"], ["a", "d"], ["a", "c"]]
    assert got["source"].tolist() == ["user", "country", "everyone", "session", "country"]
    assert got["scores"].iloc[0] == [205.0, 103.0]
    only_users = loaded.predict(pd.DataFrame({"user_id": ["u3"]}))
    assert only_users["item_ids"].iloc[0] == ["b", "d", "a", "c"]


def test_registering_twice_keeps_the_version(registry: Registry, submission: Callable[..., Submission]) -> None:
    assert registry.register(submission("r1")) == "1"
    assert registry.register(submission("r2", bias=1.0)) == "2"
    assert registry.register(submission("r1")) == "1"
    assert [v.version for v in registry.versions()] == ["1", "2"]
    assert registry.ledger.current(registry.model, "challenger") == "2", "an old version does not become challenger again"


def test_killed_while_logging_leaves_no_half_version(
    registry: Registry, submission: Callable[..., Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.pyfunc, "save_model", _dies)
        with pytest.raises(KeyboardInterrupt):
            registry.register(submission())
    assert registry.versions() == []
    assert registry.register(submission()) == "1"
    client = mlflow.MlflowClient(registry.uri)
    runs = client.search_runs([client.get_experiment_by_name("small/recommender").experiment_id])
    assert sorted(r.info.status for r in runs) == ["FINISHED", "KILLED"]


def test_trials_are_runs_under_the_models_own(registry: Registry, submission: Callable[..., Submission]) -> None:
    import mlflow

    trials = [Child("trial 0", {"dim": 8}, {"loss": [2.0, 3.0], "value": [2.5]}, {"state": "complete"}),
              Child("trial 1", {"dim": 16}, {"loss": [4.0]}, {"state": "pruned"})]
    registered = registry.version(registry.register(submission(children=trials)))
    client = mlflow.MlflowClient(registry.uri)
    runs = client.search_runs([client.get_experiment_by_name("small/recommender").experiment_id], f"tags.`mlflow.parentRunId` = '{registered.run_id}'")
    found = sorted((r.info.run_name, r.data.tags["state"], r.data.params["dim"], r.data.metrics, r.info.status) for r in runs)
    assert found == [("trial 0", "complete", "8", {"loss": 3.0, "value": 2.5}, "FINISHED"), ("trial 1", "pruned", "16", {"loss": 4.0}, "FINISHED")]
    whole = next(r for r in runs if r.info.run_name == "trial 0")
    assert [(m.step, m.value) for m in client.get_metric_history(whole.info.run_id, "loss")] == [(0, 2.0), (1, 3.0)]


def test_killed_between_version_and_ledger_is_healed(
    registry: Registry, submission: Callable[..., Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "move", _dies)
        with pytest.raises(KeyboardInterrupt):
            registry.register(submission())
    assert registry.find("r1") == "1" and registry.ledger.history(registry.model) == []
    assert registry.register(submission()) == "1"
    assert registry.ledger.current(registry.model, "challenger") == "1"


def test_mlflow_follows_the_ledger_also_after_a_kill_between_them(
    registry: Registry, submission: Callable[..., Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(submission("r1"))
    registry.register(submission("r2", bias=1.0))
    registry.ledger.promote(registry.model, "1", None, "jobs.bless", "first", {}, NIGHT)
    assert _aliases(registry) == {"challenger": "2"}, "the process died before sync"
    champion = registry.champion()
    assert champion is not None and champion.version == "1"
    assert _aliases(registry) == {"challenger": "2", "champion": "1"}
    registry.ledger.promote(registry.model, "2", "1", "jobs.bless", "better", {}, NIGHT)
    with monkeypatch.context() as patch:
        import mlflow

        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", _dies)
        with pytest.raises(KeyboardInterrupt):
            registry.sync()
    registry.sync()
    assert _aliases(registry) == {"champion": "2", "previous": "1"}


def test_an_alias_set_behind_the_ledgers_back_is_put_right(registry: Registry, submission: Callable[..., Submission]) -> None:
    import mlflow

    registry.register(submission())
    client = mlflow.MlflowClient(registry.uri)
    client.set_registered_model_alias(registry.model, "champion", "1")
    assert registry.champion() is None
    assert _aliases(registry) == {"challenger": "1"}


def test_verified_in_a_fresh_process(registry: Registry, submission: Callable[..., Submission]) -> None:
    registry.register(submission())
    result = registry.verify("1")
    assert result.passed, result.detail
    assert Verification.from_tag(registry.version("1").tags["verification"]) == result


def test_a_version_that_cannot_be_loaded_is_not_verified(registry: Registry, submission: Callable[..., Submission]) -> None:
    registry.register(submission(fault="crash"))
    result = registry.verify("1")
    assert not result.passed
    assert result.detail == "the fresh process ended with 1: RuntimeError: weights.h5 is truncated"


def test_verification_is_limited_in_time(registry: Registry, submission: Callable[..., Submission]) -> None:
    registry.register(submission(fault="hang"))
    started = time.monotonic()
    result = registry.verify("1", timeout_seconds=8)
    assert not result.passed and "within 8 s" in result.detail
    assert time.monotonic() - started < 30


def test_a_stranger_that_nobody_asks_ends_by_itself(registry: Registry) -> None:
    with registry.stranger() as stranger:
        assert stranger.process.stdin is not None
        stranger.process.stdin.close()  # as when the process that registers dies
        assert stranger.process.wait(timeout=120) == 1
        assert "without naming a version" in stranger.words.read_text() and not stranger.answer.exists()


RIGHT = {"item_ids": ["a", "b"], "scores": [2.0, 1.0], "reasons": ["popular", "popular"], "source": "user"}


@pytest.mark.parametrize(
    ("fresh", "difference"),
    [
        ([RIGHT], ""),
        ([{**RIGHT, "scores": [2.0 + 9e-6, 1.0]}], ""),
        ([{**RIGHT, "scores": [2.0, 1.001]}], "answer 0: scores differ by 0.001, more than 1e-05"),
        ([{**RIGHT, "scores": [2.0, float("nan")]}], "answer 0: scores differ by nan, more than 1e-05"),
        ([{**RIGHT, "item_ids": ["b", "a"]}], "answer 0: other item_ids than the training side's"),
        ([{**RIGHT, "source": "everyone"}], "answer 0: other source than the training side's"),
        ([], "0 answers where the training side gave 1"),
    ],
)
def test_fresh_answers_are_compared(tmp_path: Path, fresh: list[dict[str, Any]], difference: str) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "answers.json").write_text(json.dumps([RIGHT]))
    (tmp_path / "answer.json").write_text(json.dumps(fresh))
    assert _compare(tmp_path, tmp_path / "answer.json") == difference


def test_no_items_at_all_is_no_answer(tmp_path: Path) -> None:
    nothing = [{"item_ids": [], "scores": [], "reasons": [], "source": "everyone"}]
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "answers.json").write_text(json.dumps(nothing))
    (tmp_path / "answer.json").write_text(json.dumps(nothing))
    assert _compare(tmp_path, tmp_path / "answer.json") == "answer 0: item_ids is empty"


def test_an_unknown_version_names_the_registry(registry: Registry, submission: Callable[..., Submission]) -> None:
    registry.register(submission())
    with pytest.raises(RegistryError, match="has no version 7"):
        registry.version("7")


def test_an_empty_registry(registry: Registry) -> None:
    assert registry.champion() is None and registry.versions() == [] and registry.find("r1") is None


def test_a_registry_that_is_down_is_a_fault_in_bounded_time(settings: Settings) -> None:
    uri = f"http://127.0.0.1:{_free_port()}"
    started = time.monotonic()
    with pytest.raises(RegistryError, match=uri):
        Registry(replace(settings, mlflow_uri=uri)).versions()
    assert time.monotonic() - started < 20


def test_where_the_ledger_is_empty_nobody_answers_and_mlflow_is_not_asked(settings: Settings) -> None:
    registry = Registry(replace(settings, mlflow_uri=f"http://127.0.0.1:{_free_port()}"))
    assert registry.opponent("r1") is None and registry.for_night(NIGHT) is None


def test_a_database_that_is_none(settings: Settings) -> None:
    settings.places.mlflow.mkdir(parents=True)
    (settings.places.mlflow / "mlflow.db").write_bytes(b"no database at all, whatever its name says" * 50)
    with pytest.raises(RegistryError, match=r"mlflow\.db"):
        Registry(settings).versions()


@pytest.mark.parametrize(("name", "logged"), [("ndcg@10", "ndcg_at_10"), ("slices/country=DE/mrr", "slices/country_DE/mrr")])
def test_metric_names(name: str, logged: str) -> None:
    assert metric_name(name) == logged


@pytest.fixture
def server(settings: Settings) -> Iterator[str]:
    """MLflow's own server on the settings' database."""
    port = _free_port()
    settings.places.mlflow.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", settings.mlflow_uri, "--artifacts-destination", str(settings.places.mlflow / "artifacts")],
        env=child_environment(MLFLOW_DISABLE_TELEMETRY="true"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _listens(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        _ends(process)


def _listens(process: subprocess.Popen[Any], port: int, log: Path | None = None) -> None:
    deadline = time.monotonic() + 180  # seconds on a quiet machine
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.25)
    pytest.fail(f"MLflow's server did not listen; it ended with {process.poll()}: {log.read_text()[-2000:] if log else ''}")


def _ends(process: subprocess.Popen[Any]) -> None:
    import os
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)


def test_through_a_server_and_directly_are_the_same_registry(
    settings: Settings, server: str, submission: Callable[..., Submission]
) -> None:
    through = Registry(replace(settings, mlflow_uri=server))
    assert through.register(submission()) == "1"
    assert through.verify("1").passed
    through.ledger.promote(through.model, "1", None, "jobs.bless", "first", {}, NIGHT)
    through.sync()
    direct = Registry(settings)
    champion = direct.champion()
    assert champion is not None and champion.version == "1"
    assert json.loads(champion.tags["verification"])["passed"]
    assert (champion.folder / "model.json").is_file()


def test_served_over_http_a_visit_changes_the_answer(registry: Registry, submission: Callable[..., Submission], tmp_path: Path) -> None:
    """`mlflow models serve`, as README says, on a version of the registry."""
    import urllib.request

    registry.register(submission())
    port = _free_port()
    log = tmp_path / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(registry.version("1").model_folder), "--env-manager", "local",
             "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env=child_environment(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"), stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _listens(process, port, log)

        def ask(**question: Any) -> dict[str, Any]:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", method="POST", headers={"Content-Type": "application/json"},
                                             data=json.dumps({"dataframe_records": [question]}).encode())
            with urllib.request.urlopen(request, timeout=60) as reply:
                found: dict[str, Any] = json.load(reply)["predictions"][0]
            return found

        assert ask(user_id="u1", k=2)["item_ids"] == ["a", "b"]
        visit = ask(user_id="u1", item_ids=["d", "d"], k=2)
        assert (visit["item_ids"], visit["source"]) == (["a", "d"], "session")
        assert ask(country="FR", k=1)["source"] == "country"
    finally:
        _ends(process)


def _aliases(registry: Registry) -> dict[str, str]:
    import mlflow

    found = mlflow.MlflowClient(registry.uri).get_registered_model(registry.model).aliases
    return {alias: str(version) for alias, version in found.items()}


def _dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
