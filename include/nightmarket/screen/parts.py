"""Rows in parts that fit into a core's cache, each with whole entities, described on all cores.

What an entity's rows say depends on its other rows only, so a part lacks nothing and how many there are changes no bit. Threads are
enough: numpy lets go of the interpreter while it sorts, searches and adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from nightmarket.learn.strategy import cores
from nightmarket.screen.windows import order_of

_PART = 65_536
"""Rows of a part: a column of 64-bit numbers is half a MiB."""


@dataclass
class Matrix:
    """(n, f) float32 with names; NaN where unknown."""

    names: list[str] = field(default_factory=list)
    blocks: list[np.ndarray] = field(default_factory=list)
    """(n, some of the names) each."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def columns(self) -> list[np.ndarray]:
        """(n,) of each name."""
        return [b[:, k] for b in self.blocks for k in range(b.shape[1])]

    def add(self, name: str, values: np.ndarray) -> None:
        self.names.append(name)
        self.blocks.append(np.asarray(values, np.float32)[:, None])

    def extend(self, other: Matrix) -> None:
        self.names += other.names
        self.blocks += other.blocks

    def array(self) -> np.ndarray:
        """(n, f) float32; (0, 0) with no column."""
        return np.concatenate(self.blocks, axis=1) if self.blocks else np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Job:
    """`make` describes the rows of an index, in its order. `codes` (n,) of the entity whose rows belong together; -1 for none."""

    codes: np.ndarray
    make: Callable[[np.ndarray], Matrix]


def described(times: np.ndarray, jobs: Sequence[Job], threads: int) -> list[Matrix]:
    """What each job makes of all (n,) rows, part by part. `threads`: 0 for all that the process may use."""
    parts = {id(job.codes): split(job.codes, times) for job in jobs}
    todo = [(k, index) for k, job in enumerate(jobs) for index in parts[id(job.codes)]]
    made = [Matrix() for _ in jobs]

    def put(results: Iterable[Matrix]) -> None:
        for (k, index), found in zip(todo, results, strict=True):
            if not made[k].names:
                made[k] = Matrix(found.names, [np.empty((len(times), len(found)), np.float32)])
            made[k].blocks[0][index] = found.array()

    def make(task: tuple[int, np.ndarray]) -> Matrix:
        return jobs[task[0]].make(task[1])

    workers = threads or cores()
    if workers == 1 or len(times) <= _PART:
        put(map(make, todo))  # steps on few rows are over before another thread has begun
    else:
        with ThreadPoolExecutor(workers) as pool:
            put(pool.map(make, todo))
    return made


def split(codes: np.ndarray, times: np.ndarray) -> list[np.ndarray]:
    """Indices of all rows, by entity and time, in parts that end where an entity does; those without one are entities of their own."""
    in_time = bool((times[1:] >= times[:-1]).all())
    order = order_of(codes.astype(np.int64) + 1) if in_time else np.lexsort((times, codes))
    whose = codes[order]
    ends = np.flatnonzero((whose[1:] != whose[:-1]) | (whose[1:] < 0)) + 1
    wanted = np.arange(_PART, len(order), _PART)
    chosen = np.searchsorted(ends, wanted)
    return np.split(order, np.unique(ends[chosen[chosen < len(ends)]]))
