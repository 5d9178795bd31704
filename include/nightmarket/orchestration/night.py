"""Which night a run is about: the form, and the one place that resolves the run date."""

from __future__ import annotations

import shlex
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import jinja2
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from nightmarket.contracts import ENTITIES
from nightmarket.monitor.retraining import ACTIONS

_DAY = r"^\d{4}-\d{2}-\d{2}$"


def form(*, datasets: bool = True) -> dict[str, Param]:
    """The trigger form. Everything is optional: an empty form runs the newest complete night."""
    fields = {
        "run_date": Param(
            None, type=["null", "string"], format="date", pattern=_DAY, title="Night",
            description="The day whose delivery is taken in. Empty: the run's partition, else the newest complete day.",
        ),
        "from_date": Param(
            None, type=["null", "string"], format="date", pattern=_DAY, title="First night",
            description="Take in all nights from this one in one go: a first load of history, or a gap. Empty: one night.",
        ),
        "datasets": Param(
            list(ENTITIES), type="array", items={"type": "string", "enum": list(ENTITIES)}, uniqueItems=True, minItems=1,
            examples=list(ENTITIES), title="Datasets", description="What to take in and clean. The gate judges all of them.",
        ),
        "force": Param(
            False, type="boolean", title="Force",
            description="Run although the same inputs, settings and code were processed already.",
        ),
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Say what would be done; publish nothing, trigger nothing.",
        ),
    }
    return fields if datasets else {k: v for k, v in fields.items() if k not in ("from_date", "datasets")}


EVERY_KIND = "all"


def retraining_form(kinds: list[str]) -> dict[str, Param]:
    """That of a night, and what a person may order instead of what the plan would find due."""
    return form(datasets=False) | {
        "order": Param(
            None, type=["null", "string"], enum=[None, *ACTIONS], title="Order",
            description="What is done with the model whatever else the plan would find: skip leaves it alone, fine_tune teaches it the newest days, "
                        "retrain makes it anew. Empty: the plan decides.",
        ),
        "kind": Param(EVERY_KIND, type="string", enum=[EVERY_KIND, *kinds], title="Kind of model", description="What the order is about."),
        "reason": Param(None, type=["null", "string"], title="Reason", description="Why, for the plan and the morning's mail; an order needs one."),
    }


def rollback_form(models: list[str]) -> dict[str, Param]:
    """What a rollback needs to know."""
    return {
        "model": Param(models[0], type="string", enum=models, title="Model", description="The registered model to take out of service."),
        "version": Param(
            None, type=["null", "string"], pattern=r"^\d+$", title="Version",
            description="The version to go back to. Empty: the champion before.",
        ),
        "reason": Param(type="string", minLength=3, title="Reason", description="Why, for the ledger and the owner's mail. Required."),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Say what would be done; move nothing."),
    }


def resolve(context: Any, zone: ZoneInfo) -> date:
    """The night of a run: the form's date, else the partition, else the logical date, else the newest complete day.

    A manual run has no logical date, or one that is merely the moment it was asked for; so the logical date's day counts
    only up to the day before the run, which is the newest day that can be complete. Raises AirflowFailException (no retry)
    where two sources contradict each other or a date is not one.
    """
    run = context["dag_run"]
    asked = (context.get("params") or {}).get("run_date")
    key = getattr(run, "partition_key", None)
    if asked and key and asked != key:
        raise AirflowFailException(f"the form asks for the night of {asked}, the partition is {key}; leave one of them empty")
    if named := asked or key:
        try:
            return date.fromisoformat(named)
        except ValueError:
            raise AirflowFailException(f"{named!r} is not a date; write YYYY-MM-DD") from None
    newest = _day(run.run_after, zone) - timedelta(days=1)
    logical = getattr(run, "logical_date", None)
    return min(_day(logical, zone), newest) if logical else newest


def _day(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()


def macros(zone: ZoneInfo) -> dict[str, Any]:
    """What templates may call: `run_date()`, `job_arguments()`, `order_arguments()` and `rollback_arguments()`."""

    @jinja2.pass_context
    def run_date(context: jinja2.runtime.Context) -> str:
        return resolve(context, zone).isoformat()

    @jinja2.pass_context
    def job_arguments(context: jinja2.runtime.Context) -> str:
        """Arguments of a job for this run, quoted for a shell."""
        params = context.get("params") or {}
        night = resolve(context, zone)
        words = ["--run-date", night.isoformat()]
        if first := params.get("from_date"):
            if first > night.isoformat():
                raise AirflowFailException(f"the first night {first} is after the night {night}; swap them")
            words += ["--from-date", first]
        chosen = tuple(params.get("datasets") or ENTITIES)
        if set(chosen) != set(ENTITIES):
            words += ["--datasets", ",".join(e for e in ENTITIES if e in chosen)]
        words += [f"--{flag.replace('_', '-')}" for flag in ("force", "dry_run") if params.get(flag)]
        return shlex.join([*words, "--run-id", context["run_id"]])

    @jinja2.pass_context
    def order_arguments(context: jinja2.runtime.Context) -> str:
        """What the form orders, for `jobs.plan_retraining`; nothing where it orders nothing. Who orders is who triggered the run."""
        params = context.get("params") or {}
        if not (order := params.get("order")):
            return ""
        if not (reason := (params.get("reason") or "").strip()):
            raise AirflowFailException("an order needs a reason: the plan and the morning's mail keep it; trigger the night again with one")
        words = ["--order", order, *(["--model", params["kind"]] if params["kind"] != EVERY_KIND else [])]
        return shlex.join([*words, "--who", getattr(context["dag_run"], "triggering_user_name", None) or "Airflow", "--reason", reason])

    @jinja2.pass_context
    def rollback_arguments(context: jinja2.runtime.Context) -> str:
        """Arguments of a rollback out of its form; who asks is who triggered the run."""
        params = context["params"]
        words = ["--model", params["model"], *(["--to", params["version"]] if params["version"] else []), "--reason", params["reason"]]
        if who := getattr(context["dag_run"], "triggering_user_name", None):
            words += ["--who", who]
        words += ["--dry-run"] if params["dry_run"] else []
        return shlex.join([*words, "--run-id", context["run_id"]])

    return {"run_date": run_date, "job_arguments": job_arguments, "order_arguments": order_arguments, "rollback_arguments": rollback_arguments}
