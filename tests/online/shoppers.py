"""Exposed shoppers and their histories, made up: who is shown an arm when, and what they did before and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from nightmarket.contracts import FEATURES
from nightmarket.online.assignment import Split
from nightmarket.online.experiments import Exposed
from nightmarket.recommend.histories import Histories

UTC = ZoneInfo("UTC")
START = date(2026, 3, 2)


def second(day: date, hours: float = 0) -> float:
    return datetime.combine(day, time(), timezone.utc).timestamp() + 3600 * hours


def table(rows: dict[str, list[tuple[str, float, float, float]]]) -> pa.Table:
    """gold.features of {user: [(kind, second, quantity, price), …]}."""
    made = [
        {"user_id": u, "country": "DE", "signed_up_at": None, "item_ids": ["i"] * len(e), "event_types": [k for k, *_ in e],
         "event_times": [int(t) for _, t, _, _ in e], "quantities": [q for *_, q, _ in e], "unit_prices": [p for *_, p in e]}
        for u, e in rows.items()
    ]
    return pa.Table.from_pylist(made, FEATURES.arrow_schema())


@dataclass
class Crowd:
    """A shop whose visitors of a day all come to noon; each is new, and buys within hours or not at all."""

    split: Split
    nights: int
    a_night: int
    buys: dict[str, float]
    """Chance of a purchase, by arm; of those who take no part it is the control's."""
    seed: int = 17

    def shop(self, enrolment: list[float]) -> tuple[Exposed, Histories]:
        """Exposures and histories when `enrolment` of each night took part."""
        exposed, rows = self.exposures(enrolment)
        return exposed, Histories.from_table(table(rows))

    def exposures(self, enrolment: list[float]) -> tuple[Exposed, dict[str, list[tuple[str, float, float, float]]]]:
        rng = np.random.default_rng(self.seed)
        units, arms, at = [], [], []
        rows: dict[str, list[tuple[str, float, float, float]]] = {}
        control = next(iter(self.split.arms))
        for back in range(1, 15):  # whom the plan is made from
            for n in range(self.a_night):
                noon = second(START - timedelta(days=back), 12)
                rows[f"before{back}-{n}"] = [("view", noon, 1, 5.0)] + ([("purchase", noon + 60, 1, 5.0)] if rng.random() < self.buys[control] else [])
        for night in range(self.nights):
            for n in range(self.a_night):
                unit, noon = f"u{night}-{n}", second(START + timedelta(days=night), 12)
                arm = self.split.arm(unit, enrolment[night]) if night < len(enrolment) else None
                draw, keen = rng.random(2)
                earlier = [("purchase", noon - 86_400 * 3, 1, 5.0)] if keen < 0.3 else []
                bought = [("purchase", noon + 3600, 1, 5.0)] if draw < self.buys[arm or control] * (1.2 if earlier else 1.0) else []
                rows[unit] = [*earlier, ("view", noon + 1, 1, 5.0), *bought]
                if arm is not None:
                    units.append(unit)
                    arms.append(list(self.split.arms).index(arm))
                    at.append(noon)
        return Exposed(np.array(units, object), np.array(arms, np.int64), np.array(at, float)), rows
