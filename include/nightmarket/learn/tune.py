"""Hyperparameter search: pruned, within a time budget, resumable, judged by cross-validation over time, told to MLflow.

Optuna (Akiba et al. 2019) draws settings by TPE; a trial is judged fold by fold, oldest first, and given up where it is behind the
median of the others after as many folds. All trials are kept in a database: a search that was interrupted goes on where it
stopped, and what it has spent counts. What a trial draws depends on the seed and the trials finished before it alone, so a search that
was killed ends as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna

from nightmarket import log as logs

_LOG = logs.logger("learn")
_SPENT = "seconds_spent"
_KILLED = "killed"
_LOSSES = "losses"
F = TypeVar("F")


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and, all of them later, rows to judge on: bool masks (n,)."""

    learn: np.ndarray
    judge: np.ndarray


@dataclass(frozen=True)
class Tried:
    """One finished trial."""

    settings: dict[str, Any]
    losses: tuple[float, ...]
    """Of the folds it was judged on, oldest first; lower is better."""
    state: str
    """"complete", "pruned", or "fail" for settings that cannot be learnt from."""

    @property
    def loss(self) -> float:
        """Mean over its folds."""
        return float(np.mean(self.losses))


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
    tried: tuple[Tried, ...] = ()
    """Every finished trial, in order."""


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
    space: Callable[[optuna.Trial], dict[str, Any]], judge: Callable[[Mapping[str, Any], F], float], folds: Sequence[F], seconds: float,
    storage: Path, name: str, seed: int = 17, trials: int | None = None, tracking: Any = None, experiment: str = "tuning",
    start: Mapping[str, Any] | None = None,
) -> Found:
    """Searches until `seconds` are spent over all runs of this `name`, or `trials` are finished, and returns the best settings.

    `space` draws settings from a trial; `judge` returns the loss on one of `folds` (whatever it understands), lower is better, and NaN
    for settings that cannot be learnt from. `storage` is an SQLite file. `start`: draws of the first trial, so that the best is never worse than they are.
    `tracking` is an mlflow.tracking.MlflowClient: the search becomes a run of `experiment`, each trial a child of it. At least one
    trial is finished, whatever the budget. Raises ValueError where none is.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name, storage=f"sqlite:///{storage}", load_if_exists=True, direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0))
    running = [t.number for t in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])]
    killed = sorted({*study.user_attrs.get(_KILLED, []), *running})
    study.set_user_attr(_KILLED, killed)
    for number in running:
        study.tell(number, state=optuna.trial.TrialState.FAIL)  # its process was killed: it is drawn again
    spent = float(study.user_attrs.get(_SPENT, 0.0))
    parent = _Run(tracking, experiment, name) if tracking is not None else None

    def finished() -> list[optuna.trial.FrozenTrial]:
        return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.number not in killed]

    def done() -> int:
        return len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))

    def over() -> bool:
        return spent >= seconds or (trials is not None and len(finished()) >= trials)

    while not done() or not over():
        started = time.monotonic()
        before = len(finished())
        study.sampler = optuna.samplers.TPESampler(seed=seed + before, n_startup_trials=6)
        if start is not None and not before and not study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.WAITING]):
            study.enqueue_trial(dict(start))
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
        trial.set_user_attr(_LOSSES, [v if np.isfinite(v) else None for v in losses])
        study.tell(trial, float(np.mean(losses)) if state == optuna.trial.TrialState.COMPLETE else None, state=state)
        spent += time.monotonic() - started
        study.set_user_attr(_SPENT, spent)
        if parent is not None:
            parent.child(trial.number, settings, losses, state.name)
        _LOG.info(logs.said("trial", study=name, number=before, state=state.name, loss=float(np.mean(losses)), seconds=round(spent, 1)))
        if not done() and over():
            raise ValueError(f"{name}: no settings of {len(finished())} tried could be learnt from; widen the space")
    pruned = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.PRUNED]))
    tried = tuple(Tried(_drawn(space, t.params), tuple(float("nan") if v is None else v for v in t.user_attrs[_LOSSES]), t.state.name.lower())
                  for t in finished())
    settings = _drawn(space, study.best_params)
    if parent is not None:
        parent.end(settings, study.best_value)
    return Found(settings, study.best_value, done(), pruned, spent, tried)


def _drawn(space: Callable[[optuna.Trial], dict[str, Any]], params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as `space` makes them, not the raw draws."""
    return space(optuna.trial.FixedTrial(dict(params)))  # type: ignore[arg-type]


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
