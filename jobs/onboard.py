"""Choose the questions that tell most about a newcomer.

Reads the night's gold.features and the newest silver.items, and publishes gold.onboarding: at most `model.questions` products, the
most telling first. What a newcomer says yes to goes to the real-time scorer as `item_ids` of the visit.
Exits 3 where the gate refused the night, or no product is known to enough shoppers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import FEATURES, ITEMS, ONBOARDING
from nightmarket.lake import Input, Manifest, code_version, newest_arrow, nights
from nightmarket.quality.verdict import passed_nights, require_passed

log = logs.logger("onboard")
SECTIONS = ("model", "time_zone")


def run(night: Night) -> list[Manifest]:
    """The manifest of the night's gold.onboarding. Raises Refused."""
    require_passed(night.lake, night.run_date)
    passed = passed_nights(night.lake, night.run_date)
    features = night.lake.at(FEATURES, night.run_date)
    read = [features.manifest.as_input(), *(p.manifest.as_input() for p in nights(night.lake, ITEMS, night.run_date, only=passed))]
    digest = night.settings.digest(*SECTIONS)
    if night.is_current(ONBOARDING, night.run_date, read, digest):
        log.info(logs.said("current", run_date=night.run_date))
    elif night.dry_run:
        log.info(logs.said("would choose questions", run_date=night.run_date))
        return []
    else:
        _choose(night, read, digest)
    made = night.lake.manifest(ONBOARDING, night.run_date)
    return [made] if made else []


def _choose(night: Night, read: list[Input], digest: str) -> None:
    import pyarrow as pa

    from nightmarket.evaluate.protocol import Holdout
    from nightmarket.recommend.histories import Histories
    from nightmarket.recommend.onboarding import Likings, TooFew, questions

    started = time.monotonic()
    as_of = Holdout.of(night.run_date, 1, night.settings.zone).end
    items = newest_arrow(night.lake, ITEMS, night.run_date, only=passed_nights(night.lake, night.run_date))
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    with logs.stage(log, "questions_chosen", run_date=night.run_date) as said:
        try:
            likings = Likings.of(Histories.from_table(night.lake.at(FEATURES, night.run_date).arrow()), as_of.timestamp(), list(titles) or None)
        except TooFew as thin:
            raise Refused(f"gold.features of {night.run_date}: {thin}; wait for more nights") from None
        asked = questions(likings, night.settings.shop.model.questions)
        said |= {"questions": len(asked.items), "explained": round(asked.explained[-1], 3) if asked.explained else 0.0}
    rows = [{"rank": n, "item_id": item, "title": titles.get(item), "explained": asked.explained[n - 1], "liked": asked.liked[n - 1]}
            for n, item in enumerate(asked.items, 1)]
    with night.lake.writer(ONBOARDING, [night.run_date]) as writer:
        writer.stage_arrow(night.run_date, pa.Table.from_pylist(rows, ONBOARDING.arrow_schema()))
        writer.publish(night.run_date, inputs=read, settings=digest, code=code_version(), run_id=night.run_id,
                       seconds=time.monotonic() - started, notes={"shoppers": likings.shoppers, "products": len(likings.items)})


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("onboard", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
