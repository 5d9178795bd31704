"""Do what shop.yaml `responses` says about the night's alerts, and see whether earlier responses helped.

Alerts are read from gold.drift (drift.<dataset>, drift.recommendations, drift.screening_decisions, quality.hit_rate, quality.labels, quality.live), from what the publication before noted
(quality.forecaster: errors beyond its backtests'; quality.screener: fewer of its alerts are bad ones) and the data gate's verdict
(gate.refused); the newest night has what Alertmanager posted to `jobs.serve` and still fires (prometheus.<alert>) too; more may be named
with `--alert NAME=CAUSE`. A response orders a retraining, takes the version that was measured out of service, with its online updates, stops
online updates, or makes the business rules that refused the night warnings (`jobs.gate` asks for that itself and judges again). Each is logged
with cause and effect in <root>/monitor/responses.jsonl. An alert that is still there after the window of the response to it, or a response
that failed, is mailed to a person; a night on which nobody could tell says neither that it helped nor that it did not.

  python -m jobs.respond --run-date 2026-02-01
  python -m jobs.respond --run-date 2026-02-01 --alert "lookup.slow=p99 of 80 ms"
  python -m jobs.respond --run-date 2026-02-01 --lift online_updates --who Ada
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta

from jobs.plan_retraining import published_before
from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused, UsageError
from nightmarket.contracts import DRIFT, QUALITY
from nightmarket.lake import Lake, Manifest
from nightmarket.monitor import orders, switches
from nightmarket.monitor.inbox import PREFIX, firing
from nightmarket.monitor.responses import Alert, Entry, Intent, Log, Suspect, decide, due, replaced, suspect
from nightmarket.registry import kinds
from nightmarket.registry.kinds import CONTRADICTED, KINDS, RECOMMENDER, SCREENER, Kind
from nightmarket.registry.ledger import Ledger, LedgerError
from nightmarket.shop import Settings

log = logs.logger("respond")
WHO = "jobs.respond"
LIVE, LIVE_POSTED = "quality.live", f"{PREFIX}LiveQualityLow"
"""The same alert, told by the night and by Prometheus."""


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alert", action="append", default=[], metavar="NAME=CAUSE", help="an alert from elsewhere; may be given often")
    parser.add_argument("--lift", metavar="NAME", help="switch on again what a response switched off; with --who")
    parser.add_argument("--who", metavar="NAME", help="who lifts it")


def run(night: Night) -> list[Manifest]:
    """Publishes no dataset. Raises UsageError for an alert that is none, or a switch that is on."""
    settings = night.settings
    if night.args.lift:
        _lift(night)
        return []
    posted = firing(settings) if _newest(night) else []
    alerts = [*alerts_of(settings, night.lake, night.run_date), *(_about(night, a) for a in posted), *(_named(text) for text in night.args.alert)]
    book = Log(settings.places.root)
    past = book.entries()
    intents = decide(alerts, settings.shop.responses, past, night.run_date, whom(settings))
    for intent in intents:
        log.info(logs.said("alert", name=intent.alert.name, cause=intent.alert.cause, does=intent.rule.do if not intent.declined else "nothing",
                           why=intent.declined or None))
    if night.dry_run:
        return []
    for entry, helped in due(past, alerts, night.run_date, unseen(night)):
        _outcome(night, book, entry, helped)
    for intent in intents:
        _act(night, book, past, intent)
    return []


def whom(settings: Settings) -> Callable[[str, str | None], Suspect]:
    """`suspect` of a kind's model, by its id. Raises UsageError for a rule about no such kind."""
    ledger = Ledger(settings.places.mlflow / "ledger.db")

    def found(model: str, version: str | None) -> Suspect:
        return suspect(ledger.history(_kind(model).name(settings.shop)), version)

    return found


def _kind(model: str) -> Kind:
    try:
        return kinds.kind(model)
    except KeyError as error:
        raise UsageError(f"responses: {error.args[0]}") from None


def alerts_of(settings: Settings, lake: Lake, night: date) -> list[Alert]:
    """The alerts that the night's tables tell of."""
    found: dict[str, list[str]] = {}
    verdict, watched = lake.manifest(QUALITY, night), lake.manifest(DRIFT, night)
    if verdict is not None and verdict.notes["verdict"] == "refused":
        found["gate.refused"] = list(verdict.notes["failed"]["critical"])
    for kind in KINDS:
        before = published_before(lake, night, kind)
        if before is not None and before.notes.get("worse"):
            found[f"quality.{kind.id}"] = [str(before.notes["worse"])]
    if watched is not None:
        for row in lake.at(DRIFT, night).arrow().to_pylist():
            if row["drifted"]:
                name = row["feature"] if row["kind"] == "concept" else f"drift.{row['feature'].split('.')[0]}"
                found.setdefault(name, []).append(f"{row['feature']} {row['before']} -> {row['now']}")
        live = watched.notes.get("live")
        if live is not None and live["high"] < live["promise"] * (1 - settings.shop.retraining.live_loss):
            found[LIVE] = [f"{live['metric']} {live['value']:.4f} [{live['low']:.4f}, {live['high']:.4f}], promised {live['promise']:.4f}"]
    about = measured(lake, night)
    return [Alert(name, "; ".join(causes), *about.get(name, ())) for name, causes in sorted(found.items())]


