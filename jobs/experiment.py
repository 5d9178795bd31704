"""Take the night's exposure log in, judge every experiment of shop.yaml, serve their arms, tell their owner.

Reads `<root>/exposures/<night>*.jsonl` (written by `jobs.lookup`, or by the shop: docs of nightmarket.online.exposures) and the night's
gold.features; publishes gold.exposures and gold.experiments. Where the night is the newest, each treatment that a model serves gets its
publication and `<root>/published/experiments.json` tells the lookup who gets what from now on: a canary rises while its guardrails
hold, a harm sends everybody back to the control. A page an experiment under reports/experiments/<night>/; a mail where its state or
its share of the traffic changed. Of an experiment that has not begun, whose arms models serve, a page says what these would have earned by the
log of what was shown (off-policy estimates, `nightmarket.online.before`), or why that cannot be told, and the first such night mails it.

A winner is promoted by a person (--promote), or by itself, once, where shop.yaml says `promote: true`: through the model gate's record
and the ledger either way; then everybody is served by it at once. What the gate holds against a winner is on its page and in the mail, and is not
tried again by itself. Exits 3 where the gate refused the night, an experiment was changed while it ran, or a person's promotion is refused.
One that was changed is not judged and goes on as it was served; the others are judged all the same.

  python -m jobs.experiment --run-date 2026-03-10
  python -m jobs.experiment --run-date 2026-03-31 --promote warmer_ranking --approve "Ada" --reason "two good weeks"
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused, UsageError
from nightmarket.contracts import EXPERIMENTS, EXPOSURES, FEATURES, RECOMMENDATIONS, SHOWN
from nightmarket.lake import Input, Manifest, code_version
from nightmarket.quality.verdict import require_passed
from nightmarket.shop import Experiment

if TYPE_CHECKING:
    from nightmarket.online.before import Foreseen
    from nightmarket.online.experiments import State
    from nightmarket.online.serving import Running
    from nightmarket.registry.client import RegisteredModel
    from nightmarket.registry.ledger import Move

log = logs.logger("experiment")
SECTIONS = ("experiments", "time_zone", "shop")


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--promote", metavar="EXPERIMENT", help="make the model of the arm that won the champion")
    parser.add_argument("--approve", metavar="NAME", help="who promotes")
    parser.add_argument("--reason", metavar="TEXT", help="why, for the ledger")


def run(night: Night) -> list[Manifest]:
    """The manifests of the night's gold.exposures and gold.experiments; none where shop.yaml has no experiment and nothing was logged, which
    an experiment to come may want to know. Raises Refused."""
    from nightmarket.online.exposures import files_of

    experiments = {n: e for n, e in night.settings.shop.experiments.items() if e.starts <= night.run_date}
    if night.args.promote:
        _promote_by_hand(night)
        return []
    if not night.settings.shop.experiments and not files_of(night.settings.places.root / "exposures", night.run_date):
        log.info(logs.said("no experiments", run_date=night.run_date))
        return []
    require_passed(night.lake, night.run_date)
    exposures = _exposures(night)
    (states, changed), ahead = _states(night, exposures, experiments), _foreseen(night)
    if night.dry_run:
        for state in states:
            log.info(logs.said("would tell", experiment=state.name, status=state.status, why=state.why))
        return [m for m in (exposures,) if m]
    made = _publish(night, states, [before for name, before in _before(night).items() if name in changed], exposures, ahead)
    decided: set[str] = set()
    if not any(d > night.run_date for d in night.lake.dates(EXPERIMENTS)):
        decided = {s.name for s in states if s.status == "won" and experiments[s.name].promote and _promote_once(night, s)}
        _serve(night, states, list(changed))
    _tell(night, states, decided)
    _tell_ahead(night, ahead)
    if changed:
        raise Refused("; ".join(changed.values()))
    return [m for m in (exposures, made) if m]


def _exposures(night: Night) -> Manifest | None:
    """Publishes the day's exposures, unless the same files were taken already."""
    import hashlib

    from nightmarket.evaluate.protocol import Holdout
    from nightmarket.online import exposures
    from nightmarket.online.experiments import split
    from nightmarket.protect.keys import Keyring, encrypter

    shop = night.settings.shop
    files = exposures.files_of(night.settings.places.root / "exposures", night.run_date)
    read = [Input(f.name, hashlib.sha256(f.read_bytes()).hexdigest(), bytes=f.stat().st_size) for f in files]
    settings = night.settings.digest(*SECTIONS)
    if all(night.is_current(d, night.run_date, read, settings) for d in (EXPOSURES, SHOWN)):
        return night.lake.manifest(EXPOSURES, night.run_date)
    splits = {n: split(shop.shop, n, e) for n, e in shop.experiments.items()}
    end = Holdout.of(night.run_date, 1, night.settings.zone).end
    taken = exposures.take(files, splits, night.run_date, end, encrypter(Keyring.load(night.settings)))
    log.info(logs.said("exposures", run_date=night.run_date, lines=taken.lines, shoppers=taken.rows.num_rows, rejected=taken.rejected.num_rows))
    if night.dry_run:
        return None
    with night.lake.writer(SHOWN, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, taken.shown)
        writer.publish(night.run_date, inputs=read, settings=settings, code=code_version(), run_id=night.run_id)
    with night.lake.writer(EXPOSURES, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, taken.rows, taken.rejected)
        return writer.publish(night.run_date, inputs=read, settings=settings, code=code_version(), run_id=night.run_id,
                              sums={"shows": str(taken.lines - taken.rejected.num_rows - taken.plain)}, notes={"lines": taken.lines, "plain": taken.plain})


