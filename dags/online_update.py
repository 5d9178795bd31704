"""# Between nights: events as they happen

Takes what the shop's stream brought since the last run into `silver.live_events` (`stream`), exactly once: typed, pseudonymised, cleaned
and judged like a night's delivery, batch by batch. Then the champion answers everybody with what is known now, and learns from it where
that does no harm (`update`). It starts by itself where `schedule.online` of shop.yaml has a cron line, and by hand.

**A bad batch** is in quarantine with the rules that it broke; the stream goes on. **A killed run** is simply run again: Spark's checkpoint
and the manifest agree on what was taken, and an update that was tried is not tried again. **An update that harms** on the newest days is
dropped; three in a row switch updates off, and the owner is written to. What became of it is measured at once (`metrics`, of the newest
judged night), so that alerts need not wait for the night. The night's own delivery remains the truth, and brings every event again.

By a terminal, without pauses: `python -m jobs.stream --run-date DAY --follow`.
"""

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable

from nightmarket.orchestration import TellFailure, TriggerRule, defaults, form, job_task, shop

settings = shop()
cron = settings.shop.schedule.online if settings.scheduled else None

with DAG(
    dag_id="online_update",
    description="Take the shop's stream into the lake; answer and learn from it.",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(cron, timezone=settings.shop.time_zone) if cron else None,
    params=form(datasets=False),
    dagrun_timeout=timedelta(hours=1),
    on_failure_callback=TellFailure("recommendations"),
    **defaults("recommendations", ["data", "models"]),
) as dag:
    metrics = job_task("metrics", arguments="--newest", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE)
    job_task("stream", arguments="--today") >> job_task("update", arguments="--today") >> [job_task("send", may_be_late=True), metrics]
