"""Groups of linked entities against sets joined one row at a time; countries of IP ranges."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.command import UsageError
from nightmarket.screen.graph import groups
from nightmarket.screen.table import Ranges
from nightmarket.screen.windows import DAY


def by_sets(times: np.ndarray, entities: list[np.ndarray], bad: np.ndarray, known_at: np.ndarray) -> tuple[list[int], list[int]]:
    members, known = [], []
    for i in range(len(times)):
        start = times[i] // DAY * DAY
        joined: list[set[tuple[int, int]]] = []
        for k in np.flatnonzero(times < start):
            mine = {(e, int(codes[k])) for e, codes in enumerate(entities) if codes[k] >= 0}
            touching = [g for g in joined if g & mine]
            joined = [g for g in joined if not g & mine] + ([set.union(mine, *touching)] if mine else [])
        own = {(e, int(codes[i])) for e, codes in enumerate(entities) if codes[i] >= 0}
        near = [g for g in joined if g & own]
        members.append(sum(map(len, near)))
        known.append(sum(1 for k in np.flatnonzero(bad & (known_at < start)) if any((e, int(c[k])) in g for g in near for e, c in enumerate(entities) if c[k] >= 0)))
    return members, known


@given(st.integers(0, 10**6))
def test_groups_are_those_of_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    times = rng.integers(0, 8 * 4, n) * (DAY // 4)
    entities = [rng.integers(-1, 15, n) for _ in range(3)]
    bad, known_at = rng.random(n) < 0.3, times + rng.integers(0, 3, n) * DAY
    members, known = groups(times, entities, bad, known_at)
    expected = by_sets(times, entities, bad, known_at)
    assert members.tolist() == expected[0] and known.tolist() == expected[1]


def test_no_rows_and_no_entities() -> None:
    none = np.empty(0, np.int64)
    assert [len(a) for a in groups(none, [none, none])] == [0, 0]
    assert groups(np.array([DAY]), [])[0].tolist() == [0]


def test_countries_of_addresses_dotted_or_as_numbers() -> None:
    table = pa.table({"lower": ["10.0.1.0", "10.0.0.0"], "upper": ["10.0.1.255", "10.0.0.127"], "country": ["FR", "DE"]})
    ranges = Ranges.of(table)
    asked = ["10.0.0.5", "10.0.0.128", " 10.0.1.255 ", "9.255.255.255", None, "fe80::1", 167772165.0, "167772165"]
    assert ranges.country_of(asked) == ["DE", None, "FR", None, None, None, "DE", "DE"]
    numbers = pa.table({"lower": [16777216.0], "upper": [16777471], "country": ["AU"]})
    assert Ranges.of(numbers).country_of(["1.0.0.7"]) == ["AU"]
    with pytest.raises(UsageError, match=r"--ip-countries row 1: 10\.0\.1\.9 to 10\.0\.1\.1 is no range"):
        Ranges.of(pa.table({"a": ["10.0.1.9"], "b": ["10.0.1.1"], "c": ["FR"]}))
    with pytest.raises(UsageError, match="needs three columns"):
        Ranges.of(pa.table({"a": ["10.0.1.9"]}))
