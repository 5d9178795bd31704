"""Let the recommender follow the stream: answer anew with what came in, and learn from it where that does no harm.

Needs a champion and the histories of some night; takes silver.live_events since that night. The champion answers everybody anew with the
merged histories, and the lookup serves it at once. Where shoppers have bought since the champion's last lesson, a challenger starts from its
weights and learns what came up to now, but for the newest days (`online.holdout_days`) of some shoppers (`online.holdout_share`), the rolling
holdout; it becomes the champion, as a version of its own with its
parent, where it does no harm on the holdout and passes the rest of the model gate. Three drops in a row switch updates off and write
to the owner; a person lifts the switch. The same inputs are not tried twice.

  python -m jobs.update --run-date 2026-03-01
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import ITEMS
from nightmarket.lake import Input, Manifest, code_version, newest_arrow, nights, recipe
from nightmarket.quality.verdict import passed_nights
from nightmarket.registry.kinds import RECOMMENDER

if TYPE_CHECKING:
    import pyarrow as pa

    from nightmarket.online.live import Now
    from nightmarket.online.update import Entry
    from nightmarket.recommend.lookup import About
    from nightmarket.recommend.model import Recommender
    from nightmarket.registry.client import RegisteredModel, Registry

log = logs.logger("update")
SECTIONS = ("model", "time_zone", "blessing", "online")


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--today", action="store_true", help="as of the shop's day of today, whatever --run-date says")


def run(night: Night) -> list[Manifest]:
    """Publishes no dataset. Raises Refused where nothing serves or no night has histories."""
    from jobs.publish import loaded
    from nightmarket.monitor.switches import online_updates_stopped
    from nightmarket.online.live import now
    from nightmarket.registry.client import Registry

    if night.args.today:
        night = replace(night, run_date=datetime.now(night.settings.zone).date())
    registry = Registry(night.settings)
    champion = registry.champion()
    if champion is None:
        raise Refused("no champion: there is nothing to update; run the night's jobs.train to jobs.bless first")
    logs.identify(model_kind=RECOMMENDER.id, model_version=champion.version)
    known = now(night.lake, night.run_date)
    items = _catalogue(night)
    model = loaded(champion)
    stopped = online_updates_stopped(night.settings)
    if stopped:
        log.warning(logs.said("updates are off", why=stopped))
    elif (made := _learn(night, registry, champion, model, known, items)) is not None:
        champion, model = made
        logs.identify(model_version=champion.version)
    if not night.dry_run:
        _serve(night, champion, model, known, items)
    return []


def _learn(
    night: Night, registry: Registry, champion: RegisteredModel, model: Recommender, known: Now, items: pa.Table,
) -> tuple[RegisteredModel, Recommender] | None:
    """The version that serves from now on, where an update was accepted."""
    from nightmarket.evaluate.protocol import Holdout, Trial
    from nightmarket.online.update import Updates, judges, lesson
    from nightmarket.recommend.histories import PURCHASE, Histories, seconds
    from nightmarket.recommend.model import CannotStartWarm, TooLittle

    settings, shop = night.settings, night.settings.shop
    passed = passed_nights(night.lake, night.run_date)
    read = (*known.inputs, *(p.manifest.as_input() for p in nights(night.lake, ITEMS, night.run_date, only=passed)),
            Input(f"parent/{champion.name}/{champion.version}", champion.tags["weights"]))
    asked = recipe(read, settings.digest(*SECTIONS), code_version(), shop.model.seed)
    log_of = Updates(settings.places.root)
    if any(e.recipe == asked for e in log_of.entries()) and not night.force:
        log.info(logs.said("tried before", recipe=asked))
        return None
    if sum(e.run_date == night.run_date.isoformat() for e in log_of.entries()) >= shop.online.updates_a_day and not night.force:
        log.info(logs.said("enough for a day", tries=shop.online.updates_a_day))
        return None
    holdout = replace(Holdout.of(_day(known.as_of, settings), shop.online.holdout_days, settings.zone), end=known.as_of)
    trial = judges(Trial.of(Histories.from_table(known.histories), holdout), shop.online.holdout_share, shop.model.minimum_users)
    learnable = lesson(known.histories, trial)
    learnt = float(seconds(datetime.fromisoformat(model.config["cut"])))
    if not len(Histories.from_table(learnable).between(learnt, float(seconds(known.as_of))).of(PURCHASE)):
        log.info(logs.said("nothing to learn", since=model.config["cut"], until=known.as_of.isoformat()))
        return None
    if len(trial.users) < shop.model.minimum_users:
        log.info(logs.said("too few to judge", shoppers=len(trial.users), wanted=shop.model.minimum_users))
        return None
    if night.dry_run:
        log.info(logs.said("would learn", parent=champion.version, until=known.as_of.isoformat(), live=known.live, judges=len(trial.users)))
        return None
    work = settings.places.work / "online" / asked
    shutil.rmtree(work, ignore_errors=True)
    started = time.monotonic()
    try:
        challenger = type(model).fit(learnable, items, known.as_of, shop.model, work / "fit", time_zone=shop.time_zone, warm=model, refresh=False)
    except (CannotStartWarm, TooLittle) as error:
        log.warning(logs.said("cannot learn", parent=champion.version, why=str(error)))
        return None
    learning = time.monotonic() - started
    evaluation = _evaluation(night, challenger, champion, model, known, items, trial, work)
    entry, version = _decide(night, registry, champion, challenger, known, evaluation, asked, read, work)
    log_of.add(entry)
    shutil.rmtree(work, ignore_errors=True)
    log.info(logs.said(entry.outcome, parent=champion.version, version=entry.version, why=entry.why, learning_seconds=round(learning, 1),
                       seconds=round(time.monotonic() - started, 1)))
    if entry.outcome == "dropped":
        _strike(night, entry)
        return None
    return registry.version(str(version)), challenger


def _day(moment: datetime, settings: Any) -> date:
    """The shop's day of the newest event."""
    day: date = (moment - timedelta(seconds=1)).astimezone(settings.zone).date()
    return day


