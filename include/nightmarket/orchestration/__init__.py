"""The only part of the project that imports Airflow: the night's operators, schedule, form and defaults.

DAG files import it when they are parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, TriggerRule

from nightmarket.contracts import DAILY_SALES, FEATURES, ORDERS, QUALITY, REVIEWS, SCREENING_DECISIONS, Dataset
from nightmarket.orchestration.alerts import TellFailure, deadline
from nightmarket.orchestration.answers import answer_macros
from nightmarket.orchestration.night import form, macros, retraining_form, rollback_form
from nightmarket.orchestration.operator import JobOperator, NightReady
from nightmarket.orchestration.timetable import NightTimetable
from nightmarket.registry.kinds import KINDS
from nightmarket.shop import Settings, load_shop
from nightmarket.steps import step

__all__ = [
    "DAILY_SALES", "FEATURES", "ORDERS", "QUALITY", "REVIEWS", "SCREENING_DECISIONS", "JobOperator", "NightReady", "NightTimetable",
    "TellFailure", "TriggerRule", "asset", "defaults", "form", "job_task", "kinds", "mapped_job", "models", "outcome", "retraining_form", "rollback_form", "settled", "shop",
]


@lru_cache(maxsize=1)
def shop() -> Settings:
    """The shop that this Airflow serves: $NIGHTMARKET_SHOP. A mistake in it becomes an import error of the DAGs."""
    return load_shop()


def asset(dataset: Dataset) -> Asset:
    """The dataset as Airflow knows it: lineage, and what schedules wait for."""
    return Asset(name=dataset.id, uri=dataset.uri, group=f"nightmarket-{dataset.layer}")


def kinds() -> list[str]:
    """Ids of the kinds of model that are registered in `nightmarket.registry.kinds`."""
    return [k.id for k in KINDS]


def models() -> list[str]:
    """Names of the shop's registered models, one a kind."""
    return [k.name(shop().shop) for k in KINDS]


def job_task(name: str, *, arguments: str = "", **options: Any) -> JobOperator:
    """The task of step `name`, with pool, retries, timeout and outlets of its entry in `steps.py`.

    `arguments` are appended to the command and may be templates; other options are the operator's own.
    """
    return JobOperator(**{**_job(name), "command": _command(name, arguments), **options})


def mapped_job(name: str, arguments: Sequence[str], **options: Any) -> Any:
    """The same, once for each of `arguments`: mapped tasks of one name, of which one that fails does not stop the others."""
    shown = {"map_index_template": "{{ task.arguments }}"}
    return JobOperator.partial(**{**_job(name), "command": _command(name, ""), **shown, **options}).expand(arguments=list(arguments))


def outcome() -> EmptyOperator:
    """A leaf that is not reached where what it follows failed. Airflow takes a run for a success when its leaves are, and what tells
    people of a failure must run after one."""
    return EmptyOperator(task_id="outcome", doc_md="Reached only where everything before it ended well: it decides how the run ends.")


def settled() -> EmptyOperator:
    """What comes behind it waits for what stands before it, and asks nothing of how that ended."""
    return EmptyOperator(task_id="settled", trigger_rule=TriggerRule.ALL_DONE, doc_md="Reached once everything before it has ended, well or not.")


def _command(name: str, arguments: str) -> str:
    given = "{{ job_arguments() }}" if step(name).dated else ""
    return " ".join(w for w in ("python -m", step(name).runs, given, arguments) if w)


def _job(name: str) -> dict[str, Any]:
    spec = step(name)
    owner = shop().owner_of(spec.writes[0].owner if spec.writes else "default")
    return {
        "task_id": name,
        "owner": owner.name,
        "doc_md": f"{spec.summary}\n\nBy hand: the rendered command, in the project's folder.",
        "inlets": [asset(d) for d in spec.reads],
        "outlets": [asset(d) for d in spec.writes],
        "pool": spec.pool,
        "retries": spec.retries,
        "execution_timeout": timedelta(minutes=spec.timeout_minutes),
    }


def defaults(owner: str, tags: list[str], **options: Any) -> dict[str, Any]:
    """What both DAGs share, as arguments of `DAG`; `owner` is a key of shop.yaml `owners`."""
    settings = shop()
    return {
        "tags": ["nightmarket", settings.shop.shop, *tags],
        "catchup": False,  # history is asked for by a backfill or a first load, never by surprise
        "deadline": deadline(owner),
        "max_active_runs": 1,  # nights in their order; a second run of a date waits and then finds it current
        "user_defined_macros": {**macros(settings.zone), **answer_macros(settings)},
        "default_args": {
            "owner": settings.owner_of(owner).name,
            # skipped is how a dry run ends; the steps behind it still have something to say
            "trigger_rule": TriggerRule.NONE_FAILED,
            "retry_delay": timedelta(seconds=30),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=20),
        },
        **options,
    }
