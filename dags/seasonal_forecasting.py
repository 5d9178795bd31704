"""# The night's forecasts: series, fit, judge, promote, publish

Starts when `shop_ingestion` has published a night's sales (`gold.daily_sales`), for the same night; with `schedule.retraining` in
shop.yaml by hand only, for then `nightly_retraining` decides whether a forecaster is fitted, and publishes. Sales become series on a complete
calendar (`series`). A new forecaster is fitted where age, drift, settings or new series ask for it, else the champion stays
(`fit_forecasts`); it is judged beside champion and baselines on rolling origins (`judge_forecasts`), registered and loaded again in a
fresh process (`register`), and promoted only if the model gate lets it (`bless`). Whoever is champion then forecasts, adjusted by the
night's errors, adding up across items, categories, countries and the shop, with what to order (`publish_forecasts`). The owner of the
forecasts gets a letter with pictures (`announce_forecasts`, `send`).

**A night that the data gate refused never gets here**: its sales are not published.

**A refused forecaster** is no failure as long as some champion serves; then `bless` says why, and the champion publishes.

**A past night** is forecast as of that night, from what was known then, and never displaces a champion of newer data.

By hand: *Trigger* with *Night*, for any night whose sales are published.
"""

from datetime import timedelta

from airflow.sdk import DAG, PartitionedAssetTimetable, chain

from nightmarket.contracts import FORECAST_EVALUATION
from nightmarket.orchestration import DAILY_SALES, TellFailure, TriggerRule, asset, defaults, form, job_task, shop

with DAG(
    dag_id="seasonal_forecasting",
    description="Forecast every series of the shop, judge and promote the forecaster, publish what to order.",
    doc_md=__doc__,
    # where nightly_retraining is scheduled, it decides what is trained, and publishes
    schedule=PartitionedAssetTimetable(assets=asset(DAILY_SALES)) if shop().shop.schedule.retraining is None else None,
    params=form(datasets=False),
    dagrun_timeout=timedelta(hours=12),
    on_failure_callback=TellFailure("forecasts"),
    **defaults("forecasts", ["models"]),
) as dag:
    register, bless = (job_task(n, arguments="--model forecaster", inlets=[asset(FORECAST_EVALUATION)]) for n in ("register", "bless"))
    metrics = job_task("metrics", may_be_late=True, trigger_rule=TriggerRule.ALL_DONE)
    chain(
        *map(job_task, ("series", "fit_forecasts", "judge_forecasts")), register, bless,
        *map(job_task, ("publish_forecasts", "announce_forecasts")), [job_task("send", may_be_late=True), metrics],
    )
