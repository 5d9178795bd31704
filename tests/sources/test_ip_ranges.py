"""Countries of IP addresses: against `ipaddress` asking every range, on dense and on whole address spaces; files that are wrong."""

from __future__ import annotations

import ipaddress
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.command import UsageError
from nightmarket.shop import Settings
from nightmarket.sources.ip_ranges import Ranges, Supplied, number_of

FOUR, SIX = 0x0A000000, 0x20010DB8 << 96
Row = tuple[int, int, int, "str | None"]


def text_of(version: int, offset: int) -> str:
    """An address near the beginning of 10.0.0.0/8 or 2001:db8::/32, or that far from either end of its whole space."""
    return str(ipaddress.IPv4Address((FOUR + offset) % 2**32) if version == 4 else ipaddress.IPv6Address((SIX + offset) % 2**128))


_PLACE = st.integers(0, 40) | st.integers(0, 2**31)
_ROW = st.tuples(st.sampled_from([4, 6]), _PLACE, st.integers(0, 40) | st.integers(0, 2**30), st.sampled_from(["DE", "FR", "GB", "-", "", None]))


def by_ipaddress(rows: list[tuple[str, str, str | None]], asked: str) -> str | None:
    """The country of the last row that counts, each range asked."""
    address = ipaddress.ip_address(asked)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    holding = []
    for n, (first, last, country) in enumerate(rows):
        begin, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
        if begin.version == address.version and int(begin) <= int(address) <= int(end):
            holding.append(((int(begin), -int(end), n), country))
    said = max(holding)[1] if holding else None
    return said if said not in ("", "-") else None


@given(st.lists(_ROW, max_size=12), st.lists(st.tuples(st.sampled_from([4, 6]), _PLACE), max_size=12))
def test_countries_are_those_of_asking_every_range(drawn: list[Row], more: list[tuple[int, int]]) -> None:
    rows = [(text_of(v, at), text_of(v, at + wide), country) for v, at, wide, country in drawn]
    ranges = Ranges.of(rows)
    # the ends of each range and their neighbours, and addresses anywhere
    asked = [text_of(v, at + step) for v, at, wide, _ in drawn for step in (-1, 0, 1, wide - 1, wide, wide + 1) if at + step >= 0]
    asked += [text_of(v, at) for v, at in more]
    asked += [f"::ffff:{a}" for a in asked if "." in a]
    for address in asked:
        assert ranges.country_of(address) == by_ipaddress(rows, address), address
    assert all(a <= b for a, b in zip(ranges.first, ranges.last, strict=True))
    assert all(b < a for b, a in zip(ranges.last, ranges.first[1:], strict=False)), "ascending and apart"


@given(st.text(max_size=12) | st.from_regex(r"[0-9a-f:.]{1,20}", fullmatch=True) | st.ip_addresses().map(str))
def test_an_address_is_what_ipaddress_takes_for_one(text: str) -> None:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        # numbers are addresses here, as some files write them
        assert number_of(text) is None or text.strip().replace(".", "", 1).isdecimal()
        return
    assert number_of(text) == (int(address) if address.version == 6 else int(ipaddress.IPv6Address(f"::ffff:{address}")))


def test_numbers_blanks_zones_and_what_is_none() -> None:
    four = 0xFFFF << 32
    told = {"16777216": 16777216, 16777216.75: 16777216, "732758368.8": 732758368, " 10.0.0.1\t": 0x0A000001, 0: 0, "::ffff:10.0.0.1": 0x0A000001}
    assert {a: number_of(a) for a in told} == {a: four | n for a, n in told.items()}
    assert number_of("fe80::1%eth0") == int(ipaddress.ip_address("fe80::1"))
    for none in (None, "", "4294967296", "-1", "1e3", "nan", "10.0.0", "10.0.0.256", "10.0.0.1, 10.0.0.2", "1.2.3.4:80", "::g", "a\0b.c.d.e", "\ud800:", float("nan")):
        assert number_of(none) is None, none


def test_a_part_given_away_is_its_own() -> None:
    ranges = Ranges.of([("10.0.0.0", "10.0.255.255", "DE"), ("10.0.7.0", "10.0.7.255", "FR"), ("10.0.9.0", "10.0.9.255", "-"), ("10.0.7.8", "10.0.7.9", "FR")])
    asked = {"10.0.6.255": "DE", "10.0.7.0": "FR", "10.0.7.9": "FR", "10.0.7.255": "FR", "10.0.8.0": "DE", "10.0.9.1": None, "10.0.10.0": "DE", "10.1.0.0": None}
    assert {a: ranges.country_of(a) for a in asked} == asked
    assert len(ranges.first) == 4, "neighbours of one country are one range: before, within, after the part, and after the unknown one"


