"""`python -m nightmarket.embedded backfill`: what it asks Airflow for, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nightmarket.embedded import __main__ as command
from nightmarket.shop import Settings

SPAN = ("--from", "2026-02-16", "--date", "2026-02-17")


class Airflow:
    """Answers what the REST API answers about one DAG with a finished backfill of two nights."""

    def __init__(self, paused: bool, states: tuple[str, str] = ("success", "success")):
        self.paused, self.states = paused, states
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str) -> dict[str, Any]:
        return {"is_paused": self.paused} if path.startswith("/dags/") else {"completed_at": "2026-02-18T01:00:00Z"}

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/backfills"
        self.asked.append(body)
        return {"id": 1, "created_at": "2026-02-18T00:00:00Z"}

    def runs(self, dag: str, run_type: str) -> list[dict[str, Any]]:
        assert (dag, run_type) == (self.asked[-1]["dag_id"], "backfill")
        return [{"partition_key": f"2026-02-{n}", "queued_at": "2026-02-18T00:00:01Z", "state": s, "duration": 1.0}
                for n, s in zip((16, 17), self.states, strict=True)]


@pytest.fixture
def asked(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    settings = make_settings()
    running = {"services": [{"name": "api-server", "url": "http://127.0.0.1:1", "pid": 1}]}

    def call(client: Airflow, *words: str) -> int:
        monkeypatch.setattr(command.services, "running", lambda _: running)
        monkeypatch.setattr(command.airflow, "Client", lambda *_: client)
        monkeypatch.setattr(command.airflow, "password", lambda _: "secret")
        return command.main(["backfill", "--shop", str(settings.file), *words])

    return call


@pytest.mark.parametrize(("words", "dag"), [((), "shop_ingestion"), (("--dag", "nightly_retraining"), "nightly_retraining")])
def test_both_nights_of_the_dag_are_asked_for_one_after_another(asked: Callable[..., int], words: tuple[str, ...], dag: str) -> None:
    client = Airflow(paused=False)
    assert asked(client, *SPAN, *words) == 0
    assert client.asked == [{"dag_id": dag, "from_date": "2026-02-16T00:00:00Z", "to_date": "2026-02-17T00:00:00Z", "run_backwards": False,
                             "dag_run_conf": {"force": False}, "reprocess_behavior": "completed", "max_active_runs": 1}]


def test_a_night_that_failed_is_told_by_the_exit_code(asked: Callable[..., int]) -> None:
    assert asked(Airflow(paused=False, states=("success", "failed")), *SPAN) == 1


def test_nights_of_a_paused_dag_would_wait_for_ever(asked: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    client = Airflow(paused=True)
    assert asked(client, *SPAN, "--dag", "nightly_retraining") == 2 and client.asked == []
    assert "nightly_retraining is paused, so its nights would wait; let it run first: http://127.0.0.1:1/dags/nightly_retraining" in capsys.readouterr().err


def test_a_backfill_has_a_first_and_a_last_night(asked: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(Airflow(paused=False), "--date", "2026-02-17") == 2
    assert "FROM=YYYY-MM-DD DATE=YYYY-MM-DD" in capsys.readouterr().err
