"""Tell the recommendations' owner what the night published, and queue the mail.

One letter, in the owner's language: who serves now and why, how good the models were on the frozen holdout beside their
baselines, what everyone is shown and what moved since the publication before. As files under reports/models/<date>/<model name>/ first
and as a mail then; `jobs.send` sends it. Run again on the same publication it queues no second mail, unless --force.

  python -m jobs.announce --run-date 2026-02-01
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.lake import Manifest

log = logs.logger("announce")


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mail. Raises LakeError where the night published nothing."""
    from nightmarket.quality import letter
    from nightmarket.quality.outbox import Outbox
    from nightmarket.recommend.announcement import announcement
    from nightmarket.registry import candidate as candidates

    settings = night.settings
    told = announcement(settings, night.lake, night.run_date)
    if night.dry_run:
        log.info(logs.said("would announce", run_date=night.run_date, subject=told.subject))
        return []
    folder = candidates.report_of(settings, night.run_date)
    entry, new = letter.post(told, folder, Outbox(settings.places.outbox), settings.shop.mail.sender, night.force)
    log.info(logs.said("announced", run_date=night.run_date, mail=entry.id, queued=new))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("announce", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
