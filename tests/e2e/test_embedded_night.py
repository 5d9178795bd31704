"""A night through a real scheduler: what it leaves, what its pages show, and what a poisoned delivery does not change."""

from __future__ import annotations

import email
import email.policy
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nightmarket.contracts import (
    BRONZE,
    EVENTS,
    FEATURES,
    FORECASTS,
    QUALITY,
    RECOMMENDATIONS,
    SCREENING_DECISIONS,
    SILVER,
)
from nightmarket.embedded import summary
from nightmarket.embedded.airflow import USER, password
from nightmarket.embedded.night import FORECASTING, INGESTION, SCREENING, TRAINING
from nightmarket.lake import Lake
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings
from tests.e2e.conftest import Embedded

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]


class Told:
    """The first night of the embedded shop, run once."""

    def __init__(self, embedded: Embedded):
        demo = embedded.settings.shop.demo
        assert demo is not None
        self.first = date.fromisoformat(demo.first_day)
        self.date = self.first + timedelta(days=demo.days - 1)
        since = datetime.now(timezone.utc).isoformat()
        self.ingestion, self.ingestion_state = embedded.night(self.date, self.first)
        assert self.ingestion_state == "success", embedded.why(INGESTION, self.ingestion)
        self.training, self.training_state = embedded.training(self.date, since)
        self.forecasting, self.forecasting_state = embedded.started(FORECASTING, self.date, since)
        self.screening, self.screening_state = embedded.started(SCREENING, self.date, since)


@pytest.fixture(scope="module")
def night(embedded_night: Embedded) -> Told:
    return Told(embedded_night)


@pytest.fixture
def lake(embedded_night: Embedded) -> Lake:
    return Lake(embedded_night.settings.places.lake)


def test_all_runs_of_the_night_succeed(embedded_night: Embedded, night: Told) -> None:
    states = embedded_night.states(INGESTION, night.ingestion)
    assert states.pop("respond") == "skipped"  # a night that got through is answered by the DAG behind
    assert set(states.values()) == {"success"}
    assert night.training_state == "success", embedded_night.why(TRAINING, night.training)
    assert night.forecasting_state == "success", embedded_night.why(FORECASTING, night.forecasting)
    assert night.screening_state == "success", embedded_night.why(SCREENING, night.screening)


def test_every_dataset_of_the_night_is_published_by_that_run(night: Told, lake: Lake) -> None:
    for dataset in (*BRONZE, *SILVER, QUALITY, FEATURES):
        made = lake.manifest(dataset, night.date)
        assert made is not None and made.run_id == night.ingestion
    served = lake.manifest(RECOMMENDATIONS, night.date)
    assert served is not None and served.run_id == night.training and served.rows_out > 0


def test_a_champion_serves(embedded_night: Embedded, night: Told) -> None:
    settings = embedded_night.settings
    assert Ledger(settings.places.mlflow / "ledger.db").current(settings.shop.model.name, "champion") is not None


def test_airflows_own_metrics_are_at_the_scrape_endpoint(embedded_night: Embedded, night: Told) -> None:
    """By the names that rules and dashboards use: each step's wait for its turn, pools, the scheduler's heartbeat."""
    address = next(str(s["url"]) for s in embedded_night.told["services"] if s["name"] == "lookup")
    steps = set(embedded_night.states(INGESTION, night.ingestion)) - {"respond"}  # a good night skips it

    def told() -> set[str]:
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            return set(answer.read().decode().splitlines())

    def waited(lines: set[str]) -> set[str]:
        of = re.compile(rf'airflow_task_scheduled_duration_milliseconds_count\{{dag_id="{INGESTION}",.*task_id="(\w+)"')
        return {m[1] for line in lines if (m := of.match(line)) and float(line.split()[-1]) >= 1}

    _until(lambda: steps <= waited(told()))
    lines = told()
    for name in ("airflow_scheduler_heartbeat_total", 'airflow_pool_scheduled_slots{pool_name="training"', 'airflow_pool_queued_slots{pool_name="spark"',
                 'airflow_pool_running_slots{pool_name="spark"', "airflow_executor_queued_tasks"):
        assert any(line.startswith(name) for line in lines), name