def measured(lake: Lake, night: date) -> dict[str, tuple[str, str | None]]:
    """Alert -> (id of the kind of model that it is about, version whose publication the night measured; None where that is not known), whether
    or not it is one tonight."""
    found: dict[str, tuple[str, str | None]] = {}
    for kind in KINDS:
        if (before := published_before(lake, night, kind)) is not None:
            found[f"quality.{kind.id}"] = kind.id, before.notes.get("model_version")
    if (watched := lake.manifest(DRIFT, night)) is not None:
        versions = watched.notes.get("versions", {})
        found |= {name: (RECOMMENDER.id, versions.get(name)) for name in ("drift.recommendations", "quality.hit_rate", LIVE)}
        found |= dict.fromkeys(("drift.screening_decisions", CONTRADICTED), (SCREENER.id, None))
    return found


def unseen(night: Night) -> Callable[[Entry], bool]:
    """Whether the night cannot tell if a response helped: where its alert was not looked for; where what was measured is of a version that was
    taken out of service or replaced since, as live quality is for weeks; and while the rules that refused a night are warnings."""
    settings, lake, day = night.settings, night.lake, night.run_date
    verdict, watched, newest, about = lake.manifest(QUALITY, day), lake.manifest(DRIFT, day), _newest(night), measured(lake, day)
    ledger = Ledger(settings.places.mlflow / "ledger.db")

    def found(entry: Entry) -> bool:
        name = LIVE if entry.alert == LIVE_POSTED else entry.alert
        model, version = about.get(name, (entry.model, None))
        if version is not None:
            registered = _kind(model).name(settings.shop)
            if version in ledger.gone_back_from(registered) or replaced(ledger.history(registered), version, entry.day):
                return True
        if entry.alert.startswith(PREFIX):
            return not newest
        if name == "gate.refused":
            return verdict is None or (entry.action == "widen_gate" and (day - entry.day).days < entry.window_nights)
        if name == LIVE:
            return watched is None or not watched.notes.get("live")
        return watched is None and (name.startswith("drift.") or name in ("quality.hit_rate", CONTRADICTED))

    return found


def _newest(night: Night) -> bool:
    """Whether no later night was judged: what fires today is about this one."""
    return night.run_date >= max(night.lake.dates(QUALITY), default=night.run_date)


def _about(night: Night, posted: Alert) -> Alert:
    """Which of the shop's models Alertmanager's alert is about, and which version was measured, where that is known."""
    shop = night.settings.shop
    model = next((k.id for k in KINDS if posted.model in (k.id, k.name(shop))), "")
    if posted.name != LIVE_POSTED:
        return replace(posted, model=model)
    return replace(posted, model=RECOMMENDER.id, version=measured(night.lake, night.run_date).get(LIVE, ("", None))[1])


def answer_refusal(night: Night) -> bool:
    """Widens the gate that refused the night just now, where shop.yaml says so; whether it may be judged again."""
    settings = night.settings
    rules = [r for r in settings.shop.responses if r.do == "widen_gate"]
    if not rules:
        return False
    alerts = [a for a in alerts_of(settings, night.lake, night.run_date) if a.name == "gate.refused"]
    before, book = switches.switches(settings), Log(settings.places.root)
    past = book.entries()
    for intent in decide(alerts, rules, past, night.run_date, whom(settings)):
        _act(night, book, past, intent)
    return switches.switches(settings) != before


def _named(text: str) -> Alert:
    name, _, cause = text.partition("=")
    if not name.strip() or not cause.strip():
        raise UsageError(f"--alert {text}: write NAME=CAUSE; the log keeps both")
    return Alert(name.strip(), cause.strip())


def _lift(night: Night) -> None:
    who = (night.args.who or "").strip()
    if not who:
        raise UsageError("--lift needs --who NAME; the log keeps it")
    if night.dry_run:
        return
    try:
        found = switches.lift(night.settings, night.args.lift, night.run_date)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None
    Log(night.settings.places.root).add(Entry("lifted", f"lift-{found.name}", night.run_date.isoformat(), "by hand", "lift", f"{who} lifts it",
                                              f"{found.name} is on again; off since {found.since} ({found.why})"))
    if found.name == switches.ONLINE_UPDATES:
        from nightmarket.online.update import Updates

        Updates(night.settings.places.root).lift(who, night.run_date)
    log.info(logs.said("lifted", name=found.name, who=who, since=found.since))


