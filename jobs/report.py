"""Write the owners' quality report of a night and put their mails into the outbox.

Runs after the gate whatever became of the night: it looks at what was published. Each owner of a dataset gets one report,
in the owner's language, as files under reports/quality/<date>/ first and as a mail then; `jobs.send` sends it. Run again
on the same findings it queues no second mail, unless --force.

  python -m jobs.report --run-date 2026-02-01
"""

from __future__ import annotations

import sys
from dataclasses import replace

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.lake import Manifest, write_atomically
from nightmarket.quality import report
from nightmarket.quality.outbox import Outbox, key_of

log = logs.logger("report")


def run(night: Night) -> list[Manifest]:
    """Writes the files, then queues the mails."""
    settings, lake = night.settings, night.lake
    outbox = Outbox(settings.places.outbox)
    waiting = outbox.counts()
    made = report.reports(settings, lake, night.run_date, night.run_id)
    if night.dry_run:
        for one in made:
            log.info(logs.said("would report", owner=one.slug, verdict=one.verdict, failed=len(one.failures)))
        return []
    folder = report.folder(settings, night.run_date)
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        # a mail that waits since an earlier run of this very report is not news
        own = outbox.entry_of(key_of(settings.shop.shop, str(night.run_date), one.slug, one.digest()))
        others = waiting.queued - (own is not None and own.state == "queued")
        told = replace(one, waiting=others, undelivered=waiting.undelivered)
        image = report.trend(lake, told)
        picture = folder / f"{told.slug}.png"
        temporary = picture.with_name(f".{picture.name}")
        temporary.write_bytes(image)
        temporary.replace(picture)
        write_atomically(folder / f"{told.slug}.html", report.html(told, picture.name))
        write_atomically(folder / f"{told.slug}.txt", report.plain(told))
        mail = report.mail(told, image, settings.shop.mail.sender)
        key = key_of(settings.shop.shop, str(night.run_date), told.slug, one.digest())
        entry, new = outbox.put(mail, key, force=night.force)
        log.info(logs.said("reported", run_date=night.run_date, owner=told.slug, verdict=told.verdict, failed=len(told.failures),
                           mail=entry.id, queued=new))
    write_atomically(folder / "index.html", report.index(settings.shop.title or settings.shop.shop, night.run_date, made))
    print(f"report: {folder / 'index.html'}")
    return []


def main(argv: list[str] | None = None) -> int:
    return command.main("report", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
