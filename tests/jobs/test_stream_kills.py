"""The stream killed at 20 random moments while events keep coming: nothing lost, nothing counted twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from jobs import stream
from nightmarket.contracts import LIVE_EVENTS
from nightmarket.lake import Lake, Manifest
from nightmarket.shop import PROJECT, Settings, child_environment

NIGHT = date(2026, 3, 1)
KILLS, FILES, LINES = 20, 120, 8


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.spark
def test_killed_twenty_times(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings(stream={"path": "${root}/in", "files_per_batch": 3, "late_minutes": 600})
    folder = settings.places.root / "in"
    folder.mkdir()
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    done = threading.Event()
    lake = Lake(settings.places.lake)

    def manifests() -> list[Manifest]:
        """Of the days on which events arrived: one, or two where midnight came in between."""
        return [m for d in lake.dates(LIVE_EVENTS) if (m := lake.manifest(LIVE_EVENTS, d))]


    def count() -> int:
        """Micro-batches in the lake."""
        return sum(len(m.notes["batches"]) for m in manifests())

    def feed() -> None:
        for f in range(FILES):
            lines = [json.dumps({"id": f"e{f}-{n}", "ts": (noon + timedelta(seconds=f)).isoformat(), "kind": "purchase", "user": f"u{n}", "item": "kettle",
                                 "quantity": str(f + n + 1), "price": "2.50", "currency": "GBP", "device": "d"}) for n in range(LINES)]
            lines += ["no json"] * (f % 3 == 0)  # one of 25: below what makes a batch a bad one
            (folder / f".{f}").write_text("\n".join(lines) + "\n")
            (folder / f".{f}").rename(folder / f"{f:04d}.jsonl")
            if done.wait(0.5):
                return

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    rng, held = random.Random(17), []
    argv = [sys.executable, "-m", "jobs.stream", "--shop", str(settings.file), "--run-date", str(NIGHT), "--follow", "--every", "1 second"]
    for kill in range(KILLS):
        with (tmp_path / f"{kill}.log").open("wb") as log:
            process = subprocess.Popen(argv, cwd=PROJECT, env=child_environment(), stdout=log, stderr=log, start_new_session=True)
        # one life in four ends while it starts; the others so many batches on, and anywhere within the next one
        batches, moment = (0, rng.uniform(1, 15)) if kill % 4 == 0 else (rng.randint(0, 2), rng.uniform(0, 5))
        goal, patience = count() + batches, time.monotonic() + 300
        while count() < goal and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.1)
        time.sleep(moment)
        assert process.poll() is None, (tmp_path / f"{kill}.log").read_text()[-2000:]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        held.append(count())
    feeder.join()
    done.set()
    assert stream.main(["--shop", str(settings.file), "--run-date", str(NIGHT)]) == 0
    rows = [r for d in lake.dates(LIVE_EVENTS) for r in lake.at(LIVE_EVENTS, d).arrow(["event_id", "quantity"]).to_pylist()]
    assert sorted(r["event_id"] for r in rows) == sorted(f"e{f}-{n}" for f in range(FILES) for n in range(LINES))
    assert sum(r["quantity"] for r in rows) == sum(f + n + 1 for f in range(FILES) for n in range(LINES))
    assert [sum(m.quarantined.values()) for m in manifests()] == [m.quarantined.get("malformed_row", 0) for m in manifests()]
    assert sum(m.rows_in for m in manifests()) == FILES * LINES + FILES // 3
    assert held == sorted(held) and held[-1] > 0  # it went on between the kills
