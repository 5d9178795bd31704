"""Who is in which experiment and arm: a salted hash of the shopper, the same on every machine and every day.

A *layer* is one place of the shop where experiments could disturb each other. `position(layer, unit)` is a number in [0, 1); each
experiment owns an interval of its layer (`traffic`), so experiments of one layer never share a shopper, while layers are independent
of each other. Within the experiment a second, independent hash says which arm. Arms own intervals as long as their shares; at
*enrolment* r only the first r of each interval takes part, and everyone else gets what the first arm, the control, gets, without being
counted. So a canary that rises enrols more shoppers, in all arms alike, and never moves one from an arm to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


def position(salt: str, unit: str) -> float:
    """Where a unit lies in [0, 1): the first 53 bits of SHA-256 of "salt, unit separator (U+001F), unit"."""
    digest = hashlib.sha256(f"{salt}\x1f{unit}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@dataclass(frozen=True)
class Split:
    """How one experiment splits its layer."""

    name: str
    layer: str
    traffic: tuple[float, float]
    """Interval of the layer, from and to (excluded)."""
    arms: Mapping[str, float]
    """Shares by name, summing to 1; the first is the control."""
    salt: str
    """The shop's name: two shops split independently."""

    def holds(self, unit: str) -> bool:
        """Whether the unit lies in the experiment's interval of the layer."""
        return self.traffic[0] <= position(f"{self.salt}/{self.layer}", unit) < self.traffic[1]

    def arm(self, unit: str, enrolment: float = 1.0) -> str | None:
        """The unit's arm, or None where it does not take part: outside the interval, or not yet enrolled."""
        if not self.holds(unit):
            return None
        at, start = position(f"{self.salt}/{self.layer}/{self.name}", unit), 0.0
        last = list(self.arms)[-1]
        for name, share in self.arms.items():
            end = 1.0 if name == last else start + share  # shares sum to 1 but for rounding
            if at < end:
                return name if at < start + (end - start) * enrolment else None
            start = end
        raise AssertionError("unreachable")
