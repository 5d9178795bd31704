"""Tell the models' owner what came of the night: the plan and its outcome, who serves, what drifted, what failed.

One letter about all kinds of model, as files under reports/models/<date>/ first and as a mail then; `jobs.send` sends it. A night on
which nothing was planned, or everything failed, is told about all the same. Run again on the same outcome it queues no second mail.

  python -m jobs.summarise --run-date 2026-02-01
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.lake import Manifest

log = logs.logger("summarise")


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mail."""
    from nightmarket.monitor.summary import morning
    from nightmarket.quality import letter
    from nightmarket.quality.outbox import Outbox

    settings = night.settings
    told = morning(settings, night.lake, night.run_date)
    if night.dry_run:
        log.info(logs.said("would tell", run_date=night.run_date, subject=told.subject))
        return []
    folder = settings.places.reports / "models" / night.run_date.isoformat()
    entry, new = letter.post(told, folder, Outbox(settings.places.outbox), settings.shop.mail.sender, night.force)
    log.info(logs.said("told", run_date=night.run_date, mail=entry.id, queued=new))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("summarise", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
