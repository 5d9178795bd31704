"""Mails about the night itself: late, or failed where no report will say so.

They take the same way as the reports: into the outbox, which survives a dead server, and out at once where a server answers.
Airflow calls these functions by their path, in the triggerer (deadlines) and in the DAG processor (failures).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from email.message import EmailMessage
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

from nightmarket.log import logger, said
from nightmarket.shop import load_shop

log = logger("alerts")

_TEXTS = {
    "en": {
        "late": ("{shop}: {dag} of {night} is late",
                 "The run {run} of {dag} was not done {minutes} minutes after it was asked for. It goes on; nothing was stopped.\n"
                 "What to do: look at its running step and that step's log in Airflow."),
        "failed": ("{shop}: {dag} of {night} failed",
                   "The run {run} of {dag} failed. What was published before keeps serving.\n"
                   "What to do: the log of the failed step in Airflow ends with the reason and the remedy. Clear that step to go on."),
    },
    "zh": {
        "late": ("{shop}:{night} 的 {dag} 超时未完成",
                 "{dag} 的运行 {run} 在提交 {minutes} 分钟后仍未完成。运行仍在继续,没有任何任务被中止。\n"
                 "处理办法:在 Airflow 中查看正在运行的步骤及其日志。"),
        "failed": ("{shop}:{night} 的 {dag} 失败",
                   "{dag} 的运行 {run} 失败。此前发布的结果继续提供服务。\n"
                   "处理办法:Airflow 中失败步骤的日志末尾写明了原因和补救方法;清除该步骤即可继续。"),
    },
}


def deadline(owner: str) -> DeadlineAlert:
    """The owner is told when a run is not done `schedule.deadline_minutes` after it was queued."""
    minutes = load_shop().shop.schedule.deadline_minutes
    return DeadlineAlert(
        name="late",
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=minutes),
        callback=AsyncCallback(tell_late, kwargs={"owner": owner}),
    )


async def tell_late(*, owner: str, context: dict[str, Any]) -> None:
    """Queues and sends the mail about a missed deadline."""
    run = context["dag_run"]
    await asyncio.to_thread(_tell, "late", owner, run["dag_id"], run["dag_run_id"], run.get("partition_key"))


class TellFailure:
    """`on_failure_callback` of a DAG: one mail to the owner when its run has failed."""

    def __init__(self, owner: str):
        self.owner = owner

    def __call__(self, context: Any) -> None:
        run = context["dag_run"]
        _tell("failed", self.owner, run.dag_id, run.run_id, run.partition_key)


def _tell(what: str, owner: str, dag: str, run_id: str, night: str | None) -> None:
    from nightmarket.quality.outbox import Outbox, OutboxBusy, Server, key_of

    settings = load_shop()
    person = settings.owner_of(owner)
    subject, body = _TEXTS[person.language or settings.shop.language][what]
    words = {
        "shop": settings.shop.title or settings.shop.shop, "dag": dag, "run": run_id, "night": night or "?",
        "minutes": settings.shop.schedule.deadline_minutes,
    }
    mail = EmailMessage()
    mail["From"] = settings.shop.mail.sender
    mail["To"] = ", ".join(person.mail)
    mail["Subject"] = subject.format(**words)
    mail.set_content(body.format(**words))
    outbox = Outbox(settings.places.outbox)
    entry, new = outbox.put(mail, key_of(settings.shop.shop, what, dag, run_id))
    try:
        counts = outbox.flush(Server.of(settings), wait_seconds=30)
        log.info(said(what, dag=dag, run=run_id, mail=entry.id, queued=new, sent=counts.sent_now))
    except OutboxBusy:
        log.info(said(what, dag=dag, run=run_id, mail=entry.id, queued=new))  # whoever is sending will send it
