"""What a response, or a person, has switched off for a while, and who must look before it is on again.

`<root>/monitor/switches.json`: name -> [{"who", "why", "since", "until"}, …], oldest first. `online_updates` stops streaming updates of
models until a person lifts it; `gate.<rule>` makes a business rule of the data gate a warning up to a night: the night passes, and its owner
reads why. A span that is over is kept, for a night of it that is run again must be judged as it was; the nights between two spans are none of either.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
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
        return self.since <= night.isoformat() and not self.over(night)

    def over(self, night: date) -> bool:
        """Whether it held for nights before only."""
        return self.until is not None and self.until < night.isoformat()


def switches(settings: Settings) -> dict[str, tuple[Switch, ...]]:
    """Every span of everything that was ever off for a while and not lifted since, oldest first."""
    try:
        said = json.loads(_path(settings).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    # a file of before spans were kept has one of each, by itself
    return {name: tuple(Switch(name, **values) for values in ([spans] if isinstance(spans, dict) else spans)) for name, spans in said.items()}


def off(settings: Settings, night: date) -> list[str]:
    """Names of what is off on the night, or has been switched off since."""
    return sorted(name for name, spans in switches(settings).items() if any(not s.over(night) for s in spans))


def turn_off(settings: Settings, switch: Switch) -> None:
    """Off from now on; one that is off already stays as it is, but for a later end."""
    with held(_path(settings).with_suffix(".lock")):
        now = switches(settings)
        spans = now.get(switch.name, ())
        known = next((s for s in spans if s.holds(date.fromisoformat(switch.since))), None)
        if known is not None:
            last = None if known.until is None or switch.until is None else max(known.until, switch.until)
            switch = replace(known, until=last)
        spans = (*(s for s in spans if s is not known), switch)
        _save(settings, {**now, switch.name: tuple(sorted(spans, key=lambda s: s.since))})


def lift(settings: Settings, name: str, night: date) -> Switch:
    """On again from the night on; nights before are judged as they were. Raises KeyError that lists what is off."""
    with held(_path(settings).with_suffix(".lock")):
        now = switches(settings)
        found = [s for s in now.get(name, ()) if not s.over(night)]
        if not found:
            raise KeyError(f"{name} is not switched off; off are {', '.join(off(settings, night)) or 'none'}")
        kept = [s for s in now.pop(name) if s.over(night)]
        before = (night - timedelta(days=1)).isoformat()
        kept += [replace(s, until=before) for s in found if s.until is not None and s.since <= before]
        _save(settings, {**now, **({name: tuple(kept)} if kept else {})})
        return found[-1]


def online_updates_stopped(settings: Settings) -> str | None:
    """Why online updates are off; None where they are on."""
    found = switches(settings).get(ONLINE_UPDATES)
    return f"{found[-1].who}: {found[-1].why}" if found else None


def reviewed(settings: Settings, night: date) -> Settings:
    """Settings in which the rules that are widened for the night are warnings."""
    spans = [s for name, spans in switches(settings).items() if name.startswith("gate.") for s in spans]
    names = [s.name.removeprefix("gate.") for s in spans if s.holds(night)]
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


def _save(settings: Settings, now: dict[str, tuple[Switch, ...]]) -> None:
    said = {n: [{k: v for k, v in asdict(s).items() if k != "name"} for s in spans] for n, spans in sorted(now.items())}
    write_atomically(_path(settings), json.dumps(said, ensure_ascii=False, indent=1))
