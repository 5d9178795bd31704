"""The whole of Nightmarket on one machine: Airflow, MLflow, Spark and a mailbox, for one night or until told to stop.

`run` starts them, runs the shop's next night through the DAGs, prints what came of it and stops everything again.
`up` leaves them running with their pages open; `down` stops them; `status` says what runs. `backfill` asks a running Airflow
for the nights from --from to --date, both included, and follows them.
"""

from __future__ import annotations

import argparse
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

from nightmarket.command import MemoryWatch
from nightmarket.embedded import airflow, services, shared_spark, summary
from nightmarket.embedded.night import (
    INGESTION,
    RETRAINING,
    STARTED,
    TRAINING,
    NothingToDo,
    Screen,
    Undecided,
    backfill,
    choose,
    let_run,
    run_night,
)
from nightmarket.embedded.services import Service, ServiceError, Supervisor
from nightmarket.shop import Settings, ShopError, load_shop
from nightmarket.spark import server
from nightmarket.steps import POOLS

AIRFLOW_PORT, MLFLOW_PORT, SPARK_PORT, LOOKUP_PORT = 8080, 5000, 15002, 8088
SPARK = "spark"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nightmarket.embedded", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "up", "down", "status", "backfill"))
    parser.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    parser.add_argument("--date", type=date.fromisoformat, metavar="YYYY-MM-DD", help="the night (default: the next one)")
    parser.add_argument("--from", dest="first", type=date.fromisoformat, metavar="YYYY-MM-DD", help="first night of history")
    parser.add_argument("--dag", choices=(INGESTION, RETRAINING), default=INGESTION, help=f"backfill: whose nights (default: {INGESTION})")
    parser.add_argument("--force", action="store_true", help="run although nothing has changed")
    parser.add_argument("--all", action="store_true", help="run: the forecasts and the fraud screening of the night too")
    args = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        settings = load_shop(args.shop)
        if args.first and args.date and args.first > args.date:
            parser.error(f"--from {args.first} is after --date {args.date}; swap them")
        return {"run": _run, "up": _up, "down": _down, "status": _status, "backfill": _backfill}[args.command](settings, args)
    except (ShopError, ServiceError, airflow.ApiError) as error:
        print(error, file=sys.stderr)
        return 1 if not isinstance(error, ShopError) else 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _run(settings: Settings, args: argparse.Namespace) -> int:
    screen = Screen()
    try:
        choice = choose(settings, args.date, args.first)
    except NothingToDo as said:
        print(said)
        return 0
    except Undecided as why:
        print(f"{settings.file}: {why}", file=sys.stderr)
        return 2
    told = services.running(airflow.state(settings))
    if told:
        print(f"{settings.shop.shop} is up already: `make down` first, or trigger the night on its pages", file=sys.stderr)
        return 2
    screen.line(f"{settings.shop.title or settings.shop.shop}: night of {choice.run_date} ({choice.why})")
    shared = None
    with _start(settings, screen, scheduled=False) as (supervisor, client):
        with _watch(supervisor) as memory:
            account = run_night(client, choice, args.force, screen, supervisor.check, STARTED if args.all else (TRAINING,))
            shared = memory.peak() if memory else None
        screen.line("stopping")
    print(summary.text(settings, account, shared))
    return 0 if account.succeeded else 1


def _watch(supervisor: Supervisor) -> AbstractContextManager[MemoryWatch | None]:
    """Watches the memory of the Spark server that the steps share, where there is one."""
    started = next((s.process for s in supervisor.services if s.name == SPARK and s.process), None)
    return MemoryWatch(pid=started.pid) if started else nullcontext()


def _up(settings: Settings, args: argparse.Namespace) -> int:
    told = services.running(airflow.state(settings))
    if not told:
        # the demo shop's calendar is its own: the night of today would leave a gap of months
        with _start(settings, Screen(), scheduled=settings.shop.demo is None, looked_up=True) as (supervisor, client):
            let_run(client, STARTED)
            supervisor.keep = True
    return _status(settings, args)


def _down(settings: Settings, _: argparse.Namespace) -> int:
    told = services.running(airflow.state(settings))
    if not told:
        print(f"nothing of {settings.shop.shop} is running")
        return 0
    count = services.stop_all(str(told["mark"]), services.leaders(told))
    (airflow.state(settings) / "services.json").unlink(missing_ok=True)
    print(f"stopped {count} processes")
    return 0


def _status(settings: Settings, _: argparse.Namespace) -> int:
    told = services.running(airflow.state(settings))
    if not told:
        print(f"nothing of {settings.shop.shop} is running")
        return 0
    print(f"{settings.shop.title or settings.shop.shop} is up")
    for service in told["services"]:
        print(f"  {service['name']:<14} {service['url'] or '':<28} pid {service['pid']}")
    marker = airflow.state(settings) / "credentials-shown"
    if marker.exists():
        print(f"  password: in {airflow.state(settings) / 'passwords.json'}")
    else:  # once: a terminal's history is read by more people than an owner-only file
        marker.touch(mode=0o600)
        print(f"  Airflow: user {airflow.USER}, password {airflow.password(settings)} (shown once; kept in "
              f"{airflow.state(settings) / 'passwords.json'})")
    return 0


