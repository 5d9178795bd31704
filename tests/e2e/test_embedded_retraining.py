"""nightly_retraining, rollback and online_update through a real scheduler."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone

import pytest

from nightmarket.contracts import DRIFT, LIVE_EVENTS, RECOMMENDATIONS, RETRAINING
from nightmarket.embedded.airflow import USER
from nightmarket.embedded.night import INGESTION, TRAINING
from nightmarket.lake import Lake
from nightmarket.recommend.lookup import Lookup, serving
from nightmarket.registry.kinds import KINDS
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import PROJECT, child_environment
from tests.e2e.conftest import Embedded

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(2400)]
RETRAIN, ROLLBACK = "nightly_retraining", "rollback"


@pytest.fixture(scope="module")
def night(embedded_night: Embedded) -> date:
    """The last of the shop's days, taken in with all before it; its model promoted."""
    demo = embedded_night.settings.shop.demo
    assert demo is not None
    first = date.fromisoformat(demo.first_day)
    last = first + timedelta(days=demo.days - 1)
    since = datetime.now(timezone.utc).isoformat()
    run_id, state = embedded_night.night(last, first)
    assert state == "success", embedded_night.why(INGESTION, run_id)
    run_id, state = embedded_night.training(last, since)
    assert state == "success", embedded_night.why(TRAINING, run_id)
    return last


def _run(embedded: Embedded, dag: str, partition: str | None, **conf: object) -> tuple[str, str]:
    if embedded.client.get(f"/dags/{dag}")["is_paused"]:
        embedded.client.patch(f"/dags/{dag}", {"is_paused": False})
    body = {"logical_date": None, "conf": conf, "note": "a test"} | ({"partition_key": partition} if partition else {})
    run_id = str(embedded.client.post(f"/dags/{dag}/dagRuns", body)["dag_run_id"])
    return run_id, embedded.ends(dag, run_id, 1200)


def test_a_night_that_was_trained_already_is_watched_planned_and_told_about(embedded_night: Embedded, night: date) -> None:
    run_id, state = _run(embedded_night, RETRAIN, night.isoformat())
    assert state == "success", embedded_night.why(RETRAIN, run_id)
    lake = Lake(embedded_night.settings.places.lake)
    assert lake.manifest(DRIFT, night) is not None
    (row,) = [r for r in lake.at(RETRAINING, night).arrow().to_pylist() if r["model"] == "recommender"]
    assert (row["action"], row["why"]) == ("skip", "it was trained from exactly these inputs before")
    mapped = [t for t in embedded_night.client.tasks(RETRAIN, run_id) if t["task_id"] == "retrain"]
    assert [t["map_index"] for t in mapped] == list(range(len(mapped))) and {t["state"] for t in mapped} == {"success"}
    mailbox = embedded_night.settings.places.mailbox
    assert any(b"Models of" in m.read_bytes() for m in mailbox.glob("*.eml"))


def test_with_nothing_to_go_back_to_the_form_says_so_at_once(embedded_night: Embedded, night: date) -> None:
    ledger = Ledger(embedded_night.settings.places.mlflow / "ledger.db")
    if ledger.current("recommender", "previous") is not None:
        pytest.skip("another test promoted a second model")
    head = ledger.head()
    run_id, state = _run(embedded_night, ROLLBACK, None, reason="a test")
    assert state == "failed"
    (task,) = [t for t in embedded_night.client.tasks(ROLLBACK, run_id) if t["task_id"] == "rollback"]
    assert task["try_number"] == 1, "a refusal is not retried"
    assert ledger.head() == head


def test_going_back_from_the_form(embedded_night: Embedded, night: date) -> None:
    """A second version of the same weights, promoted by hand; then back to the one before."""
    from mlflow.tracking import MlflowClient

    settings = embedded_night.settings
    client, ledger = MlflowClient(settings.mlflow_uri), Ledger(settings.places.mlflow / "ledger.db")
    champion = ledger.current("recommender", "champion")
    assert champion is not None
    first = client.get_model_version("recommender", champion)
    second = client.create_model_version("recommender", first.source, first.run_id, tags=first.tags, model_id=first.model_id)
    ledger.promote("recommender", str(second.version), champion, "a test", "the same again", run_date=night)
    run_id, state = _run(embedded_night, ROLLBACK, None, reason="one of them is enough")
    assert state == "success", embedded_night.why(ROLLBACK, run_id)
    newest = ledger.newest("recommender", "champion")
    assert newest is not None and (newest.to_version, newest.action, newest.why) == (champion, "back", "one of them is enough")
    assert newest.who == USER, "who triggered the run"
    now = serving(settings.places.root / "published")
    assert now is not None and (now.run_date, now.model_version) == (night, champion)


