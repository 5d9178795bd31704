"""# The models of a night: watched, trained where that is due, published, told about

Every night at `schedule.retraining` of shop.yaml, and for any past night on request. Waits until the night was judged and its
histories are published (`wait_for_night`), compares it with the nights before (`drift`), does what shop.yaml `responses` says about
its alerts (`respond`), decides for every registered kind of model whether it is left alone, taught the newest days or made anew, and
why (`plan_retraining`), does so (`retrain`, one task a kind, one after another in the pool `training`), and tells what came of it in
one mail (`summarise`, `send`). The owners of forecasts and risk get their letters (`announce_forecasts`, `brief_risk`) where there is
something new for them; decisions start `blocklist_approval`. Questions for newcomers, experiments and metrics are seen to as in `recommendation_training`.

**Each kind is on its own**: where one cannot be trained its champion publishes all the same, the others are served, the summary says
so, and the run ends as failed. So it is where the night cannot be compared with those before, or nothing can be done about its alerts.

**Nothing is trained twice** from the same inputs, settings and code, unless *Force* says so. With `schedule.retraining` this DAG
decides about every kind, and `recommendation_training`, `seasonal_forecasting` and `fraud_screening` run by hand only; without it, this
one does.

**A night that the gate refused** trains nothing; what `responses` says about that is done, and the last publication keeps serving.

**By order**: *Trigger* with *Order*, *Kind of model* and *Reason*: that is done whatever the plan would find due. The same from a terminal:
`python -m jobs.plan_retraining --run-date NIGHT --order retrain --model KIND --who NAME --reason TEXT`, before the night or beside it.

**Backfill**: *Trigger → Backfill*, or `airflow backfill create --dag-id nightly_retraining --from-date 2026-04-01 --to-date 2026-04-07`.
A model of a past night never displaces a champion that learnt from newer data. Nights that were taken in together have the histories of
the last one only: take them in one by one first, or the run waits its six hours.
"""

from datetime import timedelta

from airflow.sdk import DAG

from nightmarket.orchestration import (
    SCREENING_DECISIONS,
    NightReady,
    NightTimetable,
    TellFailure,
    TriggerRule,
    asset,
    defaults,
    job_task,
    kinds,
    mapped_job,
    outcome,
    retraining_form,
    settled,
    shop,
)

settings = shop()
cron = settings.shop.schedule.retraining

with DAG(
    dag_id="nightly_retraining",
    description="Watch the night, train what is due, publish, summarise.",
    doc_md=__doc__,
    schedule=NightTimetable(cron or "0 4 * * *", zone=settings.shop.time_zone, scheduled=settings.scheduled and cron is not None),
    params=retraining_form(kinds()),
    dagrun_timeout=timedelta(hours=16),
    on_failure_callback=TellFailure("recommendations"),
    **defaults("recommendations", ["models"]),
) as dag:
    ready = NightReady(task_id="wait_for_night", night="{{ run_date() }}", poke_interval=60, timeout=6 * 3600,
                       doc_md="Wait until the night was judged and its histories are published.")
    retrain = mapped_job("retrain", [f"--model {kind}" for kind in kinds()])
    summarise = job_task("summarise", trigger_rule=TriggerRule.ALL_DONE)  # a night of failures above all

    drift = job_task("drift")
    # what cannot be compared, or responded to, is told about; it keeps nobody from being served
    respond = job_task("respond", trigger_rule=TriggerRule.ALL_DONE)
    plan = job_task("plan_retraining", arguments="{{ order_arguments() }}", trigger_rule=TriggerRule.ALL_DONE)
    ready >> drift >> respond >> plan >> retrain
    ready >> retrain  # a night that was refused is planned, to say so, and left alone
    letters = [
        job_task("announce_forecasts", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE),
        job_task("brief_risk", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE, outlets=[asset(SCREENING_DECISIONS)]),
    ]
    send = job_task("send", may_be_late=True)
    retrain >> summarise >> [send, job_task("metrics", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE)]
    retrain >> letters >> send
    retrain >> settled() >> (experiment := job_task("experiment"))
    ready >> [experiment, job_task("onboard")]
    [drift, respond, retrain] >> outcome()
