"""Draws that depend on nothing but the seed and what they are for, and strings made from numbers without a loop.

An attribute of the ten-millionth shopper costs the same as of the first: it is a hash of (seed, name of the attribute,
number), not a place in a stream. So any day can be made alone, in any order, without the days before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

Ints = Any
"""An int, or an integer array: numpy broadcasts."""


@lru_cache(maxsize=4096)
def _salt(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")


def bits(seed: int, stream: str, *keys: Ints) -> np.ndarray:
    """64 random bits for each combination of keys: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), chained."""
    state = np.asarray(_salt(seed, stream), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = state ^ (np.asarray(key).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(seed: int, stream: str, *keys: Ints) -> np.ndarray:
    """Floats in [0, 1)."""
    return (bits(seed, stream, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(n: Ints, seed: int, stream: str, *keys: Ints) -> np.ndarray:
    """Integers in [0, n)."""
    return (uniform(seed, stream, *keys) * n).astype(np.int64)


def among(shares: Sequence[float], u: np.ndarray) -> np.ndarray:
    """Index into `shares` (which add up to anything) for each u in [0, 1)."""
    edges = np.cumsum(np.asarray(shares, dtype=np.float64))
    return np.minimum(np.searchsorted(edges / edges[-1], u, side="right"), len(edges) - 1)


def generator(seed: int, stream: str, *keys: int) -> np.random.Generator:
    """A stream of its own for one batch of one day."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([_salt(seed, stream), *keys])))


def _strings(matrix: np.ndarray) -> pa.StringArray:
    """One string a row of ASCII codes, shape (rows, width), without making Python strings."""
    rows, width = matrix.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(matrix)))


def numbered(prefix: str, numbers: np.ndarray, width: int) -> pa.StringArray:
    """`prefix` and the number in `width` digits. Raises ValueError where a number needs more."""
    numbers = np.asarray(numbers, dtype=np.int64)
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= 10**width):
        raise ValueError(f"{prefix!r} has {width} digits; {numbers.min()} to {numbers.max()} do not fit")
    start = len(prefix)
    matrix = np.empty((len(numbers), start + width), dtype=np.uint8)
    matrix[:, :start] = np.frombuffer(prefix.encode("ascii"), dtype=np.uint8)
    left = numbers
    for place in range(start + width - 1, start - 1, -1):
        left, digit = np.divmod(left, 10)
        matrix[:, place] = digit + ord("0")
    return _strings(matrix)


_HEX = np.frombuffer("".join(f"{b:02x}" for b in range(256)).encode(), dtype=np.uint8).reshape(256, 2)


def hexed(prefix: str, values: np.ndarray) -> pa.StringArray:
    """`prefix` and 16 hexadecimal digits."""
    octets = np.ascontiguousarray(values.astype(">u8")).view(np.uint8).reshape(len(values), 8)
    digits = _HEX[octets].reshape(len(values), 16)
    start = np.broadcast_to(np.frombuffer(prefix.encode("ascii"), dtype=np.uint8), (len(values), len(prefix)))
    return _strings(np.concatenate([start, digits], axis=1))


def moments(seconds: np.ndarray) -> pa.StringArray:
    """Seconds since 1970 UTC as 2026-01-05T10:12:33Z."""
    day, second = np.divmod(np.asarray(seconds, dtype=np.int64), 86_400)
    dates, place = np.unique(day, return_inverse=True)
    texts = b"".join(f"{d}T00:00:00Z".encode("ascii") for d in dates.astype("datetime64[D]").tolist())
    matrix = np.frombuffer(texts, dtype=np.uint8).reshape(len(dates), 20)[place]
    for at, part in ((11, second // 3600), (14, second // 60 % 60), (17, second % 60)):
        matrix[:, at] += (part // 10).astype(np.uint8)
        matrix[:, at + 1] += (part % 10).astype(np.uint8)
    return _strings(matrix)
