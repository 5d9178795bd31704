"""Tell the forecasts' owner what the night published, and queue the mail.

One letter with pictures, in the owner's language: what the shop is expected to sell and why, how good the forecasts are, what to order,
what surprised. As files under reports/models/<date>/<model name>/ first and as a mail then; `jobs.send` sends it. Run again on the same
publication it queues no second mail, unless --force.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.lake import Manifest
from nightmarket.registry.kinds import FORECASTER

log = logs.logger("announce_forecasts")


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mail. Raises LakeError where the night published nothing."""
    from nightmarket.forecast.announcement import announcement
    from nightmarket.quality import letter
    from nightmarket.quality.outbox import Outbox
    from nightmarket.registry import candidate as candidates

    settings = night.settings
    told = announcement(settings, night.lake, night.run_date)
    if night.dry_run:
        log.info(logs.said("would announce", run_date=night.run_date, subject=told.subject))
        return []
    folder = candidates.report_of(settings, night.run_date, FORECASTER)
    entry, new = letter.post(told, folder, Outbox(settings.places.outbox), settings.shop.mail.sender, night.force)
    log.info(logs.said("announced", run_date=night.run_date, mail=entry.id, queued=new))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("announce_forecasts", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
