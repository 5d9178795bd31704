"""`jobs.onboard`: what it publishes, when it does nothing, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs import onboard
from nightmarket.contracts import ONBOARDING
from nightmarket.lake import Lake
from nightmarket.shop import Settings
from tests.jobs.learning import NIGHT, argv, shop

Make = Callable[..., Settings]


def test_the_questions_of_a_night(make_settings: Make) -> None:
    settings = shop(make_settings, questions=6)
    assert onboard.main(argv(settings)) == 0
    rows = Lake(settings.places.lake).at(ONBOARDING, NIGHT).arrow().to_pylist()
    assert [r["rank"] for r in rows] == [1, 2, 3, 4, 5, 6]
    assert len({r["item_id"] for r in rows}) == 6
    assert all(r["title"] == f"thing {r['item_id']}" and 0 < r["liked"] < 1 for r in rows)
    told = [r["explained"] for r in rows]
    assert told == sorted(told) and 6 / 25 < told[-1] <= 1, "six of 25 products tell more than their own share"


def test_again_is_current_and_a_dry_run_writes_nothing(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop(make_settings)
    lake = Lake(settings.places.lake)
    assert onboard.main(argv(settings, "--dry-run")) == 0
    assert lake.manifest(ONBOARDING, NIGHT) is None
    assert onboard.main(argv(settings)) == 0
    before = lake.manifest(ONBOARDING, NIGHT)
    monkeypatch.setattr(onboard, "_choose", lambda *_: pytest.fail("the same inputs were worked on again"))
    assert onboard.main(argv(settings)) == 0
    assert lake.manifest(ONBOARDING, NIGHT) == before


def test_refusals_name_the_remedy(make_settings: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert onboard.main(argv(shop(make_settings, users=3))) == 3
    assert "products that at least 5 of them like" in capsys.readouterr().err


def test_a_refused_night_asks_nothing(make_settings: Make) -> None:
    assert onboard.main(argv(shop(make_settings, verdict="refused"))) == 3
