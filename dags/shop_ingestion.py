"""# The night's delivery: take it in, clean it, judge it

Every night, and for any past night on request: the day's delivery is typed and pseudonymised (`ingest`), cleaned (`clean`),
judged by Great Expectations (`gate`) and turned into daily sales and shoppers' histories (`aggregate`). Whatever the gate
says, the owners get its report by mail (`report`, `send`) and monitoring its numbers (`metrics`).

**One run is one night**, the partition `YYYY-MM-DD` in the shop's time zone. The scheduled run takes the day before.

**When the gate refuses** the run is failed, nothing behind it runs, and the last publication keeps serving. What `responses` of
`shop.yaml` says about that (`gate.refused`) is done (`respond`), as it is where the night does not get as far as the gate. Mend the
delivery and clear `ingest`, or run the date again; lowering a threshold is an edit of `shop.yaml`, which also reruns.

**Backfill**: *Trigger → Backfill* here, or
`airflow backfill create --dag-id shop_ingestion --from-date 2011-11-01 --to-date 2011-11-07`. Both days are included.
A date whose inputs, settings and code have not changed is found current and left as it is; `--reprocess-behavior
completed` runs finished dates again. The form's *Run Parameters* (*Force*, *Dry run*, …) count in a backfill only where
*Override parameters on existing runs* is ticked. For months of history *Trigger* with *First night* takes all of it in one go.

**Faults** (exit code 1) are retried with growing pauses. **Usage** (2) and **refusals** (3) are not: a person must act.
Mail that cannot be sent waits in the outbox; `send` is then skipped, and the next night tries again.
"""

from datetime import timedelta

from airflow.sdk import DAG

from nightmarket.orchestration import NightTimetable, TriggerRule, defaults, form, job_task, shop

settings = shop()

with DAG(
    dag_id="shop_ingestion",
    description="Take a night's delivery in, clean it, judge it, report on it.",
    doc_md=__doc__,
    schedule=NightTimetable(settings.shop.schedule.ingestion, zone=settings.shop.time_zone, scheduled=settings.scheduled),
    params=form(),
    dagrun_timeout=timedelta(hours=8),
    **defaults("events", ["data"]),
) as dag:
    deliver, ingest, clean, gate, aggregate = map(job_task, ("deliver", "ingest", "clean", "gate", "aggregate"))
    report = job_task("report", trigger_rule=TriggerRule.ALL_DONE)  # the owner hears of bad nights above all
    # a night that does not get through reaches no DAG behind this one; of the others those have their own
    respond = job_task("respond", trigger_rule=TriggerRule.ONE_FAILED)
    send = job_task("send", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE)

    deliver >> ingest >> clean >> gate >> aggregate
    gate >> [report, respond] >> send
    [report, respond] >> job_task("metrics", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE)  # of bad nights above all
