"""Train the recommender on what is before the holdout.

Reads the night's gold.features and the newest silver.items of the nights that the gate let through, freezes the last
`model.holdout_days` days of the shop's calendar, trains on events before them and leaves a candidate folder for
`jobs.evaluate` and `jobs.register`. Killed and started again, it continues from its last checkpoint and ends with the same
model. With the same inputs, settings, code and seed as the candidate that is there, nothing is done (unless --force).

Exits 3 where the histories are too thin to learn from or to judge on; the message says what is missing.
"""

from __future__ import annotations

import shutil
import sys
import time
from datetime import datetime, timezone

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import FEATURES, ITEMS
from nightmarket.lake import Input, Manifest, code_version, newest_arrow, nights, peak_memory_mb, recipe
from nightmarket.quality.verdict import passed_nights, require_passed

log = logs.logger("train")
SECTIONS = ("model", "time_zone")
"""What of shop.yaml the candidate depends on."""


def inputs(night: Night) -> tuple[Input, ...]:
    """Manifests that the candidate is made from. Raises LakeError, Refused."""
    require_passed(night.lake, night.run_date)
    passed = passed_nights(night.lake, night.run_date)
    features = night.lake.at(FEATURES, night.run_date)
    return (features.manifest.as_input(),
            *(p.manifest.as_input() for p in nights(night.lake, ITEMS, night.run_date, only=passed)))


def run(night: Night) -> list[Manifest]:
    """Leaves the candidate of the night. Publishes no dataset."""
    from nightmarket.registry import candidate as candidates

    settings, shop = night.settings, night.settings.shop.model
    read = inputs(night)
    asked = recipe(read, settings.digest(*SECTIONS), code_version(), shop.seed)
    folder = candidates.folder_of(settings, night.run_date)
    made = candidates.Candidate.read(folder)
    if made is not None and made.recipe == asked and not night.force:
        log.info(logs.said("current", run_date=night.run_date, recipe=asked))
        return []
    if night.dry_run:
        log.info(logs.said("would_train", run_date=night.run_date, recipe=asked, folder=str(folder)))
        return []
    with candidates.alone(folder):
        _train(night, read, asked)
    return []


def _train(night: Night, read: tuple[Input, ...], asked: str) -> None:
    from nightmarket.evaluate.protocol import Holdout, Trial
    from nightmarket.recommend.histories import Histories
    from nightmarket.recommend.model import Recommender, TooLittle
    from nightmarket.registry import candidate as candidates

    started = time.monotonic()
    settings, shop = night.settings, night.settings.shop.model
    folder = candidates.folder_of(settings, night.run_date)
    histories = night.lake.at(FEATURES, night.run_date).arrow()
    items = newest_arrow(night.lake, ITEMS, night.run_date, only=passed_nights(night.lake, night.run_date))
    holdout = Holdout.of(night.run_date, shop.holdout_days, settings.zone)
    trial = Trial.of(Histories.from_table(histories), holdout)
    if len(trial.users) < shop.minimum_users:
        raise Refused(
            f"gold.features of {night.run_date}: {len(trial.users)} shoppers bought both before {holdout.cut:%Y-%m-%d} and in the "
            f"{shop.holdout_days} days from it; model.minimum_users is {shop.minimum_users}. Wait for more nights, or lower "
            f"model.holdout_days or model.minimum_users"
        )
    work = settings.places.work / "training" / shop.name / f"{night.run_date}-{asked}"
    if night.force:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    log.info(logs.said("training", run_date=night.run_date, recipe=asked, cut=holdout.cut.isoformat(), judged_later=len(trial.users)))
    try:
        model = Recommender.fit(histories, items, holdout.cut, shop, work, time_zone=settings.shop.time_zone)
    except TooLittle as thin:
        raise Refused(f"gold.features of {night.run_date}: {thin}") from None
    made = candidates.Candidate(
        name=shop.name, run_date=night.run_date.isoformat(), recipe=asked, inputs=read, settings=settings.digest(*SECTIONS),
        code=code_version(), seed=shop.seed, cut=holdout.cut.isoformat(), end=holdout.end.isoformat(), time_zone=settings.shop.time_zone,
        training=model.config["training"], seconds=round(time.monotonic() - started, 1), peak_memory_mb=peak_memory_mb(),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"), run_id=night.run_id,
    )
    candidates.publish(folder, made, model.save)
    shutil.rmtree(work, ignore_errors=True)
    log.info(logs.said("candidate", run_date=night.run_date, folder=str(folder), seconds=made.seconds, peak_memory_mb=made.peak_memory_mb))


def main(argv: list[str] | None = None) -> int:
    return command.main("train", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
