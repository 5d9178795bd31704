"""The owners' report of a night: what it says, as a page, as text and as a mail."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from nightmarket.contracts import QUALITY, RECOMMENDATIONS, clean_of, dataset, raw_of
from nightmarket.lake import Lake, Manifest, days
from nightmarket.quality import picture
from nightmarket.quality.texts import TEXTS, reason, text
from nightmarket.shop import Language, Owner, Settings

Verdict = Literal["passed", "warned", "refused", "absent", "stopped"]
TREND_NIGHTS = 30
COLOURS = {
    "passed": ("#15803d", "#f0fdf4"), "warned": ("#92400e", "#fffbeb"), "refused": ("#b91c1c", "#fef2f2"),
    "absent": ("#374151", "#f3f4f6"), "stopped": ("#374151", "#f3f4f6"),
}
"""Text and ground of the verdict; both pairs have a contrast above 4.5."""
MARKS = {"passed": "✓", "warned": "▲", "refused": "✕", "absent": "–", "stopped": "–"}


@dataclass(frozen=True)
class Failure:
    """One expectation that did not hold, in the reader's language."""

    dataset: str
    rule: str
    severity: str
    title: str
    column: str | None
    observed: str
    expected: str
    bad: int | None
    checked: int | None
    examples: tuple[str, ...]
    means: str
    do: str


@dataclass(frozen=True)
class Numbers:
    """Rows of one dataset in the night."""

    dataset: str
    delivered: int
    clean: int
    quarantined: dict[str, int]


@dataclass(frozen=True)
class Report:
    """All that one owner is told about one night."""

    shop: str
    run_date: date
    first_date: date
    language: Language
    owner: str
    recipients: tuple[str, ...]
    slug: str
    zone: str
    verdict: Verdict
    datasets: tuple[str, ...]
    failures: tuple[Failure, ...]
    """Of the owner's datasets."""
    elsewhere: tuple[str, ...]
    """Critical failures of other owners' datasets: 'dataset: rule'."""
    held: int
    checks: int
    numbers: tuple[Numbers, ...]
    serving: date | None
    """Night of the newest publication."""
    links: dict[str, str] = field(default_factory=dict)
    waiting: int = 0
    undelivered: int = 0

    def of(self, severity: str) -> tuple[Failure, ...]:
        return tuple(f for f in self.failures if f.severity == severity)

    def t(self, key: str, **values: object) -> str:
        return text(self.language, key, **values)

    @property
    def subject(self) -> str:
        count = {"refused": len(self.of("critical")) + len(self.elsewhere), "warned": len(self.of("warning"))}.get(self.verdict, 0)
        return self.t(f"subject.{self.verdict}", shop=self.shop, date=self.run_date, count=count)

    def digest(self) -> str:
        """Of what is said about the night; not of who else waits for mail, or of where files lie."""
        said = {k: v for k, v in asdict(self).items() if k not in ("links", "waiting", "undelivered", "serving")}
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def reports(settings: Settings, lake: Lake, run_date: date, run_id: str = "") -> list[Report]:
    """One report for each owner of a mapped dataset, whatever became of the night."""
    manifest = lake.manifest(QUALITY, run_date)
    found = lake.at(QUALITY, run_date).arrow().to_pylist() if manifest is not None else []
    verdict = _verdict(settings, lake, run_date, manifest)
    first = date.fromisoformat(manifest.notes["from_date"]) if manifest is not None else run_date
    published = [d for d in lake.dates(RECOMMENDATIONS) if d <= run_date]
    made = []
    taken: set[str] = set()
    for owner, entities in _owners(settings):
        mine = {clean_of(e).id for e in entities}
        language = owner.language or settings.shop.language
        rows = [r for r in found if r["dataset"] in mine]
        failures = tuple(_failure(r, language) for r in rows if not r["success"])
        order = ("critical", "warning", "info")
        slug = _slug(owner.name, taken)
        made.append(Report(
            shop=settings.shop.title or settings.shop.shop, run_date=run_date, first_date=first, language=language,
            owner=owner.name, recipients=owner.mail, slug=slug, zone=settings.shop.time_zone, verdict=verdict,
            datasets=tuple(entities), failures=tuple(sorted(failures, key=lambda f: order.index(f.severity))),
            elsewhere=tuple(f"{r['dataset']}: {text(language, 'rule.' + r['expectation'])}" for r in found
                            if not r["success"] and r["severity"] == "critical" and r["dataset"] not in mine),
            held=sum(r["success"] for r in rows), checks=len(rows),
            numbers=tuple(_numbers(lake, e, first, run_date) for e in entities),
            serving=published[-1] if published else None, links=_links(settings, run_date, slug, manifest, run_id),
        ))
    return made


