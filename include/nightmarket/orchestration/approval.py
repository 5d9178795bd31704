"""Asking a person whether proposals enter the blocklist. Airflow's human-in-the-loop operator, with an answer that is safe when nobody gives one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException

from nightmarket.orchestration.answers import ASK, BLOCK, LEAVE


class AskForEntries(HITLOperator):
    """Waits for a person without holding a worker. `waiting` (templated) is the number of proposals; with none nobody is asked."""

    template_fields = (*HITLOperator.template_fields, "waiting")

    def __init__(self, *, waiting: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.waiting = waiting

    def execute(self, context: Any) -> Any:
        if int(self.waiting) == 0:
            raise AirflowSkipException("no proposals: nobody is asked")
        return super().execute(context)


def ask_for_entries(hours: float) -> AskForEntries:
    """The task. Where nobody answers within `hours`, nothing is blocked."""
    return AskForEntries(
        task_id=ASK, subject="Blocklist of {{ run_date() }}: {{ proposals_waiting() }} proposed", body="{{ proposals() }}", options=[BLOCK, LEAVE],
        defaults=[LEAVE], response_timeout=timedelta(hours=hours), waiting="{{ proposals_waiting() }}",
        doc_md="A person says on the page of required actions whether the proposals are entered; without an answer nothing is blocked.",
    )
