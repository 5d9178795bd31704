"""Serve look-ups over HTTP, with a scrape endpoint, until told to stop.

`GET /recommend?user=U&country=C&k=10` answers as `jobs.lookup` does, from whatever is published at that moment, and logs the exposure of
experiments; `GET /metrics` is for Prometheus; `GET /health` says whether something is published. `POST /alerts` takes Alertmanager's
alerts for `jobs.respond`: the next night's, or, with `--act`, at once. Ctrl-C or SIGTERM ends it.

  python -m jobs.serve --port 8088
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from nightmarket import log as logs
from nightmarket.command import DONE, EPILOG, FAULT, USAGE, by_hand
from nightmarket.shop import PROJECT, Settings, ShopError, child_environment, load_shop

PORT = 8088


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m jobs.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    p.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: this machine only; there is no login)")
    p.add_argument("--port", type=int, default=PORT, metavar="N", help=f"0 takes a free one (default: {PORT})")
    p.add_argument("--act", action="store_true", help="an alert that arrives starts jobs.respond of the newest night, one at a time")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    logs.configure()
    logs.identify(run_id=by_hand(), step="serve")
    try:
        settings = load_shop(args.shop)
    except ShopError as error:
        print(f"serve: {error}", file=sys.stderr)
        return USAGE
    from nightmarket.online.service import LookupService

    try:
        service = LookupService(settings, args.host, args.port, _responder(settings) if args.act else None)
    except OSError as error:
        print(f"serve: {args.host}:{args.port}: {error.strerror or error}; choose another --port", file=sys.stderr)
        return FAULT
    signal.signal(signal.SIGTERM, _stop)
    with service:
        logs.logger("serve").info(logs.said("serving", address=f"http://{args.host}:{service.port}"))
        try:
            service.serve_forever()
        except KeyboardInterrupt:
            return DONE
    return DONE


def _responder(settings: Settings) -> Callable[[], None]:
    """Runs `jobs.respond` of the newest night that was judged; who comes while it runs waits, so no alert goes unanswered."""
    turn = threading.Lock()

    def respond() -> None:
        from nightmarket.contracts import QUALITY
        from nightmarket.lake import Lake

        log = logs.logger("serve")
        with turn:
            night = max(Lake(settings.places.lake).dates(QUALITY), default=None)
            if night is None:
                log.warning(logs.said("nobody to respond", why="no night was judged yet"))
                return
            code = subprocess.run([sys.executable, "-m", "jobs.respond", "--shop", str(settings.file), "--run-date", str(night)],
                                  cwd=PROJECT, env=child_environment(), stdin=subprocess.DEVNULL, check=False).returncode
            log.info(logs.said("responded", run_date=night, exit_code=code))

    return respond


def _stop(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
