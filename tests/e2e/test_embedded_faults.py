"""The fault drill through a real scheduler on PostgreSQL: what is killed or restarted under a night, and two nights at once. Each
ends with the tables that an undisturbed run gives, one promotion at most, and an account that is true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta

import psutil
import pytest

from nightmarket.contracts import BRONZE, DAILY_SALES, FEATURES, QUALITY, SILVER
from nightmarket.embedded.airflow import command
from nightmarket.embedded.night import FORECASTING, INGESTION, SCREENING, TRAINING
from nightmarket.lake import Lake
from nightmarket.quality.outbox import Outbox
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import PROJECT
from tests.e2e.chain import SMALL, Chain, small_shop
from tests.e2e.conftest import Embedded, up
from tests.postgres import Postgres, postgres_server

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]
MADE = (*BRONZE, *SILVER, QUALITY, DAILY_SALES, FEATURES)
# the defaults wait five minutes before they believe that somebody is dead; a busy machine's heartbeats are twenty seconds late
IMPATIENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "75",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "40",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
}


@dataclass
class Drill:
    """A shop whose first night's data is in, under an Airflow whose parts the tests break."""

    embedded: Embedded
    database: Postgres
    chain: Chain
    last: date
    scheduler: int
    """Process id of the one that runs now."""

    @property
    def lake(self) -> Lake:
        return Lake(self.embedded.settings.places.lake)

    def promotions(self, night: date) -> int:
        moves = Ledger(self.embedded.settings.places.mlflow / "ledger.db").history("recommender")
        return sum(m.alias == "champion" and m.run_date == str(night) for m in moves)

    def until(self, run_id: str, task: str, seconds: float = 240) -> None:
        """Returns while the task's job is at work, some seconds in."""
        deadline = time.monotonic() + seconds
        while not (pids := jobs_of(task, run_id)):
            assert time.monotonic() < deadline, f"{task} did not start: {self.embedded.states(INGESTION, run_id)}"
            time.sleep(0.1)
        time.sleep(2)
        assert any(psutil.pid_exists(p) for p in pids), f"{task} was too quick to be disturbed"

    def start_scheduler(self) -> None:
        """As a service manager does it: nobody of the old one is left, whose idle workers would keep its transaction open; then a new one."""
        with suppress(ProcessLookupError):
            os.killpg(self.scheduler, signal.SIGKILL)
        with (self.embedded.settings.places.logs / "scheduler-again.log").open("ab") as log:
            self.scheduler = subprocess.Popen(command("scheduler", "--skip-serve-logs"), cwd=PROJECT, env=self.embedded.environment,
                                              stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True).pid

    def is_whole(self, night: date) -> bool:
        """Whether every table of the night is there."""
        return {k[0] for k in self.chain.identities(*MADE) if k[1] == str(night)} == {d.id for d in MADE}

    def diagnosis(self, night: date) -> dict[str, object]:
        return dict(json.loads(self.chain.run("diagnose", "--run-date", str(night), "--json").stdout))


