"""Mails about a night that is late or failed go the way of the reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nightmarket.embedded.services import free_port
from nightmarket.orchestration.alerts import TellFailure, deadline, tell_late
from nightmarket.quality.outbox import Outbox
from nightmarket.shop import Settings

CONTEXT = {"dag_run": {"dag_id": "shop_ingestion", "dag_run_id": "scheduled__1", "partition_key": "2026-03-04"}}


@pytest.fixture
def shop(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Makes the shop that Airflow serves; its mail server does not answer."""

    def make(**changes: Any) -> Settings:
        settings = make_settings(
            owners={"default": {"name": "Owner", "mail": ["owner@example.org"]},
                    "recommendations": {"name": "Sellers", "mail": ["a@example.org", "b@example.org"], "language": "zh"}},
            mail={"port": free_port(20_000)}, **changes,
        )
        monkeypatch.setenv("NIGHTMARKET_SHOP", str(settings.file))
        return settings

    return make


def test_a_late_night_is_told_once_and_waits_for_a_server(shop: Callable[..., Settings]) -> None:
    settings = shop(schedule={"deadline_minutes": 45})
    for _ in range(2):
        asyncio.run(tell_late(owner="events", context=CONTEXT))
    [entry] = Outbox(settings.places.outbox).entries("queued")
    assert entry.subject == "Small shop: shop_ingestion of 2026-03-04 is late"
    assert [r.address for r in entry.recipients] == ["owner@example.org"]
    body = Outbox(settings.places.outbox).message(entry.id).get_content()
    assert "not done 45 minutes after it was asked for" in body and "scheduled__1" in body


def test_a_failure_is_told_in_the_owners_language(shop: Callable[..., Settings]) -> None:
    settings = shop()
    run = SimpleNamespace(dag_id="recommendation_training", run_id="asset_triggered__1", partition_key="2026-03-04")
    TellFailure("recommendations")({"dag_run": run})
    [entry] = Outbox(settings.places.outbox).entries()
    assert entry.subject == "Small shop:2026-03-04 的 recommendation_training 失败"
    assert [r.address for r in entry.recipients] == ["a@example.org", "b@example.org"]


def test_the_deadline_is_the_shops(shop: Callable[..., Settings]) -> None:
    shop(schedule={"deadline_minutes": 45})
    alert = deadline("events")
    assert alert.interval.total_seconds() == 45 * 60
    assert alert.callback.kwargs == {"owner": "events"}
    assert alert.callback.path == "nightmarket.orchestration.alerts.tell_late"
