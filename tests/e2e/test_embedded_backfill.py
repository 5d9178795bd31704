"""Two past nights of nightly_retraining, backfilled through a real scheduler."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from nightmarket.contracts import DRIFT, RETRAINING
from nightmarket.embedded.night import Screen, backfill
from nightmarket.lake import Lake
from nightmarket.recommend.lookup import serving
from nightmarket.registry.kinds import KINDS
from nightmarket.registry.ledger import Ledger
from tests.e2e.conftest import Embedded
from tests.e2e.test_embedded_retraining import RETRAIN, night  # noqa: F401

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(2400)]


def test_two_past_nights_are_backfilled_and_displace_nothing(embedded_night: Embedded, night: date) -> None:  # noqa: F811
    settings, client = embedded_night.settings, embedded_night.client
    first, last = night - timedelta(days=2), night - timedelta(days=1)
    ledger = Ledger(settings.places.mlflow / "ledger.db")
    champion = ledger.current("recommender", "champion")
    client.patch(f"/dags/{RETRAIN}", {"is_paused": False})

    assert backfill(client, first, last, False, Screen(), RETRAIN), [embedded_night.why(RETRAIN, r["dag_run_id"]) for r in client.runs(RETRAIN)]

    runs = client.runs(RETRAIN, run_type="backfill")
    assert sorted((r["partition_key"], r["state"]) for r in runs) == [(str(first), "success"), (str(last), "success")]
    lake = Lake(settings.places.lake)
    for day in (first, last):
        assert lake.manifest(DRIFT, day) is not None
        assert {r["model"] for r in lake.at(RETRAINING, day).arrow().to_pylist()} == {k.id for k in KINDS}
    assert ledger.current("recommender", "champion") == champion, "a model of a past night displaced one that learnt from newer data"
    now = serving(settings.places.root / "published")
    assert now is not None and (now.run_date, now.model_version) == (night, champion)
    before = {d: lake.manifest(RETRAINING, d) for d in (first, last)}
    moves = len(ledger.history("recommender"))
    assert backfill(client, first, last, False, Screen(), RETRAIN)
    assert len(ledger.history("recommender")) == moves and {d: lake.manifest(RETRAINING, d) for d in (first, last)} == before