def _owners(settings: Settings) -> list[tuple[Owner, list[str]]]:
    """Owners with the mapped datasets they are told about; one person is told once."""
    grouped: dict[Owner, list[str]] = {}
    for entity in settings.shop.datasets:
        grouped.setdefault(settings.owner_of(entity), []).append(entity)
    return list(grouped.items())


def _verdict(settings: Settings, lake: Lake, run_date: date, manifest: Manifest | None) -> Verdict:
    if manifest is not None:
        return manifest.notes["verdict"]
    arrived = any(lake.manifest(raw_of(e), run_date) for e in settings.shop.datasets)
    return "stopped" if arrived else "absent"


def _slug(name: str, taken: set[str]) -> str:
    """A file name made of the owner's name; other scripts than Latin give a short digest."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or f"owner-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    while slug in taken:
        slug += "-2"
    taken.add(slug)
    return slug


def _failure(row: dict[str, Any], language: Language) -> Failure:
    name = row["expectation"]
    contract = dataset(row["dataset"])
    column = row["column"]
    personal = bool(column and column in contract.column_names and contract.column(column).personal)
    shown = tuple(_example(e, language, personal) for e in json.loads(row["examples"] or "[]"))
    return Failure(
        row["dataset"], name, row["severity"], text(language, f"rule.{name}"), column, row["observed"] or "–",
        row["expected"] or "–", row["unexpected_rows"], row["checked_rows"], shown,
        text(language, f"rule.{name}.means"), text(language, f"rule.{name}.do"),
    )


def _example(example: dict[str, Any], language: Language, personal: bool) -> str:
    """One example as a line: the value, then where it stands. A personal column's value is never repeated."""
    parts = []
    if "value" in example:
        value = example["value"]
        if personal:
            parts.append("‹…›")
        else:
            parts.append(TEXTS[language]["empty.value"] if value is None else f'"{value}"')
    if "reason" in example:
        parts.append(reason(language, example["reason"]))
    for key in ("file", "column", "night"):
        if key in example:
            parts.append(str(example[key]))
    if "row" in example:
        parts.append(f"#{example['row']}")
    if "rows" in example:
        parts.append(f"× {example['rows']:,}")
    if "now" in example:
        parts.append(f"{example['before']:.1%} → {example['now']:.1%}")
    return " ".join(parts)


def _numbers(lake: Lake, entity: str, first: date, last: date) -> Numbers:
    """Rows over the nights reported on, from the manifests."""
    quarantined: dict[str, int] = {}
    delivered = clean = 0
    for night in days(first, last):
        raw, made = lake.manifest(raw_of(entity), night), lake.manifest(clean_of(entity), night)
        delivered += raw.rows_in if raw else made.rows_in if made else 0
        clean += made.rows_out if made else 0
        for manifest in (raw, made):
            for code, count in (manifest.quarantined if manifest else {}).items():
                quarantined[code] = quarantined.get(code, 0) + count
    return Numbers(entity, delivered, clean, dict(sorted(quarantined.items(), key=lambda x: (-x[1], x[0]))))


def _links(settings: Settings, run_date: date, slug: str, manifest: Manifest | None, run_id: str) -> dict[str, str]:
    found = {"report": (folder(settings, run_date) / f"{slug}.html").as_uri()}
    index = settings.places.reports / "data_docs" / "index.html"
    if manifest is not None and index.exists():
        found["docs"] = index.as_uri()
    run = run_id or (manifest.run_id if manifest is not None else "")
    if settings.shop.mail.links and run:
        found["airflow"] = f"{settings.shop.mail.links.rstrip('/')}/dags/shop_ingestion/runs/{quote(run, safe='')}"
    return found


