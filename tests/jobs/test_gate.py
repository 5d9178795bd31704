"""`python -m jobs.gate`: exit codes, the published partition, Data Docs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from jobs import gate
from nightmarket.contracts import QUALITY
from nightmarket.lake import Lake
from nightmarket.monitor.responses import Log
from nightmarket.quality.verdict import passed_nights
from nightmarket.shop import Settings
from tests.quality import nights as n


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Settings:
    return n.shop(make_settings)


def run(shop: Settings, *more: str) -> int:
    return gate.main(["--run-date", str(n.MONDAY), "--shop", str(shop.file), *more])


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_a_healthy_night_passes_is_published_and_documented(shop: Settings, tmp_path: Path) -> None:
    lake = Lake(shop.places.lake)
    n.publish(lake, n.MONDAY, reasons=["too_old"] * 3)
    result = tmp_path / "result.json"
    assert run(shop, "--result", str(result), "--run-id", "r1") == 0
    made = lake.at(QUALITY, n.MONDAY)
    assert json.loads(result.read_text()) == [str(lake.manifest_path(QUALITY, n.MONDAY))]
    notes = made.manifest.notes
    assert (notes["verdict"], notes["from_date"]) == ("passed", str(n.MONDAY))
    assert notes["counts"]["events"] == {"delivered": 303, "clean": 300, "quarantined": {"too_old": 3}}
    assert notes["profiles"]["events.country"] == {"DE": 100, "FR": 100, "GB": 100}
    rows = made.arrow().to_pylist()
    assert len({(r["dataset"], r["expectation"], r["column"]) for r in rows}) == len(rows) > 40
    assert all(r["success"] for r in rows)
    # Data Docs hold the pages of all three suites, with what was asked and seen
    pages = shop.places.reports / "data_docs"
    assert (pages / "index.html").exists() and notes["data_docs"] == "reports/data_docs/index.html"
    events = next((pages / "validations" / "silver" / "events").rglob("*.html")).read_text()
    assert "unit_price" in events and "item_id in silver.items" in events and "300" in events
    assert "events.quarantine_share" in next((pages / "validations" / "night").rglob("*.html")).read_text()
    # the same inputs: nothing to do, not even Spark
    before = made.manifest
    assert run(shop, "--run-id", "r2") == 0
    assert lake.manifest(QUALITY, n.MONDAY) == before
    # judged again by force, the findings are the same
    assert run(shop, "--force", "--run-id", "r3") == 0
    again = lake.manifest(QUALITY, n.MONDAY)
    assert again is not None and again.identity() == before.identity() and again.run_id == "r3"


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_a_refused_night_is_published_feeds_nothing_and_can_be_mended(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake(shop.places.lake)
    rows = n.events(n.MONDAY)
    rows[5]["unit_price"] = Decimal(-1)
    n.publish(lake, n.MONDAY, rows)
    assert run(shop) == 3
    assert "events.range.unit_price" in capsys.readouterr().err
    manifest = lake.manifest(QUALITY, n.MONDAY)
    assert manifest is not None and manifest.notes["verdict"] == "refused"
    assert manifest.notes["failed"]["critical"] == ["events.range.unit_price"]
    assert passed_nights(lake, n.MONDAY) == frozenset()
    assert run(shop) == 3, "the same night again is refused again"
    n.publish(lake, n.MONDAY)
    assert run(shop) == 0
    assert passed_nights(lake, n.MONDAY) == {n.MONDAY}


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_nothing_cleaned_is_refused_and_told(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop) == 3
    assert "events.delivery, items.delivery" in capsys.readouterr().err
    rows = Lake(shop.places.lake).at(QUALITY, n.MONDAY).arrow().to_pylist()
    assert [(r["dataset"], r["expectation"], r["success"]) for r in rows] == [
        ("silver.events", "delivery", False), ("silver.items", "delivery", False)]


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_a_first_load_is_one_verdict_for_all_its_nights(shop: Settings) -> None:
    lake = Lake(shop.places.lake)
    first = n.MONDAY - timedelta(days=3)
    for back in range(4):
        n.publish(lake, n.MONDAY - timedelta(days=back), catalogue=n.items(n.MONDAY - timedelta(days=back)))
    assert run(shop, "--from-date", str(first)) == 0
    assert lake.dates(QUALITY) == [n.MONDAY]
    assert len(passed_nights(lake, n.MONDAY)) == 4
    # its last night alone, once more, takes the verdict from none of them
    made = lake.manifest(QUALITY, n.MONDAY)
    assert run(shop) == 0 and lake.manifest(QUALITY, n.MONDAY) == made
    assert run(shop, "--force") == 0
    assert len(passed_nights(lake, n.MONDAY)) == 4


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_a_gate_is_widened_by_a_rule_of_the_shop_and_judges_again(make_settings: Callable[..., Settings]) -> None:
    """Too much of the night is in quarantine: a judgement about how much, which becomes a warning for a person to review."""
    shop = n.shop(make_settings, responses=[{"when": "gate.refused", "do": "widen_gate", "window_nights": 2}])
    lake = Lake(shop.places.lake)
    n.publish(lake, n.MONDAY, reasons=["too_old"] * 90)
    assert run(shop) == 0
    notes = lake.at(QUALITY, n.MONDAY).manifest.notes
    assert notes["verdict"] == "warned" and notes["failed"]["critical"] == [] and "events.quarantine_share" in notes["failed"]["warning"]
    assert passed_nights(lake, n.MONDAY) == {n.MONDAY}
    told = [(e.event, e.alert, e.action) for e in Log(shop.places.root).entries()]
    assert told == [("began", "gate.refused", "widen_gate"), ("responded", "gate.refused", "widen_gate")]
    made = lake.manifest(QUALITY, n.MONDAY)
    assert run(shop) == 0 and lake.manifest(QUALITY, n.MONDAY) == made, "current"


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_what_may_not_be_widened_stays_refused(make_settings: Callable[..., Settings]) -> None:
    shop = n.shop(make_settings, responses=[{"when": "gate.refused", "do": "widen_gate"}])
    lake = Lake(shop.places.lake)
    rows = n.events(n.MONDAY)
    rows[5]["unit_price"] = Decimal(-1)
    n.publish(lake, n.MONDAY, rows)
    assert run(shop) == 3
    assert lake.at(QUALITY, n.MONDAY).manifest.notes["verdict"] == "refused"
    assert Log(shop.places.root).entries()[-1].event == "escalated"


def test_a_misspelt_severity_is_a_usage_error(make_settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]) -> None:
    shop = n.shop(make_settings, gate={"severity": {"volumme": "info"}})
    assert run(shop) == 2
    assert "gate.severity.volumme: no such rule" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(shop: Settings) -> None:
    assert run(shop, "--dry-run") == 0
    assert not shop.places.root.joinpath("lake").exists() and not shop.places.reports.exists()
