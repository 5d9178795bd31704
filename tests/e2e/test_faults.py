"""The fault drill on the bare chain: whatever breaks, tables are right afterwards, one promotion at most happened, and the account of
the night says what was wrong."""

from __future__ import annotations

import json
import resource
import subprocess
import threading
import time
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nightmarket.contracts import BRONZE, DAILY_SALES, EVALUATION, EVENTS, FEATURES, QUALITY, RECOMMENDATIONS, SILVER
from nightmarket.embedded import mailbox
from nightmarket.quality.outbox import Outbox
from nightmarket.recommend.lookup import Lookup
from nightmarket.registry.ledger import Ledger
from tests.e2e.chain import Chain

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3000)]
STEPS = ("deliver", "ingest", "clean", "gate", "aggregate", "train", "evaluate", "register", "bless", "publish")


class Drill:
    """A shop whose first night is done; each fault is put into the next night that was not delivered yet."""

    def __init__(self, chain: Chain):
        self.chain, self.port = chain, chain.settings.shop.mail.port
        self.night = max(chain.lake.dates(EVENTS)) + timedelta(days=1)
        self.span = ("--run-date", str(self.night))

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.chain.settings.places.mlflow / "ledger.db")

    @property
    def promotions(self) -> int:
        """How often a version of the night was made champion."""
        return sum(m.alias == "champion" and m.run_date == str(self.night) for m in self.ledger.history("recommender"))

    @property
    def serves(self) -> tuple[date, str]:
        with Lookup(self.chain.settings.places.root / "published") as found:
            assert found.recommend(k=5).items
            return found.about.run_date, found.about.model_version

    def diagnosis(self) -> dict[str, Any]:
        return dict(json.loads(self.chain.run("diagnose", *self.span, "--json").stdout))

    def through(self, last: str) -> None:
        """The night's steps up to `last`; those that are done are found current."""
        for step in STEPS[: STEPS.index(last) + 1]:
            self.chain.run(step, *self.span)


@pytest.fixture(scope="module")
def drill(first_night: Chain) -> Drill:
    return Drill(first_night)


def test_a_killed_step(drill: Drill) -> None:
    drill.through("aggregate")
    assert drill.chain.kill("train", *drill.span, after=12.0), "the training ended before it was killed"
    told = drill.diagnosis()
    assert (told["step"], told["state"]) == ("train", "killed") and "killed" in told["cause"]
    assert drill.serves[0] == drill.chain.last_day
    drill.through("evaluate")
    assert drill.chain.recount(EVALUATION, drill.night) > 0
    assert drill.diagnosis()["step"] is None


