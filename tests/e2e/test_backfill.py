"""A week of a real shop backfilled through Airflow, and again: the manifests stay what they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from nightmarket.contracts import BRONZE, DAILY_SALES, EVENTS, FEATURES, QUALITY, RAW_EVENTS, SILVER
from nightmarket.embedded import services
from nightmarket.embedded.airflow import Client, password, state
from nightmarket.embedded.night import INGESTION, STARTED
from nightmarket.lake import Lake, days
from nightmarket.shop import PROJECT, Settings, child_environment, load_shop

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.real_data, pytest.mark.timeout(2400)]
FIRST, LAST = date(2011, 11, 1), date(2011, 11, 7)
MADE = (*BRONZE, *SILVER, QUALITY, DAILY_SALES, FEATURES)


class Week:
    """The UCI shop under a running Airflow, whose training is paused: a week of history is none to learn from."""

    def __init__(self, root: Path, real_data: Path):
        self.environment = child_environment(
            NIGHTMARKET_ROOT=str(root), NIGHTMARKET_REAL_DATA=str(real_data), NIGHTMARKET_SHOP=str(PROJECT / "shops" / "online_retail.yaml"))
        self.call("up")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NIGHTMARKET_ROOT", str(root))
            patch.setenv("NIGHTMARKET_REAL_DATA", str(real_data))
            self.settings: Settings = load_shop(PROJECT / "shops" / "online_retail.yaml")
        self.lake = Lake(self.settings.places.lake)
        told = services.running(state(self.settings))
        assert told is not None
        base = next(str(s["url"]) for s in told["services"] if s["name"] == "api-server")
        self.client = Client(base, password(self.settings))
        for dag in STARTED:
            self.client.patch(f"/dags/{dag}", {"is_paused": True})

    def call(self, *words: str, seconds: float = 1800) -> str:
        done = subprocess.run([sys.executable, "-m", "nightmarket.embedded", *words], cwd=PROJECT, env=self.environment,
                              capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def backfill(self, first: date, last: date, *more: str) -> str:
        return self.call("backfill", "--from", str(first), "--date", str(last), *more)

    def manifests(self) -> dict[str, bytes]:
        return {f"{d.id} {night}": self.lake.manifest_path(d, night).read_bytes() for d in MADE for night in self.lake.dates(d)}

    def identities(self) -> dict[str, object]:
        return {f"{d.id} {night}": m.identity() for d in MADE for night in self.lake.dates(d) if (m := self.lake.manifest(d, night))}


@pytest.fixture(scope="module")
def week(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    made = Week(tmp_path_factory.mktemp("week"), real_data)
    try:
        made.backfill(FIRST, LAST)
        yield made
    finally:
        made.call("down")


def test_every_night_of_the_week_is_there(week: Week, real_data: Path) -> None:
    import gzip

    runs = week.client.runs(INGESTION, run_type="backfill")
    assert sorted(r["partition_key"] for r in runs) == [str(d) for d in days(FIRST, LAST)]
    assert {r["state"] for r in runs} == {"success"}
    for night in days(FIRST, LAST):
        file = real_data / "online_retail" / f"{night}.csv.gz"
        lines = len(gzip.decompress(file.read_bytes()).splitlines()) - 1 if file.exists() else 0
        raw, clean = week.lake.manifest(RAW_EVENTS, night), week.lake.manifest(EVENTS, night)
        assert raw is not None and clean is not None
        assert raw.rows_in == lines == raw.rows_out + sum(raw.quarantined.values())
        assert clean.rows_in == raw.rows_out == clean.rows_out + sum(clean.quarantined.values())
    assert not (real_data / "online_retail" / "2011-11-05.csv.gz").exists()  # a Saturday: closed, and a night like any other


def test_the_week_again_changes_no_byte(week: Week) -> None:
    before = week.manifests()
    told = week.backfill(FIRST, LAST)
    assert told.count("success") == 7
    assert week.manifests() == before


def test_forced_nights_give_the_same_but_for_who_asked(week: Week) -> None:
    before, bytes_before = week.identities(), week.manifests()
    week.backfill(date(2011, 11, 3), date(2011, 11, 4), "--force")
    assert week.identities() == before
    again = {name for name, made in week.manifests().items() if made != bytes_before[name]}
    assert {name.rpartition(" ")[2] for name in again} == {"2011-11-03", "2011-11-04"}, "they really ran"
