"""`python -m jobs.report`: files first, one mail an owner, none twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs import report
from nightmarket.contracts import QUALITY
from nightmarket.lake import Lake
from nightmarket.quality.outbox import Outbox, Server
from nightmarket.shop import Settings
from tests.quality import nights as n


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Settings:
    shop = n.shop(make_settings)
    lake = Lake(shop.places.lake)
    n.publish(lake, n.MONDAY)
    n.put(lake, QUALITY, n.MONDAY, [], notes={"verdict": "passed", "from_date": str(n.MONDAY)})
    return shop


def run(shop: Settings, *more: str) -> int:
    return report.main(["--run-date", str(n.MONDAY), "--shop", str(shop.file), *more])


def test_files_and_mails_of_every_owner(shop: Settings) -> None:
    assert run(shop) == 0
    folder = shop.places.reports / "quality" / "2026-02-02"
    stems = {p.stem for p in folder.iterdir()} - {"index"}
    assert "ada-lovelace" in stems and len(stems) == 2
    assert {p.suffix for p in folder.glob("ada-lovelace.*")} == {".html", ".txt", ".png"}
    index = (folder / "index.html").read_text()
    assert all(f'href="{stem}.html"' in index for stem in stems)
    assert 'src="ada-lovelace.png"' in (folder / "ada-lovelace.html").read_text()
    mails = Outbox(shop.places.outbox).entries("queued")
    assert sorted((m.subject, [r.address for r in m.recipients]) for m in mails) == [
        ("[Kleiner Laden] Night of 2026-02-02: passed", ["ada@example.org"]),
        ("【Kleiner Laden】2026-02-02 夜间数据：通过", ["wang@example.org"])]


def test_the_same_report_is_mailed_once(shop: Settings) -> None:
    outbox = Outbox(shop.places.outbox)
    for _ in range(3):
        assert run(shop) == 0
    assert outbox.counts().queued == 2
    assert run(shop, "--force") == 0
    assert outbox.counts().queued == 4
    # another verdict is news
    n.put(Lake(shop.places.lake), QUALITY, n.MONDAY, [], notes={"verdict": "warned", "from_date": str(n.MONDAY)})
    assert run(shop) == 0
    assert outbox.counts().queued == 6


def test_mails_that_could_not_be_delivered_are_told_in_the_next_report(shop: Settings) -> None:
    assert run(shop) == 0
    outbox = Outbox(shop.places.outbox)
    page = shop.places.reports / "quality" / "2026-02-02" / "ada-lovelace.txt"
    assert "not delivered" not in page.read_text()
    for _ in range(2):
        outbox.flush(Server("127.0.0.1", 1, attempts=2, timeout=2), now=True)
    assert outbox.counts().undelivered == 2
    assert run(shop) == 0
    assert "Reports not delivered by mail yet: 0 waiting, 2 given up." in page.read_text()
    assert outbox.counts().undelivered == 2 and outbox.counts().queued == 0, "what was given up is not queued again by itself"


def test_a_dry_run_writes_nothing(shop: Settings) -> None:
    assert run(shop, "--dry-run") == 0
    assert not shop.places.reports.exists() and not shop.places.outbox.exists()
