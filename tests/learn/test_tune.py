"""The search: folds never learn from later rows; bad trials are cut short; the budget holds over restarts; children in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.learn.tune import Fold, folds_over_time, search


def space(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -4.0, 4.0), "kind": trial.suggest_categorical("kind", ["a", "b"])}


def parabola(settings: Mapping[str, Any], fold: Fold) -> float:
    return (settings["x"] - 1.0) ** 2 + (0.0 if settings["kind"] == "a" else 5.0)


FOLDS = folds_over_time(np.arange(40.0), 4)


def test_folds_by_hand() -> None:
    found = folds_over_time(np.arange(8.0), 2)
    # quantiles 0.5, 0.75, 1 of 0 … 7, the higher of two: 4, 6, 7
    assert [(np.flatnonzero(f.learn).tolist(), np.flatnonzero(f.judge).tolist()) for f in found] == [
        ([0, 1, 2, 3], [4, 5]), ([0, 1, 2, 3, 4, 5], [6, 7])]
    with pytest.raises(ValueError, match="2 different times are too few for 3 folds"):
        folds_over_time(np.array([1.0, 1.0, 2.0]), 3)


@given(times=st.lists(st.integers(0, 60), min_size=30, max_size=120), folds=st.integers(1, 4), gap=st.integers(0, 3))
def test_what_is_learnt_lies_before_what_is_judged(times: list[int], folds: int, gap: int) -> None:
    at = np.array(times, float)
    try:
        found = folds_over_time(at, folds, gap)
    except ValueError:
        return
    judged = np.zeros(len(at), int)
    for fold in found:
        assert at[fold.learn].max() < at[fold.judge].min() - gap
        judged += fold.judge
    assert judged.max() == 1
    assert (at[judged == 1].max(), len(found)) == (at.max(), folds)


def test_finds_the_bottom_and_prunes_what_is_far_from_it(tmp_path: Path) -> None:
    found = search(space, parabola, FOLDS, 600, tmp_path / "study.db", "bowl", trials=25)
    assert found.settings["kind"] == "a" and abs(found.settings["x"] - 1.0) < 0.5
    assert found.trials + found.pruned == 25 and found.pruned > 0


def test_goes_on_where_it_stopped_and_counts_what_was_spent(tmp_path: Path) -> None:
    calls: list[float] = []

    def counted(settings: Mapping[str, Any], fold: Fold) -> float:
        calls.append(settings["x"])
        return parabola(settings, fold)

    first = search(space, counted, FOLDS[:1], 600, tmp_path / "s.db", "n", trials=3)
    second = search(space, counted, FOLDS[:1], 600, tmp_path / "s.db", "n", trials=5)
    assert (first.trials, second.trials, len(calls), len(set(calls))) == (3, 5, 5, 5)
    assert second.seconds > first.seconds and second.loss <= first.loss
    assert search(space, counted, FOLDS[:1], first.seconds / 2, tmp_path / "s.db", "n").trials == 5  # the budget is spent
    assert len(calls) == 5


@pytest.mark.parametrize("killed_at", [0, 11])
def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path, killed_at: int) -> None:
    calls = 0

    def killed(settings: Mapping[str, Any], fold: Fold) -> float:
        nonlocal calls
        calls += 1
        if calls == killed_at + 1:
            raise KeyboardInterrupt
        return parabola(settings, fold)

    start = {"x": 3.0, "kind": "b"}
    whole = search(space, parabola, FOLDS, 600, tmp_path / "whole.db", "n", trials=8, start=start)
    with pytest.raises(KeyboardInterrupt):
        search(space, killed, FOLDS, 600, tmp_path / "killed.db", "n", trials=8, start=start)
    resumed = search(space, killed, FOLDS, 600, tmp_path / "killed.db", "n", trials=8, start=start)
    assert resumed.tried == whole.tried and resumed.settings == whole.settings
    assert whole.tried[0].settings == start and whole.tried[0].losses == (9.0,) * 4
    assert len(whole.tried) == 8 and {t.state for t in whole.tried} == {"complete", "pruned"}
    assert whole.loss == min(t.loss for t in whole.tried if t.state == "complete")
    assert all(len(t.losses) == 4 for t in whole.tried if t.state == "complete")
    assert calls == 1 + sum(len(t.losses) for t in whole.tried) + (killed_at - _of_whole_trials(whole.tried, killed_at))


def _of_whole_trials(tried: tuple[Any, ...], calls: int) -> int:
    """Of the first calls, those of trials that were over by then."""
    done = 0
    for t in tried:
        if done + len(t.losses) > calls:
            break
        done += len(t.losses)
    return done


def test_one_trial_is_finished_whatever_the_budget(tmp_path: Path) -> None:
    assert search(space, parabola, FOLDS, 0.0, tmp_path / "s.db", "n").trials == 1


def test_settings_that_cannot_be_learnt_from_fail_and_are_not_chosen(tmp_path: Path) -> None:
    found = search(space, lambda s, f: float("nan") if s["kind"] == "b" else s["x"] ** 2, FOLDS, 600, tmp_path / "s.db", "n", trials=6)
    assert found.settings["kind"] == "a"
    with pytest.raises(ValueError, match="no settings of 1 tried could be learnt from"):
        search(space, lambda s, f: float("nan"), FOLDS, 0.0, tmp_path / "t.db", "n")
    with pytest.raises(ValueError, match="no settings of 3 tried could be learnt from"):
        search(space, lambda s, f: float("nan"), FOLDS, 600, tmp_path / "u.db", "n", trials=3)


def test_trials_are_children_of_one_run(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = search(space, parabola, FOLDS, 600, tmp_path / "s.db", "n", trials=2, tracking=client)
    runs = client.search_runs([client.get_experiment_by_name("tuning").experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 1 and len(children) == found.trials + found.pruned
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parents[0].info.run_id}
    assert parents[0].data.metrics["loss"] == found.loss
    assert float(parents[0].data.params["x"]) == found.settings["x"]
