"""Which night a run is about, and when runs are."""

from __future__ import annotations

from datetime import date, datetime, timezone
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import jinja2
import pendulum
import pytest
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError
from airflow.timetables.base import TimeRestriction
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.orchestration import NightTimetable
from nightmarket.orchestration.night import form, macros, resolve

LONDON, NEW_YORK, SHANGHAI = ZoneInfo("Europe/London"), ZoneInfo("America/New_York"), ZoneInfo("Asia/Shanghai")


def _context(run_after: str, key: str | None = None, logical: str | None = None, **params: Any) -> dict[str, Any]:
    run = SimpleNamespace(
        partition_key=key, run_after=datetime.fromisoformat(run_after), logical_date=datetime.fromisoformat(logical) if logical else None
    )
    return {"dag_run": run, "params": params}


@pytest.mark.parametrize(
    ("context", "zone", "night"),
    [
        (_context("2026-03-05T02:00+00:00", "2026-03-04"), LONDON, "2026-03-04"),
        (_context("2026-11-23T10:00+00:00", None, run_date="2026-02-01"), LONDON, "2026-02-01"),
        (_context("2026-11-23T10:00+00:00", "2026-02-01", run_date="2026-02-01"), LONDON, "2026-02-01"),
        # nothing said: the newest complete day where the shop is, which is not the same day everywhere
        (_context("2026-11-23T23:30+00:00"), LONDON, "2026-11-22"),
        (_context("2026-11-23T23:30+00:00"), SHANGHAI, "2026-11-23"),
        (_context("2026-11-23T01:00+00:00"), NEW_YORK, "2026-11-21"),
        # a logical date of the past means its day; one that is merely now means the newest complete day
        (_context("2026-11-23T10:00+00:00", None, "2026-02-01T00:00+00:00"), LONDON, "2026-02-01"),
        (_context("2026-11-23T10:00+00:00", None, "2026-11-23T10:00+00:00"), LONDON, "2026-11-22"),
        (_context("2026-11-23T10:00+00:00", None, "2026-01-31T18:00+00:00"), SHANGHAI, "2026-02-01"),
    ],
)
def test_the_night_of_a_run(context: dict[str, Any], zone: ZoneInfo, night: str) -> None:
    assert resolve(context, zone) == date.fromisoformat(night)


@pytest.mark.parametrize(
    ("key", "asked", "words"),
    [("2026-02-01", "2026-02-02", "leave one of them empty"), (None, "2026-02-30", "'2026-02-30' is not a date"),
     ("monday", None, "'monday' is not a date")],
)
def test_a_contradiction_is_refused_without_a_retry(key: str | None, asked: str | None, words: str) -> None:
    with pytest.raises(AirflowFailException, match=words):
        resolve(_context("2026-11-23T10:00+00:00", key, run_date=asked), LONDON)


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("run_date", ["2026-13-01", "yesterday", 20260101, "2026-1-1"], [None, "2026-01-31"]),
        ("from_date", ["31.01.2026", ""], [None, "2026-01-31"]),
        ("datasets", [[], ["sales"], "events", ["events", "events"], None], [["events"], ["users", "items"]]),
        ("force", ["yes", 1, None], [True, False]),
        ("dry_run", ["no", 0], [True, False]),
    ],
)
def test_the_form_validates(field: str, bad: list[Any], good: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ParamValidationError):
            form()[field].resolve(value)
    for value in good:
        assert form()[field].resolve(value) == value


@pytest.mark.parametrize(("params", "arguments"), [
    ({}, ""), ({"order": None, "kind": "all", "reason": "none"}, ""),
    ({"order": "retrain", "kind": "all", "reason": " new catalogue "}, "--order retrain --who 'ada l.' --reason 'new catalogue'"),
    ({"order": "skip", "kind": "screener", "reason": "it's a holiday"}, "--order skip --model screener --who 'ada l.' --reason 'it'\"'\"'s a holiday'"),
])
def test_an_order_out_of_the_form(params: dict[str, Any], arguments: str) -> None:
    made = jinja2.Environment().from_string("{{ order_arguments() }}", globals=macros(ZoneInfo("UTC")))
    assert made.render(params=params, dag_run=SimpleNamespace(triggering_user_name="ada l.")) == arguments


def test_an_order_without_a_reason_is_refused() -> None:
    made = jinja2.Environment().from_string("{{ order_arguments() }}", globals=macros(ZoneInfo("UTC")))
    with pytest.raises(AirflowFailException, match="an order needs a reason"):
        made.render(params={"order": "retrain", "kind": "all", "reason": "  "}, dag_run=SimpleNamespace(triggering_user_name=None))


def test_an_empty_form_is_valid() -> None:
    assert {n: f.resolve() for n, f in form().items()} == {
        "run_date": None, "from_date": None, "datasets": ["events", "items", "users", "orders", "reviews"],
        "force": False, "dry_run": False,
    }


def _backfill(cron: str, zone: str, first: str, last: str) -> list[str]:
    table = NightTimetable(cron, zone=zone)
    bounds = [datetime.fromisoformat(t) for t in (first, last)]
    return [str(i.partition_key) for i in table.iter_partition_dagrun_infos(earliest=bounds[0], latest=bounds[1])]


