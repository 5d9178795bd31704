"""One night through Airflow, followed from the outside: which night, the trigger, what is going on."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

from nightmarket.contracts import EVENTS
from nightmarket.embedded.airflow import Client
from nightmarket.lake import Lake
from nightmarket.quality.verdict import passed_nights
from nightmarket.shop import FilesSource, Settings

INGESTION, TRAINING, FORECASTING, SCREENING = "shop_ingestion", "recommendation_training", "seasonal_forecasting", "fraud_screening"
RETRAINING = "nightly_retraining"
STARTED = (TRAINING, FORECASTING, SCREENING)
"""What the data of a night starts. `make run` follows the first alone unless all are asked for."""
_FINAL = {"success", "failed", "skipped", "upstream_failed", "removed"}


class NothingToDo(Exception):
    """Every night that was delivered has been done."""


class Undecided(Exception):
    """The night cannot be told from the shop; the message says what to pass."""


@dataclass(frozen=True)
class Choice:
    """The night to run, and the first one where history is loaded with it."""

    run_date: date
    from_date: date
    why: str


@dataclass
class Task:
    """How a task went."""

    dag: str
    name: str
    state: str
    seconds: float
    tries: int


@dataclass
class Account:
    """How a night went."""

    choice: Choice
    runs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """DAG id to run id and final state."""
    tasks: list[Task] = field(default_factory=list)
    seconds: float = 0.0
    trouble: str | None = None
    started: tuple[str, ...] = (TRAINING,)
    """What the night's data was to start."""

    @property
    def succeeded(self) -> bool:
        return self.trouble is None and all(s == "success" for _, s in self.runs.values()) and set(self.runs) == {INGESTION, *self.started}


def choose(settings: Settings, run_date: date | None, from_date: date | None) -> Choice:
    """The next night of a shop, unless one is asked for.

    The first time: all of a generated shop's days, or all days for which files were dropped. Later: the day after the
    newest night that the gate let through. Raises NothingToDo or Undecided.
    """
    passed = passed_nights(Lake(settings.places.lake), date.max)
    if run_date is not None:
        return Choice(run_date, from_date or run_date, "as asked")
    if settings.shop.demo is not None:
        demo = settings.shop.demo
        first = date.fromisoformat(demo.first_day)
        if not passed:
            return Choice(first + timedelta(days=demo.days - 1), from_date or first, f"first run: {demo.days} days of history")
        night = max(passed) + timedelta(days=1)
        return Choice(night, from_date or night, "the day after the newest night")
    delivered = delivered_dates(settings)
    if not delivered:
        raise Undecided("no file of the events source says which night it is for; pass DATE=YYYY-MM-DD "
                        "(and FROM=YYYY-MM-DD for history)")
    if not passed:
        return Choice(delivered[-1], from_date or delivered[0], f"first run: {len(delivered)} delivered days")
    ahead = [d for d in delivered if d > max(passed)]
    if not ahead:
        raise NothingToDo(f"every delivered night up to {max(passed)} is done; pass DATE=YYYY-MM-DD to run one again")
    return Choice(ahead[0], from_date or ahead[0], "the next delivered night")


def delivered_dates(settings: Settings) -> list[date]:
    """Days for which the events source has a file that names them, oldest first; empty for other kinds of sources."""
    source = settings.shop.sources[settings.shop.datasets[EVENTS.name].source]
    if not isinstance(source, FilesSource) or "{date}" not in source.pattern:
        return []
    before, _, after = source.pattern.partition("{date}")
    name = re.compile("".join([_glob(before), r"(?P<day>\d{4}-\d{2}-\d{2})", _glob(after)]))
    folder = settings.resolve(source.path)
    found: set[date] = set()
    for path in folder.rglob("*"):
        if named := name.fullmatch(path.relative_to(folder).as_posix()):
            try:
                found.add(date.fromisoformat(named["day"]))
            except ValueError:
                raise Undecided(f"{path.name}: {named['day']} is not a day; rename the file or take it away") from None
    return sorted(found)


def _glob(text: str) -> str:
    return re.escape(text).replace(r"\*", ".*")


