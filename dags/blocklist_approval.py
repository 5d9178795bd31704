"""# Who enters the blocklist: proposed by decisions, approved by a person

Starts when a night's decisions are published (`gold.screening_decisions`). What several blocked cases share (a shopper, a card, a device)
is proposed with its evidence (`propose`); a person is asked on Airflow's page of required actions (`ask`); what they say is done and
recorded under their name (`enter`). Entries expire, can be appealed against, and are taken out as they are put in:
`python -m jobs.blocklist --help`.

**Nobody answers** within `screening.approval_hours` of shop.yaml: nothing is blocked, and the ledger says that nobody answered. With no
proposal nobody is asked. A run that waits longer than `schedule.deadline_minutes` is mentioned in a mail, as any late run is. With `screening.approval: rule` the rule itself enters what it proposes, under its own name.
"""

from datetime import timedelta

from airflow.sdk import DAG, PartitionedAssetTimetable

from nightmarket.orchestration import SCREENING_DECISIONS, TellFailure, asset, defaults, form, job_task, shop
from nightmarket.orchestration.approval import ask_for_entries

rules = shop().shop.screening

with DAG(
    dag_id="blocklist_approval",
    description="Propose what blocked cases share for the blocklist, and enter what a person approves.",
    doc_md=__doc__,
    schedule=PartitionedAssetTimetable(assets=asset(SCREENING_DECISIONS)),
    params=form(datasets=False),
    dagrun_timeout=timedelta(hours=rules.approval_hours + 2),
    on_failure_callback=TellFailure("risk"),
    **defaults("risk", ["risk"]),
) as dag:
    propose = job_task("propose")
    if rules.approval == "person":
        propose >> ask_for_entries(rules.approval_hours) >> job_task("enter", arguments="{{ answer_arguments() }}")
    else:
        propose >> job_task("enter", arguments="--approve --by rule:shared_by_blocked_cases")
