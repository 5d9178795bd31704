"""What is done by itself when something is wrong: rules of shop.yaml, and a log that is only ever added to.

`decide` is pure: alerts, rules and what was done before give what is done now and what is not, with the reason. `suspect` says which version an
alert is about, since when it was promoted and what it would be gone back to: the one whose publication was measured, never one that only serves
now. `Log` keeps a line an
event in `<root>/monitor/responses.jsonl`, each with the hash of the line before it, so that a line that was changed or taken out is
found: `began` and `responded` with cause and effect, `declined` with the reason, `helped` or `escalated` once it is known.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from nightmarket.lake import held
from nightmarket.registry.ledger import Move
from nightmarket.shop import Response

Event = Literal["began", "responded", "declined", "helped", "escalated", "lifted"]
_GENESIS = "0" * 64


class Tampered(Exception):
    """The log is not what was written; the message names file and line."""


@dataclass(frozen=True)
class Alert:
    """Something is wrong tonight."""

    name: str
    """drift.<dataset>, drift.recommendations, quality.live, quality.hit_rate, quality.<kind>, gate.refused, or a name from elsewhere."""
    cause: str
    model: str = ""
    """Id of the kind of model that it is about; empty where that is not said."""
    version: str | None = None
    """Version whose publication was measured; None: whichever serves."""


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
    model: str = ""

    @property
    def day(self) -> date:
        return date.fromisoformat(self.night)


@dataclass(frozen=True)
class Suspect:
    """A version that an alert is about, as the ledger knows it."""

    promoted: date | None = None
    """The night on which it was promoted; None where it came back instead, or nothing serves."""
    to: str | None = None
    """Who served before it."""
    out: tuple[str, ...] = ()
    """Itself and what serves in its stead, online updates of it: all that leaves service with it."""
    innocent: str = ""
    """Why it is not gone back from; empty where it may be."""
    gone: bool = False
    """It was gone back from already."""


def suspect(moves: Sequence[Move], version: str | None) -> Suspect:
    """The version, or where it is None whoever serves, by the moves of one model's aliases, oldest first."""
    stays = [m for m in moves if m.alias == "champion"]
    if not stays or stays[-1].to_version is None:
        return Suspect(innocent="nothing serves")
    out = _taken_out(stays)
    if version in out or (version is None and stays[-1].action == "back"):
        return Suspect(innocent="the champion was gone back to already" if version is None else f"version {version} was gone back from already", gone=True)
    parents = {m.to_version: str(m.evidence["online"]["parent"]) for m in stays if "online" in m.evidence}
    line = [stays[-1].to_version]
    while line[-1] != version and line[-1] in parents and version is not None:
        line.append(parents[line[-1]])
    came = next((m for m in reversed(stays) if m.to_version == line[-1]), None)
    if version not in (None, line[-1]) or came is None:
        return Suspect(innocent=f"version {version} was measured, and {line[0]} serves since")
    promoted = _night(came) if came.action == "promote" else None
    innocent = ""
    if came.from_version is None:
        innocent = f"no champion before version {line[-1]}"
    elif came.from_version in out:
        innocent = f"the champion before, version {came.from_version}, was itself taken out of service"
    return Suspect(date.fromisoformat(promoted) if promoted else None, came.from_version, tuple(v for v in line if v), innocent)


def replaced(moves: Sequence[Move], version: str, since: date) -> bool:
    """Whether `version` came into service before the night `since`, and another one from then on: what is measured of it says nothing of what
    that night's response brought. By the moves of one model's aliases, oldest first."""
    stays = [m for m in moves if m.alias == "champion" and m.to_version is not None]
    came = [n for n, m in enumerate(stays) if m.to_version == version]
    return bool(came) and (_night(stays[came[-1]]) or "") < str(since) and any((_night(m) or "") >= str(since) for m in stays[came[-1] + 1:])


def _night(move: Move) -> str | None:
    """The night in which a move's version came into service; what an experiment promotes was trained before."""
    found: str | None = move.evidence.get("experiment", {}).get("night") or move.run_date
    return found


