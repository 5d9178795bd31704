"""Judge the night's candidate, the champion and the baselines on the same frozen holdout.

Needs the candidate of `jobs.train`. Full ranking over everything that may be recommended: ndcg@10, recall@20, mrr, hit_rate@10,
coverage@20, novelty@20, by slice, each with a 95 % interval over shoppers; the behaviour heads' accuracy, precision, recall, F1, AUC
and average precision. Publishes gold.evaluation, and leaves `evaluation/` (numbers, per-shopper values, pictures) in the
candidate's folder. With `model.compression` a candidate with smaller weights is judged too, with `model.student` the smaller model that it
taught; the smallest that loses no more than `blessing.compression_loss` stands in for it. A champion that this code cannot load is no opponent: it is noted, and the baselines decide. For a champion
that came of online updates, which have learnt the holdout's days, the night's version that they go back to is asked. Nothing is done where this very candidate and champion were judged before (unless --force).
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import EVALUATION, FEATURES, ITEMS
from nightmarket.lake import Input, Manifest, code_version, newest_arrow
from nightmarket.quality.verdict import passed_nights
from nightmarket.registry.kinds import RECOMMENDER

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from nightmarket.evaluate.judge import Verdicts
    from nightmarket.recommend.model import Recommender
    from nightmarket.registry.candidate import Candidate
    from nightmarket.registry.client import RegisteredModel
    from nightmarket.shop import Model as Settings

log = logs.logger("evaluate")
SECTIONS = ("model", "time_zone", "blessing")


def run(night: Night) -> list[Manifest]:
    """Publishes gold.evaluation of the night. Raises Refused where there is no candidate, or it is of other data than the night's."""
    from nightmarket.registry.judging import judged

    digest = night.settings.digest(*SECTIONS)
    return judged(night, RECOMMENDER, FEATURES, digest, lambda made, champion, read: _judge(night, made, champion, read, digest))


def _judge(
    night: Night, made: Candidate, champion: RegisteredModel | None, read: list[Input], digest: str,
) -> Manifest:
    from datetime import datetime

    from nightmarket.evaluate.judge import CHALLENGER, CHAMPION, judge
    from nightmarket.evaluate.protocol import Holdout, Trial
    from nightmarket.recommend.histories import Histories
    from nightmarket.recommend.model import Recommender
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.client import Registry
    from nightmarket.registry.judging import evaluation_folder, readable, tell_unreadable

    started = time.monotonic()
    settings, shop = night.settings, night.settings.shop
    folder = candidates.folder_of(settings, night.run_date)
    table = night.lake.at(FEATURES, night.run_date).arrow()
    items = newest_arrow(night.lake, ITEMS, night.run_date, only=passed_nights(night.lake, night.run_date))
    holdout = Holdout(datetime.fromisoformat(made.cut), datetime.fromisoformat(made.end))
    trial = Trial.of(Histories.from_table(table), holdout)
    models: dict[str, tuple[str | None, Recommender]] = {CHALLENGER: (None, Recommender.load(folder / "model"))}
    stands_in = Registry(settings).made_by_night(champion) if champion is not None else None
    serving, unreadable = readable(stands_in, Recommender.load)
    if champion is not None and serving is not None:
        models[CHAMPION] = (champion.version, serving)
    found = judge(table, items, trial, models, made.seed, shop.model.bootstrap, shop.blessing.slice_users)
    with evaluation_folder(folder) as staging:
        found.save(staging, shop.title or shop.shop)
        tell_unreadable(staging, champion, unreadable)
        for old in ("compressed", ".compressed", ".student"):
            shutil.rmtree(folder / old, ignore_errors=True)
        if smaller := _smaller(shop.model, folder, models[CHALLENGER][1]):
            _compress(night, smaller, folder, models[CHALLENGER][1], found, table, items, staging)
    rows = found.rows()
    with night.lake.writer(EVALUATION, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, rows)
        manifest = writer.publish(
            night.run_date, inputs=read, settings=digest, code=code_version(), seed=made.seed, run_id=night.run_id,
            seconds=time.monotonic() - started,
            notes={"holdout": {"cut": made.cut, "end": made.end, "digest": trial.digest, "shoppers": len(trial.users)},
                   "candidate": made.recipe, "champion": champion.version if champion else None,
                   **({"champion_judged_as": stands_in.version} if champion and stands_in and stands_in.version != champion.version else {})},
        )
    metric = shop.blessing.metric
    for name in found.table:
        log.info(logs.said("result", model=name, metric=metric, value=str(found.table[name]["all"][metric])))
    return manifest


def _smaller(settings: Settings, folder: Path, original: Recommender) -> dict[str, Recommender]:
    """What might stand in for the candidate, by name and saved in the folder of that name with a dot before it."""
    from nightmarket.recommend.model import Recommender

    made: dict[str, Recommender] = {}
    if settings.compression != "none":
        made["compressed"] = original.compressed(settings.compression, folder / ".compressed")
    if settings.student is not None and (folder / "student").is_dir():
        made["student"] = Recommender.load(folder / "student").compressed(settings.student.compression, folder / ".student")
    return made


def _compress(
    night: Night, smaller: dict[str, Recommender], folder: Path, original: Recommender, found: Verdicts, table: pa.Table, items: pa.Table, staging: Path,
) -> None:
    """The smaller models, judged on the same shoppers; the one that the gate lets stand in becomes `compressed/`."""
    from nightmarket.evaluate.judge import CHALLENGER, quality
    from nightmarket.recommend import compact

    shop = night.settings.shop
    rules = shop.blessing
    models = {compact.ORIGINAL: (original, folder / "model"), **{n: (m, folder / f".{n}") for n, m in smaller.items()}}
    signals = {n: m.signals(table, found.trial.holdout.cut, items) for n, (m, _) in models.items()}
    compared = compact.compare(
        models, signals, {compact.ORIGINAL: found.judged[CHALLENGER].values[rules.metric],
                          **{n: quality(m, table, items, found.trial)[rules.metric] for n, m in smaller.items()}},
        rules.compression_loss, shop.model.bootstrap, shop.model.seed)
    compared.save(staging / "compression.json")
    for name, verdict in compared.verdicts.items():
        if name == compared.serves:
            (folder / f".{name}").rename(folder / "compressed")
        else:
            shutil.rmtree(folder / f".{name}")
        log.info(logs.said("smaller", model=name, precision=compared.precisions[name], passed=verdict.passed, serves=name == compared.serves,
                           lost=str(verdict.lost), allowed=rules.compression_loss, bytes=int(compared.table[name]["bytes"]),
                           of=int(compared.table[compact.ORIGINAL]["bytes"])))


def main(argv: list[str] | None = None) -> int:
    return command.main("evaluate", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