@pytest.mark.parametrize("zone", ["Europe/London", "America/New_York", "Asia/Shanghai", "UTC", "Pacific/Auckland"])
def test_a_backfill_by_dates_is_whole_days_both_included(zone: str) -> None:
    # what `airflow backfill create --from-date 2011-11-01 --to-date 2011-11-07` hands over: midnights in UTC
    got = _backfill("0 2 * * *", zone, "2011-11-01T00:00+00:00", "2011-11-07T00:00+00:00")
    assert got == [f"2011-11-0{d}" for d in range(1, 8)]


def test_a_backfill_from_a_page_in_the_shops_zone() -> None:
    got = _backfill("0 2 * * *", "Asia/Shanghai", "2026-02-28T16:00+00:00", "2026-03-02T16:00+00:00")
    assert got == ["2026-03-01", "2026-03-02", "2026-03-03"]


def test_a_moment_of_a_day_means_that_day_in_the_shop() -> None:
    assert _backfill("0 2 * * *", "Asia/Shanghai", "2026-02-28T17:30+00:00", "2026-02-28T17:30+00:00") == ["2026-03-01"]


def test_clocks_that_change_neither_lose_nor_double_a_night() -> None:
    # London: 29 March 2026 has 23 hours, 01:00 to 02:00 does not exist; 25 October has 25
    spring = _backfill("30 1 * * *", "Europe/London", "2026-03-27T00:00+00:00", "2026-03-31T00:00+00:00")
    assert spring == ["2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
    autumn = _backfill("30 1 * * *", "Europe/London", "2026-10-23T00:00+00:00", "2026-10-27T00:00+00:00")
    assert autumn == ["2026-10-23", "2026-10-24", "2026-10-25", "2026-10-26", "2026-10-27"]


def test_a_schedule_of_some_days_backfills_those_days() -> None:
    # Tuesday to Saturday at 2: the nights of Monday to Friday; 2026-03-02 is a Monday
    got = _backfill("0 2 * * 2-6", "Europe/London", "2026-03-01T00:00+00:00", "2026-03-09T00:00+00:00")
    assert got == ["2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05", "2026-03-06", "2026-03-09"]


def test_several_ticks_a_day_are_one_night() -> None:
    assert _backfill("0 2,14 * * *", "UTC", "2026-03-01T00:00+00:00", "2026-03-02T00:00+00:00") == ["2026-03-01", "2026-03-02"]


@given(st.dates(date(2000, 1, 1), date(2040, 1, 1)), st.integers(0, 40),
       st.sampled_from(["Europe/London", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe"]))
def test_every_day_of_a_range_once(first: date, count: int, zone: str) -> None:
    last = date.fromordinal(first.toordinal() + count)
    got = _backfill("0 2 * * *", zone, f"{first}T00:00+00:00", f"{last}T00:00+00:00")
    assert got == [date.fromordinal(first.toordinal() + n).isoformat() for n in range(count + 1)]


def test_a_scheduled_run_takes_the_day_before(monkeypatch: pytest.MonkeyPatch) -> None:
    table = NightTimetable("0 2 * * *", zone="Europe/London")
    now = pendulum.datetime(2026, 7, 10, 12, tz="UTC")
    monkeypatch.setattr("airflow._shared.timezones.timezone.utcnow", lambda: now)
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: now)
    free = TimeRestriction(earliest=None, latest=None, catchup=False)
    info = table.next_dagrun_info_v2(last_dagrun_info=None, restriction=free)
    assert info is not None
    # a new installation waits for its first night: tomorrow at 2 in summer time, about today
    assert info.run_after == datetime(2026, 7, 11, 1, tzinfo=timezone.utc)
    assert info.partition_key == "2026-07-10"
    assert info.partition_date == datetime(2026, 7, 9, 23, tzinfo=timezone.utc)
    following = table.next_dagrun_info_v2(last_dagrun_info=info, restriction=free)
    assert following is not None and following.partition_key == "2026-07-11"


def test_a_key_and_a_schedule_agree_on_the_moment_of_a_partition() -> None:
    table = NightTimetable("0 2 * * *", zone="Asia/Shanghai")
    [info] = table.iter_partition_dagrun_infos(
        earliest=datetime(2026, 3, 4, tzinfo=timezone.utc), latest=datetime(2026, 3, 4, tzinfo=timezone.utc)
    )
    # else a manual run of a night and its scheduled run would not be known as one partition
    assert table.resolve_partition_date("2026-03-04") == info.partition_date


def test_no_run_by_itself_where_nights_are_driven_by_hand() -> None:
    table = NightTimetable("0 2 * * *", zone="UTC", scheduled=False)
    assert table.next_dagrun_info_v2(last_dagrun_info=None, restriction=TimeRestriction(None, None, False)) is None
    assert len(_backfill("0 2 * * *", "UTC", "2026-03-01T00:00+00:00", "2026-03-02T00:00+00:00")) == 2


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_timetable_survives_storage(scheduled: bool) -> None:
    table = NightTimetable("15 3 * * 1-5", zone="Asia/Shanghai", scheduled=scheduled)
    again = NightTimetable.deserialize(table.serialize())
    assert again.serialize() == table.serialize()
    assert again.summary == table.summary