def _states(night: Night, exposures: Manifest | None, experiments: dict[str, Experiment]) -> tuple[list[State], dict[str, str]]:
    """States after the night, and of each experiment that was changed while it ran what is wrong with that."""
    from nightmarket.online.experiments import Changed, assess
    from nightmarket.online.exposures import exposed
    from nightmarket.recommend.histories import Histories

    before = _before(night)
    histories = Histories.from_table(night.lake.at(FEATURES, night.run_date).arrow())
    states, changed = [], {}
    for name, rules in experiments.items():
        seen = exposed(night.lake, name, list(rules.arms), rules.starts, night.run_date)
        with logs.stage(log, "judged", experiment=name, shoppers=len(seen.unit)) as said:
            try:
                state = assess(name, rules, seen, histories, night.run_date, night.settings.zone, before.get(name))
            except Changed as error:
                changed[name] = str(error)
                said["status"] = "changed"
                continue
            said |= {"status": state.status, "step": state.step, "why": state.why}
        states.append(state)
    return states, changed


def _before(night: Night) -> dict[str, State]:
    """States after the newest earlier night."""
    from nightmarket.online.experiments import State

    earlier = [d for d in night.lake.dates(EXPERIMENTS) if d < night.run_date]
    made = night.lake.manifest(EXPERIMENTS, earlier[-1]) if earlier else None
    return {t["name"]: State.from_json(t) for t in made.notes["states"]} if made else {}


LOOKED_AT = 7
"""Newest days of the log that an experiment to come is judged on: each costs what an arm would have answered then."""


def _foreseen(night: Night) -> dict[str, list[Foreseen]]:
    """What is said, as of the night, of each experiment's arms that is to begin later."""
    found = {}
    for name, rules in night.settings.shop.experiments.items():
        if rules.starts > night.run_date:
            found[name] = [_foresee(night, rules, arm, version) for arm, version in rules.serves.items()]
            for one in found[name]:
                log.info(logs.said("foreseen", experiment=name, arm=one.arm, shoppers=one.shoppers, agreed=one.agreed, why=one.why or None,
                                   **{k.replace(" ", "_"): str(e) for k, e in one.estimates.items()}))
    return found


def _foresee(night: Night, rules: Experiment, arm: str, version: str) -> Foreseen:
    from datetime import timedelta

    import numpy as np

    from nightmarket.online import before
    from nightmarket.online.experiments import values
    from nightmarket.online.exposures import shown
    from nightmarket.recommend.histories import DAY, Histories
    from nightmarket.registry.client import Registry, RegistryError

    lake, one = night.lake, timedelta(days=1)
    try:
        model = Registry(night.settings).version(version)
    except RegistryError as error:
        return before.Foreseen(arm, version, str(error))
    # a day is answered by the night before it, of which the version must not have known more than that; its outcome must be known
    days = [d for d in lake.dates(SHOWN) if model.run_date < d <= night.run_date - rules.horizon_days * one and lake.manifest(FEATURES, d - one) is not None]
    days = days[-LOOKED_AT:]
    seen = shown(lake, days)
    lists = {d: _lists(night, model, d - one) for d in days} if len(seen.unit) else {}
    on = [datetime.fromtimestamp(at, night.settings.zone).date() for at in seen.at]
    wanted = {n: lists[d][u] for n, (d, u) in enumerate(zip(on, seen.unit, strict=True)) if u in lists.get(d, {})}
    histories = Histories.from_table(lake.at(FEATURES, night.run_date).arrow())
    codes = histories.codes_of(list(seen.unit))
    value = values(histories, rules.metric, codes, seen.at, seen.at + rules.horizon_days * DAY)
    earlier = values(histories, rules.metric, codes, seen.at - rules.cuped_days * DAY, seen.at)
    return before.foresee(arm, version, seen, wanted, value, np.log1p(np.abs(earlier))[:, None])