def test_the_registry_is_down(drill: Drill) -> None:
    drill.through("evaluate")
    down = replace(drill.chain, more={**drill.chain.more, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    head = drill.ledger.head()
    for step in ("register", "bless", "publish"):
        down.run(step, *drill.span, code=1)
    told = drill.diagnosis()
    assert told["step"] == "register" and told["cause"] == "The model registry is down or cannot be reached."
    assert drill.ledger.head() == head and drill.serves[0] == drill.chain.last_day
    drill.through("bless")
    assert drill.promotions <= 1


def test_the_disk_is_full_for_a_step(drill: Drill) -> None:
    """A limit on the size of files stands for it: what a step writes beyond it fails as on a full disk."""
    drill.through("bless")
    before = drill.serves
    done = subprocess.run(drill.chain._command("publish", drill.span), capture_output=True, text=True, check=False, timeout=500,
                          env=drill.chain._environment(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000)))
    assert done.returncode != 0
    assert drill.chain.lake.manifest(RECOMMENDATIONS, drill.night) is None and drill.serves == before
    drill.through("publish")
    assert drill.serves[0] == drill.night and drill.chain.recount(RECOMMENDATIONS, drill.night) > 0


def test_mail_is_down(drill: Drill) -> None:
    drill.through("publish")
    drill.chain.run("report", *drill.span)
    drill.chain.run("announce", *drill.span)
    waiting = Outbox(drill.chain.settings.places.outbox).counts().queued
    assert waiting > 0
    told = drill.chain.run("send", *drill.span).stdout
    assert f"{waiting} waiting" in told and "0 sent now" in told
    assert any(f"{waiting} mails waiting" in note for note in drill.diagnosis()["notes"])
    server = mailbox.serve(drill.chain.settings.places.mailbox, drill.port)
    try:
        drill.chain.run("send", *drill.span, "--now")
    finally:
        server.stop()
    assert Outbox(drill.chain.settings.places.outbox).counts().queued == 0
    assert len(list(drill.chain.settings.places.mailbox.glob("*.eml"))) >= waiting


@pytest.mark.parametrize("days", [-3, 400])
def test_a_clock_that_is_wrong(drill: Drill, days: int) -> None:
    """Three days behind, or a year ahead: the night's tables are the same, for a night is what it is named, not when it is run."""
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
    if library is None:
        pytest.skip("no libfaketime: install the package faketime to run this test")
    drill.through("publish")
    datasets = (*BRONZE, *SILVER, QUALITY, DAILY_SALES, FEATURES, RECOMMENDATIONS)
    before, head, serves = drill.chain.identities(*datasets), drill.ledger.head(), drill.serves
    shifted = {"LD_PRELOAD": str(library), "FAKETIME": f"{days:+d}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    wrong = replace(drill.chain, more={**drill.chain.more, **shifted})
    made = wrong.run("deliver", *drill.span)  # the clock is what it is said to be: the log's own times say so
    assert f"{datetime.now(timezone.utc) + timedelta(days=days):%Y-%m-%d}" in made.stderr
    for step in ("ingest", "clean", "gate", "aggregate", "publish"):
        wrong.run(step, *drill.span, "--force")
    after = drill.chain.identities(*datasets)
    assert after == before
    wrong.run("bless", *drill.span)
    assert drill.ledger.head() == head and drill.serves == serves


def test_two_nights_at_once(drill: Drill) -> None:
    """The same night twice, and the night after it, from clean to publication at the same time."""
    drill.through("publish")
    other = drill.night + timedelta(days=1)
    for step in ("deliver", "ingest"):
        drill.chain.run(step, "--run-date", str(other))
    before = drill.chain.identities(*SILVER, FEATURES)
    codes: dict[str, list[int]] = {}

    def night(name: str, day: date) -> None:
        for step in ("clean", "gate", "aggregate", "bless", "publish") if day == drill.night else ("clean", "gate", "aggregate"):
            done = subprocess.run(drill.chain._command(step, ("--run-date", str(day), *(("--force",) if step == "clean" else ()))),
                                  capture_output=True, text=True, check=False, timeout=900, env=drill.chain._environment())
            codes.setdefault(name, []).append(done.returncode)

    threads = [threading.Thread(target=night, args=a) for a in (("a", drill.night), ("b", drill.night), ("c", other))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert codes == {"a": [0] * 5, "b": [0] * 5, "c": [0] * 3}
    after = drill.chain.identities(*SILVER, FEATURES)
    assert {k: v for k, v in after.items() if k in before} == before
    assert drill.chain.recount(FEATURES, other) > 0
    assert drill.promotions <= 1
    drill.ledger.verify()


def test_rollback_within_a_minute(drill: Drill, record_property: Any) -> None:
    drill.through("publish")
    champion = drill.ledger.current("recommender", "champion")
    if drill.ledger.current("recommender", "previous") is None:
        pytest.skip("the gate kept the first night's champion, so there is nothing to go back to")
    started = time.monotonic()
    drill.chain.run("rollback", "--model", "recommender", "--reason", "drill", "--who", "Ada")
    seconds = time.monotonic() - started
    record_property("rollback_seconds", round(seconds, 1))
    assert seconds < 60
    assert drill.serves[1] != champion and drill.serves[0] == drill.night
    drill.chain.run("bless", *drill.span, "--force")
    assert drill.ledger.current("recommender", "champion") != champion, "the next night does not bring it back"


def test_the_plan_of_a_night_and_what_it_sets_in_motion(drill: Drill) -> None:
    drill.through("aggregate")
    for step in ("drift", "respond", "plan_retraining"):
        drill.chain.run(step, *drill.span)
    drill.chain.run("retrain", *drill.span, "--model", "recommender")
    drill.chain.run("summarise", *drill.span)
    assert drill.serves[0] == drill.night
    assert any("Models of" in e.subject for e in Outbox(drill.chain.settings.places.outbox).entries())
