"""Which files are a night's delivery.

A drop folder is read in one of three ways. `{date}` in the pattern: a file belongs to the night it carries. `slice_by`: one
growing extract; a row belongs to the night of its date in the shop's zone, a row without a readable date to the extract's
first night. `snapshot`: the whole table, taken on every night, on Mondays, or on the first of a month, and on the first
night that ever finds none before it.

Late files. A file for an earlier night (within `clean.late_days`) that was published without it is taken by the first night
that sees it; its rows land in that night's partition. Taken once, it stays there: neither night changes when run again.

Changed files. A file that an earlier night has consumed and whose bytes have changed since is not taken, only told: running
that night again restates its partition.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from nightmarket.command import Refused
from nightmarket.contracts import Dataset
from nightmarket.lake import Lake, Manifest
from nightmarket.shop import FilesSource, SqlSource
from nightmarket.sources.files import digest

REMEDY_CHANGED = "run that night again to restate it"


@dataclass(frozen=True)
class Dropped:
    """A file of the drop folder; `carries` is the date in its name."""

    name: str
    path: Path
    carries: date | None


@dataclass
class Delivery:
    """The files of each night, and what is to be said about them."""

    files: dict[date, list[Dropped]]
    late: dict[date, list[str]] = field(default_factory=dict)
    changed: dict[date, list[str]] = field(default_factory=dict)
    """Files consumed by an earlier night whose bytes are others now, told to the nights after it."""
    not_due: set[date] = field(default_factory=set)
    """Nights on which a snapshot is not taken."""
    missing: set[date] = field(default_factory=set)
    """Nights that should have had a file and did not, where the shop says that is fine."""


def find(
    entity: str, source: FilesSource, folder: Path, nights: Sequence[date], lake: Lake, contract: Dataset, late_days: int
) -> Delivery:
    """The delivery of each night. Raises Refused where one is missing and the source says `on_missing: refuse`."""
    dropped = listing(entity, source, folder)
    if "{date}" in source.pattern:
        found = _by_date(source, dropped, nights, lake, contract, late_days)
    elif source.snapshot:
        due = snapshot_nights(source, nights, lake, contract)
        found = Delivery({n: list(dropped) if n in due else [] for n in nights}, not_due=set(nights) - due)
    else:
        found = Delivery({n: list(dropped) for n in nights})
    found.missing = {n for n in nights if not found.files[n] and n not in found.not_due}
    if found.missing and source.on_missing == "refuse":
        first = min(found.missing)
        more = f" (and {len(found.missing) - 1} more nights)" if len(found.missing) > 1 else ""
        raise Refused(
            f"{entity}: no file for the night of {first}{more}: nothing named {source.pattern.replace('{date}', str(first))} in {folder}; "
            f"deliver it, or say `on_missing: empty` where nights without a file are normal"
        )
    return found


def listing(entity: str, source: FilesSource, folder: Path) -> list[Dropped]:
    """Files of the folder that the pattern names, by name. Raises Refused where there is no folder."""
    if not folder.is_dir():
        raise Refused(f"{entity}: the drop folder {folder} does not exist; create it, or correct the source's `path`")
    pieces = re.split(r"(\{date\}|\*|\?)", source.pattern)
    sign = {"{date}": r"(\d{4}-\d{2}-\d{2})", "*": "[^/]*", "?": "[^/]"}
    pattern = re.compile("".join(sign.get(p, re.escape(p)) for p in pieces))
    found = []
    for path in folder.glob(source.pattern.replace("{date}", "????-??-??")):
        name = path.relative_to(folder).as_posix()
        match = pattern.fullmatch(name)
        if match is None or not path.is_file():
            continue
        carried = _dates(match.groups())
        if "{date}" in source.pattern and carried is None:
            raise Refused(f"{name}: the date in the name is none; rename the file after its night, such as "
                          f"{source.pattern.replace('{date}', '2026-01-31')}")
        found.append(Dropped(name, path, carried))
    return sorted(found, key=lambda d: d.name)


def _dates(texts: Sequence[str]) -> date | None:
    try:
        return date.fromisoformat(texts[0]) if texts and len(set(texts)) == 1 else None
    except ValueError:
        return None


def _by_date(
    source: FilesSource, dropped: Sequence[Dropped], nights: Sequence[date], lake: Lake, contract: Dataset, late_days: int
) -> Delivery:
    window = timedelta(days=late_days)
    first, last = min(nights), max(nights)
    published: dict[date, Manifest] = {}
    for night in lake.dates(contract):
        if first - window <= night <= last + window and (manifest := lake.manifest(contract, night)):
            published[night] = manifest
    taken_late = {name: night for night, m in published.items() for name in m.notes.get("late_files", ())}
    found = Delivery({n: [] for n in nights})
    asked = set(nights)
    for file in dropped:
        home = file.carries
        if home is None:
            continue
        taker = taken_late.get(file.name)
        if taker is not None and taker != home:
            night = taker
        elif home in asked:
            night = home
        elif home in published and home < last and file.name not in {i.name for i in published[home].inputs}:
            seeing = [n for n in nights if home < n <= home + window]
            if not seeing:
                continue
            night = seeing[0]
        else:
            continue
        if night in asked:
            found.files[night].append(file)
            if night != home:
                found.late.setdefault(night, []).append(file.name)
    by_name = {f.name: f for f in dropped}
    changed: dict[str, bool] = {}
    for night in nights:
        for earlier, manifest in sorted(published.items()):
            if not (night - window <= earlier < night) or earlier in asked:
                continue
            for consumed in manifest.inputs:
                now = by_name.get(consumed.name)
                if now is None:
                    continue
                if consumed.name not in changed:
                    changed[consumed.name] = now.path.stat().st_size != consumed.bytes or digest(now.path) != consumed.digest
                if changed[consumed.name]:
                    found.changed.setdefault(night, []).append(consumed.name)
    return found


def snapshot_nights(source: FilesSource | SqlSource, nights: Sequence[date], lake: Lake, contract: Dataset) -> set[date]:
    """Nights on which a snapshot is taken: those of its rhythm, those that took it before, and the first one ever."""
    due = {n for n in nights if _in_rhythm(source.snapshot or "daily", n)}
    taken = set()
    for night in lake.dates(contract):
        manifest = lake.manifest(contract, night)
        if manifest is not None and manifest.inputs:
            taken.add(night)
    due |= {n for n in nights if n in taken}
    first = min(nights)
    if not any(n <= first for n in due | taken):
        due.add(first)
    return due


def _in_rhythm(snapshot: str, night: date) -> bool:
    return snapshot == "daily" or (snapshot == "weekly" and night.weekday() == 0) or (snapshot == "monthly" and night.day == 1)
