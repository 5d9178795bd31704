"""The towers' settings, searched for on periods before the holdout (`model.search`).

Learning rate, width, weight decay and batch are drawn around what shop.yaml says, which is itself the first trial; epochs are settled by
early stopping. A trial learns towers on the days before a period and is judged by how well they foretell each purchase day within it
(cross-entropy over the catalogue), period after period, oldest first. The second stage settles its own sizes on the newest lists, as ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket import log as logs
from nightmarket.learn import loop
from nightmarket.learn.strategy import Placement
from nightmarket.recommend import stages
from nightmarket.recommend.histories import DAY, Histories
from nightmarket.recommend.stages import Period
from nightmarket.shop import Model as Settings

if TYPE_CHECKING:
    import optuna

_LOG = logs.logger("recommend")
PERIODS = 3
"""At most; a window of `fit_days` each, the newest ending at the holdout."""
SETTLED = ("learning_rate", "embedding_dim", "weight_decay", "batch_size")
"""What is searched for."""


def space_of(settings: Settings, replicas: int) -> Callable[[optuna.Trial], dict[str, Any]]:
    """Draws of an optuna trial around what `settings` say; batches that the replicas can share alone."""
    dims = sorted({d for d in (settings.embedding_dim // 2, settings.embedding_dim, settings.embedding_dim * 2) if 4 <= d <= 1024})
    if settings.transfer is not None:
        dims = [settings.embedding_dim]  # another width could take nothing over
    batches = sorted({b for b in (settings.batch_size // 2, settings.batch_size, settings.batch_size * 2) if b and not b % replicas})

    def space(trial: optuna.Trial) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", settings.learning_rate / 8, settings.learning_rate * 4, log=True),
            "embedding_dim": trial.suggest_categorical("embedding_dim", dims),
            "weight_decay": trial.suggest_float("weight_decay", min(1e-6, settings.weight_decay), max(1e-1, settings.weight_decay), log=True),
            "batch_size": trial.suggest_categorical("batch_size", batches),
        }

    return space


def settle(periods: Sequence[Period], settings: Settings, work: Path, placement: Placement) -> dict[str, Any]:
    """What was tried and found; `settings` among it are the winner's. The same call with the same `work` continues after a kill.

    Raises ValueError where no settings can be learnt from.
    """
    from nightmarket.learn import tune

    asked = settings.search
    assert asked is not None

    def judge(drawn: Mapping[str, Any], period: Period) -> float:
        chosen = settings.model_copy(update=dict(drawn))
        learner = period.learner(chosen, placement)
        learn, watch = period.sets(chosen)
        try:
            learner.fit(learn, watch, stages.first_plan(chosen))
        except loop.Diverged as error:
            _LOG.info(logs.said("diverged", why=str(error), **drawn))
            return math.nan
        return float(period.losses(learner, chosen).mean())

    with logs.stage(_LOG, "settings_searched", periods=len(periods)) as said:
        found = tune.search(
            space_of(settings, placement.replicas), judge, periods, math.inf if asked.minutes is None else asked.minutes * 60, work / "search.db",
            "towers", settings.seed, asked.trials, start={name: getattr(settings, name) for name in SETTLED})
        said |= {"trials": len(found.tried), "pruned": found.pruned, "loss": found.loss, "spent": round(found.seconds, 1), **found.settings}
    return {
        "settings": found.settings, "loss": found.loss, "asked": asked.trials, "minutes": asked.minutes, "run": len(found.tried),
        "complete": found.trials, "pruned": found.pruned,
        "periods": [[_day(p.moment), _day(p.end)] for p in periods],
        "trials": [{"number": n, "settings": t.settings, "losses": [None if math.isnan(v) else v for v in t.losses],
                    "value": None if math.isnan(t.loss) else t.loss, "state": t.state} for n, t in enumerate(found.tried)],
    }


def periods_of(
    past: Histories, priced: Callable[[float], Any], first: float, cuts: Sequence[float], settings: Settings, work: Path, wanted: int = PERIODS,
) -> list[Period]:
    """At most `wanted` windows of `fit_days` before the holdout that can be judged on, oldest first. `priced`: the catalogue as of a moment."""
    made = [Period.of(past, priced(moment), first, moment, moment + settings.fit_days * DAY, settings, work / f"period-{n}")
            for n, moment in enumerate(stages.moments(cuts, settings.fit_days, wanted))]
    return [p for p in made if p is not None]


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat()