def jobs_of(step: str, run_id: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"jobs.{step}" in words and run_id in words:
            found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    shop = small_shop(tmp_path_factory.mktemp("faults"), demo={**SMALL["demo"], "days": 21, "events": 4_500})
    # psycopg for Airflow's synchronous half, asyncpg for the other: what airflow.cfg tells a team to set
    with (
        postgres_server() as database,
        up(shop, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=database.url, **IMPATIENT) as embedded,
    ):
        for dag in (FORECASTING, SCREENING, TRAINING):
            embedded.client.patch(f"/dags/{dag}", {"is_paused": True})
        shared = {k: v for k, v in embedded.environment.items() if k.startswith("SPARK_")}
        chain = Chain(shop, shared)
        made = Drill(embedded, database, chain, chain.last_day, embedded.pid("scheduler"))
        run_id, ended = embedded.night(made.last, chain.first_day)
        assert ended == "success", embedded.why(INGESTION, run_id)
        yield made
        stop(made.scheduler)


def stop(pid: int) -> None:
    """A scheduler that a test started is its to end: kindly, then not."""
    if psutil.pid_exists(pid):
        process = psutil.Process(pid)
        process.terminate()
        _, alive = psutil.wait_procs([process], timeout=20)
        for stubborn in alive:
            stubborn.kill()


def test_the_scheduler_is_killed(drill: Drill) -> None:
    """While a step is at work. A new scheduler finds the run and brings it to its end."""
    night = drill.last + timedelta(days=1)
    run_id = drill.embedded.client.trigger(INGESTION, str(night), {}, "a test")
    drill.until(run_id, "ingest")
    os.kill(drill.scheduler, signal.SIGKILL)
    drill.start_scheduler()
    assert drill.embedded.ends(INGESTION, run_id, 600) == "success", drill.embedded.why(INGESTION, run_id)
    assert drill.is_whole(night)
    assert drill.diagnosis(night)["step"] in (None, "train"), "the account is of a night whose data is whole"


def test_a_worker_is_killed(drill: Drill) -> None:
    """The process that runs a task, and its parent; the job dies with them, the task is tried again."""
    night = drill.last + timedelta(days=2)
    run_id = drill.embedded.client.trigger(INGESTION, str(night), {}, "a test")
    drill.until(run_id, "clean")
    (job, *_) = jobs_of("clean", run_id)
    task = psutil.Process(job).parent()
    assert task is not None
    workers = [p for p in (task, task.parent()) if p is not None and p.pid != drill.scheduler]
    for worker in workers:
        worker.kill()
    psutil.wait_procs([psutil.Process(job)] if psutil.pid_exists(job) else [], timeout=30)
    assert not psutil.pid_exists(job) or psutil.Process(job).status() == psutil.STATUS_ZOMBIE, "the job outlived its worker"
    assert drill.embedded.ends(INGESTION, run_id, 600) == "success", drill.embedded.why(INGESTION, run_id)
    tries = {t["task_id"]: t["try_number"] for t in drill.embedded.client.tasks(INGESTION, run_id)}
    assert tries["clean"] > 1
    assert drill.is_whole(night)


def test_the_metadata_database_is_restarted(drill: Drill) -> None:
    """Orderly, and as after a crash, each while a step is at work: the run goes on."""
    night = drill.last + timedelta(days=3)
    run_id = drill.embedded.client.trigger(INGESTION, str(night), {}, "a test")
    for step, mode in (("ingest", "fast"), ("clean", "immediate")):
        drill.until(run_id, step)
        drill.database.restart(mode)
        if not psutil.pid_exists(drill.scheduler) or psutil.Process(drill.scheduler).status() == psutil.STATUS_ZOMBIE:
            drill.start_scheduler()
    assert _eventually(lambda: drill.embedded.ends(INGESTION, run_id, 600)) == "success", drill.embedded.why(INGESTION, run_id)
    assert drill.is_whole(night)


def _eventually(ask: Callable[[], str], tries: int = 5) -> str:
    """What is answered once the API server has its database again."""
    from nightmarket.embedded.airflow import ApiError

    for left in reversed(range(tries)):
        try:
            return ask()
        except ApiError:
            if not left:
                raise
            time.sleep(3)
    raise AssertionError("unreachable")


def test_two_nights_at_once(drill: Drill) -> None:
    """One night twice and the next one, started together; then its training twice: one promotion at most."""
    night, other = drill.last + timedelta(days=4), drill.last + timedelta(days=5)
    client = drill.embedded.client
    runs = [client.trigger(INGESTION, str(n), {}, "a test") for n in (night, night, other)]
    for run_id in runs:
        assert drill.embedded.ends(INGESTION, run_id, 900) == "success", drill.embedded.why(INGESTION, run_id)
    client.patch(f"/dags/{TRAINING}", {"is_paused": False})
    runs = [client.trigger(TRAINING, str(night), {}, "a test") for _ in range(2)]
    for run_id in runs:
        assert drill.embedded.ends(TRAINING, run_id, 900) == "success", drill.embedded.why(TRAINING, run_id)
    assert drill.is_whole(night) and drill.is_whole(other)
    assert drill.promotions(night) <= 1
    Ledger(drill.embedded.settings.places.mlflow / "ledger.db").verify()
    mails = [(e.subject, *(r.address for r in e.recipients))
             for e in Outbox(drill.embedded.settings.places.outbox).entries() if str(night) in e.subject]
    assert len(mails) == len(set(mails)), "nobody is told twice"


def test_every_table_is_what_undisturbed_steps_make(drill: Drill) -> None:
    """Of the same deliveries, once more."""
    before = drill.chain.identities(*MADE)
    disturbed = [n for n in drill.lake.dates(QUALITY) if n > drill.last]
    assert disturbed, "no night was disturbed"
    span = ("--from-date", str(disturbed[0]), "--run-date", str(disturbed[-1]))
    for step in ("ingest", "clean"):
        drill.chain.run(step, *span, "--force")
    for night in disturbed:  # nights that are judged together are one delivery
        drill.chain.run("gate", "--run-date", str(night), "--force")
    drill.chain.run("aggregate", *span, "--force")
    assert drill.chain.identities(*MADE) == before
