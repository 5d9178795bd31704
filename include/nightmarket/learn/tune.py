"""Hyperparameter search: pruned, within a time budget, resumable, judged by cross-validation over time, told to MLflow.

Optuna (Akiba et al. 2019) draws settings by TPE; a trial is judged fold by fold, oldest first, and given up where it is behind the
median of the others after as many folds. All trials are kept in a database: a search that was interrupted goes on where it
stopped, and what it has spent counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from nightmarket import log as logs

_LOG = logs.logger("learn")
_SPENT = "seconds_spent"


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and, all of them later, rows to judge on: bool masks (n,)."""

    learn: np.ndarray
    judge: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a search found."""

    settings: dict[str, Any]
    loss: float
    """Mean over folds, lower is better."""
    trials: int
    """Finished ones, those of earlier runs included."""
    pruned: int
    seconds: float
    """Spent in all, earlier runs included."""


def folds_over_time(times: np.ndarray, folds: int, gap: float = 0.0) -> list[Fold]:
    """`folds` consecutive later parts to judge on, each after all that is learnt from; the first half of the rows always learns.

    `times` (n,) numbers; rows of one time are never on both sides. `gap`: what lies so shortly before the judged part is left out.
    Raises ValueError where the times are too few.
    """
    at = np.unique(np.quantile(times, np.linspace(0.5, 1.0, folds + 1), method="higher"))
    if folds < 1 or len(at) < folds + 1:
        raise ValueError(f"{len(np.unique(times))} different times are too few for {folds} folds; use fewer")
    out = []
    for n in range(folds):
        last = n == folds - 1
        judge = (times >= at[n]) & ((times <= at[n + 1]) if last else (times < at[n + 1]))
        out.append(Fold(times < at[n] - gap, judge))
    if not all(f.learn.any() and f.judge.any() for f in out):
        raise ValueError(f"a gap of {gap:g} leaves nothing to learn from; use a smaller one or fewer folds")
    return out


def search(
    space: Callable[[optuna.Trial], dict[str, Any]], judge: Callable[[Mapping[str, Any], Fold], float], folds: Sequence[Fold], seconds: float,
    storage: Path, name: str, seed: int = 17, trials: int | None = None, tracking: Any = None, experiment: str = "tuning",
) -> Found:
    """Searches until `seconds` are spent over all runs of this `name`, or `trials` are finished, and returns the best settings.

    `space` draws settings from a trial; `judge` returns the loss on a fold, lower is better, and NaN for settings that cannot be
    learnt from. `storage` is an SQLite file. `tracking` is an mlflow.tracking.MlflowClient: the search becomes a run of
    `experiment`, each trial a child of it. At least one trial is finished, whatever the budget. Raises ValueError where none is.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name, storage=f"sqlite:///{storage}", load_if_exists=True, direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0))
    # each run draws on from where the last one stopped, not the same settings again
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=6)
    for left in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
    spent = float(study.user_attrs.get(_SPENT, 0.0))
    parent = _Run(tracking, experiment, name) if tracking is not None else None

    def done() -> int:
        return len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))

    def finished() -> int:
        return len(study.get_trials(deepcopy=False)) - len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]))

    while (not done() or spent < seconds) and (not done() or trials is None or finished() < trials):
        started = time.monotonic()
        trial = study.ask()
        settings = space(trial)
        losses: list[float] = []
        state = optuna.trial.TrialState.COMPLETE
        for n, fold in enumerate(folds):
            losses.append(float(judge(settings, fold)))
            if not np.isfinite(losses[-1]):
                state = optuna.trial.TrialState.FAIL
                break
            trial.report(float(np.mean(losses)), n)
            if n < len(folds) - 1 and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        study.tell(trial, float(np.mean(losses)) if state == optuna.trial.TrialState.COMPLETE else None, state=state)
        spent += time.monotonic() - started
        study.set_user_attr(_SPENT, spent)
        if parent is not None:
            parent.child(trial.number, settings, losses, state.name)
        _LOG.info(logs.said("trial", study=name, number=trial.number, state=state.name, loss=float(np.mean(losses)), seconds=round(spent, 1)))
        if state == optuna.trial.TrialState.FAIL and not done() and spent >= seconds:
            raise ValueError(f"{name}: no settings of {len(study.trials)} tried could be learnt from; widen the space")
    pruned = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.PRUNED]))
    # the settings as `space` makes them, not the raw draws
    settings = space(optuna.trial.FixedTrial(study.best_params))  # type: ignore[arg-type]
    if parent is not None:
        parent.end(settings, study.best_value)
    return Found(settings, study.best_value, done(), pruned, spent)


class _Run:
    """A run of MLflow with one child a trial."""

    def __init__(self, client: Any, experiment: str, name: str):
        found = client.get_experiment_by_name(experiment)
        self._experiment = found.experiment_id if found is not None else client.create_experiment(experiment)
        self._client = client
        self._run = client.create_run(self._experiment, run_name=name).info.run_id

    def child(self, number: int, settings: Mapping[str, Any], losses: Sequence[float], state: str) -> None:
        tags = {"mlflow.parentRunId": self._run, "state": state}
        run = self._client.create_run(self._experiment, run_name=f"trial-{number}", tags=tags).info.run_id
        for key, value in settings.items():
            self._client.log_param(run, key, value)
        for n, loss in enumerate(losses):
            if np.isfinite(loss):
                self._client.log_metric(run, "loss", loss, step=n)
        self._client.set_terminated(run, "FAILED" if state == "FAIL" else "FINISHED")

    def end(self, settings: Mapping[str, Any], loss: float) -> None:
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)
        self._client.log_metric(self._run, "loss", loss)
        self._client.set_terminated(self._run)
