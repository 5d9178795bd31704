"""Fit a new forecaster of the shop's sales, or keep the champion.

Reads the night's gold.sales_series. A new one is fitted where there is no champion, settings or code are others, the night's plan of
retraining says so, the champion is `forecast.refit_days` old, series came up that it does not know, or its errors since it was made are beyond those of its backtests
(`forecast.drift`); else the champion stays, and is adjusted by the night's errors when it publishes. What was decided and why is in
the candidate folder, which holds the new forecaster or the champion again. Series go in chunks, with Spark where there is more than
one; a series that fails is named with its reason and gets a seasonal naive forecast. Done before: nothing (unless --force, which
fits).

Exits 3 where the series are too short to forecast the horizon from.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import RETRAINING, SALES_SERIES
from nightmarket.lake import Input, Manifest, code_version, peak_memory_mb, recipe
from nightmarket.registry.kinds import FORECASTER

if TYPE_CHECKING:
    from nightmarket.forecast.family import Family
    from nightmarket.registry.client import RegisteredModel

log = logs.logger("fit_forecasts")
SECTIONS = ("forecast", "time_zone")
"""What of shop.yaml the candidate depends on."""


def run(night: Night) -> list[Manifest]:
    """Leaves the candidate of the night. Publishes no dataset. Raises Refused."""
    from nightmarket.forecast import fitted as fitting
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.client import Registry
    from nightmarket.registry.judging import readable

    settings, rules = night.settings, night.settings.shop.forecast
    series = night.lake.at(SALES_SERIES, night.run_date)
    read = (series.manifest.as_input(),)
    asked = recipe(read, settings.digest(*SECTIONS), code_version(), rules.seed)
    folder = candidates.folder_of(settings, night.run_date, FORECASTER)
    made = candidates.Candidate.read(folder)
    champion = Registry(settings, FORECASTER).for_night(night.run_date)
    plan = night.lake.manifest(RETRAINING, night.run_date)
    planned = plan is not None and plan.notes["actions"].get(FORECASTER.id) == "retrain"
    if made is not None and not night.force:
        # a candidate of just this, or the champion that was kept on this night and still is the champion
        kept = made.training.get("kept")
        if made.recipe == asked or (
            not planned and made.training.get("asked") == asked and champion is not None and kept == champion.version):
            log.info(logs.said("current", run_date=night.run_date, recipe=made.recipe, kept=kept))
            return []
    tree = family_of(night)
    kept_model, unreadable = readable(champion, fitting.Fitted.load)
    why = "--force" if night.force else "as planned" if planned else "a champion that cannot be read" if unreadable else fitting.why_anew(
        kept_model, tree, rules, champion is not None and champion.tags.get("settings") == settings.digest(*SECTIONS),
        champion is not None and champion.tags.get("code") == code_version())
    if night.dry_run:
        log.info(logs.said("would fit" if why else "would keep", run_date=night.run_date, why=why, champion=champion and champion.version))
        return []
    with candidates.alone(folder):
        if why is None and champion is not None:
            logs.identify(model_version=champion.version)
            _publish(night, folder, read, champion.tags["recipe"], {"kept": champion.version, "asked": asked}, lambda to: _copy(champion, to), 0.0)
            log.info(logs.said("kept", run_date=night.run_date, version=champion.version, made_on=champion.run_date))
        else:
            _fit(night, tree, folder, read, asked, str(why))
    return []


def family_of(night: Night) -> Family:
    """The family of the night's gold.sales_series. Raises Refused where its days are too few to forecast from."""
    from nightmarket.forecast.family import family
    from nightmarket.forecast.fitted import reach_of

    rules = night.settings.shop.forecast
    series = night.lake.at(SALES_SERIES, night.run_date)
    tree = family(series.arrow(), reach_of(rules), rules.minimum_sales, series.manifest.notes["holidays"])
    if tree.panel.length < 14:
        raise Refused(f"gold.sales_series of {night.run_date} has {tree.panel.length} days; two weeks are the least that a weekday can be "
                      f"told from. Wait for more nights")
    return tree


def _copy(champion: RegisteredModel, to: Path) -> None:
    shutil.copytree(champion.folder, to)


def _fit(night: Night, tree: Family, folder: Path, read: tuple[Input, ...], asked: str, why: str) -> None:
    from nightmarket.forecast import fitted as fitting
    from nightmarket.forecast.chunked import fitted_parts

    started = time.monotonic()
    rules = night.settings.shop.forecast
    log.info(logs.said("fitting", run_date=night.run_date, why=why, series=tree.panel.size, borrowing=len(tree.small.ids), budget=rules.budget))
    model = fitting.fit(tree, rules, fitted_parts(tree.panel, rules, night.settings))
    seconds = round(time.monotonic() - started, 1)
    training: dict[str, Any] = {
        "why": why, "series": tree.panel.size, "borrowing": len(tree.small.ids), "days": tree.panel.length, "budget": rules.budget,
        "diagnosis": model.diagnosed(), "weights": _usual(model.learnt()), "quarantined": {str(q.series_id): q.reason for q in model.quarantined},
        "seconds_per_series": round(seconds / tree.panel.size, 4),
    }
    _publish(night, folder, read, asked, training, model.save, seconds)
    log.info(logs.said("candidate", run_date=night.run_date, folder=str(folder), seconds=seconds, quarantined=len(model.quarantined)))


def _usual(weights: Any) -> dict[str, float]:
    """Mean weight of each candidate over all series."""
    import numpy as np

    mean = np.mean(list(weights.rows.values()), axis=0)
    return {name: round(float(w), 4) for name, w in zip(weights.names, mean, strict=True)}


def _publish(night: Night, folder: Path, read: tuple[Input, ...], its_recipe: str, training: dict[str, Any], save: Any, seconds: float) -> None:
    from nightmarket.evaluate.protocol import Holdout
    from nightmarket.registry import candidate as candidates

    settings, rules = night.settings, night.settings.shop.forecast
    end = Holdout.of(night.run_date, 1, settings.zone).end
    candidates.publish(folder, candidates.Candidate(
        name=rules.name, run_date=night.run_date.isoformat(), recipe=its_recipe, inputs=read, settings=settings.digest(*SECTIONS),
        code=code_version(), seed=rules.seed, cut=end.isoformat(), end=(end + timedelta(days=rules.horizon)).isoformat(),
        time_zone=settings.shop.time_zone, training=training, seconds=seconds, peak_memory_mb=peak_memory_mb(),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"), run_id=night.run_id,
    ), save)


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("fit_forecasts", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
