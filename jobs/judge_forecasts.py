"""Judge the night's forecaster beside the champion and the baselines, on the same rolling origins.

Needs the candidate of `jobs.fit_forecasts`. At each of `forecast.origins` origins everything is made from what was known then, made
to add up, and compared with the sales that followed: skill (1 - MASE / MASE of the seasonal naive forecast; the same of RMSSE, WAPE
and the interval score) and coverage, each with its 95 % interval over series and paired differences, by level and kind of series.
A champion that stays is followed up instead: the days since it was made, beside the seasonal naive forecast of then. Publishes
gold.forecast_evaluation and leaves `evaluation/` in the candidate's folder. Judged before: nothing is done (unless --force).

Exits 3 where the history is too short for one origin.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.fit_forecasts import SECTIONS, family_of
from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import FORECAST_EVALUATION, SALES_SERIES
from nightmarket.lake import Input, Manifest, code_version
from nightmarket.registry.kinds import FORECASTER

if TYPE_CHECKING:
    from nightmarket.forecast.fitted import Fitted
    from nightmarket.forecast.judging import Judged
    from nightmarket.registry.candidate import Candidate
    from nightmarket.registry.client import RegisteredModel

log = logs.logger("judge_forecasts")


def run(night: Night) -> list[Manifest]:
    """Publishes gold.forecast_evaluation of the night. Raises Refused."""
    from nightmarket.registry.judging import judged

    digest = night.settings.digest(*SECTIONS)
    return judged(night, FORECASTER, SALES_SERIES, digest, lambda made, champion, read: _judge(night, made, champion, read, digest))


def _judge(night: Night, made: Candidate, champion: RegisteredModel | None, read: list[Input], digest: str) -> Manifest:
    from nightmarket.forecast.fitted import Fitted
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.judging import evaluation_folder, readable, tell_unreadable

    started = time.monotonic()
    folder = candidates.folder_of(night.settings, night.run_date, FORECASTER)
    kept = made.training.get("kept")
    serving, unreadable = (None, "") if kept else readable(champion, Fitted.load)
    found = _follow_up(night, str(kept)) if kept else _origins(night, serving, champion.version if champion and serving else None)
    with evaluation_folder(folder) as staging:
        found.save(staging)
        tell_unreadable(staging, champion, unreadable)
    with night.lake.writer(FORECAST_EVALUATION, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, found.rows())
        manifest = writer.publish(
            night.run_date, inputs=read, settings=digest, code=code_version(), seed=made.seed, run_id=night.run_id, seconds=time.monotonic() - started,
            notes={"holdout": {"cut": found.cut.isoformat(), "end": found.end.isoformat(), "digest": found.digest, "series": len(found.ids)},
                   "candidate": made.recipe, "champion": champion.version if champion else None, "kept": kept},
        )
    for name, slices in found.table.items():
        metric = night.settings.shop.forecast.blessing.metric
        log.info(logs.said("result", model=name, metric=metric, value=str(slices["all"][metric])))
    return manifest


def _origins(night: Night, serving: Fitted | None, version: str | None) -> Judged:
    """`version` is that of the champion that is `serving`."""
    from nightmarket.forecast import judging
    from nightmarket.forecast.chunked import judged_parts

    rules, tree = night.settings.shop.forecast, family_of(night)
    backs = judging.origins(rules, tree.panel.length)
    if not backs:
        raise Refused(f"gold.sales_series of {night.run_date} has {tree.panel.length} days; to judge forecasts of {rules.horizon} days ahead "
                      f"{rules.horizon + judging.FEWEST_DAYS} are needed. Wait for more nights, or lower forecast.horizon")
    with logs.stage(log, "judged", series=tree.panel.size, origins=len(backs)):
        return judging.judge(tree, rules, backs, judged_parts(tree.panel, rules, backs, serving, night.settings), version)


def _follow_up(night: Night, version: str) -> Judged:
    from nightmarket.forecast import judging
    from nightmarket.forecast.fitted import Fitted, since
    from nightmarket.registry import candidate as candidates

    rules, tree = night.settings.shop.forecast, family_of(night)
    stays = Fitted.load(candidates.folder_of(night.settings, night.run_date, FORECASTER) / "model")
    found = since(stays, tree)
    if not found.ids:
        raise Refused(f"gold.sales_series of {night.run_date}: no series of forecaster version {version} has sales after {stays.made_on}; "
                      f"run `python -m jobs.fit_forecasts --run-date {night.run_date} --force`")
    return judging.follow_up(stays, tree, rules, version, found)


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("judge_forecasts", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
