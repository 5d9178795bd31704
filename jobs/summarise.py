"""Tell the models' owner what came of the night: the plan and its outcome, who serves, what drifted, what failed.

One letter about all kinds of model, as files under reports/models/<date>/ first and as a mail then; `jobs.send` sends it. A night on
which nothing was planned, or everything failed, is told about all the same. Run again on the same outcome it queues no second mail.

  python -m jobs.summarise --run-date 2026-02-01
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightmarket import command
from nightmarket.command import Night
from nightmarket.lake import Manifest


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mail."""
    from nightmarket.monitor.summary import morning
    from nightmarket.quality import letter

    settings = night.settings
    letter.tell(night, morning(settings, night.lake, night.run_date), settings.places.reports / "models" / night.run_date.isoformat())
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("summarise", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
