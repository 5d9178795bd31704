"""Judge the night's screener, the champion and the baselines on the same later rows.

Needs the candidate of `jobs.train_screener`. Each is judged as it was learned before the holdout, on rows from then on whose verdicts
were known by the night; where there are none, on planted rows (`nightmarket.screen.judging` says what that is worth). Publishes
gold.screening_evaluation and leaves `evaluation/` in the candidate's folder. Nothing is done where this very candidate and champion were
judged before (unless --force).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from jobs.train_screener import options_of
from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import SCREENED, SCREENING_EVALUATION, SCREENING_FEATURES
from nightmarket.lake import Input, Manifest, code_version
from nightmarket.registry.kinds import SCREENER

if TYPE_CHECKING:
    from nightmarket.registry.candidate import Candidate
    from nightmarket.registry.client import RegisteredModel
    from nightmarket.screen.decisions import Costs
    from nightmarket.shop import Settings

log = logs.logger("judge_screener")
SECTIONS = ("screening", "time_zone")


def run(night: Night) -> list[Manifest]:
    """Publishes gold.screening_evaluation. Raises Refused where there is no candidate, or it is of other data than the night's."""
    from nightmarket.registry.judging import judged

    digest = night.settings.digest(*SECTIONS)
    return judged(night, SCREENER, SCREENING_FEATURES, digest, lambda made, champion, read: _judge(night, made, champion, read, digest))


def costs_of(settings: Settings) -> dict[str, Costs]:
    """The cost table of shop.yaml, by kind."""
    from nightmarket.screen.decisions import Costs

    found = {k: settings.shop.screening.costs_of(k) for k in SCREENED}
    return {k: Costs(c.missed, c.review, c.wrongly_blocked, c.capacity) for k, c in found.items()}


def _judge(night: Night, made: Candidate, champion: RegisteredModel | None, read: list[Input], digest: str) -> Manifest:
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.judging import evaluation_folder, readable, tell_unreadable
    from nightmarket.screen.judging import CHALLENGER, CHAMPION, judge, trials
    from nightmarket.screen.screener import Described, Screener

    started = time.monotonic()
    shop, folder = night.settings.shop, candidates.folder_of(night.settings, night.run_date, SCREENER)
    partition = night.lake.at(SCREENING_FEATURES, night.run_date)
    given = Described.of(partition.arrow(), partition.manifest.notes)
    cut, end = datetime.fromisoformat(made.cut), datetime.fromisoformat(made.end)
    costs, options = costs_of(night.settings), options_of(night)
    found = trials(given, cut, end, costs, made.seed)
    if not found:
        raise Refused(f"gold.screening_features of {night.run_date}: neither verdicts nor 20 rows of a kind from {cut:%Y-%m-%d} on, so no screener can be "
                      f"judged; wait for more nights, or raise screening.holdout_days")
    models: dict[str, tuple[str | None, Screener]] = {CHALLENGER: (None, Screener.load(folder / "model" / "judged"))}
    serving, unreadable = readable(champion, lambda saved: Screener.load(saved / "judged"))
    if champion is not None and serving is not None:
        models[CHAMPION] = (champion.version, serving)
    verdicts = judge(found, models, cut, options, shop.screening.bootstrap)
    with evaluation_folder(folder) as staging:
        verdicts.save(staging, cut, end, costs, shop.title or shop.shop)
        tell_unreadable(staging, champion, unreadable)
    with night.lake.writer(SCREENING_EVALUATION, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, verdicts.rows())
        manifest = writer.publish(
            night.run_date, inputs=read, settings=digest, code=code_version(), seed=made.seed, run_id=night.run_id, seconds=time.monotonic() - started,
            notes={"holdout": {"cut": made.cut, "end": made.end, "digest": verdicts.digest, "kinds": [t.given.kind for t in found]},
                   "judged_by": "planted rows" if found[0].planted else "verdicts", "candidate": made.recipe,
                   "champion": champion.version if champion else None},
        )
    for name, slices in verdicts.table.items():
        log.info(logs.said("result", model=name, metric="average_precision", value=str(slices["all"]["average_precision"])))
    return manifest


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("judge_screener", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
