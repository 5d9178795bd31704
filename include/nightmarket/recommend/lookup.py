"""The published recommendations as one read-only SQLite file: an answer in well under a millisecond, no server needed.

`<root>/published/recommendations.sqlite` is a link to the file that serves, replaced by one rename: a reader sees the old
publication or the new one, and a night that fails leaves yesterday's. `previous.sqlite` links to the one before.
One row an audience holds its whole list, so an answer is one look into one B-tree.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

SERVING = "recommendations.sqlite"
PREVIOUS = "previous.sqlite"
LIVE = "live-"
_FORMAT = "1"
_SCHEMA = """
CREATE TABLE lists (
    audience TEXT NOT NULL,
    audience_id TEXT NOT NULL,
    items TEXT NOT NULL,  -- JSON: [[item_id, score, reason], ...] best first
    PRIMARY KEY (audience, audience_id)
) WITHOUT ROWID;
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class PublicationError(Exception):
    """There is no publication, or it cannot be read; the message names the file and the remedy."""


@dataclass(frozen=True)
class About:
    """What a publication is."""

    run_date: date
    model_name: str
    model_version: str
    digest: str
    """Content digest of the `gold.recommendations` partition that it was made from; of an answer between nights LIVE and one of its inputs."""

    @property
    def live(self) -> bool:
        """Whether it was answered between nights, with what the stream had brought."""
        return self.digest.startswith(LIVE)


@dataclass(frozen=True)
class Item:
    item_id: str
    score: float
    reason: str


@dataclass(frozen=True)
class Answer:
    """`source` says for whom the list was made: user, country or everyone."""

    source: str
    items: tuple[Item, ...]
    about: About

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source, "run_date": self.about.run_date.isoformat(), "model_name": self.about.model_name,
            "model_version": self.about.model_version, "items": [asdict(i) for i in self.items],
        }


class Lookup:
    """An open publication. Not shared between threads; open one in each."""

    def __init__(self, folder: Path):
        """Opens what serves from `<root>/published`. Raises PublicationError where nothing does."""
        self._file = folder / SERVING
        if not self._file.exists():
            raise PublicationError(f"{self._file} does not exist: nothing was published yet; run `python -m jobs.publish --run-date DATE`")
        # immutable: the file never changes once it is in place, so neither locks nor a journal are looked for
        self._db = sqlite3.connect(f"file:{_quoted(self._file.resolve())}?mode=ro&immutable=1", uri=True)
        try:
            said = dict(self._db.execute("SELECT name, value FROM about"))
        except sqlite3.DatabaseError as error:
            raise PublicationError(f"{self._file} cannot be read ({error}); publish again with --force") from error
        if said.get("format") != _FORMAT:
            raise PublicationError(f"{self._file} is of format {said.get('format')}, this code reads {_FORMAT}; publish again with --force")
        self.about = About(date.fromisoformat(said["run_date"]), said["model_name"], said["model_version"], said["digest"])

    def recommend(self, user_id: str | None = None, country: str | None = None, k: int = 10) -> Answer:
        """The shopper's list; a stranger's country's; everyone's. At most k items, best first. Raises ValueError for k < 1."""
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least 1")
        for audience, key in (("user", user_id), ("country", country), ("everyone", "*")):
            if key is None:
                continue
            row = self._db.execute("SELECT items FROM lists WHERE audience = ? AND audience_id = ?", (audience, key)).fetchone()
            if row:
                return Answer(audience, tuple(Item(*i) for i in json.loads(row[0])[:k]), self.about)
        raise PublicationError(f"{self._file} has no list for everyone; publish again with --force")

    def length(self, user_id: str | None) -> int:
        """Items of the shopper's own list; 0 where there is none."""
        row = self._db.execute("SELECT items FROM lists WHERE audience = 'user' AND audience_id = ?", (user_id,)).fetchone()
        return len(json.loads(row[0])) if row else 0

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Lookup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serving(folder: Path) -> About | None:
    """What serves now, or None."""
    if not (folder / SERVING).exists():
        return None
    with Lookup(folder) as found:
        return found.about


def serve(folder: Path, rows: pa.Table, about: About) -> Path:
    """Builds the file from rows of `gold.recommendations` beside the one that serves, then points to it.

    Killed at any moment it leaves what served before. The publication before is kept, older ones are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"recommendations-{about.run_date}-v{about.model_version}-{about.digest.rsplit('-', 1)[-1][:12]}.sqlite"
    building = folder / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        with closing(sqlite3.connect(building, isolation_level=None)) as db:
            db.executescript(_SCHEMA)
            db.execute("BEGIN")
            db.executemany("INSERT INTO lists VALUES (?, ?, ?)", _lists(rows))
            db.executemany("INSERT INTO about VALUES (?, ?)", [
                ("format", _FORMAT), ("run_date", about.run_date.isoformat()), ("model_name", about.model_name),
                ("model_version", about.model_version), ("digest", about.digest)])
            db.execute("COMMIT")
        with building.open("rb") as handle:
            os.fsync(handle.fileno())
        building.replace(target)
    finally:
        building.unlink(missing_ok=True)
    before = (folder / SERVING).resolve() if (folder / SERVING).exists() else None
    if before is not None and before != target.resolve():
        _point(folder / PREVIOUS, before.name)
    _point(folder / SERVING, target.name)
    kept = {(folder / name).resolve() for name in (SERVING, PREVIOUS)}
    for old in folder.glob("recommendations-*.sqlite"):
        if old.resolve() not in kept:
            old.unlink()
    return target


def difference(folder: Path, rows: pa.Table, about: About) -> str:
    """The first way in which what serves from `folder` is not `about` with exactly `rows` of gold.recommendations; empty where it is.

    Every list is asked for the way a shop would ask. Raises PublicationError where nothing can be read.
    """
    with Lookup(folder) as found:
        if found.about != about:
            return f"what serves is version {found.about.model_version} of {found.about.run_date}, {found.about.digest}"
        for audience, key, items in _lists(rows):
            wanted = [Item(*i) for i in json.loads(items)]
            asked = {"user": {"user_id": key}, "country": {"country": key}}.get(audience, {})
            answer = found.recommend(**asked, k=len(wanted))
            if (answer.source, list(answer.items)) != (audience, wanted):
                return f"the list of {audience} {key} is not the published one"
    return ""


def _lists(rows: pa.Table) -> Iterator[tuple[str, str, str]]:
    ordered = rows.select(["audience", "audience_id", "rank", "item_id", "score", "reason"]).sort_by(
        [("audience", "ascending"), ("audience_id", "ascending"), ("rank", "ascending")])
    at: tuple[str, str] | None = None
    items: list[list[Any]] = []
    for batch in ordered.to_batches(max_chunksize=50_000):
        for row in batch.to_pylist():
            key = (row["audience"], row["audience_id"])
            if at is not None and key != at:
                yield (*at, json.dumps(items, ensure_ascii=False, separators=(",", ":")))
                items = []
            at = key
            items.append([row["item_id"], row["score"], row["reason"]])
    if at is not None:
        yield (*at, json.dumps(items, ensure_ascii=False, separators=(",", ":")))


def _point(link: Path, name: str) -> None:
    """Makes or moves a link by one rename."""
    temporary = link.with_name(f".{link.name}.{uuid.uuid4().hex[:8]}")
    temporary.symlink_to(name)
    temporary.replace(link)


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