def test_the_xcom_is_paths_of_manifests(embedded_night: Embedded, night: Told, lake: Lake) -> None:
    path = f"/dags/{INGESTION}/dagRuns/{urllib.request.quote(night.ingestion, safe='')}"  # type: ignore[attr-defined]
    value = embedded_night.client.get(f"{path}/taskInstances/gate/xcomEntries/return_value")["value"]
    assert str(lake.manifest_path(QUALITY, night.date)) in str(value)


def test_owners_got_their_mails(embedded_night: Embedded, night: Told) -> None:
    mails = list(embedded_night.settings.places.mailbox.glob("*.eml"))
    owners = {m for o in embedded_night.settings.shop.owners.values() for m in o.mail}
    got = {a for a in owners for m in mails if a.encode() in m.read_bytes()}
    assert got >= {m for e in ("events", "items", "users", "orders", "reviews") for m in embedded_night.settings.owner_of(e).mail}


def test_the_owner_of_the_recommendations_got_a_letter(embedded_night: Embedded, night: Told) -> None:
    settings = embedded_night.settings
    to = settings.owner_of("recommendations").mail[0]
    mine = [m for m in _mails(settings) if to in str(m["To"]) and f"Recommendations of {night.date}" in str(m["Subject"])]
    assert len(mine) == 1
    text = mine[0].get_body(("plain",)).get_content()
    assert "popularity" in text and "1. " in text  # quality beside the baselines, and everyone's list


def test_forecasts_are_published_and_their_owner_got_a_letter(embedded_night: Embedded, night: Told, lake: Lake) -> None:
    made = lake.manifest(FORECASTS, night.date)
    assert made is not None and made.run_id == night.forecasting and made.rows_out > 0
    to = embedded_night.settings.owner_of("forecasts").mail[0]
    mine = [m for m in _mails(embedded_night.settings) if to in str(m["To"]) and f"Sales forecasts of {night.date}" in str(m["Subject"])]
    assert len(mine) == 1


def test_the_night_was_screened_and_the_risk_owner_got_a_letter(embedded_night: Embedded, night: Told, lake: Lake) -> None:
    made = lake.manifest(SCREENING_DECISIONS, night.date)
    assert made is not None and made.run_id == night.screening and made.rows_out > 0
    to = embedded_night.settings.owner_of("risk").mail[0]
    assert [m for m in _mails(embedded_night.settings) if to in str(m["To"]) and str(night.date) in str(m["Subject"])]


def test_a_late_run_is_told_once(embedded_night: Embedded, night: Told) -> None:
    """The first load takes longer than the minute that this shop allows it."""
    owner = embedded_night.settings.owner_of("events")
    late = [m for m in _mails(embedded_night.settings) if "is late" in str(m["Subject"]) and night.ingestion in m.get_content()]
    assert [str(m["To"]) for m in late] == [", ".join(owner.mail)]


def _mails(settings: Settings) -> list[Any]:
    return [email.message_from_bytes(f.read_bytes(), policy=email.policy.default) for f in sorted(settings.places.mailbox.glob("*.eml"))]


def test_the_steps_shared_one_spark_server(embedded_night: Embedded, night: Told) -> None:
    settings = embedded_night.settings
    assert "spark" in {s["name"] for s in embedded_night.told["services"]}
    for step in ("ingest", "clean", "gate", "aggregate"):
        log = summary.task_log(settings, INGESTION, night.ingestion, step, 1).read_text()
        assert "no answer" not in log and "NativeCodeLoader" not in log, f"{step} started a JVM of its own"


def test_the_same_night_again_changes_nothing(embedded_night: Embedded, night: Told, lake: Lake) -> None:
    before = {d.id: lake.manifest_path(d, night.date).read_bytes() for d in (*BRONZE, *SILVER, QUALITY, FEATURES)}
    _, state = embedded_night.night(night.date, night.first)
    assert state == "success"
    assert {d.id: lake.manifest_path(d, night.date).read_bytes() for d in (*BRONZE, *SILVER, QUALITY, FEATURES)} == before


