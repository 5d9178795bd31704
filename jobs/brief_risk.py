"""Tell the risk owner what the screening stopped, and queue the mail.

One letter, in the owner's language: what was decided, what became of earlier alerts, the most suspicious cases with their reasons, the week's
alerts by reason, quality beside the baselines, what each threshold would cost, the ring of a case, and what waits for a person. As files
under reports/models/<date>/<model>/ first and as a mail then; `jobs.send` sends it. Run again on the same decisions it queues no second mail, unless
--force.

  python -m jobs.brief_risk --run-date 2026-02-01
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightmarket import command
from nightmarket.command import Night, Refused
from nightmarket.contracts import SCREENING_DECISIONS
from nightmarket.lake import Manifest


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mail. Raises Refused where the night was not decided about."""
    from nightmarket.quality import letter
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.kinds import SCREENER
    from nightmarket.screen.briefing import briefing

    settings = night.settings
    if night.lake.manifest(SCREENING_DECISIONS, night.run_date) is None:
        raise Refused(f"nothing was decided about on the night of {night.run_date}; run `python -m jobs.decide --run-date {night.run_date}` first")
    letter.tell(night, briefing(settings, night.lake, night.run_date), candidates.report_of(settings, night.run_date, SCREENER))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("brief_risk", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
