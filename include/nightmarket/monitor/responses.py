"""What is done by itself when something is wrong: rules of shop.yaml, and a log that is only ever added to.

`decide` is pure: alerts, rules and what was done before give what is done now and what is not, with the reason. `Log` keeps a line an
event in `<root>/monitor/responses.jsonl`, each with the hash of the line before it, so that a line that was changed or taken out is
found: `began` and `responded` with cause and effect, `declined` with the reason, `helped` or `escalated` once it is known.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from nightmarket.lake import held
from nightmarket.shop import Response

Event = Literal["began", "responded", "declined", "helped", "escalated", "lifted"]
_GENESIS = "0" * 64


class Tampered(Exception):
    """The log is not what was written; the message names file and line."""


@dataclass(frozen=True)
class Alert:
    """Something is wrong tonight."""

    name: str
    """drift.<dataset>, drift.recommendations, quality.live, quality.hit_rate, gate.refused, or a name from elsewhere."""
    cause: str


@dataclass(frozen=True)
class Entry:
    """A line of the log."""

    event: Event
    id: str
    """Of the response: the same for its beginning, its effect and its outcome."""
    night: str
    alert: str
    action: str
    cause: str
    effect: str = ""
    window_nights: int = 0
    at: str = ""

    @property
    def day(self) -> date:
        return date.fromisoformat(self.night)


@dataclass(frozen=True)
class Intent:
    """One rule and one alert: `declined` says why nothing is done, empty where something is."""

    alert: Alert
    rule: Response
    declined: str = ""

    def id(self, night: date) -> str:
        return hashlib.sha256(f"{night} {self.alert.name} {self.rule.do}".encode()).hexdigest()[:12]


def decide(
    alerts: Sequence[Alert], rules: Sequence[Response], past: Sequence[Entry], night: date, promoted: date | None, rolled_back: bool = False,
) -> list[Intent]:
    """What is done about tonight's alerts, in the order of the rules.

    `promoted` is the night whose model is the champion, `rolled_back` whether the newest move of it was one back already.
    A response that began and was not finished is done again.
    """
    made: list[Intent] = []
    done = [e for e in past if e.event == "responded"]
    for rule in rules:
        tonight = sum(e.night == night.isoformat() and e.action == rule.do and fnmatchcase(e.alert, rule.when) for e in done)
        for alert in alerts:
            if not fnmatchcase(alert.name, rule.when):
                continue
            last = max((e.day for e in done if (e.alert, e.action) == (alert.name, rule.do) and e.day <= night), default=None)
            age = (night - promoted).days if promoted is not None else None
            why = ""
            if last is not None and (night - last).days < max(rule.cool_down_nights, 1):
                why = f"done on {last}; cool-down of {rule.cool_down_nights} nights"
            elif tonight >= rule.daily_limit:
                why = f"daily limit of {rule.daily_limit}"
            elif rule.do == "rollback" and (rolled_back or any(i.rule.do == "rollback" and not i.declined for i in made)):
                why = "the champion was gone back to already"
            elif rule.after_promotion_nights is not None and (age is None or not 0 <= age < rule.after_promotion_nights):
                why = f"no promotion within {rule.after_promotion_nights} nights" + (f": the newest is {age} nights old" if age is not None else "")
            made.append(Intent(alert, rule, why))
            tonight += not why
    return made


def due(past: Sequence[Entry], alerts: Sequence[Alert], night: date) -> list[tuple[Entry, bool]]:
    """Responses whose outcome is known tonight: (response, helped). Gone is gone; still there after its window did not help."""
    ended = {e.id for e in past if e.event in ("helped", "escalated")}
    names = {a.name for a in alerts}
    found = []
    for entry in past:
        if entry.event != "responded" or entry.id in ended or entry.day >= night:
            continue
        if entry.alert not in names:
            found.append((entry, True))
        elif (night - entry.day).days >= entry.window_nights:
            found.append((entry, False))
    return found


class Log:
    """The log of one shop. Safe for several processes of one machine."""

    def __init__(self, root: Path):
        self.path = root / "monitor" / "responses.jsonl"

    def entries(self) -> list[Entry]:
        """Every line, oldest first. Raises Tampered."""
        return [Entry(**said) for _, said, _ in self._lines()]

    def add(self, entry: Entry) -> None:
        """Appends a line; it is on disk when this returns."""
        with held(self.path.with_suffix(".lock")):
            before = max(self._lines(), key=lambda line: line[0], default=(0, {}, _GENESIS))[2]
            said = {**asdict(entry), "at": entry.at or datetime.now(timezone.utc).isoformat(timespec="seconds")}
            line = {**said, "previous_hash": before, "hash": _hash(said, before)}
            with self.path.open("ab") as out:
                out.write((json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n").encode())
                out.flush()
                os.fsync(out.fileno())

    def _lines(self) -> Iterator[tuple[int, dict[str, Any], str]]:
        """(number, what is said, hash) of each line."""
        if not self.path.exists():
            return
        before = _GENESIS
        for number, text in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                raise Tampered(f"{self.path}: line {number} is not whole; restore the file from a backup") from None
            said = {k: v for k, v in line.items() if k not in ("previous_hash", "hash")}
            if line["previous_hash"] != before or line["hash"] != _hash(said, before):
                raise Tampered(f"{self.path}: line {number} is not what was written; restore the file from a backup")
            before = line["hash"]
            yield number, said, before


def _hash(said: dict[str, Any], before: str) -> str:
    return hashlib.sha256((before + json.dumps(said, sort_keys=True, ensure_ascii=False)).encode()).hexdigest()