def test_a_dry_run_publishes_and_triggers_nothing(embedded_night: Embedded, night: Told, lake: Lake) -> None:
    tomorrow = night.date + timedelta(days=1)
    since = datetime.now(timezone.utc).isoformat()
    run_id, _ = embedded_night.night(tomorrow, dry_run=True)
    assert set(embedded_night.states(INGESTION, run_id).values()) == {"skipped"}
    assert tomorrow not in lake.dates(EVENTS)
    assert embedded_night.client.newest_run("recommendation_training", tomorrow.isoformat(), since) is None


def test_a_poisoned_delivery_stops_at_the_gate(embedded_night: Embedded, night: Told, lake: Lake) -> None:
    """The next night's events lose all rows but one in forty after delivery: the volume breaks."""
    import gzip

    settings = embedded_night.settings
    tomorrow = night.date + timedelta(days=1)
    ledger = Ledger(settings.places.mlflow / "ledger.db").history(settings.shop.model.name)
    serving = lake.manifest(RECOMMENDATIONS, night.date)
    file = settings.places.landing / "events" / f"{tomorrow}.csv.gz"
    since = datetime.now(timezone.utc).isoformat()
    run_id = embedded_night.client.trigger(INGESTION, tomorrow.isoformat(), {}, "a test")
    _until(lambda: embedded_night.states(INGESTION, run_id).get("deliver") in ("running", "success"))
    _slots(embedded_night, 0)  # nobody takes in what is being damaged
    try:
        _until(lambda: embedded_night.states(INGESTION, run_id)["deliver"] == "success")
        lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
        file.write_bytes(gzip.compress(lines[0] + b"".join(lines[1::40])))
    finally:
        _slots(embedded_night, 1)
    state = embedded_night.ends(INGESTION, run_id, 600)
    states = embedded_night.states(INGESTION, run_id)
    assert state == "failed"
    assert states == {"deliver": "success", "ingest": "success", "clean": "success", "gate": "failed", "aggregate": "upstream_failed",
                      "report": "success", "respond": "success", "send": "success", "metrics": "success"}
    gate = next(t for t in embedded_night.client.tasks(INGESTION, run_id) if t["task_id"] == "gate")
    assert gate["try_number"] == 1, "a refusal is not retried"
    assert embedded_night.client.newest_run("recommendation_training", tomorrow.isoformat(), since) is None
    assert Ledger(settings.places.mlflow / "ledger.db").history(settings.shop.model.name) == ledger
    assert lake.manifest(RECOMMENDATIONS, night.date) == serving and tomorrow not in lake.dates(RECOMMENDATIONS)
    assert any(tomorrow.isoformat().encode() in m.read_bytes() for m in settings.places.mailbox.glob("*.eml"))


def _slots(embedded: Embedded, slots: int) -> None:
    embedded.client.patch("/pools/spark?update_mask=slots", {"pool": "spark", "slots": slots, "include_deferred": False})


