"""Every kind of model: what it names exists, and no two share a registered name."""

from __future__ import annotations

import pytest

from nightmarket.registry import kinds
from nightmarket.registry.kinds import KINDS, Kind
from nightmarket.shop import Blessing, Settings
from nightmarket.steps import step


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.id)
def test_what_a_kind_names_exists(kind: Kind, settings: Settings) -> None:
    assert isinstance(kind.blessing(settings.shop), Blessing)
    assert callable(kind.load(kind.card)) and callable(kind.load(kind.package))
    assert kind.evaluation in step(kind.evaluate).writes
    assert step(kind.train).pool == "training" and step(kind.publish).writes


def test_names_are_apart(settings: Settings) -> None:
    names = [k.name(settings.shop) for k in KINDS]
    assert len(set(names)) == len(names)
    assert kinds.kind("recommender").name(settings.shop) == "recommender"


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no kind of model 'oracle'; there are recommender"):
        kinds.kind("oracle")