def test_they_travel_to_workers() -> None:
    ranges = Ranges.of([("10.0.0.0", "10.0.0.255", "DE"), ("2001:db8::", "2001:db8::ffff", "FR")])
    again = pickle.loads(pickle.dumps(ranges))
    assert again == ranges and again.country_of("2001:db8::7") == "FR" and "DE" not in repr(ranges)


def test_a_worker_needs_nothing_heavy() -> None:
    code = ("import sys; import nightmarket.sources.ip_ranges; "
            "print([m for m in ('pyarrow', 'numpy', 'pandas', 'pyspark', 'yaml', 'pydantic') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_file_in_any_format(tmp_path: Path) -> None:
    text = tmp_path / "ranges.csv"
    text.write_text("from,to,country\n10.0.0.0,10.0.0.255,de\n2001:db8::,2001:db8::ffff,NA\n10.0.1.0,10.0.1.255,\n")
    lines = tmp_path / "ranges.jsonl"
    lines.write_text('{"a": 167772160, "b": 167772415, "c": "Germany"}\n')
    ranges = Ranges.read(text, "--ip-countries", codes=True)
    assert [ranges.country_of(a) for a in ("10.0.0.9", "2001:db8::9", "10.0.1.9")] == ["DE", "NA", None], "NA is Namibia"
    assert Ranges.read(text, "--ip-countries").country_of("10.0.0.9") == "de", "a file of one's own may spell countries as it likes"
    assert Ranges.read(lines, "--ip-countries").country_of("10.0.0.255") == "Germany"


@pytest.mark.parametrize(("content", "said"), [
    ("a,b,c\n10.0.0.0,10.0.0.9,DE\n10.0.1.9,10.0.1.1,FR\n", r"row 2: 10\.0\.1\.9 to 10\.0\.1\.1 is no range of IP addresses; write its first and its last"),
    ("a,b,c\n10.0.0.0,2001:db8::,DE\n", r"row 1: 10\.0\.0\.0 to 2001:db8:: is no range"),
    ("a,b,c\n10.0.0.0/8,,DE\n", r"row 1: 10\.0\.0\.0/8 to None is no range"),
    ("a,b,c\n10.0.0.0,10.0.0.9,Germany\n", r"row 1: 'Germany' is no country; write ISO 3166 alpha-2, such as DE"),
    ("a,b\n10.0.0.0,10.0.0.9\n", r"needs three columns, first address, last address and country; it has a, b"),
    ("10.0.0.0,10.0.0.9,DE\n10.0.1.0,10.0.1.9,DE\n", r"its first line, 10\.0\.0\.0,10\.0\.0\.9,DE, is a range; put a line with names"),
    ("a,b,c\n", r"holds no range"),
    ("", r"cannot be read"),
    ("a,b,c\n10.0.0.0,10.0.0.9\n", r"cannot be read: .*Expected 3 columns, got 2: 10\.0\.0\.0,10\.0\.0\.9"),
], ids=["backwards", "of two kinds", "a network", "a name", "two columns", "no header", "no rows", "empty", "a short row"])
def test_a_file_that_is_wrong_is_one_clear_error(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "ranges.csv"
    file.write_text(content)
    with pytest.raises(UsageError, match=rf"screening\.ip_countries {file}.*{said}"):
        Ranges.read(file, "screening.ip_countries", codes=True)


def test_the_shops_own_file(make_settings: Callable[..., Settings]) -> None:
    assert Supplied.of(make_settings()) is None
    screening: dict[str, Any] = {"ip_countries": "${root}/ranges.csv"}
    settings = make_settings(screening=screening)
    with pytest.raises(UsageError, match=r"screening\.ip_countries .*/root/ranges\.csv: no such file; put it there, or take the setting out of shop\.yaml"):
        Supplied.of(settings)
    file = settings.places.root / "ranges.csv"
    file.write_text("a,b,c\n10.0.0.0,10.0.0.9,DE\n")
    one = Supplied.of(settings)
    assert one is not None and one.ranges.country_of("10.0.0.9") == "DE"
    again = Supplied.of(settings)
    assert again == one, "the same bytes are the same file, whenever they were written"
    file.write_text("a,b,c\n10.0.0.0,10.0.0.9,FR\n")
    other = Supplied.of(settings)
    assert other is not None and other.digest != one.digest