def _until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_stranger_sees_nothing(embedded_night: Embedded) -> None:
    for path in ("/nightmarket/", "/nightmarket/files/reports/data_docs/index.html", "/api/v2/dags"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(embedded_night.client.base + path, timeout=30)
        assert refused.value.code == 401


@pytest.fixture(scope="module")
def pages(embedded_night: Embedded, browser: Any) -> Any:
    """The browser, logged in."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(embedded_night.client.base)
    WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.NAME, "username"))
    browser.find_element(By.NAME, "username").send_keys(USER)
    browser.find_element(By.NAME, "password").send_keys(password(embedded_night.settings))
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    WebDriverWait(browser, 60).until(lambda b: "/login" not in b.current_url)
    return browser


def _shows(pages: Any, words: list[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while missing := [w for w in words if w not in pages.page_source]:
        assert time.monotonic() < deadline, f"{pages.current_url} does not show {missing}"
        time.sleep(0.5)
    time.sleep(2)  # pictures and fonts, for the screenshot


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("dags", "/dags", ["shop_ingestion", "recommendation_training"]),
        ("ingestion", "/dags/shop_ingestion", ["deliver", "aggregate", "send"]),
        ("assets", "/assets", ["gold.features", "silver.events"]),
        ("nights", "/nightmarket/", ["Nights, newest first", "Champion", "report"]),
    ],
)
def test_airflows_pages(
    embedded_night: Embedded, night: Told, pages: Any, artifacts: Path, name: str, path: str, words: list[str]
) -> None:
    pages.get(embedded_night.client.base + path)
    _shows(pages, words)
    pages.save_screenshot(str(artifacts / f"airflow-{name}.png"))


def test_a_backfill_from_its_form(embedded_night: Embedded, night: Told, pages: Any, artifacts: Path, lake: Lake) -> None:
    """Two nights by the page's form, dry: a run for each, with what the form said, and nothing published."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    first, last = night.date + timedelta(days=3), night.date + timedelta(days=4)
    before = {r["dag_run_id"] for r in embedded_night.client.runs(INGESTION)}

    def click(path: str, nth: int = 0) -> Any:
        def found(_: Any) -> Any:
            shown = [e for e in pages.find_elements(By.XPATH, path) if e.is_displayed()]
            return shown[nth] if len(shown) > nth else None

        element = WebDriverWait(pages, 30).until(found)
        pages.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        return element

    pages.get(f"{embedded_night.client.base}/dags/{INGESTION}")
    click("//button[@aria-label='Trigger Dag' or normalize-space()='Trigger']")
    click("//span[text()='Backfill']")
    for day in (first, last):
        click("//p[text()='Select date and time']")  # the one that is still empty
        for hint, text in (("YYYY/MM/DD", f"{day:%Y/%m/%d}"), ("HH:mm", "00:00")):
            field = click(f"//input[@placeholder='{hint}']")
            field.clear()
            field.send_keys(text)
        pages.find_element(By.XPATH, "//*[text()='Date Range']").click()  # closes the calendar
        time.sleep(0.5)
    click("//label[contains(., 'Override parameters on existing runs')]")  # without it the page sends no parameters at all
    click("//label[.//input[@name='element_dry_run']]")
    pages.save_screenshot(str(artifacts / "airflow-backfill.png"))

    def sent(_: Any) -> bool:
        """The dialog is gone; until then its button is pressed where it may be: it is not while the page counts the runs."""
        (button, *_) = pages.find_elements(By.XPATH, "//button[normalize-space()='Run Backfill']") or [None]
        if button is not None and button.is_enabled():
            button.click()
            time.sleep(2)
        return button is None

    WebDriverWait(pages, 60).until(sent, "the form's dialog is still open")

    def asked() -> list[dict[str, Any]]:
        return [r for r in embedded_night.client.runs(INGESTION) if r["dag_run_id"] not in before]

    _until(lambda: len(asked()) == 2)
    _until(lambda: all(r["state"] in ("success", "failed") for r in asked()), 300)
    runs = sorted(asked(), key=lambda r: r["partition_key"])
    assert [(r["partition_key"], r["run_type"]) for r in runs] == [(str(first), "backfill"), (str(last), "backfill")]
    assert all(r["conf"]["dry_run"] is True for r in runs)
    assert not {first, last} & set(lake.dates(EVENTS))


def test_a_report_opens_from_the_page_of_nights(embedded_night: Embedded, night: Told, pages: Any, artifacts: Path) -> None:
    pages.get(f"{embedded_night.client.base}/nightmarket/files/reports/quality/{night.date}/index.html")
    _shows(pages, [night.date.isoformat()])
    pages.save_screenshot(str(artifacts / "report.png"))


def test_mlflows_page_has_the_model(embedded_night: Embedded, night: Told, browser: Any, artifacts: Path) -> None:
    browser.get(f"{embedded_night.mlflow}/#/models/{embedded_night.settings.shop.model.name}")
    _shows(browser, [embedded_night.settings.shop.model.name, "champion"])
    browser.save_screenshot(str(artifacts / "mlflow-model.png"))
