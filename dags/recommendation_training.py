"""# The night's recommendations: train, judge, promote, publish

Starts when `shop_ingestion` has published a night's histories (`gold.features`), for the same night; with `schedule.retraining` in
shop.yaml by hand only, for then `nightly_retraining` decides what is trained. A model is trained
beside its baselines (`train`), judged on a frozen holdout together with the champion (`evaluate`), registered in MLflow and
loaded again in a fresh process (`register`), promoted only if the model gate lets it (`bless`), and whoever is champion
then answers for every shopper and stranger (`publish`). The owner of the recommendations gets a letter: who serves and why,
quality beside the baselines, what moved (`announce`, `send`). Beside all that, the questions that tell most about a newcomer are
chosen from the same histories (`onboard`). Experiments of shop.yaml are judged on what shoppers did up to that night, and their arms
served from then on (`experiment`), also where the training failed. The night is compared with those before it (`drift`), and what shop.yaml `responses` says about its alerts is
done (`respond`). Monitoring gets the night's numbers whatever became of it (`metrics`).

**A night that the data gate refused never gets here**: its histories are not published.

**A refused model** is no failure as long as some champion serves; then `bless` says why in its log and in the ledger, and
the champion publishes. With no champion at all the run fails and says what is missing.

**A past night** is trained as of that night and never displaces a champion trained on newer data.

By hand: *Trigger* with *Night*, for any night whose histories are published.
"""

from datetime import timedelta

from airflow.sdk import DAG, PartitionedAssetTimetable, chain

from nightmarket.orchestration import FEATURES, TellFailure, TriggerRule, asset, defaults, form, job_task, outcome, shop

with DAG(
    dag_id="recommendation_training",
    description="Train, judge, promote and publish the night's recommendations.",
    doc_md=__doc__,
    # where nightly_retraining is scheduled, it decides whether the recommender is trained
    schedule=PartitionedAssetTimetable(assets=asset(FEATURES)) if shop().shop.schedule.retraining is None else None,
    params=form(datasets=False),
    dagrun_timeout=timedelta(hours=12),
    on_failure_callback=TellFailure("recommendations"),  # of the delivery's failures `report` tells
    **defaults("recommendations", ["models"]),
) as dag:
    steps = [job_task(name) for name in ("train", "evaluate", "register", "bless", "publish", "announce")]
    # shoppers are in experiments whatever became of the night's training: a harm is seen all the same
    experiment = job_task("experiment", trigger_rule=TriggerRule.ALL_DONE)
    metrics = job_task("metrics", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE)
    chain(*steps, ended := outcome())
    steps[-1] >> experiment >> [job_task("send", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE), metrics]
    job_task("onboard")
    drift = job_task("drift")
    drift >> [job_task("respond", trigger_rule=TriggerRule.ALL_DONE), ended]  # there are alerts from elsewhere too
