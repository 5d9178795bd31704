"""A writer killed with SIGKILL at random moments, then run again: readers see the old partition or the new one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from datetime import date
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa
import pytest

from nightmarket.contracts import RECOMMENDATIONS
from nightmarket.lake import Input, Lake
from nightmarket.lake.partitions import QUARANTINE

DAYS = (date(2026, 1, 5), date(2026, 1, 6))


def _table(day: date, version: int) -> pa.Table:
    return pa.Table.from_pylist(
        [{"audience": "user", "audience_id": f"u{n}", "rank": 1, "item_id": f"{day} {version}", "score": 1.0, "reason": "r",
          "model_name": "m", "model_version": "1"} for n in range(400)], RECOMMENDATIONS.arrow_schema())


def _refused(day: date, version: int) -> pa.Table:
    return pa.Table.from_pylist(
        [{"reason": "bad", "detail": None, "source_file": f"{version}", "source_row": n, "delivered_on": day, "record": "e"}
         for n in range(9)], QUARANTINE.arrow_schema())


def _write(root: str, version: int, forever: bool, ready: Event) -> None:
    """Publishes both nights as `version`; for ever: as 1 and 2 in turn."""
    tables = {(d, v): (_table(d, v), _refused(d, v)) for d in DAYS for v in (1, 2)}
    ready.set()
    while True:
        with Lake(Path(root)).writer(RECOMMENDATIONS, DAYS) as writer:
            for day in DAYS:
                writer.stage_arrow(day, *tables[day, version])
            for day in DAYS:
                writer.publish(day, inputs=[Input("in", str(version))], settings="s", code="c")
        if not forever:
            return
        version = 3 - version


def _start(root: Path, version: int, forever: bool) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")  # a process of its own, without importing everything again
    context.set_forkserver_preload(["pandas", "pyarrow.parquet", "nightmarket.lake"])
    ready = context.Event()
    process = context.Process(target=_write, args=(str(root), version, forever, ready))
    process.start()
    assert ready.wait(120)
    return process


def _once(root: Path, version: int) -> None:
    process = _start(root, version, forever=False)
    process.join(120)
    assert process.exitcode == 0


def _seen(lake: Lake, day: date) -> int:
    """The version that a reader finds; fails on a partition that is not whole."""
    partition = lake.at(RECOMMENDATIONS, day)
    items = set(partition.arrow(["item_id"])["item_id"].to_pylist())
    quarantine = partition.quarantine()
    assert (partition.manifest.rows_in, quarantine.num_rows) == (409, 9)
    assert len(items) == 1
    version = int(items.pop().rpartition(" ")[2])
    assert set(quarantine["source_file"].to_pylist()) == {str(version)}
    return version


@pytest.mark.soak
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    clean = {}
    for version in (2, 1):
        _once(tmp_path, version)
        clean[version] = {d: lake.manifest(RECOMMENDATIONS, d).identity() for d in DAYS}  # type: ignore[union-attr]
    moments = random.Random(20)
    states = set()
    for _ in range(20):
        process = _start(tmp_path, 2, forever=True)
        time.sleep(moments.uniform(0.0, 0.25))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = [_seen(lake, day) for day in DAYS]
        assert set(found) <= {1, 2}
        states.add((*found, *_left_behind(lake)))

        _once(tmp_path, 1)  # the retry
        assert [_seen(lake, day) for day in DAYS] == [1, 1]
        assert {d: lake.manifest(RECOMMENDATIONS, d).identity() for d in DAYS} == clean[1]  # type: ignore[union-attr]
        assert _left_behind(lake) == ()
    assert len(states) > 1, f"every kill found the writer at the same point: {states}"


def _left_behind(lake: Lake) -> tuple[str, ...]:
    """Kinds of debris below the dataset."""
    base = lake.root / "gold" / "recommendations"
    kinds = {
        "staging": list(base.glob(".staging-*")),
        "manifest": list(base.glob("run_date=*/.manifest.json.*")),
        # more than the published version and the one before it
        "version": [folder for folder in base.glob("run_date=*") if len(list(folder.glob("v-*"))) > 2],
    }
    return tuple(kind for kind, found in kinds.items() if found)
