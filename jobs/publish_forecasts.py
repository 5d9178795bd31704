"""Publish the champion's forecasts of the days after the night, and what to order by them.

Reads the night's gold.sales_series. The champion of the night answers: as it was fitted, adjusted by the errors since then, or, where
its reach has ended, with its weights on the sales of now. Forecasts are made to add up across items, categories, countries and the
total to the last hundredth, checked (finite, non-negative, within a stated multiple of history, coherent), and published as
gold.forecasts and gold.reorders, and as CSV files for a spreadsheet under reports/models/<run date>/<model name>/.

A past night is answered by the champion of that night. Exits 3 where no champion may answer or a check fails; what was published
before stays.
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
from nightmarket.contracts import FORECASTS, REORDERS, SALES_SERIES
from nightmarket.lake import Input, Manifest, code_version
from nightmarket.quality.verdict import require_passed
from nightmarket.registry.kinds import FORECASTER

if TYPE_CHECKING:
    from nightmarket.registry.client import RegisteredModel

log = logs.logger("publish_forecasts")


def run(night: Night) -> list[Manifest]:
    """Manifests of the night's gold.forecasts and gold.reorders. Raises Refused."""
    from nightmarket.registry.client import Registry

    require_passed(night.lake, night.run_date)
    series = night.lake.at(SALES_SERIES, night.run_date)
    model = Registry(night.settings, FORECASTER).for_night(night.run_date)
    if model is None:
        raise Refused(f"no champion may forecast the night of {night.run_date}: none was promoted on data up to it; run jobs.fit_forecasts, "
                      f"jobs.judge_forecasts, jobs.register --model forecaster and jobs.bless --model forecaster for it")
    logs.identify(model_version=model.version)
    read = [series.manifest.as_input(), Input(f"model/{model.name}/{model.version}", model.tags["weights"])]
    digest = night.settings.digest(*SECTIONS)
    if all(night.is_current(d, night.run_date, read, digest) for d in (FORECASTS, REORDERS)):
        log.info(logs.said("current", run_date=night.run_date, version=model.version))
    elif night.dry_run:
        log.info(logs.said("would publish", run_date=night.run_date, version=model.version))
        return []
    else:
        _publish(night, model, read, digest)
    return [m for d in (FORECASTS, REORDERS) if (m := night.lake.manifest(d, night.run_date))]


def _publish(night: Night, model: RegisteredModel, read: list[Input], digest: str) -> None:
    from nightmarket.forecast.fitted import Fitted, answer, since, why_anew
    from nightmarket.forecast.publication import publication, spreadsheet
    from nightmarket.registry import candidate as candidates

    started = time.monotonic()
    rules, tree = night.settings.shop.forecast, family_of(night)
    with logs.stage(log, "forecast", run_date=night.run_date, version=model.version) as said:
        fitted = Fitted.load(model.folder)
        told = answer(fitted, tree, rules)
        made = publication(tree, told, rules, model.name, model.version)
        said |= {"how": told.how, "rows": made.forecasts.num_rows}
    if made.failed:
        raise Refused(f"forecasts of {night.run_date} by version {model.version} are not published: "
                      f"{'; '.join(f'{c.name}: {c.detail}' for c in made.failed)}. Fit anew with `python -m jobs.fit_forecasts --force`, or go "
                      f"back to an earlier version (`python -m jobs.ledger --help`)")
    errors = since(fitted, tree)
    notes = {
        "model_version": model.version, "trained_on": model.run_date.isoformat(), "how": told.how, "horizon": rules.horizon,
        "series": tree.panel.size, "borrowing": len(tree.small.ids), "checks": {c.name: c.detail for c in made.checks},
        "quarantined": {str(q.series_id): q.reason for q in told.quarantined},
        # for the plan of the next night; other settings and other code it sees for itself
        "due": why_anew(fitted, tree, rules, same_settings=True, same_code=True),
        # for the alerts of the next night
        "worse": f"its errors of {errors.seen} days are beyond {rules.drift:g} times those of its backtests"
        if errors.drifted(rules.drift, rules.bootstrap, rules.seed) else None,
    }
    for dataset, rows in ((FORECASTS, made.forecasts), (REORDERS, made.reorders)):
        with night.lake.writer(dataset, [night.run_date]) as writer:
            writer.stage_arrow(night.run_date, rows)
            writer.publish(night.run_date, inputs=read, settings=digest, code=code_version(), run_id=night.run_id,
                           seconds=time.monotonic() - started, notes=notes)
    for path in spreadsheet(made, candidates.report_of(night.settings, night.run_date, FORECASTER)):
        log.info(logs.said("spreadsheet", file=path.name, folder=str(path.parent)))


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("publish_forecasts", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
