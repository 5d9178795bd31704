"""Which list a shopper gets while experiments run: the arm's, from the arm's publication, with the exposure logged.

`<root>/published/experiments.json` says what runs: it is written by the night, whole or not at all. A treatment that a model serves has a
publication of its own below `<root>/published/arms/<experiment>/<arm>/`; everyone else is answered from the champion's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from nightmarket.lake import write_atomically
from nightmarket.online.assignment import Split
from nightmarket.recommend.lookup import SERVING, Answer, Lookup

RUNNING = "experiments.json"


class ExposureLog:
    """Appends exposures to this process's file of the day."""

    def __init__(self, folder: Path, writer: str = ""):
        """`writer` tells processes apart; the process id where it is not given."""
        self._folder, self._writer = folder, writer or str(os.getpid())

    def append(
        self, day: date, experiment: str, unit: str, arm: str, at: datetime, items: Sequence[str] = (), propensity: float | None = None
    ) -> None:
        """One line; `day` is the shop's. Without an experiment, a show outside any. Raises ValueError for a time without zone."""
        if at.tzinfo is None:
            raise ValueError(f"{at.isoformat()} has no time zone")
        self._folder.mkdir(parents=True, exist_ok=True)
        said: dict[str, Any] = {"experiment": experiment, "unit": unit, "arm": arm, "at": at.isoformat()} if experiment else {"unit": unit, "at": at.isoformat()}
        if items:
            said |= {"items": list(items)} | ({"propensity": propensity} if propensity is not None else {})
        line = json.dumps(said, ensure_ascii=False) + "\n"
        # one write of one line, at the end wherever that is: the kernel keeps lines of several writers apart
        handle = os.open(self._folder / f"{day}.{self._writer}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Running:
    """One experiment as the lookup needs it."""

    split: Split
    enrolment: float
    serves: Mapping[str, str]
    """Folder of the publication below `published/`, by treatment that a model serves."""
    counts: bool
    """Whether exposures are logged: not any more once it is decided."""


def write_running(folder: Path, running: list[Running]) -> None:
    """Replaces what the lookup knows by one rename."""
    told = [{"name": r.split.name, "layer": r.split.layer, "traffic": r.split.traffic, "arms": list(r.split.arms.items()),
             "salt": r.split.salt, "enrolment": r.enrolment, "serves": dict(r.serves), "counts": r.counts} for r in running]
    write_atomically(folder / RUNNING, json.dumps({"experiments": told}, indent=1))


def read_running(folder: Path) -> list[Running]:
    """What runs; nothing where no night has said so."""
    try:
        told: list[dict[str, Any]] = json.loads((folder / RUNNING).read_text(encoding="utf-8"))["experiments"]
    except FileNotFoundError:
        return []
    return [Running(Split(t["name"], t["layer"], (t["traffic"][0], t["traffic"][1]), dict(t["arms"]), t["salt"]), t["enrolment"],
                    t["serves"], t["counts"]) for t in told]


@dataclass(frozen=True)
class Shown:
    """An answer, and the arm by experiment that it was given for."""

    answer: Answer
    arms: Mapping[str, str]


def recommend(
    folder: Path, log: ExposureLog | None, zone: ZoneInfo, user_id: str | None, country: str | None, k: int, now: datetime, drawn: bool = False,
) -> Shown:
    """Answers a shopper from `<root>/published`, logging what was shown, with each arm that was decisive. Strangers are in no experiment
    and in no log.

    An arm whose publication is missing gets the champion's list, and does not count. Without a `log` nothing counts: for looking at what somebody would get. `drawn` says
    that the last place of a whole list may be drawn for new items (`lists.new_items_share`), with chances that nobody knows here. Raises PublicationError
    where nothing was published.
    """
    arms: dict[str, str] = {}
    serving, chances, counted = folder, {folder: 1.0}, []
    for running in read_running(folder) if user_id else []:
        if not running.split.holds(str(user_id)):
            continue
        chances = _chances(folder, running, chances)
        arm = running.split.arm(str(user_id), running.enrolment)
        if arm is None:
            continue
        if arm in running.serves:
            place = folder / running.serves[arm]
            if not (place / SERVING).exists():
                continue  # the champion's list is better than none, and shows nothing about the arm
            serving = place
        arms[running.split.name] = arm
        if running.counts:
            counted.append((running.split.name, arm))
    with Lookup(serving) as publication:
        answer, length = publication.recommend(user_id, country, k), publication.length(user_id)
    if log is not None and user_id:
        items = [i.item_id for i in answer.items] if answer.source == "user" else []
        chance = None if not items or (drawn and len(items) >= length) else sum(c for place, c in chances.items() if place == serving or _same(place, user_id, items, k))
        for name, arm in counted:
            log.append(now.astimezone(zone).date(), name, user_id, arm, now, items, chance)
        if not counted and items:
            log.append(now.astimezone(zone).date(), "", user_id, "", now, items, chance)
    return Shown(answer, arms)


def _chances(folder: Path, running: Running, before: Mapping[Path, float]) -> dict[Path, float]:
    """How likely a shopper of the experiment's interval is answered from each place: by the shares of its arms among the enrolled."""
    made: dict[Path, float] = {}
    moved = 0.0
    for arm, below in running.serves.items():
        at = folder / below
        if (at / SERVING).exists():
            share = running.split.arms[arm] * running.enrolment
            made[at] = made.get(at, 0.0) + share
            moved += share
    for place, chance in before.items():
        made[place] = made.get(place, 0.0) + chance * (1.0 - moved)
    return {place: chance for place, chance in made.items() if chance > 0}


def _same(place: Path, user_id: str, items: Sequence[str], k: int) -> bool:
    """Whether the shopper would have been shown the same list from there."""
    with Lookup(place) as other:
        answer = other.recommend(user_id, None, k)
    return answer.source == "user" and [i.item_id for i in answer.items] == list(items)