def _lists(night: Night, model: RegisteredModel, of: date) -> dict[str, list[str]]:
    """What the version would have shown each shopper on the day after a night, best first."""
    from dataclasses import replace

    from jobs.publish import answers

    made = night.lake.manifest(RECOMMENDATIONS, of)
    if made is not None and made.notes.get("model_version") == model.version:
        rows = night.lake.at(RECOMMENDATIONS, of).arrow()
    else:
        rows = answers(replace(night, run_date=of), model)[0].rows
    found: dict[str, list[str]] = {}
    for row in rows.select(["audience", "audience_id", "rank", "item_id"]).sort_by("rank").to_pylist():
        if row["audience"] == "user":
            found.setdefault(row["audience_id"], []).append(row["item_id"])
    return found


def _tell_ahead(night: Night, ahead: dict[str, list[Foreseen]]) -> None:
    """A page of each experiment to come; a mail on the first night that knows of it."""
    from nightmarket.online.bulletin import announcement
    from nightmarket.online.experiments import definition
    from nightmarket.quality import letter
    from nightmarket.quality.outbox import Outbox

    settings = night.settings
    folder = settings.places.reports / "experiments" / night.run_date.isoformat()
    earlier = [d for d in night.lake.dates(EXPERIMENTS) if d < night.run_date]
    made = night.lake.manifest(EXPERIMENTS, earlier[-1]) if earlier else None
    known = made.notes.get("ahead", {}) if made else {}
    for name, arms in ahead.items():
        rules = settings.shop.experiments[name]
        told = announcement(settings, name, rules, arms, night.run_date)
        if known.get(name, {}).get("definition") == definition(rules):
            letter.write(told, folder)
        else:
            letter.post(told, folder, Outbox(settings.places.outbox), settings.shop.mail.sender, night.force)


def _publish(
    night: Night, states: list[State], unjudged: list[State], exposures: Manifest | None, ahead: dict[str, list[Foreseen]],
) -> Manifest:
    """`unjudged`: states of the nights before that are still the newest."""
    import pyarrow as pa

    from nightmarket.online.experiments import definition

    started, experiments = time.monotonic(), night.settings.shop.experiments
    told = {n: {"definition": definition(experiments[n]), "arms": [a.to_json() for a in arms]} for n, arms in ahead.items()}
    rows = [
        {"experiment": s.name, "status": s.status, "arm": r.arm, "metric": r.metric, "role": r.role, "units": r.units, "control": r.control,
         "treatment": r.treatment, "change": r.change, "low": r.low, "high": r.high, "p_value": r.p_value}
        for s in states for r in s.readings
    ]
    read = [night.lake.at(FEATURES, night.run_date).manifest.as_input(), *([exposures.as_input()] if exposures else [])]
    with night.lake.writer(EXPERIMENTS, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, pa.Table.from_pylist(rows, EXPERIMENTS.arrow_schema()))
        return writer.publish(night.run_date, inputs=read, settings=night.settings.digest(*SECTIONS), code=code_version(), run_id=night.run_id,
                              seconds=time.monotonic() - started, notes={"states": [s.to_json() for s in (*states, *unjudged)], "ahead": told})


def _serve(night: Night, states: list[State], unjudged: Sequence[str]) -> None:
    """Publications of the arms that models serve, then the list of what runs; what is `unjudged` goes on as it does."""
    from nightmarket.online.experiments import split
    from nightmarket.online.promotion import promoted
    from nightmarket.online.serving import Running, read_running, write_running

    shop, folder = night.settings.shop, night.settings.places.root / "published"
    running = [r for r in read_running(folder) if r.split.name in unjudged]
    for state in states:
        rules, came = shop.experiments[state.name], _came(night, state)
        # a winner that was promoted is what everybody gets; the champions after it are as much theirs
        enrolment = 0.0 if promoted(came) else state.enrolment(rules)
        serves = {arm: _arm(night, state.name, arm, version) for arm, version in rules.serves.items()} if enrolment else {}
        running.append(Running(split(shop.shop, state.name, rules), enrolment, serves, not state.final))
    folder.mkdir(parents=True, exist_ok=True)
    write_running(folder, [*running, *_tomorrow(night)])


def _tomorrow(night: Night) -> list[Running]:
    """Experiments whose first night is the next one: shoppers of that day are the first to be exposed."""
    from datetime import timedelta

    from nightmarket.online.experiments import split
    from nightmarket.online.serving import Running

    shop = night.settings.shop
    return [
        Running(split(shop.shop, name, rules), rules.canary[0], {a: _arm(night, name, a, v) for a, v in rules.serves.items()}, True)
        for name, rules in shop.experiments.items() if rules.starts == night.run_date + timedelta(days=1)
    ]


