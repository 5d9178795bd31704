"""The morning's one mail about all models of the shop, and the one about a rollback or a response that did not help."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from nightmarket.contracts import DRIFT, QUALITY, RETRAINING
from nightmarket.lake import Lake
from nightmarket.monitor import account
from nightmarket.monitor.diagnosis import state_of
from nightmarket.quality.letter import Letter, Section, Table, Tone
from nightmarket.registry import candidate as candidates
from nightmarket.registry.kinds import KINDS, RECOMMENDER, Kind
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Language, Settings

_TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "subject": "[{shop}] Models of {date}: {said}", "fine": "{done} of {kinds} trained, all serve", "bad": "{names} needs you",
        "headline.fine": "Every model of {date} is served.", "headline.bad": "{names}: the night did not end well.",
        "lead.drift": "Drifted against the same weekdays before: {names}.", "lead.quiet": "Nothing drifted.",
        "lead.unwatched": "The night was not compared with those before.", "lead.unplanned": "No plan was made for this night.",
        "lead.gate": "The data gate refused the night: nothing was trained on it.",
        "models": "What was done, and why", "model": "model", "action": "done", "serves": "serves", "gate": "model gate", "why": "why",
        "skip": "left alone", "fine_tune": "taught the newest days", "retrain": "made anew", "nobody": "nobody",
        "version": "version {version}", "-": "–",
        "failed": "What did not end well", "step": "step", "state": "state", "words": "its words", "diagnose": "python -m jobs.diagnose --run-date {date}",
        "drift": "What drifted", "feature": "feature", "now": "tonight", "before": "before", "effect": "size",
        "footer": "Written by Nightmarket for {owner}. To go back: python -m jobs.rollback --help.",
        "back.subject": "[{shop}] {model} went back to version {now}",
        "back.headline": "{model}: version {was} was taken out of service; version {now} serves.",
        "back.lead": "{who} decided it: {why}",
        "back.done": "What serves of {date} was published again by version {now} and compared with what is served.",
        "back.stays": "Version {was} does not come back by itself. To let it: python -m jobs.bless --run-date DATE --approve NAME --reason TEXT.",
        "help.subject": "[{shop}] {alert} is still there: a person is needed",
        "help.headline": "What was done about {alert} on {date} did not help.",
        "help.lead": "Cause: {cause}. Done: {effect}. It was given {nights} nights.",
        "help.next": "Look: python -m jobs.diagnose --run-date {night}.",
    },
    "zh": {
        "subject": "[{shop}] {date} 的模型:{said}", "fine": "{kinds} 个模型中训练了 {done} 个,全部正常服务", "bad": "{names} 需要人工处理",
        "headline.fine": "{date} 的所有模型均正常服务。", "headline.bad": "{names}:当晚未能正常完成。",
        "lead.drift": "与此前相同星期几相比发生漂移:{names}。", "lead.quiet": "没有发现漂移。",
        "lead.unwatched": "当晚尚未与此前的夜晚比较。", "lead.unplanned": "当晚没有制定训练计划。",
        "lead.gate": "数据关卡拒绝了当晚的数据:没有据此训练任何模型。",
        "models": "做了什么,为什么", "model": "模型", "action": "处理", "serves": "提供服务", "gate": "模型关卡", "why": "原因",
        "skip": "保持不变", "fine_tune": "用最新数据继续训练", "retrain": "重新训练", "nobody": "无",
        "version": "版本 {version}", "-": "–",
        "failed": "未正常完成的步骤", "step": "步骤", "state": "状态", "words": "说明", "diagnose": "python -m jobs.diagnose --run-date {date}",
        "drift": "发生漂移的特征", "feature": "特征", "now": "今晚", "before": "此前", "effect": "幅度",
        "footer": "由 Nightmarket 为 {owner} 撰写。如需回退:python -m jobs.rollback --help。",
        "back.subject": "[{shop}] {model} 已回退到版本 {now}",
        "back.headline": "{model}:版本 {was} 已停止服务,现由版本 {now} 提供服务。",
        "back.lead": "由 {who} 决定:{why}",
        "back.done": "{date} 的发布已由版本 {now} 重新生成,并与对外提供的内容核对一致。",
        "back.stays": "版本 {was} 不会自行恢复。如需恢复:python -m jobs.bless --run-date DATE --approve NAME --reason TEXT。",
        "help.subject": "[{shop}] {alert} 仍然存在:需要人工处理",
        "help.headline": "{date} 针对 {alert} 的处理没有奏效。",
        "help.lead": "起因:{cause}。已做:{effect}。给定的观察期为 {nights} 晚。",
        "help.next": "查看:python -m jobs.diagnose --run-date {night}。",
    },
}
_OWN = ("drift", "respond", "plan_retraining", "retrain", "register", "bless")
"""Steps of the night that the summary speaks of, beside each kind's own."""


