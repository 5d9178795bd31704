"""Which country an IP address is of, by a file of ranges: the shop's own, or a caller's.

The file has three columns, whatever they are called: first address, last address, country. Addresses are IPv4 (dotted, or as one number)
or IPv6 (with colons); a mapped one (::ffff:a.b.c.d, RFC 4291) is the IPv4 address. A blank country, or `-`, says that none is known. Where
ranges overlap, the one that starts last counts, of two that start together the narrower, of two alike the later row: a part that was
given away is told by its own row.

Spark's Python workers import this module: it stays light.
"""

from __future__ import annotations

import hashlib
import re
import socket
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightmarket.shop import Settings

_MAPPED = 0xFFFF << 32
_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]*)?")
_CODE = re.compile(r"[A-Z]{2}")
SETTING = "screening.ip_countries"


def number_of(address: Any) -> int | None:
    """An address as a number of 128 bits, IPv4 as mapped; None where it is none. What a number has behind its point is left out."""
    if address is None:
        return None
    text = str(address).strip()
    try:
        if ":" in text:
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]), "big")
        if text.count(".") == 3:
            return _MAPPED | int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):  # no address, or no text that could be one
        return None
    number = int(text.partition(".")[0]) if _NUMBER.fullmatch(text) else 2**32
    return _MAPPED | number if number < 2**32 else None


@dataclass(frozen=True)
class Ranges:
    """Ranges of addresses as numbers, ascending and apart, each with its country."""

    first: list[int] = field(repr=False)
    last: list[int] = field(repr=False)
    country: list[str] = field(repr=False)

    @classmethod
    def of(cls, rows: Iterable[tuple[Any, Any, Any]], codes: bool = False) -> Ranges:
        """From rows of first address, last address and country; with `codes` countries are ISO 3166 alpha-2, whatever their case.

        Raises ValueError that names the first row that is wrong (from 1) and the remedy.
        """
        ends: list[tuple[int, int, str | None]] = []
        for n, (lower, upper, country) in enumerate(rows, 1):
            first, last = number_of(lower), number_of(upper)
            if first is None or last is None or first > last or (first >> 32 == 0xFFFF) != (last >> 32 == 0xFFFF):
                raise ValueError(f"row {n}: {lower} to {upper} is no range of IP addresses; write its first and its last address, such as 192.0.2.0 "
                                 f"and 192.0.2.255, or 2001:db8:: and 2001:db8::ffff")
            said = "" if country is None else str(country).strip()
            if codes and said not in ("", "-") and not _CODE.fullmatch(said := said.upper()):
                raise ValueError(f"row {n}: {country!r} is no country; write ISO 3166 alpha-2, such as DE, or nothing where it is not known")
            ends.append((first, last, said if said not in ("", "-") else None))
        order = sorted(range(len(ends)), key=lambda i: (ends[i][0], -ends[i][1], i))
        return cls._apart([ends[i] for i in order])

    @classmethod
    def _apart(cls, ends: list[tuple[int, int, str | None]]) -> Ranges:
        """From ranges in the order in which a later one counts: each part of an address space is its last range's."""
        made = cls([], [], [])
        waiting: list[tuple[int, str | None]] = []
        at = 0
        for begin, end, said in [*ends, (1 << 128, 1 << 128, None)]:
            while waiting and at < begin:
                last, country = waiting[-1]
                if last < at:
                    waiting.pop()
                    continue
                made._add(at, min(last, begin - 1), country)
                at = min(last, begin - 1) + 1
            at = begin
            waiting.append((end, said))
        return made

    def _add(self, first: int, last: int, country: str | None) -> None:
        if country is None:
            return
        if self.last and self.last[-1] + 1 == first and self.country[-1] == country:
            self.last[-1] = last
        else:
            self.first.append(first)
            self.last.append(last)
            self.country.append(country)

    @classmethod
    def read(cls, path: Path, argument: str, codes: bool = False) -> Ranges:
        """From a Parquet, CSV or JSON Lines file. Raises UsageError that names `argument`, the file, the row and the remedy."""
        from nightmarket import standalone
        from nightmarket.command import UsageError

        if not path.exists():
            raise UsageError(f"{argument} {path}: no such file; put it there, or do without")
        table = standalone.read(path, argument)
        names = table.column_names
        if len(names) < 3:
            raise UsageError(f"{argument} {path}: needs three columns, first address, last address and country; it has {', '.join(names)}")
        if number_of(names[0]) is not None and number_of(names[1]) is not None:
            raise UsageError(f"{argument} {path}: its first line, {','.join(names[:3])}, is a range; put a line with names of the columns above it")
        if not table.num_rows:
            raise UsageError(f"{argument} {path}: holds no range; give it some, or do without")
        try:
            return cls.of(zip(*(table.column(i).to_pylist() for i in range(3)), strict=True), codes)
        except ValueError as error:
            raise UsageError(f"{argument} {path}, {error}") from None

    def country_of(self, address: Any) -> str | None:
        """The country of an address, None where no range tells it or it is none."""
        number = number_of(address)
        if number is None:
            return None
        at = bisect_right(self.first, number) - 1
        return self.country[at] if at >= 0 and number <= self.last[at] else None


@dataclass(frozen=True)
class Supplied:
    """The shop's own file; `digest` (SHA-256 of its bytes) says whether it is still the same one."""

    path: Path
    digest: str

    @classmethod
    def of(cls, settings: Settings) -> Supplied | None:
        """What `screening.ip_countries` names, None where it names nothing. Raises UsageError where the file is not there."""
        from nightmarket.command import UsageError

        named = settings.shop.screening.ip_countries
        if named is None:
            return None
        path = settings.resolve(named)
        if not path.is_file():
            raise UsageError(f"{SETTING} {path}: no such file; put it there, or take the setting out of {settings.file.name}")
        return cls(path, hashlib.sha256(path.read_bytes()).hexdigest())

    @cached_property
    def ranges(self) -> Ranges:
        """What it says, read once. Raises UsageError."""
        return Ranges.read(self.path, SETTING, codes=True)
