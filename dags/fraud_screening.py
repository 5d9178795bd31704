"""# The night's fraud screening: describe, learn, judge, decide

Starts when the gate has let a night through (`silver.orders`, `silver.reviews` and `gold.quality` of the same night); with
`schedule.retraining` in shop.yaml by hand only, for then `nightly_retraining` decides whether a screener is learned, and screens. Verdicts of
analysts and shoppers are taken in (`feedback`); orders, accounts, reviews and products' days are described as of their own moments
(`screen_features`); a screener is learned (`train_screener`), judged with the champion and the baselines on later rows
(`judge_screener`), registered (`register`) and promoted only if the model gate lets it (`bless`); whoever may answer then decides about
what came in: allow, review or block, with score and reasons (`decide`). The risk owner gets a letter (`brief_risk`, `send`).

**What is decided counts from the next night on** for the other models: they leave out blocked orders, accounts and products' days.

**Without verdicts** strangeness alone judges, and nothing is blocked.

**A past night** is screened with what was known then and never displaces a champion that learned from newer data.

Proposals for the blocklist are a DAG of their own, `blocklist_approval`: a person may take hours, and the next night must not wait.

By hand: *Trigger* with *Night*, for any night that the gate let through; *Verdicts* takes in what analysts found.
"""

from datetime import timedelta

from airflow.sdk import DAG, PartitionedAssetTimetable, chain

from nightmarket.orchestration import (
    ORDERS,
    QUALITY,
    REVIEWS,
    TellFailure,
    TriggerRule,
    asset,
    defaults,
    job_task,
    shop,
)
from nightmarket.orchestration.answers import verdict_form

with DAG(
    dag_id="fraud_screening",
    description="Screen the night's orders, accounts and reviews, and sales and praise in concert.",
    doc_md=__doc__,
    # where nightly_retraining is scheduled, it decides what is trained, and publishes
    schedule=PartitionedAssetTimetable(assets=asset(ORDERS) & asset(REVIEWS) & asset(QUALITY)) if shop().shop.schedule.retraining is None else None,
    params=verdict_form(),
    dagrun_timeout=timedelta(hours=12),
    on_failure_callback=TellFailure("risk"),
    **defaults("risk", ["risk"]),
) as dag:
    metrics = job_task("metrics", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE)
    chain(
        job_task("feedback", command="python -m jobs.feedback {{ job_arguments() }}{{ verdict_arguments() }}"),
        *map(job_task, ("screen_features", "train_screener", "judge_screener")),
        job_task("register", arguments="--model screener"), job_task("bless", arguments="--model screener"),
        *map(job_task, ("decide", "brief_risk")), [job_task("send", may_be_late=True), metrics],
    )
