"""# Going back to an earlier model

By hand: *Trigger*, choose the model, say why. The champion before it, or the version that you name, becomes the champion; it answers
the night that serves once more, the lookup is replaced by one rename, every list in it is compared with what was published, and the
owner gets a mail (`rollback`, `send`). It takes less than a minute on the demo shop.

**What was taken out of service stays out**: `bless` does not let that version, or one made from exactly the same, serve again
unless a person approves by name and reason.

The same from a terminal: `python -m jobs.rollback --model NAME [--to VERSION] --reason TEXT`.
"""

from datetime import timedelta

from airflow.sdk import DAG

from nightmarket.orchestration import TellFailure, defaults, job_task, models, rollback_form

with DAG(
    dag_id="rollback",
    description="Take the champion out of service and serve from the version before.",
    doc_md=__doc__,
    schedule=None,
    params=rollback_form(models()),
    dagrun_timeout=timedelta(hours=1),
    on_failure_callback=TellFailure("recommendations"),
    **defaults("recommendations", ["models"]),
) as dag:
    job_task("rollback", arguments="{{ rollback_arguments() }}") >> job_task("send", may_be_late=True)
