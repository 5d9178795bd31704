"""Judge the night's candidate, the champion and the baselines on the same frozen holdout.

Needs the candidate of `jobs.train`. Full ranking over everything that may be recommended: ndcg@10, recall@20, mrr, hit_rate@10,
coverage@20, novelty@20, by slice, each with a 95 % interval over shoppers; the behaviour heads' accuracy, precision, recall, F1, AUC
and average precision. Publishes gold.evaluation, and leaves `evaluation/` (numbers, per-shopper values, pictures) in the
candidate's folder. With `model.compression` a candidate with smaller weights is judged too, and stands in for it where it loses no
more than `blessing.compression_loss`. A champion that this code cannot load is no opponent: it is noted, and the baselines decide. For a champion
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
    from nightmarket.learn.compress import Precision
    from nightmarket.recommend.model import Recommender
    from nightmarket.registry.candidate import Candidate
    from nightmarket.registry.client import RegisteredModel

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
        for old in ("compressed", ".compressed"):
            shutil.rmtree(folder / old, ignore_errors=True)
        if (precision := shop.model.compression) != "none":
            _compress(night, precision, folder, models[CHALLENGER][1], found, table, items, staging)
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


def _compress(
    night: Night, precision: Precision, folder: Path, original: Recommender, found: Verdicts, table: pa.Table, items: pa.Table, staging: Path,
) -> None:
    """The candidate with smaller weights, judged on the same shoppers; `compressed/` stays where the gate lets it stand in."""
    from nightmarket.evaluate.judge import CHALLENGER, quality
    from nightmarket.recommend import compact

    shop = night.settings.shop
    rules = shop.blessing
    small = original.compressed(precision, folder / ".compressed")
    signals = {n: m.signals(table, found.trial.holdout.cut, items) for n, m in (("original", original), ("compressed", small))}
    compared = compact.compare(
        precision, {"original": (original, folder / "model"), "compressed": (small, folder / ".compressed")}, signals,
        {"original": found.judged[CHALLENGER].values[rules.metric], "compressed": quality(small, table, items, found.trial)[rules.metric]},
        rules.compression_loss, shop.model.bootstrap, shop.model.seed)
    compared.save(staging / "compression.json")
    if compared.verdict.passed:
        (folder / ".compressed").rename(folder / "compressed")
    else:
        shutil.rmtree(folder / ".compressed")
    log.info(logs.said("compressed", precision=precision, passed=compared.verdict.passed, lost=str(compared.verdict.lost), allowed=rules.compression_loss,
                       bytes=int(compared.table["compressed"]["bytes"]), of=int(compared.table["original"]["bytes"])))


def main(argv: list[str] | None = None) -> int:
    return command.main("evaluate", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
