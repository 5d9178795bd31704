"""Train the recommender on what is before the holdout.

Reads the night's gold.features and the newest silver.items of the nights that the gate let through, freezes the last
`model.holdout_days` days of the shop's calendar, trains on events before them and leaves a candidate folder for
`jobs.evaluate` and `jobs.register`. Killed and started again, it continues from its last checkpoint and ends with the same
model. With the same inputs, settings, code and seed as the candidate that is there, nothing is done (unless --force).

With `--warm` it starts from the champion's weights and learns the newest days. What it has forgotten of older days is measured: more than
`retraining.forgetting_margin` of the metric, or a champion that does not fit, and it is trained from scratch all the same.

With `model.transfer` a training from scratch tries what another shop's model brings, on the newest period before the holdout, and begins with it
where that is better; what was found is in the candidate's account and on its card.

With `model.student` a training from scratch teaches a smaller model too, which `jobs.evaluate` judges beside it.

With `model.search` a training from scratch searches for the towers' settings first, unless an earlier night did so less than
`every_days` ago with the same settings in shop.yaml. A killed search continues too.

Exits 3 where the histories are too thin to learn from or to judge on; the message says what is missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import FEATURES, ITEMS
from nightmarket.lake import Input, Manifest, code_version, newest_arrow, nights, peak_memory_mb, recipe
from nightmarket.quality.verdict import passed_nights, require_passed

if TYPE_CHECKING:
    from pathlib import Path

    from nightmarket.recommend.model import Recommender
    from nightmarket.registry.client import RegisteredModel

log = logs.logger("train")
SECTIONS = ("model", "time_zone")
"""What of shop.yaml the candidate depends on."""
WARM = True
"""This kind of model can start from the champion's weights."""


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--warm", action="store_true", help="start from the champion's weights")


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
    champion = _champion(night) if night.args.warm else None
    if champion is not None:
        read = (*read, Input(f"warm/{champion.name}/{champion.version}", champion.tags["weights"]))
    earlier = earlier_search(night)
    if earlier is not None:
        read = (*read, Input(f"search/{shop.name}/{earlier['night']}", candidates.digest_of(earlier)))
    if champion is None and shop.transfer is not None:
        read = (*read, _source_of(night)[1])
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
        _train(night, read, asked, champion, earlier)
    return []


def earlier_search(night: Night) -> dict[str, Any] | None:
    """The account of the newest search that an earlier night made with these settings and that is not `every_days` old yet."""
    from nightmarket.registry import candidate as candidates

    wanted = night.settings.shop.model.search
    if wanted is None:
        return None
    for days in range(1, wanted.every_days):
        made = candidates.Candidate.read(candidates.folder_of(night.settings, night.run_date - timedelta(days=days)))
        found = made.training.get("search") if made is not None and made.settings == night.settings.digest(*SECTIONS) else None
        if found is not None and (night.run_date - date.fromisoformat(found["night"])).days < wanted.every_days:
            return dict(found)
    return None


def _source_of(night: Night) -> tuple[Path, Input]:
    """(folder of the model that `model.transfer` names, its digest). Raises Refused where there is none, RegistryError."""
    from nightmarket.recommend.carried import saved_in
    from nightmarket.registry.client import fetched, weights_digest

    wanted = night.settings.shop.model.transfer
    assert wanted is not None
    named = wanted.source
    folder = fetched(night.settings, named, wanted.registry) if named.startswith("models:") else night.settings.resolve(named)
    if not (saved_in(folder) / "recommender.json").is_file():
        raise Refused(f"model.transfer.source is {named}, and {folder} holds no recommender; name a folder that one was saved or registered in")
    return folder, Input(f"transfer/{named}", weights_digest(folder))


def _champion(night: Night) -> RegisteredModel | None:
    """Whose weights a warm start begins with: who answers for the night, so never one that has seen later days."""
    from nightmarket.registry.client import Registry

    found = Registry(night.settings).for_night(night.run_date)
    if found is None:
        log.warning(logs.said("no champion to start from; from scratch", run_date=night.run_date))
    return found