class Screen:
    """Progress for people: a living line on a terminal, one line a change elsewhere."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._terminal = sys.stdout.isatty()

    @property
    def elapsed(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60:2d}:{seconds % 60:02d}"

    def line(self, text: str) -> None:
        print(("\r\033[K" if self._terminal else "") + f"{self.elapsed}  {text}", flush=True)

    def living(self, text: str) -> None:
        if self._terminal:
            print(f"\r\033[K{self.elapsed}  {text}", end="", flush=True)


def run_night(
    client: Client, choice: Choice, force: bool, screen: Screen, check: Callable[[], None], wanted: tuple[str, ...] = (TRAINING,),
) -> Account:
    """Triggers the ingestion of a night, follows it and what of STARTED is wanted, to their ends. The others are paused meanwhile:
    what they would have done waits for them."""
    account = Account(choice, started=wanted)
    started = time.monotonic()
    conf = {"force": force} | ({"from_date": choice.from_date.isoformat()} if choice.from_date < choice.run_date else {})
    since = datetime.now(timezone.utc).isoformat()
    night = choice.run_date.isoformat()
    let_run(client, wanted)
    run_id = client.trigger(INGESTION, night, conf, "started by `make run`")
    state = _follow(client, INGESTION, run_id, account, screen, check)
    if state == "success":
        for dag in wanted:
            found: str | None = None
            deadline = time.monotonic() + 120
            while found is None and time.monotonic() < deadline:
                check()
                screen.living(f"waiting for {dag}")
                found = client.newest_run(dag, night, since)
                time.sleep(0.5)
            if found is None:
                account.trouble = f"{dag} was not started by the night's data within two minutes"
            else:
                _follow(client, dag, found, account, screen, check)
    account.seconds = time.monotonic() - started
    return account


def let_run(client: Client, wanted: tuple[str, ...]) -> None:
    """Lets the ingestion and what is wanted of STARTED run, and pauses the rest of it."""
    for dag in (INGESTION, *STARTED):
        asked = dag in (INGESTION, *wanted)
        if client.get(f"/dags/{dag}")["is_paused"] == asked:
            client.patch(f"/dags/{dag}", {"is_paused": not asked})


def backfill(client: Client, first: date, last: date, force: bool, screen: Screen, dag: str = INGESTION) -> bool:
    """Asks for the nights of `dag` from first to last, finished ones too, and follows them; whether all succeeded."""
    asked = client.post("/backfills", {
        "dag_id": dag, "from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z", "run_backwards": False,
        "dag_run_conf": {"force": force}, "reprocess_behavior": "completed", "max_active_runs": 1,
    })
    screen.line(f"backfill {asked['id']} of {dag}: nights of {first} to {last}")
    shown: dict[str, str] = {}
    while True:
        done = client.get(f"/backfills/{asked['id']}")["completed_at"] is not None
        runs = [r for r in client.runs(dag, run_type="backfill")
                if first.isoformat() <= (r["partition_key"] or "") <= last.isoformat() and (r["queued_at"] or "") >= asked["created_at"]]
        for run in sorted(runs, key=lambda r: r["partition_key"]):
            if run["state"] in ("success", "failed") and run["partition_key"] not in shown:
                shown[run["partition_key"]] = run["state"]
                screen.line(f"  {run['partition_key']}  {run['state']}  {run['duration'] or 0:.1f} s")
        if done:
            return bool(shown) and set(shown.values()) == {"success"}
        screen.living(f"  {len(shown)} of {(last - first).days + 1} nights")
        time.sleep(2)


def _follow(client: Client, dag: str, run_id: str, account: Account, screen: Screen, check: Callable[[], None]) -> str:
    screen.line(f"{dag}  night {account.choice.run_date}  run {run_id}")
    shown: dict[str, tuple[str, int]] = {}
    while True:
        check()
        state = str(client.run(dag, run_id)["state"])
        tasks = sorted(client.tasks(dag, run_id), key=lambda t: (t["start_date"] or "9", t["task_id"]))
        busy = []
        for task in tasks:
            name, now = task["task_id"], (task["state"] or "waiting", task["try_number"])
            seconds = task["duration"] or 0.0
            if now[0] in _FINAL | {"up_for_retry"} and shown.get(name) != now:
                screen.line(f"  {name:<10} {now[0]:<16} {seconds:6.1f} s" + (f"  try {now[1]}" if now[1] > 1 else ""))
                shown[name] = now
            elif now[0] == "running":
                busy.append(f"{name} {_since(task['start_date']):.0f} s")
        screen.living("  " + (", ".join(busy) or "between two steps"))
        if state in ("success", "failed"):
            break
        time.sleep(0.7)
    account.runs[dag] = (run_id, state)
    account.tasks += [
        Task(dag, t["task_id"], t["state"] or "not started", t["duration"] or 0.0, t["try_number"]) for t in tasks
    ]
    screen.line(f"{dag}  {state}")
    return state


def _since(moment: str | None) -> float:
    if not moment:
        return 0.0
    return (datetime.now(timezone.utc) - datetime.fromisoformat(moment.replace("Z", "+00:00"))).total_seconds()
