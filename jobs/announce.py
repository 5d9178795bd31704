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
from nightmarket.command import Night
from nightmarket.lake import Manifest


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mail. Raises LakeError where the night published nothing."""
    from nightmarket.quality import letter
    from nightmarket.recommend.announcement import announcement
    from nightmarket.registry import candidate as candidates

    settings = night.settings
    letter.tell(night, announcement(settings, night.lake, night.run_date), candidates.report_of(settings, night.run_date))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("announce", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
