"""A mail about the night's products: a headline, words, tables, pictures and links, as page, as text and as a mail.

The data owners' report (`report.py`) has a form of its own; everything else that is written to a person is a letter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nightmarket import log as logs
from nightmarket.lake import write_atomically
from nightmarket.quality.outbox import Entry, Outbox, key_of
from nightmarket.quality.report import environment
from nightmarket.shop import Language

if TYPE_CHECKING:
    from nightmarket.command import Night

log = logs.logger("letter")

Tone = Literal["good", "look", "bad"]
TONES = {"good": ("#15803d", "#f0fdf4", "✓"), "look": ("#92400e", "#fffbeb", "▲"), "bad": ("#b91c1c", "#fef2f2", "✕")}
"""Ink, ground and mark of the headline; ink on ground has a contrast above 4.5."""


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are set flush right where `numbers`."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True


@dataclass(frozen=True)
class Picture:
    """A PNG file with what it shows in words, for those who cannot see it."""

    png: bytes = field(repr=False)
    alt: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with words, then a table, then a picture; each may be missing."""

    title: str
    words: tuple[str, ...] = ()
    table: Table | None = None
    picture: Picture | None = None


@dataclass(frozen=True)
class Letter:
    """All that one owner is told. `slug` names its files."""

    slug: str
    shop: str
    night: date
    language: Language
    recipients: tuple[str, ...]
    tone: Tone
    subject: str
    headline: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    """(words, address)."""
    footer: str = ""

    def digest(self) -> str:
        """Of what is said, pictures included; not of where files lie."""
        said = {k: v for k, v in asdict(self).items() if k != "links"}
        told = json.dumps(said, sort_keys=True, default=lambda v: hashlib.sha256(v).hexdigest() if isinstance(v, bytes) else str(v))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(s.picture for s in self.sections if s.picture is not None)


def html(letter: Letter, source: Callable[[int], str]) -> str:
    """The page; `source(n)` is where the n-th picture is: a file beside it, or 'cid:…' in a mail."""
    colour, ground, mark = TONES[letter.tone]
    places = {id(p): source(n) for n, p in enumerate(letter.pictures)}
    return str(environment().get_template("letter.html.j2").render(
        letter=letter, colour=colour, ground=ground, mark=mark, source=lambda picture: places[id(picture)]))


def plain(letter: Letter) -> str:
    """The same as text; tables are aligned, pictures are their words."""
    text = environment().get_template("letter.txt.j2").render(letter=letter, aligned=_aligned)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _aligned(table: Table) -> str:
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    return "\n".join("  ".join(
        c.rjust(w) if table.numbers and i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
    ).rstrip() for line in lines)


def mail(letter: Letter, sender: str) -> EmailMessage:
    """multipart/alternative: text, and HTML with its pictures related to it by Content-ID."""
    message = EmailMessage(policy=policy.SMTP.clone(cte_type="7bit"))
    message["From"], message["To"], message["Subject"] = sender, ", ".join(letter.recipients), letter.subject
    message["Auto-Submitted"] = "auto-generated"  # so that absence notices do not answer
    cte = "quoted-printable" if letter.language == "en" else "base64"
    digest = letter.digest()
    message.set_content(plain(letter), cte=cte)
    message.add_alternative(html(letter, lambda n: f"cid:{digest}.{n}@nightmarket"), subtype="html", cte=cte)
    *_, shown = message.iter_parts()
    for n, picture in enumerate(letter.pictures):
        shown.add_related(picture.png, maintype="image", subtype="png", cid=f"<{digest}.{n}@nightmarket>",
                          filename=f"{letter.slug}-{n}.png", disposition="inline")
    message["Content-Language"] = "zh-CN" if letter.language == "zh" else "en"  # setting the content takes such headers away
    return message


def write(letter: Letter, folder: Path) -> None:
    """Writes the letter as page and text into `folder`, with its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, picture in enumerate(letter.pictures):
        path = folder / f"{letter.slug}-{n}.png"
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(picture.png)
        temporary.replace(path)
    write_atomically(folder / f"{letter.slug}.html", html(letter, lambda n: f"{letter.slug}-{n}.png"))
    write_atomically(folder / f"{letter.slug}.txt", plain(letter))


def tell(night: Night, letter: Letter, folder: Path) -> None:
    """The end of a job that writes to an owner: posts the letter, or says in a dry run that it would."""
    if night.dry_run:
        log.info(logs.said("would tell", run_date=night.run_date, subject=letter.subject))
        return
    entry, new = post(letter, folder, Outbox(night.settings.places.outbox), night.settings.shop.mail.sender, night.force)
    log.info(logs.said("told", run_date=night.run_date, mail=entry.id, queued=new))


def post(letter: Letter, folder: Path, outbox: Outbox, sender: str, force: bool = False) -> tuple[Entry, bool]:
    """Writes the letter as files into `folder` first, then queues its mail: (entry, whether it is new).

    The same letter about the same night is queued once, unless `force`.
    """
    write(letter, folder)
    return outbox.put(mail(letter, sender), key_of(letter.shop, letter.slug, str(letter.night), letter.digest()), force=force)
