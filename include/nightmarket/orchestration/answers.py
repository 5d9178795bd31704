"""What templates of the blocklist's approval call: what is proposed, and what the person said. Apart from the operator, which few DAGs need."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import jinja2
from airflow.sdk import Param

from nightmarket.orchestration.night import form, resolve
from nightmarket.shop import Settings

BLOCK, LEAVE = "Block them", "Block nothing"
ASK = "ask"


def verdict_form() -> dict[str, Param]:
    """The form of a night's screening: the night's, and verdicts to take in with it."""
    return {**form(datasets=False), "verdicts": Param(
        "", type=["null", "string"], title="Verdicts", description="What analysts found, one a line: order:ID=bad, review:ID=good, account:ID=bad, "
        "brushing:ITEM/DAY=bad. They are taken in under the name of whoever triggers the run.")}


def answer_macros(settings: Settings) -> dict[str, Callable[..., Any]]:
    """What the templates of proposals and of their answer call."""

    def waiting(context: Any) -> list[Any]:
        from nightmarket.screen import ledger
        from nightmarket.screen.blocklist import waiting as unanswered

        return list(unanswered(ledger.read(settings), ledger.end_of(settings, resolve(context, settings.zone))).values())

    @jinja2.pass_context
    def proposals_waiting(context: jinja2.runtime.Context) -> str:
        return str(len(waiting(context)))

    @jinja2.pass_context
    def proposals(context: jinja2.runtime.Context) -> str:
        """Markdown: what is proposed, and why."""
        return "\n".join(f"- **{a.kind}** `{a.identifier}`: {a.evidence}" for a in waiting(context)) or "Nothing is proposed."

    @jinja2.pass_context
    def answer_arguments(context: jinja2.runtime.Context) -> str:
        """What the person said, as arguments of `jobs.enter`; without an answer the one that blocks nothing."""
        from nightmarket.screen.blocklist import NOBODY

        ti = context.get("ti")
        said = (ti.xcom_pull(task_ids=ASK) if ti is not None else None) or {}
        who = said.get("responded_by_user") or {}
        name = str(who.get("name") or who.get("id") or "") if isinstance(who, dict) else str(who)
        approved = said.get("chosen_options") == [BLOCK] and name
        return shlex.join(["--approve" if approved else "--refuse", "--by", name or NOBODY])

    @jinja2.pass_context
    def verdict_arguments(context: jinja2.runtime.Context) -> str:
        """What the form says as arguments of `jobs.feedback`, each behind a blank; nothing for an empty form."""
        lines = [v.strip() for v in str((context.get("params") or {}).get("verdicts") or "").splitlines() if v.strip()]
        who = getattr(context["dag_run"], "triggering_user_name", None) or "who triggered the run"
        return "".join(f" --verdict {shlex.quote(v)}" for v in lines) + (f" --by {shlex.quote(who)}" if lines else "")

    return {"verdict_arguments": verdict_arguments, "proposals_waiting": proposals_waiting, "proposals": proposals, "answer_arguments": answer_arguments}