def folder(settings: Settings, run_date: date) -> Path:
    return settings.places.reports / "quality" / run_date.isoformat()


def trend(lake: Lake, report: Report) -> bytes:
    """The picture of the last nights of the owner's datasets."""
    nights = days(report.run_date - timedelta(days=TREND_NIGHTS - 1), report.run_date)
    series: dict[str, list[picture.NightRows | None]] = {}
    for entity in report.datasets:
        rows: list[picture.NightRows | None] = []
        for night in nights:
            raw, made = lake.manifest(raw_of(entity), night), lake.manifest(clean_of(entity), night)
            bad = sum(sum(m.quarantined.values()) for m in (raw, made) if m is not None)
            rows.append(picture.NightRows(night, made.rows_out if made else 0, bad) if raw or made else None)
        series[entity] = rows
    return picture.trend(nights, series, verdicts(lake, nights))


def verdicts(lake: Lake, nights: Sequence[date]) -> dict[date, str]:
    """Verdict of each night that was judged; a first load's counts for all its nights, a later single one for its own."""
    said: dict[date, tuple[str, str]] = {}
    for night in lake.dates(QUALITY):
        manifest = lake.manifest(QUALITY, night)
        if manifest is None or night > nights[-1]:
            continue
        for day in days(date.fromisoformat(manifest.notes["from_date"]), night):
            said[day] = max(said.get(day, ("", "")), (manifest.created_at, manifest.notes["verdict"]))
    return {d: said[d][1] for d in nights if d in said}


def environment() -> Any:
    """Templates of mails and pages: strict about what is undefined, HTML escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("nightmarket.quality"), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=lambda name: bool(name) and ".html" in str(name),
    )
    made.filters["thousands"] = lambda n: f"{n:,}"
    return made


def _render(name: str, report: Report, **more: Any) -> str:
    colour, ground = COLOURS[report.verdict]
    return environment().get_template(name).render(
        r=report, t=report.t, reason=lambda code: reason(report.language, code), colour=colour, ground=ground,
        mark=MARKS[report.verdict], nights=TREND_NIGHTS,
        gap="" if report.language == "zh" else " ", **more,  # Chinese sentences follow each other without a blank
    )


def html(report: Report, source: str) -> str:
    """The page; `source` is where its picture is: a file name beside it, or 'cid:…' in a mail."""
    return _render("report.html.j2", report, source=source)


def plain(report: Report) -> str:
    return re.sub(r"\n{3,}", "\n\n", _render("report.txt.j2", report)).strip() + "\n"


def index(shop: str, run_date: date, made: Sequence[Report]) -> str:
    """A page that leads to the reports of a night."""
    return environment().get_template("index.html.j2").render(shop=shop, run_date=run_date, reports=made, colours=COLOURS, marks=MARKS)


def mail(report: Report, image: bytes, sender: str) -> EmailMessage:
    """multipart/alternative: text, and HTML with the picture related to it by Content-ID."""
    message = EmailMessage(policy=policy.SMTP.clone(cte_type="7bit"))
    message["From"] = sender
    message["To"] = ", ".join(report.recipients)
    message["Subject"] = report.subject
    message["Auto-Submitted"] = "auto-generated"  # so that absence notices do not answer
    message.set_content(plain(report), cte="quoted-printable" if report.language == "en" else "base64")
    cid = f"trend-{report.run_date}-{report.digest()}@nightmarket"
    message.add_alternative(html(report, f"cid:{cid}"), subtype="html", cte="quoted-printable" if report.language == "en" else "base64")
    *_, shown = message.iter_parts()
    shown.add_related(image, maintype="image", subtype="png", cid=f"<{cid}>", filename="trend.png", disposition="inline")
    message["Content-Language"] = "zh-CN" if report.language == "zh" else "en"  # setting the content takes such headers away
    return message
