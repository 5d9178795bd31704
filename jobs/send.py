"""Send the mails that wait in the outbox.

The night never fails because mail is down: a mail that cannot be sent stays, is tried again by later runs with growing
pauses, and after `mail.attempts` of shop.yaml is kept as undelivered, which the next report says. Mails of all nights
are sent, whatever --run-date says.

  python -m jobs.send --run-date 2026-02-01          what is due
  python -m jobs.send --run-date 2026-02-01 --now    everything that waits, pauses ignored
"""

from __future__ import annotations

import argparse
import sys

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.lake import Manifest
from nightmarket.quality.outbox import Outbox, OutboxBusy, Server

log = logs.logger("send")


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="try mails whose pause after a failure is not over yet, too")


def run(night: Night) -> list[Manifest]:
    """Flushes the outbox; a server that cannot be reached is told, not raised."""
    outbox = Outbox(night.settings.places.outbox)
    server = Server.of(night.settings)
    if night.dry_run:
        log.info(logs.said("would send", waiting=outbox.counts().queued, server=f"{server.host}:{server.port}"))
        return []
    try:
        counts = outbox.flush(server, now=night.args.now or night.force)
    except OutboxBusy as busy:
        log.info(logs.said("busy", why=str(busy)))
        return []
    print(f"send: {counts}")
    write = log.info if not counts.reason else log.warning
    write(logs.said("flushed", sent=counts.sent_now, waiting=counts.queued, undelivered=counts.undelivered))
    return []


def main(argv: list[str] | None = None) -> int:
    return command.main("send", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