def _act(night: Night, book: Log, past: Sequence[Entry], intent: Intent) -> None:
    """Does it, between two lines of the log; a response that fails is told to a person at once."""
    day, rule, alert = night.run_date.isoformat(), intent.rule, intent.alert
    base = Entry("began", intent.id(night.run_date), day, alert.name, rule.do, alert.cause, window_nights=rule.window_nights,
                 model=alert.model)

    def line(event: str, effect: str) -> Entry:
        return Entry(**{**vars(base), "event": event, "effect": effect})

    if intent.declined:
        if not any((e.event, e.id) in (("declined", base.id), ("responded", base.id)) for e in past):
            book.add(line("declined", intent.declined))
        return
    book.add(base)
    try:
        effect = _do(night, intent)
    except (Refused, UsageError, LedgerError, OSError) as error:
        book.add(line("responded", f"failed: {error}"))
        book.add(line("escalated", "a person is told"))
        _tell(night, night.run_date, alert.name, alert.cause, f"{rule.do} failed: {error}")
        return
    book.add(line("responded", effect))
    log.info(logs.said("responded", alert=alert.name, action=rule.do, effect=effect))


def _do(night: Night, intent: Intent) -> str:
    """What came of it, in words."""
    settings, rule, alert = night.settings, intent.rule, intent.alert
    why = f"{alert.name}: {alert.cause}"[:500]
    if rule.do == "retrain":
        named = alert.model or rule.model
        made = [orders.file(settings, k.id, night.run_date, "retrain", WHO, why) for k in ([_kind(named)] if named else KINDS)]
        return "ordered to be made anew: " + ", ".join(o.model for o in made)
    if rule.do == "rollback":
        from jobs.rollback import NotServed, roll_back, tell
        from nightmarket.registry.client import RegistryError

        try:
            found = intent.suspect  # without a version to go to, one that a killed run went back to: what is left is to publish
            with logs.about(model_kind=intent.model):
                done = roll_back(settings, _kind(intent.model).name(settings.shop), found.to, WHO, why, run_id=night.run_id,
                                 evidence={"alert": alert.name, "measured": alert.version}, out=found.out)
        except (NotServed, RegistryError) as error:
            raise Refused(str(error)) from error
        tell(settings, done, WHO, why)
        return f"went back {f'from version {done.was} ' if done.was else ''}to {done.now}, verified in {done.seconds:.0f} s"
    if rule.do == "stop_online_updates":
        switches.turn_off(settings, switches.Switch(switches.ONLINE_UPDATES, WHO, why, night.run_date.isoformat()))
        return f"online updates are off; python -m jobs.respond --run-date {night.run_date} --lift {switches.ONLINE_UPDATES} --who NAME"
    return _widen(night, intent, why)


def _widen(night: Night, intent: Intent, why: str) -> str:
    """Makes the business rules that refused the night warnings until the end of the window. Raises Refused where another kind of rule did."""
    verdict = night.lake.manifest(QUALITY, night.run_date)
    failed = list(verdict.notes["failed"]["critical"]) if verdict is not None else []
    never = [r for r in failed if not switches.may_be_widened(r)]
    if never or not failed:
        raise Refused(f"what refused the night cannot be widened: {', '.join(never) or 'nothing did'}")
    last = night.run_date + timedelta(days=intent.rule.window_nights - 1)
    for rule in failed:
        switches.turn_off(night.settings, switches.Switch(f"gate.{rule}", WHO, why, night.run_date.isoformat(), last.isoformat()))
    return f"up to {last} a warning for review: {', '.join(failed)}; python -m jobs.gate --run-date {night.run_date} judges again"


def _outcome(night: Night, book: Log, entry: Entry, helped: bool) -> None:
    said = {**vars(entry), "night": night.run_date.isoformat(), "at": ""}
    if helped:
        book.add(Entry(**{**said, "event": "helped", "effect": f"{entry.alert} is gone"}))
        log.info(logs.said("helped", alert=entry.alert, action=entry.action, since=entry.night))
        return
    book.add(Entry(**{**said, "event": "escalated", "effect": "a person is told"}))
    log.warning(logs.said("escalated", alert=entry.alert, action=entry.action, since=entry.night))
    _tell(night, entry.day, entry.alert, entry.cause, entry.effect)


def _tell(night: Night, since: date, alert: str, cause: str, effect: str) -> None:
    from nightmarket.monitor.summary import did_not_help
    from nightmarket.quality import letter
    from nightmarket.quality.outbox import Outbox

    settings = night.settings
    told = did_not_help(settings, night.run_date, since, alert, cause, effect)
    letter.post(told, settings.places.reports / "models" / night.run_date.isoformat(), Outbox(settings.places.outbox), settings.shop.mail.sender)


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("respond", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
