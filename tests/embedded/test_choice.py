"""Which night `make run` takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from nightmarket.embedded import night as nights
from nightmarket.embedded.night import Choice, NothingToDo, Undecided, choose, delivered_dates
from nightmarket.shop import Settings

D = date.fromisoformat
Make = Callable[..., Settings]


def _passed(monkeypatch: pytest.MonkeyPatch, *days: str) -> None:
    monkeypatch.setattr(nights, "passed_nights", lambda lake, as_of: frozenset(map(D, days)))


def _span(choice: Choice) -> tuple[str, str]:
    return choice.from_date.isoformat(), choice.run_date.isoformat()


def test_the_demo_starts_with_all_its_days_and_goes_on_by_one(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = make_settings(demo={"first_day": "2026-01-05", "days": 30})
    _passed(monkeypatch)
    assert _span(choose(demo, None, None)) == ("2026-01-05", "2026-02-03")
    _passed(monkeypatch, "2026-02-02", "2026-02-03")
    assert _span(choose(demo, None, None)) == ("2026-02-04", "2026-02-04")


def test_asked_for(settings: Settings) -> None:
    assert _span(choose(settings, D("2026-02-04"), None)) == ("2026-02-04", "2026-02-04")
    assert _span(choose(settings, D("2026-02-04"), D("2026-02-01"))) == ("2026-02-01", "2026-02-04")


def test_delivered_files_say_which_nights_there_are(
    settings: Settings, drop: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("events-2026-01-05.csv", "events-2026-01-06_b.csv.gz", "events-2026-01-09.csv", "items-2026-01-10.csv", "events-x.csv"):
        drop(settings, name, "id\n")
    assert delivered_dates(settings) == [D("2026-01-05"), D("2026-01-06"), D("2026-01-09")]
    _passed(monkeypatch)
    assert _span(choose(settings, None, None)) == ("2026-01-05", "2026-01-09")
    _passed(monkeypatch, "2026-01-05", "2026-01-06")  # a gap is no night
    assert _span(choose(settings, None, None)) == ("2026-01-09", "2026-01-09")
    _passed(monkeypatch, "2026-01-09")
    with pytest.raises(NothingToDo, match="2026-01-09 is done; pass DATE="):
        choose(settings, None, None)


def test_a_source_without_dates_in_its_names_needs_one(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sliced = {"events": {"kind": "files", "path": "${root}/landing", "pattern": "*.csv", "format": "csv", "slice_by": "ts"}}
    _passed(monkeypatch)
    with pytest.raises(Undecided, match="pass DATE=YYYY-MM-DD"):
        choose(make_settings(sources=sliced), None, None)


def test_a_file_whose_name_is_no_day_says_so(settings: Settings, drop: Callable[..., Path]) -> None:
    drop(settings, "events-2026-02-30.csv", "id\n")
    with pytest.raises(Undecided, match=r"events-2026-02-30\.csv: 2026-02-30 is not a day"):
        delivered_dates(settings)
