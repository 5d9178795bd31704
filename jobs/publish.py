"""Publish the champion's recommendations for every shopper and every stranger.

Reads the night's gold.features and the newest silver.items, asks the champion as of the end of the night, and publishes
gold.recommendations: the best `model.top_k` that `lists` of shop.yaml lets through, for each known shopper, each country and everyone,
with reasons. A shopper without a list of their own gets the country's, else everyone's; how many is noted. Then the partition becomes the lookup that serves
(`jobs.lookup`), replaced by one rename.

A past night is answered by the champion of that night, never by one that learnt from later data, and does not replace a newer
lookup (unless --force). Exits 3 where the gate refused the night, or no champion may answer it, or this code cannot load the one that
may; what was published before stays.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import FEATURES, ITEMS, RECOMMENDATIONS
from nightmarket.lake import Input, Manifest, code_version, newest_arrow, nights
from nightmarket.quality.verdict import passed_nights, require_passed

if TYPE_CHECKING:
    from nightmarket.recommend.model import Recommender
    from nightmarket.recommend.publish import Publication
    from nightmarket.registry.client import RegisteredModel

log = logs.logger("publish")
SECTIONS = ("model", "lists", "time_zone")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.recommendations. Raises Refused."""
    from nightmarket.registry.client import Registry

    require_passed(night.lake, night.run_date)
    features = night.lake.at(FEATURES, night.run_date)
    model = Registry(night.settings).for_night(night.run_date)
    if model is None:
        raise Refused(
            f"no champion may answer the night of {night.run_date}: none was promoted on data up to it; see `python -m jobs.ledger`, "
            f"or run jobs.train to jobs.bless for it"
        )
    logs.identify(model_version=model.version)
    passed = passed_nights(night.lake, night.run_date)
    read = [features.manifest.as_input(), *(p.manifest.as_input() for p in nights(night.lake, ITEMS, night.run_date, only=passed)),
            Input(f"model/{model.name}/{model.version}", model.tags["weights"])]
    digest = night.settings.digest(*SECTIONS)
    if night.is_current(RECOMMENDATIONS, night.run_date, read, digest):
        log.info(logs.said("current", run_date=night.run_date, version=model.version))
    elif night.dry_run:
        log.info(logs.said("would publish", run_date=night.run_date, version=model.version))
        return []
    else:
        _publish(night, model, read, digest)
    if not night.dry_run:
        _serve(night)
    made = night.lake.manifest(RECOMMENDATIONS, night.run_date)
    return [made] if made else []


def loaded(model: RegisteredModel) -> Recommender:
    """The recommender of a version. Raises Refused where this code cannot load it."""
    from nightmarket.recommend.model import ModelError, Recommender

    try:
        return Recommender.load(model.folder)
    except ModelError as error:
        raise Refused(f"{model.name} version {model.version} cannot be loaded ({error}); what was published before keeps serving. Promote a version "
                      f"that this code trained (jobs.train to jobs.bless), or go back to one: python -m jobs.rollback") from None


def answers(night: Night, model: RegisteredModel) -> tuple[Publication, datetime]:
    """What a version answers for everybody, and as of when: the end of the night. Raises Refused where this code cannot load it."""
    from nightmarket.evaluate.protocol import Holdout
    from nightmarket.recommend.publish import publication

    settings, recommender = night.settings, loaded(model)
    as_of = Holdout.of(night.run_date, 1, settings.zone).end
    histories = night.lake.at(FEATURES, night.run_date).arrow()
    items = newest_arrow(night.lake, ITEMS, night.run_date, only=passed_nights(night.lake, night.run_date))
    with logs.stage(log, "recommended", run_date=night.run_date, version=model.version) as said:
        made = publication(recommender, histories, items, as_of, settings.shop.model.top_k, model.name, model.version,
                           settings.shop.lists)
        said |= made.notes()
    return made, as_of


def _publish(night: Night, model: RegisteredModel, read: list[Input], digest: str) -> None:
    started = time.monotonic()
    made, as_of = answers(night, model)
    with night.lake.writer(RECOMMENDATIONS, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, made.rows)
        writer.publish(
            night.run_date, inputs=read, settings=digest, code=code_version(), run_id=night.run_id, seconds=time.monotonic() - started,
            notes={**made.notes(), "model_version": model.version, "trained_on": model.run_date.isoformat(), "as_of": as_of.isoformat()},
        )


def _serve(night: Night) -> None:
    """Lets the night's partition serve, unless it does or a newer night does."""
    from nightmarket.recommend.lookup import About, serve, serving

    folder = night.settings.places.root / "published"
    partition = night.lake.at(RECOMMENDATIONS, night.run_date)
    now = serving(folder)
    if now is not None and now.run_date > night.run_date and not night.force:
        log.info(logs.said("not serving", run_date=night.run_date, why=f"{now.run_date} serves; --force to replace it"))
        return
    if now is not None and (now.run_date, now.digest) == (night.run_date, partition.manifest.digest):
        return
    rows = partition.arrow()
    about = About(night.run_date, rows["model_name"][0].as_py(), rows["model_version"][0].as_py(), partition.manifest.digest)
    file = serve(folder, rows, about)
    log.info(logs.said("serving", run_date=night.run_date, version=about.model_version, file=file.name))


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("publish", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
