"""What the gate said of each night, as later steps ask for it.

A `gold.quality` partition of night D carries `notes`: {"verdict": "passed" | "warned" | "refused", "from_date": first night
judged together with D}. A night whose newest verdict is "refused", or that was never judged, feeds nothing downstream.
"""

from __future__ import annotations

from datetime import date

from nightmarket.command import Refused
from nightmarket.contracts import QUALITY
from nightmarket.lake import Lake, Manifest, days


def passed_nights(lake: Lake, as_of: date) -> frozenset[date]:
    """Nights up to `as_of` that may feed models and publications.

    A night of a first load was judged with the last night of it: that verdict counts for every night it covers, also when
    an earlier one of them is run again.
    """
    verdicts: dict[date, tuple[str, str]] = {}
    for night in lake.dates(QUALITY):
        manifest = lake.manifest(QUALITY, night)
        if manifest is None:
            continue
        first = date.fromisoformat(manifest.notes.get("from_date", manifest.run_date))
        for day in days(first, min(night, as_of)):
            # a night judged alone, later, counts more than one judged within a first load
            said = (manifest.created_at, manifest.notes["verdict"])
            verdicts[day] = max(verdicts.get(day, ("", "")), said)
    return frozenset(day for day, (_, verdict) in verdicts.items() if verdict in ("passed", "warned"))


def require_passed(lake: Lake, run_date: date) -> Manifest:
    """The verdict's manifest. Raises Refused where the gate refused the night or never saw it."""
    manifest = lake.manifest(QUALITY, run_date)
    if manifest is None:
        raise Refused(f"the night of {run_date} was not judged; run `python -m jobs.gate --run-date {run_date}` first")
    if manifest.notes["verdict"] == "refused":
        raise Refused(f"the gate refused the night of {run_date}; mend the delivery, run it again, or see the report")
    return manifest
