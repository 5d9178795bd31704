"""Learn the night's screener from gold.screening_features.

Two of one recipe: `judged` from what was known before the holdout (the last `screening.holdout_days` days, more where verdicts are few), which `jobs.judge_screener`
judges, and `served` from all that is known by the night, which answers once the model gate lets it. So verdicts of the last weeks change the
next night's decisions, and no model is judged on rows that it has learned. Kinds without enough verdicts are judged by
strangeness. With the same inputs, settings, code and seed as the candidate that is there nothing is done (unless --force).

Exits 3 where there is nothing to learn from; the message says what is missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import SCREENING_FEATURES
from nightmarket.lake import Manifest, code_version, peak_memory_mb, recipe
from nightmarket.registry.kinds import SCREENER

if TYPE_CHECKING:
    from nightmarket.screen.screening import Options

log = logs.logger("train_screener")
SECTIONS = ("screening", "time_zone")
"""What of shop.yaml the candidate depends on."""


def run(night: Night) -> list[Manifest]:
    """Leaves the candidate of the night. Publishes no dataset. Raises Refused, LakeError."""
    from nightmarket.registry import candidate as candidates

    settings, rules = night.settings, night.settings.shop.screening
    read = (night.lake.at(SCREENING_FEATURES, night.run_date).manifest.as_input(),)
    asked = recipe(read, settings.digest(*SECTIONS), code_version(), rules.seed)
    folder = candidates.folder_of(settings, night.run_date, SCREENER)
    made = candidates.Candidate.read(folder)
    if made is not None and made.recipe == asked and not night.force:
        log.info(logs.said("current", run_date=night.run_date, recipe=asked))
        return []
    if night.dry_run:
        log.info(logs.said("would_train", run_date=night.run_date, recipe=asked, folder=str(folder)))
        return []
    with candidates.alone(folder):
        _train(night, asked, folder)
    return []


def options_of(night: Night) -> Options:
    """How the night's models are learned and asked."""
    from nightmarket.screen.screening import Options

    rules = night.settings.shop.screening
    return Options(seed=rules.seed, folds=3, seeds=2, negatives=rules.negatives)


def _train(night: Night, asked: str, folder: Path) -> None:
    from nightmarket.registry import candidate as candidates
    from nightmarket.screen.judging import cut_of
    from nightmarket.screen.screener import Described, Screener

    started = time.monotonic()
    rules = night.settings.shop.screening
    partition = night.lake.at(SCREENING_FEATURES, night.run_date)
    given = Described.of(partition.arrow(), partition.manifest.notes)
    end = datetime.fromisoformat(partition.manifest.notes["end"])
    cut = cut_of(given, end, rules.holdout_days)
    options = options_of(night)
    judged, served = (Screener.learn(given, moment, options, rules.languages) for moment in (cut, end))
    if not judged.parts:
        raise Refused(f"gold.screening_features of {night.run_date}: no rows before {cut:%Y-%m-%d}; wait for more nights, or lower screening.holdout_days")

    def save(to: Path) -> None:
        to.mkdir(parents=True)
        judged.save(to / "judged")
        served.save(to / "served")

    said = {k: {n: v for n, v in p.model.summary.items() if n != "model"} for k, p in served.parts.items()}
    made = candidates.Candidate(
        name=rules.name, run_date=night.run_date.isoformat(), recipe=asked, inputs=(partition.manifest.as_input(),),
        settings=night.settings.digest(*SECTIONS), code=code_version(), seed=rules.seed, cut=cut.isoformat(), end=end.isoformat(),
        time_zone=night.settings.shop.time_zone, training={"kinds": said}, seconds=round(time.monotonic() - started, 1),
        peak_memory_mb=peak_memory_mb(), created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"), run_id=night.run_id,
    )
    candidates.publish(folder, made, save)
    for kind, summary in said.items():
        log.info(logs.said("learned", kind=kind, by=summary["kind"], bad=summary.get("bad"), good=summary.get("good")))
    log.info(logs.said("candidate", run_date=night.run_date, folder=str(folder), seconds=made.seconds, peak_memory_mb=made.peak_memory_mb))


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("train_screener", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
