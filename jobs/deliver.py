"""Write the generated shop's deliveries of a night, or of several, into its drop folders.

Only for shops whose shop.yaml has a `demo` section; for all others it says that deliveries come from outside and ends well.
A date gives the same bytes whenever and in whatever order it is asked for; files that are there already stay untouched.

    python -m jobs.deliver --run-date 2026-02-01
    python -m jobs.deliver --from-date 2026-01-05 --run-date 2026-05-04
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.command import main as command_main
from nightmarket.lake import Manifest
from nightmarket.log import said


def run(night: Night) -> list[Manifest]:
    """Publishes no partition of the lake: a delivery is what comes before it."""
    log = logs.logger("deliver")
    shop = night.settings.shop
    if shop.demo is None:
        log.info(said("nothing to generate: this shop's deliveries come from outside", shop=shop.shop))
        return []
    from nightmarket.sources import demo

    if night.dry_run:
        demo.check(night.settings, night.dates)
        log.info(said("would deliver", shop=shop.shop, from_date=night.from_date, run_date=night.run_date,
                      into=night.settings.places.landing))
        return []
    made = demo.deliver(night.settings, night.dates)
    totals = {entity: sum(d.rows[entity] for d in made) for entity in demo.FILES}
    log.info(said("delivered", shop=shop.shop, nights=len(made), **totals))
    return []


def main(argv: Sequence[str] | None = None) -> int:
    return command_main("deliver", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
