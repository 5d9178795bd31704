"""The blocklist's ledger on disk: `<root>/screening/blocklist.jsonl`, one action a line, appended and never changed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path

from nightmarket.screen.blocklist import Action, Entry, holds
from nightmarket.shop import Settings


class LedgerError(Exception):
    """The ledger cannot be read; the message names the line."""


def path_of(settings: Settings) -> Path:
    return settings.places.root / "screening" / "blocklist.jsonl"


def read(settings: Settings) -> list[Action]:
    """Every action, oldest first. Raises LedgerError. A last line that a killed writer left unfinished does not count."""
    path = path_of(settings)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    made = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            said = json.loads(line)
            made.append(Action(datetime.fromisoformat(said["at"]), said["kind"], said["identifier"], said["what"], said["decided_by"], said["evidence"],
                               datetime.fromisoformat(said["expires_at"]) if said["expires_at"] else None))
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"{path} line {number}: {error}; restore the file from a backup") from None
    return made


def append(settings: Settings, actions: Iterable[Action]) -> int:
    """Appends actions, all or none; how many. One writer at a time."""
    path, made = path_of(settings), list(actions)
    if not made:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    said = "".join(json.dumps({k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(a).items()}, sort_keys=True, ensure_ascii=False) + "\n" for a in made)
    with path.open("a+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0, os.SEEK_END)
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":  # of a killed writer: what it left is no action
                whole = path.read_bytes()
                handle.truncate(whole.rfind(b"\n") + 1)
        handle.write(said.encode())
        handle.flush()
        os.fsync(handle.fileno())
    path.chmod(0o600)
    return len(made)


def end_of(settings: Settings, night: date) -> datetime:
    """Where the night's day is over."""
    return datetime.combine(night + timedelta(days=1), time(), settings.zone).astimezone(timezone.utc)


def holding(settings: Settings, night: date) -> dict[tuple[str, str], Entry]:
    """Blocks that hold at the end of a night, as the ledger has them."""
    return holds(read(settings), end_of(settings, night))


def digest(entries: Mapping[tuple[str, str], Entry]) -> str:
    told = "\n".join(f"{k[0]}/{k[1]}/{e.action.at.isoformat()}" for k, e in sorted(entries.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]
