"""`jobs.respond` and `jobs.summarise`: alerts to actions, their log, what a person is mailed, and that a widened gate is a warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from jobs import respond, rollback, summarise
from nightmarket.contracts import DRIFT, QUALITY
from nightmarket.lake import Lake
from nightmarket.monitor import orders, switches
from nightmarket.monitor.inbox import receive
from nightmarket.monitor.responses import Log
from nightmarket.quality.outbox import Outbox
from nightmarket.quality.rules import SEVERITIES, severity_of
from nightmarket.registry.client import Submission
from nightmarket.registry.kinds import KINDS
from nightmarket.shop import Settings
from tests.jobs import test_publish
from tests.jobs.test_plan_retraining import with_plan
from tests.monitor.test_inbox import posted
from tests.monitor.test_watch import put
from tests.registry import nights
from tests.registry.conftest import empty_database, prepared, stand_in, submission  # noqa: F401
from tests.registry.nights import D

RULES = [
    {"when": "drift.*", "do": "retrain", "cool_down_nights": 2, "window_nights": 2},
    {"when": "quality.live", "do": "rollback", "after_promotion_nights": 3},
    {"when": "quality.live", "do": "stop_online_updates"},
    {"when": "gate.refused", "do": "widen_gate", "window_nights": 2},
]


class Shop(test_publish.Shop):
    """A shop whose champion of night 1 serves it; version 1 of night 0 is the one before."""

    def respond(self, n: int, *more: str) -> int:
        return respond.main(["--shop", str(self.settings.file), "--run-date", str(D(n)), *more])

    def drifted(self, n: int, *features: str, live: tuple[float, float] | None = None, version: str = "2") -> None:
        """gold.drift of a night with these alarms; `live` is (upper end of the live quality of `version`, promise)."""
        told = {"metric": "ndcg@10", "value": live[0] - 0.02, "low": live[0] - 0.04, "high": live[0], "promise": live[1], "users": 50} if live else None
        put(self.settings, DRIFT, D(n), [{
            "kind": "concept" if f.startswith("quality") else "feature", "feature": f, "test": "t", "statistic": 1.0, "p_value": 0.0, "q_value": 0.0,
            "effect": 1.0, "least": 0.5, "drifted": True, "now": "2", "before": "1"} for f in features],
            drifted=sorted(features), hits=0, buyers=0, live=told, versions={"quality.live": version} if told else {})

    @property
    def log(self) -> list[tuple[str, str, str, str]]:
        return [(e.event, e.alert, e.action, e.effect) for e in Log(self.settings.places.root).entries()]

    @property
    def subjects(self) -> list[str]:
        return [e.subject for e in Outbox(self.settings.places.outbox).entries()]

    @property
    def champion(self) -> str | None:
        return self.registry.ledger.current("recommender", "champion")


@pytest.fixture
def shop(make_settings: Callable[..., Settings], prepared: Callable[[Settings], None], submission: Callable[..., Submission]) -> Shop:  # noqa: F811
    settings = make_settings(responses=RULES, model={"holdout_days": 2})
    prepared(settings)
    made = Shop(settings, submission)
    for n in (0, 1):
        nights.publish_inputs(settings, D(n))
        made.promote(n, bias=float(n))
        assert made.publish(n) == 0
    return made


def test_a_quiet_night_does_nothing(shop: Shop) -> None:
    assert shop.respond(1) == 0
    shop.drifted(1)
    assert shop.respond(1) == 0
    assert shop.log == []


def test_drift_orders_a_retraining_for_tonights_plan(shop: Shop) -> None:
    shop.drifted(1, "events.country", "events.rows", "orders.amount")
    assert shop.respond(1) == 0
    order = orders.pending(shop.settings, shop.lake, "recommender", D(1))
    assert order is not None and (order.action, order.who) == ("retrain", "jobs.respond")
    assert order.why.startswith("drift.events: events.country 1 -> 2; events.rows 1 -> 2")
    assert [line[:3] for line in shop.log] == [
        ("began", "drift.events", "retrain"), ("responded", "drift.events", "retrain"), ("declined", "drift.orders", "retrain")]
    assert shop.log[-1][3] == "daily limit of 1"
    before = shop.log
    assert shop.respond(1) == 0 and shop.log == before, "again changes nothing"


def test_a_drift_of_screening_is_the_screeners_alone(shop: Shop) -> None:
    """Labels that contradict it are told, and by these rules nothing is done about them: a screener that learns them would be wrong."""
    shop.drifted(4, "screening_decisions.order", "quality.labels")
    assert shop.respond(4) == 0
    assert [k.id for k in KINDS if orders.pending(shop.settings, shop.lake, k.id, D(4)) is not None] == ["screener"]
    assert shop.log[-1] == ("responded", "drift.screening_decisions", "retrain", "ordered to be made anew: screener")
    told = {a.name: a.model for a in respond.alerts_of(shop.settings, shop.lake, D(4))}
    assert told == {"drift.screening_decisions": "screener", "quality.labels": "screener"}


def test_a_response_that_helped_and_one_that_did_not(shop: Shop) -> None:
    shop.drifted(1, "events.country")
    shop.respond(1)
    shop.drifted(2)
    shop.respond(2)
    assert shop.log[-1] == ("helped", "drift.events", "retrain", "drift.events is gone")
    shop.drifted(4, "events.country")
    shop.respond(4)
    shop.drifted(5, "events.country")
    shop.respond(5)
    assert shop.log[-1][0] == "declined" and not [s for s in shop.subjects if "still there" in s]
    shop.drifted(6, "events.country")
    shop.respond(6)
    assert ("escalated", "drift.events", "retrain", "a person is told") in shop.log
    assert "[Small shop] drift.events is still there: a person is needed" in shop.subjects
    assert shop.log[-1][0] == "responded", "and it is tried again, for its cool-down is over"


def test_a_guardrail_that_breaks_soon_after_a_promotion_goes_back(shop: Shop) -> None:
    shop.drifted(1, live=(0.15, 0.30))
    assert shop.respond(1) == 0
    assert shop.champion == "1"
    now = test_publish.serving(shop.published)
    assert now is not None and now.model_version == "1"
    newest = shop.registry.ledger.newest("recommender", "champion")
    assert newest is not None and (newest.who, newest.action, newest.evidence["alert"]) == ("jobs.respond", "back", "quality.live")
    assert "promised 0.3000" in newest.why
    assert any(line[:3] == ("responded", "quality.live", "rollback") and "went back from version 2 to 1, verified" in line[3] for line in shop.log)
    assert any("went back to version 1" in s for s in shop.subjects)
    assert switches.online_updates_stopped(shop.settings) is not None, "the second rule about the same alert"


def test_only_what_was_measured_is_gone_back_from(shop: Shop) -> None:
    nights.publish_inputs(shop.settings, D(2))
    shop.promote(2, bias=2.0)
    shop.publish(2)
    shop.drifted(2, live=(0.15, 0.30), version="2")
    assert shop.respond(2) == 0
    assert shop.champion == "3" and ("declined", "quality.live", "rollback", "version 2 was measured, and 3 serves since") in shop.log
    shop.drifted(4, live=(0.15, 0.30), version="3")
    assert shop.respond(4) == 0
    assert shop.champion == "2" and set(shop.registry.ledger.gone_back_from("recommender")) == {"3"}


def test_what_was_published_before_a_rollback_says_nothing_about_it(shop: Shop) -> None:
    """Live quality of the version gone back from goes on coming in, here for two nights: no sign that the rollback did not help, even where
    its window is over, nor that it did where a night of it is well. What the version before publishes is one."""
    shop.drifted(1, live=(0.15, 0.30))
    shop.respond(1)
    for n, live in ((2, (0.25, 0.30)), (4, (0.15, 0.30))):
        shop.drifted(n, live=live)
        shop.respond(n)

    def ends(n: int, live: tuple[float, float] | None, version: str) -> list[str]:
        shop.drifted(n, live=live, version=version)
        shop.respond(n)
        return [event for event, _, action, _ in shop.log if action == "rollback" and event in ("helped", "escalated")]

    assert ends(5, None, "1") == [], "nobody had bought: not known"
    assert [ends(6, (0.25, 0.30), "1"), ends(7, (0.15, 0.30), "1")] == [["helped"], ["helped"]]
    assert not [s for s in shop.subjects if "still there" in s]


def test_live_quality_of_the_model_before_a_retraining_says_nothing_about_it(
    make_settings: Callable[..., Settings], prepared: Callable[[Settings], None], submission: Callable[..., Submission],  # noqa: F811
) -> None:
    """For as many nights as quality takes to be known, what is measured is the version that was made anew; then its successor."""
    settings = make_settings(responses=[{"when": "quality.live", "do": "retrain", "window_nights": 1, "cool_down_nights": 9}], model={"holdout_days": 2})
    prepared(settings)
    shop = Shop(settings, submission)

    def ends(n: int, version: str) -> list[str]:
        shop.drifted(n, live=(0.15, 0.30), version=version)
        shop.respond(n)
        return [event for event, *_ in shop.log if event in ("helped", "escalated")]

    for n in (0, 1):
        nights.publish_inputs(settings, D(n))
        shop.promote(n, bias=float(n))
        shop.publish(n)
    assert ends(2, "2") == [] and shop.log[-1][0] == "responded"
    nights.publish_inputs(settings, D(2))
    shop.promote(2, bias=2.0)
    assert ends(3, "2") == ends(4, "2") == [], "version 3 serves since, and nothing is known of it"
    assert ends(5, "3") == ["escalated"], "it is as bad"


def test_a_rollback_after_which_the_version_before_is_as_bad_is_told_to_a_person(shop: Shop) -> None:
    shop.drifted(1, live=(0.15, 0.30))
    shop.respond(1)
    shop.drifted(5, live=(0.15, 0.30), version="1")
    shop.respond(5)
    assert ("escalated", "quality.live", "rollback", "a person is told") in shop.log


def test_a_night_on_which_nobody_looked_says_nothing(shop: Shop) -> None:
    """Refused, it is not compared: an alert of drift is not over, nor is one of the gate where it is not judged."""
    shop.drifted(1, "events.country")
    shop.respond(1)
    refused(shop, 2, "events.schema")
    assert shop.respond(2) == 0
    assert [line[0] for line in shop.log if line[1] == "drift.events"] == ["began", "responded"]
    assert shop.respond(3) == 0 and [line[0] for line in shop.log if line[1] == "gate.refused"] == ["began", "responded", "escalated"]


def test_a_widening_has_helped_when_the_gate_holds_without_it(shop: Shop) -> None:
    """While the rules are warnings no night is refused by them; the third night is judged as ever."""
    def after(passed: bool) -> list[str]:
        refused(shop, 2, "events.volume_lost")
        shop.respond(2)
        nights.publish_inputs(shop.settings, D(3), "warned")
        shop.respond(3)
        assert [line[0] for line in shop.log] == ["began", "responded"]
        nights.publish_inputs(shop.settings, D(4)) if passed else refused(shop, 4, "events.volume_lost")
        shop.respond(4)
        told = [line[0] for line in shop.log]
        Log(shop.settings.places.root).path.unlink()
        return told

    assert after(True) == ["began", "responded", "helped"]
    assert after(False) == ["began", "responded", "escalated", "declined"]


def test_within_the_promise_nothing_is_done(shop: Shop) -> None:
    shop.drifted(1, live=(0.25, 0.30))
    shop.respond(1)
    assert shop.champion == "2" and shop.log == []


def test_long_after_the_promotion_it_is_not_the_models_fault(shop: Shop) -> None:
    nights.publish_inputs(shop.settings, D(5))
    shop.drifted(5, live=(0.15, 0.30))
    shop.respond(5)
    assert shop.champion == "2"
    assert ("declined", "quality.live", "rollback", "no promotion within 3 nights: it is 4 nights old") in shop.log


def test_a_response_that_fails_is_told_to_a_person(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise rollback.NotServed("version 1 is the champion, but what serves is version 2")

    monkeypatch.setattr(rollback, "roll_back", broken)
    shop.drifted(1, live=(0.15, 0.30))
    assert shop.respond(1) == 0
    assert ("responded", "quality.live", "rollback", "failed: version 1 is the champion, but what serves is version 2") in shop.log
    assert ("escalated", "quality.live", "rollback", "a person is told") in shop.log
    assert any("quality.live is still there" in s for s in shop.subjects)


def test_killed_between_two_lines_it_is_done_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    shop.drifted(1, live=(0.15, 0.30))
    with monkeypatch.context() as patch:
        patch.setattr("jobs.publish.run", killed)
        assert shop.respond(1) == 130
    assert shop.champion == "1" and shop.log == [("began", "quality.live", "rollback", "")]
    # the alias moved already, so the rule does not go back a second time: it finishes the publication
    head = shop.registry.ledger.head()
    assert shop.respond(1) == 0
    assert shop.champion == "1" and shop.registry.ledger.head() == head
    assert any(line[:3] == ("responded", "quality.live", "rollback") and line[3].startswith("went back to 1, verified") for line in shop.log)
    now = test_publish.serving(shop.published)
    assert now is not None and now.model_version == "1"


def test_online_updates_are_off_until_a_person_lifts_it(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.drifted(9, live=(0.15, 0.30))
    shop.respond(9)
    assert "quality.live" in (switches.online_updates_stopped(shop.settings) or "")
    assert shop.respond(10, "--lift", "online_updates") == 2
    assert shop.respond(10, "--lift", "gate.x", "--who", "Ada") == 2
    assert "off are online_updates" in capsys.readouterr().err
    assert shop.respond(10, "--lift", "online_updates", "--who", "Ada") == 0
    assert switches.online_updates_stopped(shop.settings) is None
    assert shop.log[-1][0] == "lifted"


def refused(shop: Shop, n: int, *critical: str) -> None:
    with Lake(shop.settings.places.lake).writer(QUALITY, [D(n)]) as writer:
        writer.publish(D(n), inputs=[], settings="s", code="c",
                       notes={"verdict": "refused", "from_date": str(D(n)), "failed": {"critical": list(critical), "warning": [], "info": []}})


def test_a_gate_is_widened_to_a_warning_for_a_while(shop: Shop) -> None:
    refused(shop, 2, "events.volume_lost", "orders.quarantine_share")
    assert shop.respond(2) == 0
    assert {n: [(s.since, s.until) for s in spans] for n, spans in switches.switches(shop.settings).items()} == {
        "gate.events.volume_lost": [(str(D(2)), str(D(3)))], "gate.orders.quarantine_share": [(str(D(2)), str(D(3)))]}
    for n, severity in ((1, "critical"), (2, "warning"), (3, "warning"), (4, "critical")):
        assert severity_of(switches.reviewed(shop.settings, D(n)), "events", "volume_lost") == severity
    assert severity_of(switches.reviewed(shop.settings, D(2)), "items", "volume_lost") == "critical"
    assert switches.reviewed(shop.settings, D(2)).digest("gate") != shop.settings.digest("gate"), "the night is judged again"


def test_nights_between_two_widenings_are_judged_as_ever(shop: Shop) -> None:
    """Each widening is of its own nights: run again, those of the first are judged as they were, and those between as they were."""
    for n in (2, 8):
        refused(shop, n, "events.volume_lost")
        assert shop.respond(n) == 0
    found = {n: severity_of(switches.reviewed(shop.settings, D(n)), "events", "volume_lost") for n in range(1, 11)}
    assert [n for n, severity in found.items() if severity == "warning"] == [2, 3, 8, 9] and set(found.values()) == {"warning", "critical"}
    name = "gate.events.volume_lost"
    assert [switches.off(shop.settings, D(n)) for n in (9, 10)] == [[name], []], "over by itself, nobody lifts it"
    assert shop.respond(10, "--lift", name, "--who", "Ada") == 2
    assert shop.respond(9, "--lift", name, "--who", "Ada") == 0
    assert severity_of(switches.reviewed(shop.settings, D(9)), "events", "volume_lost") == "critical"
    assert [(s.since, s.until) for s in switches.switches(shop.settings)[name]] == [(str(D(2)), str(D(3))), (str(D(8)), str(D(8)))]


def test_what_loses_or_doubles_rows_is_never_widened(shop: Shop) -> None:
    refused(shop, 2, "events.volume_lost", "events.recount")
    assert shop.respond(2) == 0
    assert switches.switches(shop.settings) == {}
    assert ("responded", "gate.refused", "widen_gate", "failed: what refused the night cannot be widened: events.recount") in shop.log
    assert not {"schema", "not_null", "allowed", "range", "unique_key", "recount", "totals", "delivery"} & set(switches.WIDENABLE)
    assert set(switches.WIDENABLE) < set(SEVERITIES)


def test_alerts_from_elsewhere(shop: Shop) -> None:
    assert shop.respond(1, "--alert", "drift.stream=events lag by 2 h") == 0
    assert shop.log[-1][:3] == ("responded", "drift.stream", "retrain")
    assert shop.respond(1, "--alert", "drift.stream") == 2


def test_a_dry_run_does_nothing(shop: Shop) -> None:
    shop.drifted(1, "events.country", live=(0.15, 0.30))
    assert shop.respond(1, "--dry-run") == 0
    assert shop.log == [] and shop.champion == "2"


# --- jobs.summarise


def summary(shop: Shop, n: int) -> tuple[str, str]:
    """(subject, text) of the newest summary."""
    assert summarise.main(["--shop", str(shop.settings.file), "--run-date", str(D(n))]) == 0
    box = Outbox(shop.settings.places.outbox)
    entry = [e for e in box.entries() if ("Models of" in e.subject or "的模型" in e.subject) and str(D(n)) in e.subject][-1]
    return entry.subject, box.message(entry.id).get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_the_morning_mail(shop: Shop) -> None:
    with_plan(shop, "skip")
    shop.drifted(0, "events.country")
    subject, text = summary(shop, 0)
    assert subject == f"[Small shop] Models of {D(0)}: 0 of {len(KINDS)} trained, all serve"
    assert "Every model of" in text and "left alone" in text and "version 2" in text
    assert "Drifted against the same weekdays before: events.country." in text
    again = len(Outbox(shop.settings.places.outbox).entries())
    summary(shop, 0)
    assert len(Outbox(shop.settings.places.outbox).entries()) == again


def test_a_failure_is_told_with_its_words(shop: Shop) -> None:
    from nightmarket import command
    from nightmarket.command import Refused

    def run(_: Any) -> list[Any]:
        raise Refused("gold.features of 2026-03-01: 3 shoppers bought")

    with_plan(shop, "retrain")
    command.main("train", "doc", run, ["--shop", str(shop.settings.file), "--run-date", str(D(0))])
    subject, text = summary(shop, 0)
    assert subject == f"[Small shop] Models of {D(0)}: train needs you"
    assert "3 shoppers bought" in text and f"python -m jobs.diagnose --run-date {D(0)}" in text and "made anew" in text


def test_a_night_without_a_plan_or_refused_is_told_about(shop: Shop, make_settings: Callable[..., Settings]) -> None:
    assert "No plan was made for this night." in summary(shop, 3)[1]
    refused(shop, 4, "events.volume_lost")
    subject, text = summary(shop, 4)
    assert "data gate needs you" in subject and "The data gate refused the night" in text


def test_in_chinese(shop: Shop) -> None:
    file = shop.settings.file
    file.write_text(file.read_text().replace("shop: small", "language: zh\nshop: small"))
    subject, text = summary(shop, 3)
    assert "的模型" in subject and "当晚没有制定训练计划。" in text


def test_an_alert_that_was_posted_is_answered_on_the_newest_night(shop: Shop) -> None:
    """Alertmanager's, by way of the look-up service; a night that is run again does not know of what fires today."""
    settings = shop.settings
    receive(settings, posted(("LookupFailing", "firing", "f1")))
    rules = [*RULES, {"when": "prometheus.Lookup*", "do": "rollback", "after_promotion_nights": 3}]
    told = yaml.safe_load(settings.file.read_text())
    settings.file.write_text(yaml.safe_dump({**told, "responses": rules}))
    assert shop.respond(0) == 0
    assert shop.log == [] and shop.champion == "2"
    assert shop.respond(1) == 0
    assert [(e, a, d) for e, a, d, _ in shop.log] == [(e, "prometheus.LookupFailing", "rollback") for e in ("began", "responded")]
    assert shop.champion == "1"