def _taken_out(stays: Sequence[Move]) -> set[str]:
    out: set[str] = set()
    for move in stays:
        if move.action == "back" and move.from_version is not None:
            out |= {move.from_version, *move.evidence.get("rollback", {}).get("out", ())}
        out.discard(move.to_version or "")
    return out


@dataclass(frozen=True)
class Intent:
    """One rule and one alert: `declined` says why nothing is done, empty where something is."""

    alert: Alert
    rule: Response
    declined: str = ""
    suspect: Suspect = field(default_factory=Suspect)

    def id(self, night: date) -> str:
        return hashlib.sha256(" ".join([str(night), self.alert.name, self.rule.do, *([self.model] if self.alert.model else [])]).encode()).hexdigest()[:12]

    @property
    def model(self) -> str:
        """Id of the kind of model that it is about."""
        return model_of(self.alert, self.rule)


def model_of(alert: Alert, rule: Response) -> str:
    """Id of the kind of model that a rule takes an alert to be about: the alert's, else the rule's, else the recommender."""
    return alert.model or rule.model or "recommender"


def decide(
    alerts: Sequence[Alert], rules: Sequence[Response], past: Sequence[Entry], night: date, whom: Callable[[str, str | None], Suspect],
) -> list[Intent]:
    """What is done about tonight's alerts, in the order of the rules; `whom` is `suspect` of a kind of model.

    A response that began and was not finished is done again.
    """
    made: list[Intent] = []
    done = [e for e in past if e.event == "responded"]
    begun = {e.id for e in past if e.event == "began"} - {e.id for e in done}
    for rule in rules:
        tonight = sum(e.night == night.isoformat() and e.action == rule.do and fnmatchcase(e.alert, rule.when) for e in done)
        for alert in alerts:
            if not fnmatchcase(alert.name, rule.when):
                continue
            last = max((e.day for e in done if (e.alert, e.model, e.action) == (alert.name, alert.model, rule.do) and e.day <= night), default=None)
            guilty = whom(model_of(alert, rule), alert.version) if rule.after_promotion_nights is not None else Suspect()
            intent = Intent(alert, rule, suspect=guilty)
            unfinished = guilty.gone and rule.do == "rollback" and intent.id(night) in begun
            age = (night - guilty.promoted).days if guilty.promoted is not None else None
            why = ""
            if last is not None and (night - last).days < max(rule.cool_down_nights, 1):
                why = f"done on {last}; cool-down of {rule.cool_down_nights} nights"
            elif tonight >= rule.daily_limit:
                why = f"daily limit of {rule.daily_limit}"
            elif rule.do == "rollback" and any((i.rule.do, i.model, i.declined) == ("rollback", intent.model, "") for i in made):
                why = "the champion was gone back to already"
            elif rule.do == "rollback" and guilty.innocent and not unfinished:
                why = guilty.innocent
            elif rule.after_promotion_nights is not None and not unfinished and (age is None or not 0 <= age < rule.after_promotion_nights):
                why = f"no promotion within {rule.after_promotion_nights} nights" + (f": it is {age} nights old" if age is not None else "")
            made.append(replace(intent, declined=why))
            tonight += not why
    return made


def due(
    past: Sequence[Entry], alerts: Sequence[Alert], night: date, unseen: Callable[[Entry], bool] = lambda _: False,
) -> list[tuple[Entry, bool]]:
    """Responses whose outcome is known tonight: (response, helped). Gone is gone; still there after its window did not help.

    `unseen`: whether the night cannot tell, such as where nobody looked; then neither is said.
    """
    ended = {e.id for e in past if e.event in ("helped", "escalated")}
    names = {(a.name, a.model) for a in alerts}
    found = []
    for entry in past:
        if entry.event != "responded" or entry.id in ended or entry.day >= night or unseen(entry):
            continue
        if (entry.alert, entry.model) not in names:
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
