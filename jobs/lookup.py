"""Look up what to recommend, from the publication that serves now.

`python -m jobs.lookup --user U --country C --k 10` prints JSON: the items with scores and reasons, for whom the list was made
(`source`: user, country or everyone), the night and the model's version. An unknown user gets the country's list, an unknown
country everyone's. Where experiments run, a shopper gets the list of their arm (`arms`); `--expose` also writes the exposure to the
log, as a service that really shows the list must. Exits 1 where nothing was published yet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from nightmarket.online.serving import ExposureLog, recommend
from nightmarket.recommend.lookup import PublicationError
from nightmarket.shop import ShopError, load_shop


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m jobs.lookup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--user", metavar="U", help="the shopper's key in the shop")
    p.add_argument("--country", metavar="C", help="for a stranger, or where the user is unknown")
    p.add_argument("--k", type=_count, default=10, metavar="N", help="at most this many (default: 10)")
    p.add_argument("--expose", action="store_true", help="the list is shown to the shopper: log it for the experiments")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        settings = load_shop(args.shop)
    except ShopError as error:
        print(f"lookup: {error}", file=sys.stderr)
        return 2
    try:
        log = ExposureLog(settings.places.root / "exposures") if args.expose else None
        started = time.perf_counter()
        shown = recommend(settings.places.root / "published", log, settings.zone, args.user, args.country, args.k, datetime.now(timezone.utc),
                          bool(settings.shop.lists.new_items_share))
        taken = (time.perf_counter() - started) * 1000
    except PublicationError as error:
        print(f"lookup: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**shown.answer.to_json(), "arms": dict(shown.arms), "milliseconds": round(taken, 3)}, ensure_ascii=False, indent=1))
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of items; write 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
