"""The alias ledger: who moved which alias from which version to which, when, why and on what evidence.

An MLflow alias is a plain overwrite without history. So the truth about `champion`, `challenger` and `previous` is an
append-only table in one SQLite file, and MLflow's aliases follow it (`Registry.sync`). Every move is a compare-and-set
in one IMMEDIATE transaction: two nights that decide at once cannot both win. Each row carries the hash of the row before
it, so that a row changed, removed or put in between is found by `verify`; keep a hash elsewhere (decision reports do)
and a cut-off end is found too.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, Literal

Alias = Literal["champion", "challenger", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "challenger", "previous")

_GENESIS = "0" * 64
_COLUMNS = ("seq", "operation", "model", "alias", "action", "from_version", "to_version", "run_date", "who", "why",
            "evidence", "at", "previous_hash", "hash")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS moves (
    seq INTEGER PRIMARY KEY,
    operation INTEGER NOT NULL,
    model TEXT NOT NULL,
    alias TEXT NOT NULL CHECK (alias IN ('champion', 'challenger', 'previous')),
    action TEXT NOT NULL,
    from_version TEXT,
    to_version TEXT,
    run_date TEXT,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    evidence TEXT NOT NULL,
    at TEXT NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS moves_by_alias ON moves (model, alias, seq);
CREATE TRIGGER IF NOT EXISTS moves_are_never_changed BEFORE UPDATE ON moves
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS moves_are_never_removed BEFORE DELETE ON moves
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class LedgerError(Exception):
    """The ledger cannot be read or written; the message names the file and the remedy."""


class Moved(LedgerError):
    """Compare-and-set failed: the alias points elsewhere than the mover believed."""

    def __init__(self, model: str, alias: str, expected: str | None, found: str | None):
        self.model, self.alias, self.expected, self.found = model, alias, expected, found
        super().__init__(
            f"{model}@{alias} was expected at {_named(expected)} and is at {_named(found)}: someone moved it meanwhile; "
            f"look at `python -m jobs.ledger` and decide again"
        )


class NothingToGoBackTo(LedgerError):
    """There is no previous champion."""


class Tampered(LedgerError):
    """A row is not what was written, or is missing. `seq` is the first row that does not fit."""

    def __init__(self, path: Path, seq: int, what: str):
        self.seq = seq
        super().__init__(f"{path}: row {seq}: {what}; restore the file from a backup and find out who changed it")


@dataclass(frozen=True)
class Move:
    """One row. Rows of one `operation` (the `seq` of its first row) were written together or not at all."""

    seq: int
    operation: int
    model: str
    alias: str
    action: str
    from_version: str | None
    to_version: str | None
    run_date: str | None
    """Night of the data that the version which the move is about was trained on."""
    who: str
    why: str
    evidence: dict[str, Any]
    at: str
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class _Wish:
    alias: Alias
    to: str | None
    run_date: str | None


_Places = dict[Alias, Move | None]
"""Where each alias is."""


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class Ledger:
    """The ledger in the SQLite file `path`, made where it is missing. Safe for several processes of one machine."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = _utc_now, wait_seconds: float = 30):
        self.path = path
        self._clock = clock
        self._wait = wait_seconds

    def current(self, model: str, alias: Alias) -> str | None:
        """The version that the alias points at, or None."""
        newest = self.newest(model, alias)
        return newest.to_version if newest else None

    def newest(self, model: str, alias: Alias) -> Move | None:
        """The alias's last move, or None where it never moved."""
        with self._reading() as db:
            return _newest(db, model, _checked(alias))

    def history(self, model: str) -> list[Move]:
        """Every move of the model's aliases, oldest first."""
        with self._reading() as db:
            rows = db.execute(f"SELECT {', '.join(_COLUMNS)} FROM moves WHERE model = ? ORDER BY seq", (model,))
            return [_move(r) for r in rows]

    def decision(self, model: str, version: str) -> Move | None:
        """The newest row that records a decision of the model gate about the version: its `evidence["decision"]` says which."""
        found = [m for m in self.history(model) if m.evidence.get("decision", {}).get("challenger") == version]
        return found[-1] if found else None

    def head(self) -> str:
        """Hash of the last row: keep it elsewhere, and `verify(head)` also finds a ledger that was cut short."""
        with self._reading() as db:
            row = db.execute("SELECT hash FROM moves ORDER BY seq DESC LIMIT 1").fetchone()
            return row[0] if row else _GENESIS

    def move(
        self, model: str, alias: Alias, expected: str | None, to: str | None, who: str, why: str,
        evidence: Mapping[str, Any] | None = None, run_date: date | None = None, action: str = "move",
    ) -> Move:
        """Points `alias` from version `expected` (None: nowhere) to `to` (None: nowhere).

        Raises Moved where the alias is not at `expected`, and ValueError where nobody or no reason is named.
        """
        wish = _Wish(_checked(alias), to, run_date.isoformat() if run_date else None)
        return self._write(model, action, {wish.alias: expected}, lambda _: [wish], who, why, evidence)[0]

    def promote(
        self, model: str, version: str, expected_champion: str | None, who: str, why: str,
        evidence: Mapping[str, Any] | None = None, run_date: date | None = None,
    ) -> list[Move]:
        """Makes `version` the champion and the champion the previous, together or not at all.

        The challenger alias is cleared where it pointed at `version`. Raises Moved where the champion is not
        `expected_champion`, and ValueError where `version` is the champion already.
        """
        if version == expected_champion:
            raise ValueError(f"{model} version {version} is the champion already")

        def wishes(at: _Places) -> list[_Wish]:
            champion, challenger = at["champion"], at["challenger"]
            made = []
            if champion and champion.to_version:
                made.append(_Wish("previous", champion.to_version, champion.run_date))
            made.append(_Wish("champion", version, run_date.isoformat() if run_date else None))
            if challenger and challenger.to_version == version:
                made.append(_Wish("challenger", None, None))
            return made

        return self._write(model, "promote", {"champion": expected_champion}, wishes, who, why, evidence)

    def back(
        self, model: str, expected_champion: str | None, who: str, why: str, evidence: Mapping[str, Any] | None = None,
        to: str | None = None, run_date: date | None = None,
    ) -> list[Move]:
        """Makes the previous version, or `to`, the champion again; the one gone back from becomes the previous, so that a second
        call undoes the first. `run_date` is the night of the data that `to` learnt from.

        Raises NothingToGoBackTo, Moved where the champion is not `expected_champion`, and ValueError where `to` is that champion.
        """
        if to is not None and to == expected_champion:
            raise ValueError(f"{model} version {to} is the champion already")

        def wishes(at: _Places) -> list[_Wish]:
            champion, previous = at["champion"], at["previous"]
            if to is not None:
                wanted = _Wish("champion", to, run_date.isoformat() if run_date else None)
            elif previous is not None and previous.to_version is not None:
                wanted = _Wish("champion", previous.to_version, previous.run_date)
            else:
                raise NothingToGoBackTo(f"{model} has no previous champion to go back to; see `python -m jobs.ledger`")
            was = _Wish("previous", champion.to_version, champion.run_date) if champion else _Wish("previous", None, None)
            return [was, wanted]

        return self._write(model, "back", {"champion": expected_champion}, wishes, who, why, evidence)

    def gone_back_from(self, model: str) -> dict[str, Move]:
        """Versions that were taken out of service by going back, with the move that did it: the champion of then, and those it came from
        that the move's evidence names. One that was made champion again since, by whomever, is not among them."""
        found: dict[str, Move] = {}
        for move in self.history(model):
            if move.alias != "champion":
                continue
            if move.action == "back" and move.from_version is not None:
                found |= dict.fromkeys((move.from_version, *move.evidence.get("rollback", {}).get("out", ())), move)
            if move.to_version is not None:
                found.pop(move.to_version, None)
        return found

    def verify(self, head: str | None = None) -> int:
        """Recomputes the chain and returns how many rows it has. Raises Tampered at the first row that does not fit, and
        where `head`, a hash noted earlier, is not among the rows."""
        with self._reading() as db:
            before, count, seen = _GENESIS, 0, head in (None, _GENESIS)
            for row in db.execute(f"SELECT {', '.join(_COLUMNS)} FROM moves ORDER BY seq"):
                count += 1
                written = dict(zip(_COLUMNS, row, strict=True))
                if written["seq"] != count:
                    raise Tampered(self.path, count, "it is missing")
                if written["previous_hash"] != before:
                    raise Tampered(self.path, count, "it does not follow the row before it")
                if written["hash"] != _hash(written):
                    raise Tampered(self.path, count, "its content is not what was written")
                before = written["hash"]
                seen = seen or before == head
            if not seen:
                raise Tampered(self.path, count + 1, f"the row with hash {head} is gone")
            return count

    def _write(
        self, model: str, action: str, expected: Mapping[Alias, str | None],
        wishes: Callable[[_Places], list[_Wish]], who: str, why: str, evidence: Mapping[str, Any] | None,
    ) -> list[Move]:
        if not who.strip() or not why.strip():
            raise ValueError("an alias move needs a name and a reason")
        text = json.dumps(evidence or {}, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.executescript(_SCHEMA)
            db.execute("BEGIN IMMEDIATE")  # from here on nobody else writes, so what we compare stays true
            try:
                at: _Places = {alias: _newest(db, model, alias) for alias in ALIASES}
                for alias, version in expected.items():
                    row = at[alias]
                    found = row.to_version if row else None
                    if found != version:
                        raise Moved(model, alias, version, found)
                last = db.execute("SELECT seq, hash FROM moves ORDER BY seq DESC LIMIT 1").fetchone() or (0, _GENESIS)
                seq, before = int(last[0]), str(last[1])
                operation, made = seq + 1, []
                for wish in wishes(at):
                    seq += 1
                    was = at[wish.alias]
                    values: dict[str, Any] = {
                        "seq": seq, "operation": operation, "model": model, "alias": wish.alias, "action": action,
                        "from_version": was.to_version if was else None, "to_version": wish.to,
                        "run_date": wish.run_date, "who": who, "why": why, "evidence": text,
                        "at": self._clock().isoformat(timespec="seconds"), "previous_hash": before,
                    }
                    values["hash"] = before = _hash(values)
                    db.execute(f"INSERT INTO moves ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})",
                               [values[c] for c in _COLUMNS])
                    made.append(_move([values[c] for c in _COLUMNS]))
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        return made

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=self._wait, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")  # a promotion that was reported must survive a power cut
                yield db
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{self.path}: {error}; if another process holds it, wait for it or stop it") from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{self.path}: {error}; restore it from a backup") from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """An existing ledger, or an empty one in memory: looking must not make a file."""
        if self.path.exists():
            with self._open() as db:
                if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'moves'").fetchone():
                    db.executescript(_SCHEMA)
                yield db
        else:
            with closing(sqlite3.connect(":memory:")) as db:
                db.executescript(_SCHEMA)
                yield db


def _newest(db: sqlite3.Connection, model: str, alias: str) -> Move | None:
    row = db.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM moves WHERE model = ? AND alias = ? ORDER BY seq DESC LIMIT 1", (model, alias)
    ).fetchone()
    return _move(row) if row else None


def _move(row: Any) -> Move:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["evidence"] = json.loads(values["evidence"])
    return Move(**values)


def _hash(values: Mapping[str, Any]) -> str:
    """SHA-256 over every column but the hash itself; `evidence` as the text that is stored."""
    kept = {c: values[c] for c in _COLUMNS if c != "hash"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _checked(alias: str) -> Alias:
    if alias not in ALIASES:
        raise ValueError(f"no alias {alias!r}; there are {', '.join(ALIASES)}")
    return alias  # type: ignore[return-value]


def _named(version: str | None) -> str:
    return f"version {version}" if version is not None else "no version"