def test_two_nights_are_backfilled_in_their_order_and_only_once(embedded_night: Embedded, night: date) -> None:
    """The nights after the model's, taken in one by one while nothing trained."""
    settings, client = embedded_night.settings, embedded_night.client
    lake, ledger = Lake(settings.places.lake), Ledger(settings.places.mlflow / "ledger.db")
    nights = [night + timedelta(days=1), night + timedelta(days=2)]
    for dag, paused in ((TRAINING, True), (RETRAIN, False)):
        client.patch(f"/dags/{dag}", {"is_paused": paused})
    for one in nights:
        run_id, state = embedded_night.night(one)
        assert state == "success", embedded_night.why(INGESTION, run_id)

    command = [sys.executable, "-m", "nightmarket.embedded", "backfill", "--shop", str(settings.file), "--dag", RETRAIN,
               "--from", str(nights[0]), "--date", str(nights[1])]
    done = subprocess.run(command, cwd=PROJECT, env=child_environment(), capture_output=True, text=True, check=False)

    runs = sorted(client.runs(RETRAIN, run_type="backfill"), key=lambda r: str(r["partition_key"]))
    assert done.returncode == 0, (done.stdout, done.stderr, [embedded_night.why(RETRAIN, r["dag_run_id"]) for r in runs])
    assert [(r["partition_key"], r["state"]) for r in runs] == [(str(n), "success") for n in nights]
    assert runs[0]["end_date"] <= runs[1]["start_date"], "what one night learnt from is there when the next is decided about"
    plans = {n: {r["model"]: r["action"] for r in lake.at(RETRAINING, n).arrow().to_pylist()} for n in nights}
    assert {frozenset(p) for p in plans.values()} == {frozenset(k.id for k in KINDS)}, "every registered kind, each night"
    assert all(lake.manifest(DRIFT, n) is not None for n in nights)
    now = serving(settings.places.root / "published")
    champion = ledger.current("recommender", "champion")
    assert now is not None and (now.run_date, now.model_version) == (nights[1], champion)

    published, head = [lake.manifest(RECOMMENDATIONS, n) for n in nights], ledger.head()
    again = subprocess.run(command, cwd=PROJECT, env=child_environment(), capture_output=True, text=True, check=False)
    assert again.returncode == 0, (again.stdout, again.stderr)
    assert ledger.head() == head, "a second time nothing is trained, nothing moves"
    for one in nights:  # watched once more, now with what it published itself
        assert {(r["action"], r["why"]) for r in lake.at(RETRAINING, one).arrow().to_pylist()} == {
            ("skip", "it was trained from exactly these inputs before")}
    assert [lake.manifest(RECOMMENDATIONS, n) for n in nights] == published and serving(settings.places.root / "published") == now


def test_the_stream_is_taken_in_and_answered_from(embedded_night: Embedded, night: date) -> None:
    """online_update: two purchases of a newcomer, now. Last of this file: what serves then is of today."""
    settings = embedded_night.settings
    published, folder = settings.places.root / "published", settings.resolve(str(settings.shop.stream and settings.shop.stream.path))
    with Lookup(published) as found:
        item, version = found.recommend(k=1).items[0].item_id, found.about.model_version
        assert found.recommend("newcomer").source == "everyone"
    now = datetime.now(timezone.utc).replace(microsecond=0)
    blank = dict.fromkeys(("order_no", "visit", "source", "device", "client_ip"))
    lines = [{"id": f"live-{n}", "occurred_at": (now - timedelta(minutes=n)).isoformat(), "action": "purchase", "customer": "newcomer", "sku": item,
              "qty": "1", "price": "2.50", "ccy": "GBP", "country": "GB", "changed_at": now.isoformat(), **blank} for n in range(2)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".a").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / ".a").rename(folder / "a.jsonl")
    run_id, state = _run(embedded_night, "online_update", None)
    assert state == "success", embedded_night.why("online_update", run_id)
    today = now.astimezone(settings.zone).date()
    live = Lake(settings.places.lake).at(LIVE_EVENTS, today)
    assert sorted(live.arrow(["event_id"])["event_id"].to_pylist()) == ["live-0", "live-1"], live.manifest.quarantined
    with Lookup(published) as found:
        assert (found.about.live, found.about.model_version, found.recommend("newcomer").source) == (True, version, "user")