def _train(
    night: Night, read: tuple[Input, ...], asked: str, champion: RegisteredModel | None, earlier: dict[str, Any] | None,
) -> None:
    from nightmarket.evaluate.protocol import Holdout, Trial
    from nightmarket.recommend.carried import Source
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
    account: dict[str, Any] = {}
    try:
        model = _warm(night, champion, histories, items, holdout.cut, work, account) if champion is not None else None
        if model is None:
            source = Source.load(_source_of(night)[0], shop.transfer.source) if shop.transfer is not None else None
            model = Recommender.fit(histories, items, holdout.cut, shop, work, time_zone=settings.shop.time_zone, searched=earlier, source=source)
    except TooLittle as thin:
        raise Refused(f"gold.features of {night.run_date}: {thin}") from None
    if (search := model.config["training"].get("search")) is not None:
        search.setdefault("night", night.run_date.isoformat())  # of a warm start, or a later night, it is the earlier one's
    made = candidates.Candidate(
        name=shop.name, run_date=night.run_date.isoformat(), recipe=asked, inputs=read, settings=settings.digest(*SECTIONS),
        code=code_version(), seed=shop.seed, cut=holdout.cut.isoformat(), end=holdout.end.isoformat(), time_zone=settings.shop.time_zone,
        training={**model.config["training"], **account}, seconds=round(time.monotonic() - started, 1), peak_memory_mb=peak_memory_mb(),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"), run_id=night.run_id,
    )

    def save(path: Path) -> None:
        model.save(path)
        if model.student is not None:
            model.student.save(path.with_name("student"))

    candidates.publish(folder, made, save)
    shutil.rmtree(work, ignore_errors=True)
    log.info(logs.said("candidate", run_date=night.run_date, folder=str(folder), seconds=made.seconds, peak_memory_mb=made.peak_memory_mb))


def _warm(
    night: Night, champion: RegisteredModel, histories: Any, items: Any, cut: datetime, work: Path, account: dict[str, Any],
) -> Recommender | None:
    """The champion, having learnt the newest days; None where it does not fit or has forgotten too much. `account` is told which."""
    from nightmarket.evaluate.forgetting import lost, older
    from nightmarket.recommend.model import CannotStartWarm, ModelError, Recommender

    settings, shop = night.settings, night.settings.shop
    try:
        before = Recommender.load(champion.folder)
        model = Recommender.fit(histories, items, cut, shop.model, work / "warm", time_zone=shop.time_zone, warm=before)
    except (CannotStartWarm, ModelError) as error:
        log.warning(logs.said("from scratch", run_date=night.run_date, champion=champion.version, why=str(error)))
        account["warm_start_refused"] = {"version": champion.version, "why": str(error)}
        return None
    # between two moments whose lists either learnt from: asked at one of them, a model answers what it has learnt by heart
    last = datetime.fromisoformat(before.config["cut"]) - timedelta(days=shop.model.fit_days // 4)
    span = older(last, shop.model.holdout_days, settings.zone)
    with logs.stage(log, "remembered", champion=champion.version) as said:
        apart = lost(histories, items, span, model, before, shop.blessing.metric, shop.model.seed, shop.model.bootstrap)
        said |= {"metric": shop.blessing.metric, "difference": str(apart)}
    told = {"version": champion.version, "metric": shop.blessing.metric, "from": span.cut.isoformat(), "until": span.end.isoformat(),
            "difference": asdict(apart) if apart is not None else None, "margin": shop.retraining.forgetting_margin}
    if apart is not None and apart.value < -shop.retraining.forgetting_margin:
        log.warning(logs.said("from scratch", run_date=night.run_date, champion=champion.version, why="it forgot older days", difference=str(apart)))
        account["warm_start_refused"] = {**told, "why": "it forgot older days"}
        return None
    account["warm_start"] = told
    return model


def main(argv: list[str] | None = None) -> int:
    return command.main("train", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