def _arm(night: Night, name: str, arm: str, version: str) -> str:
    """Publishes what a treatment's model answers for the night; the folder below `published/`."""
    from jobs.publish import answers
    from nightmarket.recommend.lookup import About, serve, serving
    from nightmarket.registry.client import Registry

    place = f"arms/{name}/{arm}"
    folder = night.settings.places.root / "published" / place
    model = Registry(night.settings).version(version)
    source = night.lake.at(FEATURES, night.run_date).manifest.digest
    now = serving(folder)
    if now is None or (now.run_date, now.model_version, now.digest) != (night.run_date, version, source):
        made, _ = answers(night, model)
        serve(folder, made.rows, About(night.run_date, model.name, version, source))
    return place


def _promote_by_hand(night: Night) -> None:
    name, args = night.args.promote, night.args
    if name not in night.settings.shop.experiments:
        raise UsageError(f"--promote {name}: shop.yaml has no such experiment; it has {', '.join(night.settings.shop.experiments) or 'none'}")
    if not (args.approve or "").strip() or not (args.reason or "").strip():
        raise UsageError("--promote needs --approve NAME and --reason TEXT; the ledger keeps both")
    made = night.lake.manifest(EXPERIMENTS, night.run_date)
    from nightmarket.online.experiments import State

    told = {t["name"]: State.from_json(t) for t in made.notes["states"]} if made else {}
    if name not in told:
        raise Refused(f"experiment {name} was not judged on {night.run_date}; run `python -m jobs.experiment --run-date {night.run_date}` first")
    state, who = told[name], args.approve.strip()
    if night.dry_run:
        log.info(logs.said("would promote", experiment=state.name, arm=state.arm, who=who))
        return
    from nightmarket.online.promotion import promote
    from nightmarket.registry.client import Registry

    registry = Registry(night.settings)
    moved = promote(registry.ledger, registry.model, state, night.settings.shop.experiments[name], who, args.reason.strip(), person=True)
    _now_serves(night, state)
    log.info(logs.said("promoted", experiment=state.name, arm=state.arm, who=who, moves=len(moved)))
    if moved:
        _tell(night, [state], {name})


def _promote_once(night: Night, state: State) -> bool:
    """Whether tonight something came of the winner by itself: a promotion, or a refusal."""
    from nightmarket.online.promotion import promote_once, promoted
    from nightmarket.registry.client import Registry

    registry = Registry(night.settings)
    came = promote_once(registry.ledger, registry.model, state, night.settings.shop.experiments[state.name], "jobs.experiment")
    if promoted(_came(night, state)):  # also where a run that was killed promoted it and went no further
        _now_serves(night, state)
    if came is not None:
        log.info(logs.said(came.action, experiment=state.name, arm=state.arm, why=came.why))
    return came is not None


def _now_serves(night: Night, state: State) -> None:
    """Aliases follow the ledger, and what serves is published again where another version made it; nothing once the champion is another."""
    from jobs.rollback import publish_again, serving_night
    from nightmarket.recommend.lookup import serving
    from nightmarket.registry.client import Registry
    from nightmarket.registry.kinds import RECOMMENDER

    registry, version = Registry(night.settings), night.settings.shop.experiments[state.name].serves[str(state.arm)]
    registry.sync()
    now, at = serving(night.settings.places.root / "published"), serving_night(night.settings, night.lake, RECOMMENDER)
    if at is not None and registry.ledger.current(registry.model, "champion") == version and (now is None or now.model_version != version):
        publish_again(night.settings, night.lake, RECOMMENDER, at, version, night.run_id)


def _came(night: Night, state: State) -> Move | None:
    """What had come of the winner by the night."""
    from nightmarket.online.promotion import outcome
    from nightmarket.registry.ledger import Ledger

    if state.status != "won":
        return None
    settings = night.settings
    return outcome(Ledger(settings.places.mlflow / "ledger.db"), settings.shop.model.name, state, night.run_date)


def _tell(night: Night, states: list[State], decided: set[str]) -> None:
    """A page of each; a mail where its state or step changed, or something came of its winner tonight (`decided`)."""
    from nightmarket.online.bulletin import bulletin
    from nightmarket.quality import letter
    from nightmarket.quality.outbox import Outbox

    before, settings = _before(night), night.settings
    folder = settings.places.reports / "experiments" / night.run_date.isoformat()
    for state in states:
        told = bulletin(settings, state, settings.shop.experiments[state.name], _came(night, state))
        was = before.get(state.name)
        if was is not None and (was.status, was.step) == (state.status, state.step) and state.name not in decided:
            letter.write(told, folder)
            continue
        entry, new = letter.post(told, folder, Outbox(settings.places.outbox), settings.shop.mail.sender, night.force)
        log.info(logs.said("told", experiment=state.name, mail=entry.id, queued=new))


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("experiment", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
