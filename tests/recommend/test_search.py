"""The search for settings: around shop.yaml's own, on periods before the holdout, continued after a kill, the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from nightmarket.learn import loop
from nightmarket.learn.strategy import place
from nightmarket.recommend import search, stages, training
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.histories import DAY, Histories, seconds
from nightmarket.recommend.towers import purchase_days
from nightmarket.registry.candidate import Candidate
from nightmarket.shop import Model, Search
from tests.recommend import synthetic

SETTINGS = Model(embedding_dim=8, candidates=30, epochs=1, max_history=10, fit_days=14, holdout_days=14, batch_size=32, search=Search(trials=2))


def test_settings_are_drawn_around_those_of_the_shop() -> None:
    trial = optuna.trial.FixedTrial({"learning_rate": 1e-3, "embedding_dim": 16, "weight_decay": 1e-2, "batch_size": 64})
    assert search.space_of(SETTINGS, 1)(trial) == {"learning_rate": 1e-3, "embedding_dim": 16, "weight_decay": 1e-2, "batch_size": 64}
    space = dict(trial.distributions)
    assert space["embedding_dim"].choices == (4, 8, 16) and space["batch_size"].choices == (16, 32, 64)
    assert (space["learning_rate"].low, space["learning_rate"].high) == (2.5e-4, 8e-3)
    # 32 replicas can share a batch of 96, not one of 24 or 48
    search.space_of(SETTINGS.model_copy(update={"batch_size": 48}), 32)(trial := optuna.trial.FixedTrial(
        {"learning_rate": 1e-3, "embedding_dim": 4, "weight_decay": 1e-3, "batch_size": 96}))
    assert trial.distributions["batch_size"].choices == (96,)


def test_periods_do_not_overlap_and_end_with_the_newest() -> None:
    days = [d * DAY for d in (30, 40, 50, 60, 70, 80)]
    assert stages.moments(days, 20, 3) == [40 * DAY, 60 * DAY, 80 * DAY]
    assert stages.moments(days, 20, 9) == [40 * DAY, 60 * DAY, 80 * DAY]
    assert stages.moments(days[:1], 20, 3) == [30 * DAY]


@pytest.fixture(scope="module")
def past() -> Histories:
    table, _ = synthetic.shop(users=40, items=15)
    return Histories.from_table(table).before(float(seconds(synthetic.moment(86)))).compact()


@pytest.fixture(scope="module")
def periods(past: Histories, tmp_path_factory: pytest.TempPathFactory) -> list[stages.Period]:
    catalogue = Catalogue.of(past.item_ids, synthetic.shop(users=40, items=15)[1])
    cuts = training.cut_times(float(past.time.min()), float(seconds(synthetic.moment(86))), 14)
    return search.periods_of(past, lambda _: catalogue, float(past.time.min()), cuts, SETTINGS, tmp_path_factory.mktemp("periods"), wanted=1)


@pytest.mark.tensorflow
def test_a_period_is_judged_by_its_own_purchase_days(past: Histories, periods: list[stages.Period]) -> None:
    (period,) = periods
    assert period.moment == seconds(synthetic.moment(72)) and period.end == seconds(synthetic.moment(86)), "the two weeks before the holdout"
    learner = period.learner(SETTINGS, place(1))
    losses = period.losses(learner, SETTINGS)
    assert len(losses) == len(purchase_days(past, period.moment, period.end)[0].user)
    assert abs(losses.mean() - np.log(past.items)) < 1.0, "towers that know nothing find every item about as likely"
    from nightmarket.recommend import towers

    judged = towers.examples(list(period.judge), stages.shape_of(past, SETTINGS), 32, None)
    assert losses.mean() == pytest.approx(learner.evaluate(judged), rel=1e-5)


@pytest.mark.tensorflow
def test_killed_in_a_trial_it_ends_as_if_it_had_not_been(
    periods: list[stages.Period], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit, calls = loop.Trainer.fit, []

    def counted(self: Any, *args: Any) -> Any:
        calls.append(self.batch_size)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit(self, *args)

    monkeypatch.setattr(loop.Trainer, "fit", counted)
    whole = search.settle(periods, SETTINGS, tmp_path / "whole", place(1))
    with pytest.raises(KeyboardInterrupt):
        search.settle(periods, SETTINGS, tmp_path / "killed", place(1))
    assert len(calls) == 4, "two trials, then one and the one that was killed"
    assert search.settle(periods, SETTINGS, tmp_path / "killed", place(1)) == whole
    assert len(calls) == 5, "the first trial is not made again"
    assert whole["trials"][0]["settings"] == {"learning_rate": 2e-3, "embedding_dim": 8, "weight_decay": 1e-3, "batch_size": 32}
    best = min(whole["trials"], key=lambda t: t["value"])
    assert whole["settings"] == best["settings"] and whole["loss"] == best["value"] and whole["run"] == 2
    assert [t["state"] for t in whole["trials"]] == ["complete", "complete"]


def test_only_the_night_that_searched_tells_its_trials() -> None:
    from nightmarket.recommend.package import trials

    account = {"search": {"night": "2026-04-10", "trials": [
        {"number": 0, "settings": {"embedding_dim": 8}, "losses": [2.0, 3.0], "value": 2.5, "state": "complete"},
        {"number": 1, "settings": {"embedding_dim": 16}, "losses": [None], "value": None, "state": "fail"}]}}

    def of(night: str, training: dict[str, Any]) -> Candidate:
        return Candidate("recommender", night, "r", (), "s", "c", 1, "", "", "UTC", training, 0.0, 0.0, "")

    made = trials(of("2026-04-10", account))
    assert [(c.name, c.params, c.metrics, c.tags) for c in made] == [
        ("trial 0", {"embedding_dim": 8}, {"loss": [2.0, 3.0], "value": [2.5]}, {"state": "complete"}),
        ("trial 1", {"embedding_dim": 16}, {"loss": []}, {"state": "fail"})]
    assert trials(of("2026-04-11", account)) == [] and trials(of("2026-04-10", {})) == []
