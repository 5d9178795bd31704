"""Airflow as the embedded night runs it: its environment, its keys, its processes, and a client of its REST API."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nightmarket.embedded.services import Service
from nightmarket.lake import code_version, write_atomically
from nightmarket.shop import PROJECT, Settings, child_environment

USER = "admin"


def state(settings: Settings) -> Path:
    """Airflow's home: metadata database, keys, logs of tasks."""
    return settings.places.root / "airflow"


METRICS_EVERY_SECONDS = 15


def metrics(where: str | None) -> dict[str, str]:
    """Airflow's options that send its own metrics to `monitoring.airflow` of shop.yaml. Jobs see none of them: OpenTelemetry's own variables
    would have MLflow send its traces there too."""
    if where is None:
        return {}
    told = urllib.parse.urlsplit(where)
    return {f"AIRFLOW__METRICS__{k}": v for k, v in {
        "OTEL_ON": "True", "OTEL_HOST": str(told.hostname), "OTEL_PORT": str(told.port), "OTEL_SSL_ACTIVE": str(told.scheme == "https"),
        "OTEL_INTERVAL_MILLISECONDS": str(METRICS_EVERY_SECONDS * 1000),
    }.items()}


def environment(settings: Settings, port: int, scheduled: bool, **extra: str) -> dict[str, str]:
    """What every Airflow process of this installation is told beside airflow.cfg. Keys are made once, owner-only."""
    home = state(settings)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    keys = _once(home / "keys.json", lambda: {
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
    })
    _once(home / "passwords.json", lambda: {USER: secrets.token_urlsafe(12)})
    return child_environment(
        **keys,
        NIGHTMARKET_HOME=str(PROJECT),
        NIGHTMARKET_STATE=str(home),
        NIGHTMARKET_SHOP=str(settings.file),
        NIGHTMARKET_ROOT=str(settings.places.root),
        NIGHTMARKET_SCHEDULED="1" if scheduled else "0",
        AIRFLOW_HOME=str(home),
        AIRFLOW_CONFIG=str(PROJECT / "airflow.cfg"),
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__API__BASE_URL=f"http://127.0.0.1:{port}",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{port}/execution/",
        **{**metrics(settings.shop.monitoring.airflow), **extra},
    )


def prepare(settings: Settings, scheduled: bool, call: Callable[[str, Sequence[str]], None]) -> None:
    """Brings the metadata database and the DAGs in it up to date; nothing to do where neither Airflow nor they changed."""
    version = importlib.metadata.version("apache-airflow-core")
    files = [*sorted((PROJECT / "dags").glob("*.py")), *sorted((PROJECT / "plugins").glob("*.py")), settings.file]
    seen = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
    wanted = {"migrate": version, "reserialize": f"{version} {code_version()} {seen} {scheduled}"}
    stamp = state(settings) / "prepared.json"
    have = json.loads(stamp.read_text()) if stamp.exists() else {}
    for name, words in (("migrate", ("db", "migrate")), ("reserialize", ("dags", "reserialize"))):
        if have.get(name) != wanted[name] or not (state(settings) / "airflow.db").exists():
            call(name, command(*words))
            have[name] = wanted[name]
            write_atomically(stamp, json.dumps(have))


def password(settings: Settings) -> str:
    return str(json.loads((state(settings) / "passwords.json").read_text())[USER])


def _once(path: Path, make: Any) -> dict[str, str]:
    """The contents of an owner-only JSON file, made where it is missing."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(make(), out)
    return dict(json.loads(path.read_text()))


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "airflow", *words]


def services(client: Client) -> list[Service]:
    """The four processes of Airflow. The three that have no page are ready when the API server says that they beat."""
    def beats(component: str) -> Any:
        return lambda: client.health().get(component, {}).get("status") == "healthy"

    return [
        Service("api-server", command("api-server"), lambda: bool(client.health()), client.base),
        Service("scheduler", command("scheduler", "--skip-serve-logs"), beats("scheduler")),
        Service("dag-processor", command("dag-processor"), beats("dag_processor")),
        Service("triggerer", command("triggerer", "--skip-serve-logs"), beats("triggerer")),
    ]


class ApiError(Exception):
    """Airflow's REST API said no; the message has the request, the status and the reason."""


class Client:
    """The few calls of Airflow's REST API that the embedded night needs; logs in by itself."""

    def __init__(self, base: str, secret: str):
        self.base = base
        self._secret = secret
        self._token: str | None = None

    def health(self) -> dict[str, Any]:
        """Status by component; empty while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.base}/api/v2/monitor/health", timeout=5) as answer:
                return dict(json.load(answer))
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return {}

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._call("GET", path + (f"?{urllib.parse.urlencode(query)}" if query else ""))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, body)

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("PATCH", path, body)

    def make_pools(self, pools: dict[str, tuple[int, str]]) -> None:
        """Makes the pools that are missing; slots that somebody changed stay as they are."""
        have = {p["name"] for p in self.get("/pools", limit=100)["pools"]}
        for name, (slots, why) in pools.items():
            if name not in have:
                self.post("/pools", {"name": name, "slots": slots, "description": why, "include_deferred": False})

    def trigger(self, dag: str, night: str, conf: dict[str, Any], note: str) -> str:
        """Starts a run for the partition `night`; returns its run id."""
        body = {"logical_date": None, "partition_key": night, "conf": conf, "note": note}
        return str(self.post(f"/dags/{dag}/dagRuns", body)["dag_run_id"])

    def run(self, dag: str, run_id: str) -> dict[str, Any]:
        return self.get(f"/dags/{dag}/dagRuns/{urllib.parse.quote(run_id, safe='')}")

    def tasks(self, dag: str, run_id: str) -> list[dict[str, Any]]:
        path = f"/dags/{dag}/dagRuns/{urllib.parse.quote(run_id, safe='')}/taskInstances"
        return list(self.get(path, limit=100)["task_instances"])

    def runs(self, dag: str, **query: Any) -> list[dict[str, Any]]:
        """All runs of a DAG that the query lets through, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(f"/dags/{dag}/dagRuns", limit=100, offset=len(found), order_by="id", **query)
            found += page["dag_runs"]
            if not page["dag_runs"] or len(found) >= page["total_entries"]:
                return found

    def newest_run(self, dag: str, night: str, since: str) -> str | None:
        """Run id of the newest run of a partition that was made after `since` (ISO 8601)."""
        runs = self.get(f"/dags/{dag}/dagRuns", order_by="-run_after", limit=20)["dag_runs"]
        for found in runs:
            if found["partition_key"] == night and (found["queued_at"] or found["run_after"]) >= since:
                return str(found["dag_run_id"])
        return None

    def _login(self) -> str:
        request = urllib.request.Request(
            f"{self.base}/auth/token", data=json.dumps({"username": USER, "password": self._secret}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["access_token"])

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, tries: int = 4) -> dict[str, Any]:
        for left in reversed(range(tries)):
            self._token = self._token or self._login()
            request = urllib.request.Request(
                f"{self.base}/api/v2{path}", method=method, data=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return dict(json.load(answer))
            except urllib.error.HTTPError as error:
                reason = error.read().decode(errors="replace")[:1000]
                if error.code == 401 and left:
                    self._token = None  # it expired; log in again
                elif error.code < 500 or method != "GET" or not left:
                    raise ApiError(f"{method} {path}: {error.code} {reason}") from None
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                if method != "GET" or not left:
                    raise ApiError(f"{method} {path}: {error}") from None
            time.sleep(1)
        raise AssertionError("unreachable")
