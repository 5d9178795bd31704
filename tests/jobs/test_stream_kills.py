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
from nightmarket.lake import Lake
from nightmarket.shop import PROJECT, Settings, child_environment

NIGHT = date(2026, 3, 1)
KILLS, FILES, LINES = 20, 300, 8


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.spark
def test_killed_twenty_times(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings(stream={"path": "${root}/in", "files_per_batch": 3, "late_minutes": 600})
    folder = settings.places.root / "in"
    folder.mkdir()
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    done = threading.Event()

    def feed() -> None:
        for f in range(FILES):
            lines = [json.dumps({"id": f"e{f}-{n}", "ts": (noon + timedelta(seconds=f)).isoformat(), "kind": "purchase", "user": f"u{n}", "item": "kettle",
                                 "quantity": str(f + n + 1), "price": "2.50", "currency": "GBP", "device": "d"}) for n in range(LINES)]
            lines += ["no json"] * (f % 3 == 0)  # one of 25: below what makes a batch a bad one
            (folder / f".{f}").write_text("\n".join(lines) + "\n")
            (folder / f".{f}").rename(folder / f"{f:04d}.jsonl")
            if done.wait(1.0):
                return

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    rng, held = random.Random(17), []
    argv = [sys.executable, "-m", "jobs.stream", "--shop", str(settings.file), "--run-date", str(NIGHT), "--every", "1 second"]
    # --follow puts events into the day of their arrival; here the night is given, and the process is started again and again
    for kill in range(KILLS):
        with (tmp_path / f"{kill}.log").open("wb") as log:
            process = subprocess.Popen(argv, cwd=PROJECT, env=child_environment(), stdout=log, stderr=log, start_new_session=True)
        # from before the JVM is up to well into the batches
        until = time.monotonic() + rng.uniform(3, 40)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        made = Lake(settings.places.lake).manifest(LIVE_EVENTS, NIGHT)
        held.append(len(made.notes["batches"]) if made else 0)
    feeder.join()
    done.set()
    assert stream.main(["--shop", str(settings.file), "--run-date", str(NIGHT)]) == 0
    partition = Lake(settings.places.lake).at(LIVE_EVENTS, NIGHT)
    rows = partition.arrow(["event_id", "quantity"]).to_pylist()
    assert sorted(r["event_id"] for r in rows) == sorted(f"e{f}-{n}" for f in range(FILES) for n in range(LINES))
    assert sum(r["quantity"] for r in rows) == sum(f + n + 1 for f in range(FILES) for n in range(LINES))
    assert partition.manifest.quarantined == {"malformed_row": FILES // 3}
    assert held == sorted(held) and held[-1] > 0  # it went on between the kills
