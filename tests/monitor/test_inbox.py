"""Alerts that Alertmanager posts: kept while they fire, forgotten when they are over, and none kept of a message that is none."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from nightmarket.monitor.inbox import FORGOTTEN, NotAnAlert, firing, receive
from nightmarket.monitor.responses import Alert
from nightmarket.shop import Settings

NOW = datetime(2026, 3, 1, 9, tzinfo=timezone.utc)


def posted(*alerts: tuple[str, str, str], shop: str | None = "small") -> bytes:
    """(name, status, fingerprint) of each alert."""
    return json.dumps({"version": "4", "status": "firing", "alerts": [
        {"status": status, "fingerprint": mark, "startsAt": "2026-03-01T08:58:00Z", "endsAt": "0001-01-01T00:00:00Z",
         "labels": {"alertname": name, **({"shop": shop} if shop else {})}, "annotations": {"summary": f"{name} of {mark}"}}
        for name, status, mark in alerts]}).encode()


def test_an_alert_is_kept_until_it_is_over(settings: Settings) -> None:
    assert firing(settings, NOW) == []
    assert receive(settings, posted(("LookupSlow", "firing", "f1"), ("StepSlow", "firing", "f2"), ("LookupSlow", "firing", "f3")), NOW) == [
        "prometheus.LookupSlow", "prometheus.StepSlow", "prometheus.LookupSlow"]
    assert firing(settings, NOW) == [
        Alert("prometheus.LookupSlow", "LookupSlow of f1; LookupSlow of f3"), Alert("prometheus.StepSlow", "StepSlow of f2")]
    assert receive(settings, posted(("LookupSlow", "resolved", "f1"), ("StepSlow", "resolved", "f2")), NOW) == []
    assert firing(settings, NOW) == [Alert("prometheus.LookupSlow", "LookupSlow of f3")]


def test_what_is_not_repeated_is_over(settings: Settings) -> None:
    receive(settings, posted(("LookupDown", "firing", "f1")), NOW)
    assert firing(settings, NOW + FORGOTTEN) != []
    assert firing(settings, NOW + FORGOTTEN + timedelta(seconds=1)) == []


def test_another_shops_alert_is_not_ours(settings: Settings) -> None:
    assert receive(settings, posted(("LookupDown", "firing", "f1"), shop="other"), NOW) == []
    assert receive(settings, posted(("MetricsMissing", "firing", "f2"), shop=None), NOW) == ["prometheus.MetricsMissing"]
    assert [a.name for a in firing(settings, NOW)] == ["prometheus.MetricsMissing"]


@pytest.mark.parametrize("body", [
    b"", b"\xff", b"[]", b"{}", b'{"alerts": 3}', b'{"alerts": [{"status": "firing"}]}', b'{"alerts": [null]}',
    b'{"alerts": [{"status": "firing", "fingerprint": "f", "labels": [], "startsAt": "x"}]}',
    posted(*[("A", "firing", str(n)) for n in range(1001)]),
])
def test_what_is_no_alert_changes_nothing(settings: Settings, body: bytes) -> None:
    receive(settings, posted(("LookupDown", "firing", "f1")), NOW)
    with pytest.raises(NotAnAlert):
        receive(settings, body, NOW)
    assert [a.name for a in firing(settings, NOW)] == ["prometheus.LookupDown"]