def _evaluation(
    night: Night, challenger: Recommender, champion: RegisteredModel, model: Recommender, known: Now, items: pa.Table, trial: Any, work: Path,
) -> dict[str, Any]:
    from nightmarket.evaluate.judge import CHALLENGER, CHAMPION, judge

    shop = night.settings.shop
    found = judge(known.histories, items, trial, {CHALLENGER: (None, challenger), CHAMPION: (champion.version, model)}, shop.model.seed,
                  shop.model.bootstrap, shop.blessing.slice_users)
    found.save(work / "evaluation", shop.title or shop.shop)
    return dict(json.loads((work / "evaluation" / "evaluation.json").read_text()))


def _decide(
    night: Night, registry: Registry, champion: RegisteredModel, challenger: Recommender, known: Now, evaluation: dict[str, Any], asked: str,
    read: Sequence[Input], work: Path,
) -> tuple[Entry, str | None]:
    """Registers, verifies, judges and, where it may serve, promotes; harm that shows on the holdout is not even registered."""
    from jobs.bless import gather, measured
    from nightmarket.online.update import Entry, harm, judge
    from nightmarket.recommend.package import example, submission
    from nightmarket.recommend.served import Snapshot, answers

    rules = night.settings.shop.blessing
    apart = measured(evaluation["differences"]["champion"]["all"].get(rules.metric))
    told = {"value": apart.value, "low": apart.low, "high": apart.high, "users": apart.users} if apart else None
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def entry(version: str | None, outcome: Any, why: str) -> Entry:
        return Entry(asked, night.run_date.isoformat(), champion.version, version, outcome, why, told, known.live, at)

    if bad := harm(apart, rules.margin):
        return entry(None, "dropped", bad), None
    saved = work / "model"
    challenger.save(saved)
    snapshot = Snapshot(known.histories, known.as_of)
    questions = example(known.histories)
    handed = submission(night.run_date, asked, saved, snapshot, questions, answers(challenger.standing(snapshot.histories, snapshot.as_of), questions))
    handed = replace(handed, tags=_lineage(night, champion, challenger),
                     documents={"inputs.json": [asdict(i) for i in read], "evaluation.json": evaluation})
    version = registry.register(handed)
    registry.verify(version)
    # the data gate of these events was that of their batches and nights: what it refused is not in them
    evidence = replace(gather(night, registry, version, evaluation, None), data_gate="passed")
    outcome, why, decision = judge(evidence, rules)
    proof = {"decision": decision.to_json(), "online": {"parent": champion.version, "difference": told, "live_events": known.live}}
    if outcome == "accepted":
        registry.ledger.promote(registry.model, version, champion.version, "jobs.update", f"online update: {why}", proof, night.run_date)
    else:
        here = registry.ledger.current(registry.model, "challenger")
        registry.ledger.move(registry.model, "challenger", here, None, "jobs.update", f"online update: {why}", proof, night.run_date, "keep")
    registry.sync()
    return entry(version, outcome, why), version