def _backfill(settings: Settings, args: argparse.Namespace) -> int:
    told = services.running(airflow.state(settings))
    if not told:
        print(f"nothing of {settings.shop.shop} is running; `make up` first", file=sys.stderr)
        return 2
    if not args.date or not args.first:
        print("a backfill needs its first and last night: FROM=YYYY-MM-DD DATE=YYYY-MM-DD", file=sys.stderr)
        return 2
    base = next(str(s["url"]) for s in told["services"] if s["name"] == "api-server")
    client = airflow.Client(base, airflow.password(settings))
    if client.get(f"/dags/{args.dag}")["is_paused"]:
        print(f"{args.dag} is paused, so its nights would wait; let it run first: {base}/dags/{args.dag}", file=sys.stderr)
        return 2
    return 0 if backfill(client, args.first, args.date, args.force, Screen(), args.dag) else 1


class _start:
    """Everything up and healthy, as a context: (supervisor, client). Stops it all when left, unless told to keep."""

    def __init__(self, settings: Settings, screen: Screen, scheduled: bool, looked_up: bool = False):
        """`looked_up`: whether look-ups are served over HTTP meanwhile, with a scrape endpoint."""
        self.settings, self.screen, self.scheduled, self.looked_up = settings, screen, scheduled, looked_up

    def __enter__(self) -> tuple[Supervisor, airflow.Client]:
        settings, screen = self.settings, self.screen
        if settings.java_home is None and settings.spark_remote is None:
            raise ShopError("environment", ["Java 17 or 21 was not found; run `make setup`, which installs one from PyPI"])
        for folder in (settings.places.mlflow, settings.places.logs, settings.places.mailbox):
            folder.mkdir(parents=True, exist_ok=True)
        page, registry = services.free_port(AIRFLOW_PORT), services.free_port(MLFLOW_PORT)
        # six idle workers of a feature that nothing here uses, 270 MB and seconds of start-up each; and tell nobody
        extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        mail = settings.shop.mail
        local = mail.host in ("127.0.0.1", "localhost")
        if local:
            extra["NIGHTMARKET_MAIL_PORT"] = str(services.free_port(mail.port))
        spark = None
        if settings.spark_remote is None and settings.spark_master.startswith("local"):
            port = services.free_port(SPARK_PORT)
            spark = Service(SPARK, server(settings, port), lambda: services.listens(port), f"sc://localhost:{port}")
            extra |= shared_spark.clients(port)
        looked_up = services.free_port(LOOKUP_PORT) if self.looked_up else None
        if looked_up is not None and settings.shop.monitoring.airflow is None:
            extra |= airflow.metrics(f"http://127.0.0.1:{looked_up}")  # its scrape endpoint shows them beside the night's
        environment = airflow.environment(settings, page, self.scheduled, **extra)
        client = airflow.Client(f"http://127.0.0.1:{page}", airflow.password(settings))
        self.supervisor = Supervisor(airflow.state(settings), settings.places.logs, environment).__enter__()
        try:
            if local:
                self.supervisor.start(_mailbox(settings, int(extra["NIGHTMARKET_MAIL_PORT"])))
            if looked_up is not None:
                self.supervisor.start(_lookup(settings, looked_up))
            self.supervisor.start(_mlflow(settings, registry))  # it makes its database while Airflow makes its own
            if spark:
                self.supervisor.start(spark)
            screen.living("metadata database")
            airflow.prepare(settings, self.scheduled, self.supervisor.call)
            for service in airflow.services(client):
                self.supervisor.start(service)
            screen.living("starting Airflow and MLflow")
            self.supervisor.wait(600)  # a service that dies is noticed at once; this is for machines that are busy
            client.make_pools(POOLS)
            screen.line("Airflow, MLflow, Spark and the mailbox are up")
        except BaseException:
            self.supervisor.stop()
            raise
        return self.supervisor, client

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self.supervisor.keep = False
        self.supervisor.__exit__(*error)


def _mlflow(settings: Settings, port: int) -> Service:
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.mlflow_uri, "--default-artifact-root",
            (settings.places.mlflow / "artifacts").as_uri(), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    return Service("mlflow", argv, ready, url)


def _lookup(settings: Settings, port: int) -> Service:
    argv = [sys.executable, "-m", "jobs.serve", "--shop", str(settings.file), "--port", str(port)]
    return Service("lookup", argv, lambda: services.listens(port), f"http://127.0.0.1:{port}")


def _mailbox(settings: Settings, port: int) -> Service:
    argv = [sys.executable, "-m", "nightmarket.embedded.mailbox", "--port", str(port), "--folder",
            str(settings.places.mailbox)]
    return Service("mailbox", argv, lambda: services.listens(port), f"smtp://127.0.0.1:{port}")


if __name__ == "__main__":
    sys.exit(main())
