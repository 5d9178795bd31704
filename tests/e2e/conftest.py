"""A real Airflow, MLflow and mailbox on a small demo shop, started once for all tests that want them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nightmarket.embedded import services, summary
from nightmarket.embedded.airflow import USER, Client, password, state
from nightmarket.embedded.night import INGESTION, TRAINING
from nightmarket.shop import PROJECT, Settings, child_environment, load_shop
from tests.e2e.chain import Chain, small_shop


@dataclass(frozen=True)
class Embedded:
    """What `make up` left running for one shop."""

    settings: Settings
    client: Client
    told: dict[str, Any]
    """services.json: names, process ids, addresses."""

    @property
    def mlflow(self) -> str:
        return next(str(s["url"]) for s in self.told["services"] if s["name"] == "mlflow")

    def night(self, run_date: date, first: date | None = None, seconds: float = 900, **conf: Any) -> tuple[str, str]:
        """Triggers a night's ingestion and waits for its end; returns its run id and state."""
        span = {"from_date": first.isoformat()} if first else {}
        run_id = self.client.trigger(INGESTION, run_date.isoformat(), {**span, **conf}, "a test")
        return run_id, self.ends(INGESTION, run_id, seconds)

    def training(self, run_date: date, since: str, seconds: float = 900) -> tuple[str, str]:
        """The training that a night's histories started after `since`: its run id and state."""
        return self.started(TRAINING, run_date, since, seconds)

    def started(self, dag: str, run_date: date, since: str, seconds: float = 900) -> tuple[str, str]:
        """The run of `dag` that a night's data started after `since`: its id and state."""
        deadline = time.monotonic() + 120
        while (run_id := self.client.newest_run(dag, run_date.isoformat(), since)) is None:
            assert time.monotonic() < deadline, f"no run of {dag} for {run_date} was started"
            time.sleep(1)
        return run_id, self.ends(dag, run_id, seconds)

    def ends(self, dag: str, run_id: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while (now := str(self.client.run(dag, run_id)["state"])) not in ("success", "failed"):
            assert time.monotonic() < deadline, f"{run_id} is still {now} after {seconds:.0f} s"
            time.sleep(1)
        return now

    def states(self, dag: str, run_id: str) -> dict[str, str]:
        return {t["task_id"]: t["state"] for t in self.client.tasks(dag, run_id)}

    def why(self, dag: str, run_id: str) -> str:
        """States of a run's tasks and the last words of those that failed, for an assertion's message."""
        lines = []
        for task in self.client.tasks(dag, run_id):
            lines.append(f"{task['task_id']}: {task['state']}")
            if task["state"] == "failed":
                lines += summary.last_words(summary.task_log(self.settings, dag, run_id, task["task_id"], task["try_number"]))
        return "\n".join(lines)

    def pid(self, service: str) -> int:
        return next(int(s["pid"]) for s in self.told["services"] if s["name"] == service)

    @property
    def environment(self) -> dict[str, str]:
        """What `make up` gave every process that it started. (Airflow's own overwrite theirs with a title.)"""
        raw = Path(f"/proc/{self.pid('mailbox')}/environ").read_bytes().decode().split("\0")
        return dict(line.split("=", 1) for line in raw if "=" in line)


@contextmanager
def up(shop: Path, **environment: str) -> Iterator[Embedded]:
    """`python -m nightmarket.embedded up` for a shop; `down` at the end, with nothing left running."""
    command = [sys.executable, "-m", "nightmarket.embedded"]
    where = child_environment(**environment)
    done = subprocess.run([*command, "up", "--shop", str(shop)], cwd=PROJECT, env=where, capture_output=True, text=True,
                          timeout=600, check=False)
    settings = load_shop(shop)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"user {USER}, password \S+", done.stdout), "the credentials are shown once"
        told = services.running(state(settings))
        assert told is not None
        base = next(str(s["url"]) for s in told["services"] if s["name"] == "api-server")
        yield Embedded(settings, Client(base, password(settings)), told)
    finally:
        stopped = subprocess.run([*command, "down", "--shop", str(shop)], cwd=PROJECT, env=where, capture_output=True, text=True,
                                 timeout=120, check=False)
    assert stopped.returncode == 0, stopped.stderr
    assert services.running(state(settings)) is None
    ports = [int(s["url"].rpartition(":")[2]) for s in told["services"] if s["url"]]
    assert not [p for p in ports if services.listens(p)], "something outlived `make down`"


@pytest.fixture(scope="session")
def embedded_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A small demo shop under a running Airflow, whose first load is late by its own rules."""
    with up(small_shop(tmp_path_factory.mktemp("embedded"), schedule={"deadline_minutes": 1}, stream={"path": "${root}/in"})) as embedded:
        yield embedded


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """The small shop from a terminal, its first night done: all its history, then a model, promoted and published. Its steps share
    a Spark server; its mail server is a port where nobody listens yet."""
    shop = small_shop(tmp_path_factory.mktemp("chain"), mail={"port": services.free_port(20_000)})
    with Chain(shop).served() as served:
        served.night(served.last_day, served.first_day)
        yield served


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: $NIGHTMARKET_ARTIFACTS, which .ci/run sets, else a temporary folder."""
    folder = Path(os.environ.get("NIGHTMARKET_ARTIFACTS") or tmp_path_factory.mktemp("artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips, aloud, where it is not installed."""
    import shutil

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver to run this test")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,1100"):
        options.add_argument(word)
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.set_page_load_timeout(120)
    yield made
    made.quit()