def morning(settings: Settings, lake: Lake, night: date) -> Letter:
    """What came of the night's models: plan, outcome, who serves, what drifted, what failed."""
    language, words, owner, shop = _voice(settings)
    planned = {r["model"]: r for r in lake.at(RETRAINING, night).arrow().to_pylist()} if lake.manifest(RETRAINING, night) else {}
    verdict = lake.manifest(QUALITY, night)
    failed = trouble(settings, night)
    watched = lake.manifest(DRIFT, night)
    refused = verdict is not None and verdict.notes["verdict"] == "refused"
    done = sum(r["action"] != "skip" for r in planned.values())
    names = ", ".join(dict.fromkeys(step for step, _, _ in failed)) or ("data gate" if refused else "plan_retraining")
    bad = bool(failed) or refused or not planned
    lead = [words["lead.gate"]] if refused else []
    lead += [] if planned or refused else [words["lead.unplanned"]]
    lead.append(words["lead.unwatched"] if watched is None else
                words["lead.drift"].format(names=", ".join(watched.notes["drifted"])) if watched.notes["drifted"] else words["lead.quiet"])
    sections = [Section(words["models"], (), Table(
        tuple(words[k] for k in ("model", "action", "gate", "serves", "why")),
        tuple(_row(settings, words, night, kind, planned.get(kind.id)) for kind in KINDS), numbers=False))]
    if failed:
        sections.append(Section(words["failed"], (words["diagnose"].format(date=night),),
                                Table(tuple(words[k] for k in ("step", "state", "words")), tuple(failed), numbers=False)))
    if watched is not None and watched.notes["drifted"]:
        rows = [r for r in lake.at(DRIFT, night).arrow().to_pylist() if r["drifted"]]
        sections.append(Section(words["drift"], (), Table(
            tuple(words[k] for k in ("feature", "before", "now", "effect")),
            tuple((r["feature"], r["before"], r["now"], f"{r['effect']:.2f}") for r in rows), numbers=False)))
    said = words["bad"].format(names=names) if bad else words["fine"].format(done=done, kinds=len(KINDS))
    tone: Tone = "bad" if bad else "look" if watched is not None and watched.notes["drifted"] else "good"
    return Letter(
        slug="models", shop=shop, night=night, language=language, recipients=owner.mail, tone=tone,
        subject=words["subject"].format(shop=shop, date=night, said=said),
        headline=words["headline.bad" if bad else "headline.fine"].format(names=names, date=night), lead=tuple(lead), sections=tuple(sections),
        footer=words["footer"].format(owner=owner.name),
    )


def trouble(settings: Settings, night: date) -> list[tuple[str, str, str]]:
    """(step, state, last words) of the model steps that did not end well, their newest run of each kind of model; of a kind that never had
    a champion and has nothing to learn from, as a shop may, none."""
    ledger = Ledger(settings.places.mlflow / "ledger.db")
    absent = {s for k in KINDS if k != RECOMMENDER and ledger.current(k.name(settings.shop), "champion") is None for s in (*k.prepare, k.train)}
    wanted = {*_OWN, *(s for k in KINDS for s in (*k.prepare, k.train, k.evaluate, k.publish))}
    newest = account.newest(r for r in account.runs(settings.places.logs, night) if r.step in wanted)
    return [(r.name, state_of(r), r.why.strip().splitlines()[-1][:300] if r.why.strip() else "") for r in newest.values()
            if state_of(r) not in ("done", "running") and not (state_of(r) == "refused" and r.step in absent)]


def _row(settings: Settings, words: dict[str, str], night: date, kind: Kind, planned: dict[str, Any] | None) -> tuple[str, ...]:
    ledger = Ledger(settings.places.mlflow / "ledger.db")
    champion = ledger.current(kind.name(settings.shop), "champion")
    path = candidates.report_of(settings, night, kind) / "decision.json"
    decided = json.loads(path.read_text(encoding="utf-8"))["decision"] if path.is_file() and planned and planned["action"] != "skip" else None
    return (
        kind.name(settings.shop), words[planned["action"]] if planned else words["-"],
        f"{decided['outcome']}: {decided['why']}" if decided else words["-"],
        words["version"].format(version=champion) if champion else words["nobody"], planned["why"] if planned else words["-"],
    )


def gone_back(settings: Settings, night: date, model: str, was: str, now: str, who: str, why: str) -> Letter:
    """What is said after a rollback that published `night` again."""
    language, words, owner, shop = _voice(settings)
    said = {k: words[f"back.{k}"].format(shop=shop, model=model, was=was, now=now, who=who, why=why, date=night)
            for k in ("subject", "headline", "lead", "done", "stays")}
    return Letter(
        slug="rollback", shop=shop, night=night, language=language, recipients=owner.mail, tone="look", subject=said["subject"],
        headline=said["headline"], lead=(said["lead"], said["done"], said["stays"]), footer=words["footer"].format(owner=owner.name),
    )


def did_not_help(settings: Settings, night: date, since: date, alert: str, cause: str, effect: str) -> Letter:
    """What is said when an alert outlived the window of the response to it."""
    language, words, owner, shop = _voice(settings)
    said = {k: words[f"help.{k}"].format(shop=shop, alert=alert, cause=cause, effect=effect, date=since, night=night, nights=(night - since).days)
            for k in ("subject", "headline", "lead", "next")}
    return Letter(
        slug=f"escalation-{alert}", shop=shop, night=night, language=language, recipients=owner.mail, tone="bad", subject=said["subject"],
        headline=said["headline"], lead=(said["lead"], said["next"]), footer=words["footer"].format(owner=owner.name),
    )


def _voice(settings: Settings) -> tuple[Language, dict[str, str], Any, str]:
    owner = settings.owner_of("recommendations")
    language: Language = owner.language or settings.shop.language
    return language, _TEXTS[language], owner, settings.shop.title or settings.shop.shop
