"""What Airflow must load itself: the nights' timetable and the page of nights."""

from airflow.plugins_manager import AirflowPlugin

from nightmarket.orchestration.timetable import NightTimetable


class NightmarketPlugin(AirflowPlugin):
    name = "nightmarket"
    timetables = [NightTimetable]
