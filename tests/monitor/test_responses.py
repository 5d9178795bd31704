"""Rules, cool-downs, limits and outcomes of responses, and the log that is only added to."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.monitor.responses import Alert, Entry, Log, Suspect, Tampered, decide, due, replaced, suspect
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Response

DAY = date(2026, 3, 1)
DRIFT, LIVE = Alert("drift.events", "price up"), Alert("quality.live", "0.2 of 0.3")
RETRAIN = Response(when="drift.*", do="retrain", cool_down_nights=3, daily_limit=1, window_nights=2)
ROLLBACK = Response(when="quality.*", do="rollback", after_promotion_nights=3)


def D(n: int) -> date:
    return DAY + timedelta(days=n)


def done(n: int, alert: str = "drift.events", action: str = "retrain", event: str = "responded", window: int = 2) -> Entry:
    return Entry(event, f"{alert}{n}", str(D(n)), alert, action, "c", "e", window)  # type: ignore[arg-type]


def names(night: int, alerts: Sequence[Alert], rules: Sequence[Response], past: Sequence[Entry] = (), promoted: int | None = 0,
          rolled_back: bool = False) -> list[tuple[str, str, str]]:
    serves = Suspect(None if promoted is None else D(promoted), "1", ("2",), "the champion was gone back to already" if rolled_back else "", rolled_back)
    found = decide(alerts, rules, past, D(night), lambda *_: serves)
    return [(i.alert.name, i.rule.do, i.declined) for i in found]


def test_a_rule_answers_the_alerts_that_its_pattern_names() -> None:
    assert names(1, [DRIFT, LIVE], [RETRAIN]) == [("drift.events", "retrain", "")]
    assert names(1, [LIVE], [RETRAIN]) == []
    assert names(1, [], [RETRAIN, ROLLBACK]) == []
    both = [RETRAIN, Response(when="drift.events", do="stop_online_updates")]
    assert names(1, [DRIFT], both) == [("drift.events", "retrain", ""), ("drift.events", "stop_online_updates", "")]


def test_cool_down() -> None:
    past = [done(1)]
    assert names(1, [DRIFT], [RETRAIN], past) == [("drift.events", "retrain", f"done on {D(1)}; cool-down of 3 nights")], "twice in one night"
    assert names(3, [DRIFT], [RETRAIN], past)[0][2] == f"done on {D(1)}; cool-down of 3 nights"
    assert names(4, [DRIFT], [RETRAIN], past)[0][2] == ""
    assert names(2, [Alert("drift.orders", "x")], [RETRAIN], past)[0][2] == "", "of another alert there is none"
    assert names(0, [DRIFT], [RETRAIN], past)[0][2] == "", "a night that is run again does not know what came after it"


def test_daily_limit() -> None:
    three = [Alert(f"drift.{n}", "x") for n in ("events", "items", "orders")]
    assert [d for _, _, d in names(1, three, [RETRAIN])] == ["", "daily limit of 1", "daily limit of 1"]
    wide = RETRAIN.model_copy(update={"daily_limit": 2})
    assert [d for _, _, d in names(1, three, [wide])] == ["", "", "daily limit of 2"]
    assert [d for _, _, d in names(1, three[1:], [wide], [done(1)])] == ["", "daily limit of 2"]


def test_a_rollback_needs_a_promotion_not_long_ago() -> None:
    assert names(2, [LIVE], [ROLLBACK], promoted=0)[0][2] == ""
    assert names(3, [LIVE], [ROLLBACK], promoted=0)[0][2] == "no promotion within 3 nights: it is 3 nights old"
    assert names(2, [LIVE], [ROLLBACK], promoted=None)[0][2] == "no promotion within 3 nights"
    assert names(2, [LIVE], [ROLLBACK], promoted=5)[0][2].startswith("no promotion within"), "a champion of later data is not the cause"
    assert names(2, [LIVE], [ROLLBACK], promoted=0, rolled_back=True)[0][2] == "the champion was gone back to already"
    twice = names(2, [LIVE, Alert("quality.hit_rate", "x")], [ROLLBACK.model_copy(update={"daily_limit": 2})], promoted=0)
    assert [d for _, _, d in twice] == ["", "the champion was gone back to already"], "one step back a night"
    with pytest.raises(ValueError, match="after_promotion_nights"):
        Response(when="quality.*", do="rollback")


def of(ledger: Ledger, version: str | None) -> tuple[date | None, str | None, tuple[str, ...], str]:
    found = suspect(ledger.history("m"), version)
    return found.promoted, found.to, found.out, found.innocent


def test_the_version_that_was_measured_is_suspected_with_what_came_of_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    assert of(ledger, None) == (None, None, (), "nothing serves")
    ledger.promote("m", "1", None, "a", "b", run_date=D(0))
    assert of(ledger, "1") == (D(0), None, ("1",), "no champion before version 1")
    ledger.promote("m", "2", "1", "a", "b", run_date=D(5))
    for version, parent in (("3", "2"), ("4", "3")):
        ledger.promote("m", version, parent, "jobs.update", "b", {"online": {"parent": parent}}, D(6))
    # measured on night 5, when version 2 published: its updates of night 6 go with it, its window is its own
    assert of(ledger, "2") == (D(5), "1", ("4", "3", "2"), "")
    assert of(ledger, "3") == (D(6), "2", ("4", "3"), "")
    assert of(ledger, None) == (D(6), "3", ("4",), ""), "nothing was measured: who serves, and only that"
    assert of(ledger, "1")[3] == "version 1 was measured, and 4 serves since"
    # what an experiment promotes has its window from then, whenever it was trained
    ledger.promote("m", "9", "4", "a", "b", {"experiment": {"night": str(D(8))}}, D(3))
    assert replaced(ledger.history("m"), "4", D(7)) and replaced(ledger.history("m"), "4", D(8)) and not replaced(ledger.history("m"), "4", D(9))
    assert not replaced(ledger.history("m"), "4", D(6)) and not replaced(ledger.history("m"), "9", D(8)) and not replaced(ledger.history("m"), "0", D(8))
    assert of(ledger, "9") == (D(8), "4", ("9",), "") and of(ledger, "2")[3] == "version 2 was measured, and 9 serves since"
    ledger.back("m", "9", "a", "b", {"rollback": {"out": ["9", "2"]}}, to="1")
    assert suspect(ledger.history("m"), "9").gone and suspect(ledger.history("m"), None).gone and set(ledger.gone_back_from("m")) == {"9", "2"}
    assert of(ledger, "1")[:2] == (None, "9") and of(ledger, "1")[3] == "the champion before, version 9, was itself taken out of service"


def test_a_rollback_is_of_the_model_that_the_alert_or_the_rule_names() -> None:
    asked: list[tuple[str, str | None]] = []

    def whom(model: str, version: str | None) -> Suspect:
        asked.append((model, version))
        return Suspect(D(0), "1", ("2",))

    alerts = [Alert("quality.screener", "x", "screener", "7"), Alert("elsewhere", "y"), Alert("quality.live", "z", "recommender", "4")]
    rules = [ROLLBACK.model_copy(update={"daily_limit": 3}), ROLLBACK.model_copy(update={"when": "elsewhere", "model": "forecaster"})]
    found = decide(alerts, rules, [], D(1), whom)
    assert [(i.alert.name, i.model, i.declined) for i in found] == [
        ("quality.screener", "screener", ""), ("quality.live", "recommender", ""), ("elsewhere", "forecaster", "")]
    assert asked == [("screener", "7"), ("recommender", "4"), ("forecaster", None)]


def test_what_began_and_never_ended_is_done_again() -> None:
    assert names(1, [DRIFT], [RETRAIN], [done(1, event="began")])[0][2] == ""
    (intent,) = decide([LIVE], [ROLLBACK], [], D(1), lambda *_: Suspect(D(0), "1", ("2",)))
    begun = Entry("began", intent.id(D(1)), str(D(1)), "quality.live", "rollback", "c")
    gone = Suspect(innocent="version 2 was gone back from already", gone=True)
    assert [decide([LIVE], [ROLLBACK], past, D(1), lambda *_: gone)[0].declined for past in ([begun], [])] == ["", gone.innocent]


def test_an_outcome_is_known_when_the_alert_is_gone_or_the_window_over() -> None:
    past = [done(1)]
    assert due(past, [DRIFT], D(1)) == [] and due(past, [], D(1)) == []
    assert due(past, [DRIFT], D(2)) == [], "its window of two nights is not over"
    assert due(past, [], D(2)) == [(past[0], True)]
    assert due(past, [DRIFT], D(3)) == [(past[0], False)]
    assert due(past, [DRIFT], D(3), lambda entry: entry.alert == "drift.events") == [] == due(past, [], D(3), lambda _: True), "nobody could tell"
    assert due([*past, done(1, event="escalated")], [DRIFT], D(4)) == []
    assert due([*past, done(1, event="helped")], [], D(4)) == []


@given(nights=st.lists(st.sampled_from([(), (DRIFT,), (DRIFT, Alert("drift.items", "x"))]), max_size=20))
def test_whatever_comes_limits_hold(nights: list[tuple[Alert, ...]]) -> None:
    rule = RETRAIN.model_copy(update={"cool_down_nights": 2})
    past: list[Entry] = []
    for n, alerts in enumerate(nights):
        for intent in decide(alerts, [rule], past, D(n), lambda *_: Suspect()):
            if not intent.declined:
                past.append(Entry("responded", intent.id(D(n)), str(D(n)), intent.alert.name, rule.do, "c"))
    for n in range(len(nights)):
        assert sum(e.night == str(D(n)) for e in past) <= 1
    for alert in ("drift.events", "drift.items"):
        days = [e.day for e in past if e.alert == alert]
        assert all((b - a).days >= 2 for a, b in itertools.pairwise(days))


def test_the_log_keeps_its_lines(tmp_path: Path) -> None:
    log = Log(tmp_path)
    assert log.entries() == []
    for n in range(12):
        log.add(done(n))
    assert [e.night for e in log.entries()] == [str(D(n)) for n in range(12)]
    assert all(e.at for e in log.entries())


@pytest.mark.parametrize("change", ["edit", "remove", "swap", "cut"])
def test_a_changed_log_is_found(tmp_path: Path, change: str) -> None:
    log = Log(tmp_path)
    for n in range(4):
        log.add(done(n))
    lines = log.path.read_text().splitlines()
    if change == "edit":
        lines[1] = json.dumps({**json.loads(lines[1]), "effect": "nothing"})
    elif change == "remove":
        del lines[1]
    elif change == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        lines[3] = lines[3][:40]
    log.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(Tampered, match=r"responses\.jsonl: line"):
        log.entries()
