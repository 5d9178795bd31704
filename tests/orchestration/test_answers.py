"""What a person's answer, or nobody's, becomes: arguments of `jobs.enter`; proposals as the page shows them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk.exceptions import AirflowSkipException

from nightmarket.orchestration.answers import answer_macros
from nightmarket.orchestration.approval import ask_for_entries
from nightmarket.screen import ledger
from nightmarket.screen.blocklist import PROPOSE, Action
from nightmarket.shop import Settings


def rendered(settings: Settings, text: str, said: Any = None) -> str:
    ti = SimpleNamespace(xcom_pull=lambda task_ids: said if task_ids == "ask" else None)
    run = SimpleNamespace(partition_key="2026-03-04", logical_date=None, run_after=datetime(2026, 3, 5, 2, tzinfo=timezone.utc))
    env = jinja2.Environment()
    env.globals.update(answer_macros(settings))
    return env.from_string(text).render(dag_run=run, params={}, ti=ti)


@pytest.mark.parametrize(("said", "arguments"), [
    ({"chosen_options": ["Block them"], "responded_by_user": {"id": "1", "name": "ada l."}}, "--approve --by 'ada l.'"),
    ({"chosen_options": ["Block nothing"], "responded_by_user": {"id": "1", "name": "ada"}}, "--refuse --by ada"),
    ({"chosen_options": ["Block nothing"], "responded_by_user": None}, "--refuse --by 'nobody answered'"),
    ({"chosen_options": ["Block them"], "responded_by_user": None}, "--refuse --by 'nobody answered'"),  # approval without a name is none
    (None, "--refuse --by 'nobody answered'"),
])
def test_only_a_named_person_blocks(settings: Settings, said: Any, arguments: str) -> None:
    assert rendered(settings, "{{ answer_arguments() }}", said) == arguments


def test_proposals_as_the_page_shows_them(settings: Settings) -> None:
    assert rendered(settings, "{{ proposals_waiting() }} {{ proposals() }}") == "0 Nothing is proposed."
    end = datetime(2026, 3, 5, tzinfo=timezone.utc)
    ledger.append(settings, [Action(end - timedelta(seconds=1), "device", "p1:d", PROPOSE, "jobs.propose", "2 blocked: order o1, order o2"),
                             Action(end + timedelta(days=1), "card", "p1:c", PROPOSE, "jobs.propose", "of a later night")])
    assert rendered(settings, "{{ proposals_waiting() }} {{ proposals() }}") == "1 - **device** `p1:d`: 2 blocked: order o1, order o2"


@pytest.mark.parametrize(("typed", "arguments"), [
    ("", ""), (None, ""), ("order:o 1=bad\n\n review:r2=good ", " --verdict 'order:o 1=bad' --verdict review:r2=good --by 'ada l.'"),
])
def test_verdicts_out_of_the_form(settings: Settings, typed: str | None, arguments: str) -> None:
    run = SimpleNamespace(partition_key="2026-03-04", triggering_user_name="ada l.")
    env = jinja2.Environment()
    env.globals.update(answer_macros(settings))
    assert env.from_string("{{ verdict_arguments() }}").render(dag_run=run, params={"verdicts": typed}) == arguments


def test_nobody_is_asked_about_nothing() -> None:
    task = ask_for_entries(12)
    assert task.defaults == ["Block nothing"] and task.response_timeout == timedelta(hours=12)
    task.waiting = "0"
    with pytest.raises(AirflowSkipException, match="nobody is asked"):
        task.execute({})
