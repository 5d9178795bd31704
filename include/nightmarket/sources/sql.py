"""Tables of a database (being written)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from nightmarket.command import Night, Refused
from nightmarket.contracts import Dataset
from nightmarket.shop import Settings, SqlSource
from nightmarket.sources.delivery import Delivery
from nightmarket.sources.files import Inspected


@dataclass
class Scratch:
    folder: Path

    @classmethod
    @contextmanager
    def of(cls, settings: Settings) -> Iterator[Scratch]:
        yield cls(settings.places.landing / ".sql")


def fetch(
    night: Night, name: str, source: SqlSource, contract: Dataset, scratch: Scratch
) -> tuple[Delivery, dict[date, list[Inspected]]]:
    raise Refused("databases cannot be read yet")
