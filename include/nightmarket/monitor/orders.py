"""Orders: a person, or a response, wants a model trained. Each is one file that is never changed; a plan says which it followed.

`<root>/monitor/orders/<night>-<model>-<id>.json`. An order holds from its night on until a plan has followed it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import date, datetime, timezone
from pathlib import Path

from nightmarket.contracts import RETRAINING
from nightmarket.lake import Lake, write_atomically
from nightmarket.monitor.retraining import Action, Order
from nightmarket.shop import Settings


@dataclass(frozen=True)
class Filed:
    """An order on file. The same order of the same night is one file."""

    model: str
    night: str
    action: Action
    who: str
    why: str
    at: str
    """When it was filed, ISO 8601; of several for one night the last holds."""

    @property
    def id(self) -> str:
        return hashlib.sha256("\n".join([self.model, self.night, self.action, self.who, self.why]).encode()).hexdigest()[:12]

    def as_order(self) -> Order:
        return Order(self.action, self.who, self.why)


def file(settings: Settings, model: str, night: date, action: Action, who: str, why: str) -> Filed:
    """Puts an order on file."""
    made = Filed(model, night.isoformat(), action, who, why, datetime.now(timezone.utc).isoformat())
    write_atomically(_folder(settings) / f"{made.night}-{model}-{made.id}.json", json.dumps(asdict(made), ensure_ascii=False, indent=1))
    return made


def pending(settings: Settings, lake: Lake, model: str, night: date) -> Filed | None:
    """The newest order for the model, up to the night, that no plan of an earlier night has followed."""
    followed = {
        row["order_id"] for earlier in lake.dates(RETRAINING) if earlier < night
        for row in lake.at(RETRAINING, earlier).arrow(["model", "order_id"]).to_pylist() if row["model"] == model
    }
    found = [Filed(**json.loads(p.read_text(encoding="utf-8"))) for p in sorted(_folder(settings).glob(f"????-??-??-{model}-*.json"))]
    open_ = [f for f in found if f.night <= night.isoformat() and f.id not in followed]
    return max(open_, key=lambda f: (f.night, f.at), default=None)


def _folder(settings: Settings) -> Path:
    return settings.places.root / "monitor" / "orders"