def _lineage(night: Night, champion: RegisteredModel, challenger: Recommender) -> dict[str, str]:
    """Tags of an update: whose child it is, and what nightly retraining asks of any version. Warm starts of nights are counted, not these:
    the night trains from what the day left, and makes anew by the same age as ever."""
    from jobs.plan_retraining import MADE_ANEW, WARM_STARTS
    from jobs.train import SECTIONS as TRAINED

    parent = champion.tags
    return {
        "parent": champion.version, "online": "1", "cut": challenger.config["cut"], "code": code_version(), "seed": str(night.settings.shop.model.seed),
        "settings": night.settings.digest(*TRAINED), MADE_ANEW: parent.get(MADE_ANEW, champion.run_date.isoformat()),
        WARM_STARTS: parent.get(WARM_STARTS, "0"),
    }


def _strike(night: Night, entry: Entry) -> None:
    """The third drop in a row switches updates off and writes to the owner."""
    from nightmarket.monitor.switches import ONLINE_UPDATES, Switch, turn_off
    from nightmarket.online.update import STRIKES, Updates, strikes

    settings = night.settings
    if strikes(Updates(settings.places.root).entries()) < STRIKES:
        return
    why = f"{STRIKES} updates in a row did harm; the last one: {entry.why}"
    turn_off(settings, Switch(ONLINE_UPDATES, "jobs.update", why, night.run_date.isoformat()))
    log.error(logs.said("updates stopped", why=why))
    _alert(night, why)


def _alert(night: Night, why: str) -> None:
    from email.message import EmailMessage

    from nightmarket.quality.outbox import Outbox, key_of

    settings = night.settings
    owner = settings.owner_of("recommendations")
    subject, body = _TEXTS[owner.language or settings.shop.language]
    shop = settings.shop.title or settings.shop.shop
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = settings.shop.mail.sender, ", ".join(owner.mail), subject.format(shop=shop)
    mail.set_content(body.format(why=why))
    Outbox(settings.places.outbox).put(mail, key_of(settings.shop.shop, "updates stopped", str(night.run_date)))


_TEXTS = {
    "en": ("[{shop}] Online updates are stopped",
           "{why}.\n\nThe champion goes on serving, with fresh histories. What to do: look at <root>/online/updates.jsonl, mend the cause,\n"
           "then lift the switch online_updates (python -m jobs.respond --help).\n"),
    "zh": ("[{shop}] 在线更新已停止",
           "{why}。\n\n当前模型继续使用最新的行为记录提供服务。处理办法:查看 <root>/online/updates.jsonl,排除原因后解除开关 online_updates\n"
           "(python -m jobs.respond --help)。\n"),
}


def answer(night: Night) -> tuple[pa.Table, About]:
    """Lets the champion answer everybody with what is known by the day, and serve; without learning. (what serves, what it is)."""
    from jobs.publish import loaded
    from nightmarket.online.live import now
    from nightmarket.registry.client import Registry

    champion = Registry(night.settings).champion()
    if champion is None:
        raise Refused("no champion: there is nothing to answer with")
    known = now(night.lake, night.run_date)
    about = _about(night, champion, known)
    return _answered(night, loaded(champion), known, _catalogue(night), about), about


def _catalogue(night: Night) -> pa.Table:
    return newest_arrow(night.lake, ITEMS, night.run_date, only=passed_nights(night.lake, night.run_date))


def _about(night: Night, champion: RegisteredModel, known: Now) -> About:
    import hashlib

    from nightmarket.recommend.lookup import LIVE, About

    digest = hashlib.sha256("\n".join(f"{i.name}={i.digest}" for i in known.inputs).encode()).hexdigest()[:24]
    return About(_day(known.as_of, night.settings), champion.name, champion.version, LIVE + digest)


def _serve(night: Night, champion: RegisteredModel, model: Recommender, known: Now, items: pa.Table) -> None:
    """The champion's answers with the merged histories, in place of what serves unless a newer day does."""
    from nightmarket.recommend.lookup import serving

    about = _about(night, champion, known)
    now = serving(night.settings.places.root / "published")
    if now is not None and (now == about or now.run_date > about.run_date):
        log.info(logs.said("serving already", run_date=now.run_date, version=now.model_version))
        return
    _answered(night, model, known, items, about)


def _answered(night: Night, model: Recommender, known: Now, items: pa.Table, about: About) -> pa.Table:
    """What serves from now on, as rows of gold.recommendations."""
    from nightmarket.recommend.lookup import serve
    from nightmarket.recommend.publish import publication

    shop = night.settings.shop
    with logs.stage(log, "answered", version=about.model_version, live=known.live) as said:
        made = publication(model, known.histories, items, known.as_of, shop.model.top_k, about.model_name, about.model_version, shop.lists)
        said |= made.notes()
    serve(night.settings.places.root / "published", made.rows, about)
    return made.rows


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("update", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
