"""Alerts that Alertmanager posts to the look-up service, kept until they are over; `jobs.respond` answers them by the rules of shop.yaml.

`<root>/monitor/alerts.json`: fingerprint -> {"name", "cause", "since", "seen"} of what fires now. The format posted is version 4 of
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from nightmarket.lake import held, write_atomically
from nightmarket.monitor.responses import Alert
from nightmarket.shop import Settings

PREFIX = "prometheus."
"""Of the names that rules of shop.yaml see: prometheus.LookupSlow."""
FORGOTTEN = timedelta(days=2)
"""An alert that was not repeated for so long is over, or nobody is left to say so."""
_MOST = 1000


class NotAnAlert(ValueError):
    """What was posted is not Alertmanager's webhook message; says what is wrong with it."""


def receive(settings: Settings, body: bytes, now: datetime | None = None) -> list[str]:
    """Takes one message in; returns the names of the alerts of this shop that it says fire. Raises NotAnAlert; then nothing is kept."""
    moment = (now or datetime.now(timezone.utc)).isoformat(timespec="seconds")
    try:
        told = json.loads(body)
        alerts = [(a["status"], str(a["fingerprint"]), a["labels"], a.get("annotations") or {}, str(a["startsAt"])) for a in told["alerts"]]
        named = [(status, mark, str(labels["alertname"]), labels.get("shop"), str(said.get("summary") or labels["alertname"]), since,
                  str(labels.get("kind") or labels.get("model") or ""))
                 for status, mark, labels, said, since in alerts]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise NotAnAlert(f"not a message of Alertmanager's webhook, version 4: {type(error).__name__} {error}") from None
    if len(named) > _MOST:
        raise NotAnAlert(f"{len(named)} alerts in one message; at most {_MOST}")
    fire = []
    with held(_path(settings).with_suffix(".lock")):
        kept = _read(settings)
        for status, mark, name, shop, cause, since, model in named:
            if shop not in (None, settings.shop.shop):
                continue
            if status == "firing":
                kept[mark] = {"name": PREFIX + name, "cause": cause[:500], "since": since, "seen": moment, "model": model}
                fire.append(PREFIX + name)
            else:
                kept.pop(mark, None)
        write_atomically(_path(settings), json.dumps(kept, indent=1, ensure_ascii=False))
    return fire


def firing(settings: Settings, now: datetime | None = None) -> list[Alert]:
    """What fires now; one alert a name and model, with every cause."""
    oldest = (now or datetime.now(timezone.utc)) - FORGOTTEN
    causes: dict[tuple[str, str], list[str]] = {}
    for said in _read(settings).values():
        if datetime.fromisoformat(said["seen"]) >= oldest:
            causes.setdefault((said["name"], said.get("model", "")), []).append(said["cause"])
    return [Alert(name, "; ".join(sorted(set(said))), model) for (name, model), said in sorted(causes.items())]


def _read(settings: Settings) -> dict[str, Any]:
    try:
        return dict(json.loads(_path(settings).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _path(settings: Settings) -> Path:
    return settings.places.root / "monitor" / "alerts.json"
