"""When nights run: one run a night, keyed by the day that it is about.

Airflow's own CronPartitionTimetable keys a run by the instant of a tick. Then `--to-date 2011-11-07` misses the 7th,
whose tick is at 02:00, and a weekday-only schedule takes the wrong day for its Mondays. Here the key is a calendar day in
the shop's time zone: a run that starts on a day is about the day before, and a backfill's range is whole days, both
included. Registered with Airflow by plugins/nightmarket_plugin.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.timetables.base import DagRunInfo
from airflow.timetables.trigger import CronPartitionTimetable

if TYPE_CHECKING:
    from airflow.timetables.base import TimeRestriction
    from pendulum import DateTime

KEY_FORMAT = "%Y-%m-%d"


class NightTimetable(CronPartitionTimetable):
    """`cron` ticks in `zone`; each run's partition is the day before, `YYYY-MM-DD`.

    With `scheduled=False` no run starts by itself, while backfills and manual runs work as ever.
    """

    def __init__(self, cron: str, *, zone: Any, scheduled: bool = True) -> None:
        super().__init__(cron, timezone=zone, key_format=KEY_FORMAT)
        self._scheduled = scheduled

    def serialize(self) -> dict[str, Any]:
        own = super().serialize()
        return {"expression": own["expression"], "timezone": own["timezone"], "scheduled": self._scheduled}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> NightTimetable:
        from airflow._shared.timezones.timezone import parse_timezone

        return cls(data["expression"], zone=parse_timezone(data["timezone"]), scheduled=data["scheduled"])

    @property
    def summary(self) -> str:
        return f"{self._expression}, for the day before" if self._scheduled else "Backfill and manual runs only"

    def next_dagrun_info_v2(
        self, *, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        if not self._scheduled:
            return None
        return super().next_dagrun_info_v2(last_dagrun_info=last_dagrun_info, restriction=restriction)

    def _calc_first_run(self) -> DateTime:
        """A shop that was just set up waits for its first night; history is asked for explicitly."""
        from airflow._shared.timezones.timezone import coerce_datetime, utcnow

        return self._align_to_next(coerce_datetime(utcnow()))

    def _get_partition_date(self, *, run_date: DateTime) -> DateTime:
        """Midnight, in the shop's zone, at which the day before the run began."""
        day = run_date.in_timezone(self._timezone).date() - timedelta(days=1)
        return self._midnight(day)

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterator[DagRunInfo]:
        """The runs that the schedule has for each day from `earliest` to `latest`, both whole days included."""
        first, last = self._day_of(earliest), self._day_of(latest)
        tick = self._align_to_next(self._midnight(first + timedelta(days=1)))
        seen = None
        while True:
            partition_date, key = self._get_partition_info(run_date=tick)
            if key > last.strftime(KEY_FORMAT):
                return
            if key != seen:  # a schedule with several ticks a day still has one night a day
                yield DagRunInfo(run_after=tick, data_interval=None, partition_date=partition_date, partition_key=key)
            seen = key
            tick = self._get_next(tick)

    def _day_of(self, bound: datetime) -> date:
        """The day that a bound means. The command line and a page set to UTC say midnight in UTC, a page set to the
        shop's zone says midnight there: both name their day. Any other moment is of the day it falls on in the shop."""
        utc = bound.astimezone(timezone.utc)
        return utc.date() if utc.time() == time.min else bound.astimezone(ZoneInfo(self._timezone.name)).date()

    def _midnight(self, day: date) -> DateTime:
        import pendulum

        return pendulum.datetime(day.year, day.month, day.day, tz=self._timezone).in_timezone("UTC")
