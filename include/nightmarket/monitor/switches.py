"""What a response, or a person, has switched off for a while, and who must look before it is on again.

`<root>/monitor/switches.json`: name -> {"who", "why", "since", "until"}. `online_updates` stops streaming updates of models until a
person lifts it; `gate.<rule>` makes a business rule of the data gate a warning up to a night: the night passes, and its owner reads why.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from nightmarket.lake import held, write_atomically
from nightmarket.shop import Settings

ONLINE_UPDATES = "online_updates"
WIDENABLE = ("volume", "volume_lost", "minimum_rows", "freshness", "references", "references_lost", "null_share", "quarantine_share",
             "category_drift")
"""Rules of the gate that may be widened: judgements about how much and how often. What says that rows are lost, doubled or not
what the contract promises is never widened."""


@dataclass(frozen=True)
class Switch:
    """Something that is off."""

    name: str
    who: str
    why: str
    since: str
    until: str | None = None
    """Last night it holds for; None: until a person lifts it."""

    def holds(self, night: date) -> bool:
        return self.since <= night.isoformat() and (self.until is None or night.isoformat() <= self.until)


def switches(settings: Settings) -> dict[str, Switch]:
    try:
        said = json.loads(_path(settings).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: Switch(name, **values) for name, values in said.items()}


def turn_off(settings: Settings, switch: Switch) -> None:
    """Off from now on; one that is off already stays as it is, but for a later end."""
    with held(_path(settings).with_suffix(".lock")):
        now = switches(settings)
        known = now.get(switch.name)
        if known is not None:
            last = None if known.until is None or switch.until is None else max(known.until, switch.until)
            switch = replace(known, until=last)
        _save(settings, {**now, switch.name: switch})


def lift(settings: Settings, name: str) -> Switch:
    """On again. Raises KeyError that lists what is off."""
    with held(_path(settings).with_suffix(".lock")):
        now = switches(settings)
        if name not in now:
            raise KeyError(f"{name} is not switched off; off are {', '.join(sorted(now)) or 'none'}")
        found = now.pop(name)
        _save(settings, now)
        return found


def online_updates_stopped(settings: Settings) -> str | None:
    """Why online updates are off; None where they are on."""
    found = switches(settings).get(ONLINE_UPDATES)
    return f"{found.who}: {found.why}" if found else None


def reviewed(settings: Settings, night: date) -> Settings:
    """Settings in which the rules that are widened for the night are warnings."""
    names = [s.name.removeprefix("gate.") for s in switches(settings).values() if s.name.startswith("gate.") and s.holds(night)]
    if not names:
        return settings
    gate = settings.shop.gate
    severity = {**gate.severity, **dict.fromkeys(names, "warning")}
    return replace(settings, shop=settings.shop.model_copy(update={"gate": gate.model_copy(update={"severity": severity})}))


def may_be_widened(rule: str) -> bool:
    """Whether a rule's key, entity.rule or entity.rule.column, is one that may be."""
    return len(parts := rule.split(".")) >= 2 and parts[1] in WIDENABLE


def _path(settings: Settings) -> Any:
    return settings.places.root / "monitor" / "switches.json"


def _save(settings: Settings, now: dict[str, Switch]) -> None:
    said = {n: {k: v for k, v in asdict(s).items() if k != "name"} for n, s in sorted(now.items())}
    write_atomically(_path(settings), json.dumps(said, ensure_ascii=False, indent=1))
