"""Tell the forecasts' owner what the night published, and queue the mail.

One letter with pictures, in the owner's language: what the shop is expected to sell and why, how good the forecasts are, what to order,
what surprised. As files under reports/models/<date>/<model name>/ first and as a mail then; `jobs.send` sends it. Run again on the same
publication it queues no second mail, unless --force.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightmarket import command
from nightmarket.command import Night, Refused
from nightmarket.contracts import FORECASTS
from nightmarket.lake import Manifest
from nightmarket.registry.kinds import FORECASTER


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mail. Raises Refused where the night published nothing."""
    from nightmarket.forecast.announcement import announcement
    from nightmarket.quality import letter
    from nightmarket.registry import candidate as candidates

    settings = night.settings
    if night.lake.manifest(FORECASTS, night.run_date) is None:
        raise Refused(f"no forecasts of {night.run_date} are published; run `python -m jobs.publish_forecasts --run-date {night.run_date}` first")
    letter.tell(night, announcement(settings, night.lake, night.run_date), candidates.report_of(settings, night.run_date, FORECASTER))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("announce_forecasts", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
