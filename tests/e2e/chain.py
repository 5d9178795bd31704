"""A small demo shop in a folder of its own, and its steps as a person would type them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml

from nightmarket.contracts import ALL, Dataset
from nightmarket.embedded import shared_spark
from nightmarket.lake import Lake, content_digest
from nightmarket.shop import PROJECT, Settings, load_shop

SMALL: dict[str, Any] = {
    "demo": {"seed": 11, "first_day": "2026-01-05", "days": 42, "events": 9_000, "dirt": 0.03},
    "model": {"holdout_days": 7, "fit_days": 10, "minimum_users": 5, "embedding_dim": 8, "epochs": 2, "batch_size": 64,
              "candidates": 60, "top_k": 10, "bootstrap": 60, "max_history": 20},
    "gate": {"freshness_hours": 48},
}


def small_shop(folder: Path, **changes: Any) -> Path:
    """shops/demo.yaml, made small, as a shop.yaml of its own; returns the file."""
    data = yaml.safe_load((PROJECT / "shops" / "demo.yaml").read_text())
    for section, values in {**SMALL, **changes}.items():
        data[section] = {**data.get(section, {}), **values} if isinstance(values, dict) else values
    data["storage"] = {**data["storage"], "root": "var"}
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return file


@dataclass(frozen=True)
class Chain:
    """Runs steps for one shop.yaml in fresh processes."""

    shop: Path
    more: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the steps' environment."""

    @property
    def settings(self) -> Settings:
        return load_shop(self.shop)

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.places.lake)

    @property
    def first_day(self) -> date:
        demo = self.settings.shop.demo
        assert demo is not None
        return date.fromisoformat(demo.first_day)

    @property
    def last_day(self) -> date:
        demo = self.settings.shop.demo
        assert demo is not None
        return self.first_day + timedelta(days=demo.days - 1)

    @property
    def bare(self) -> Chain:
        """The same without a shared Spark server: each step with a JVM of its own."""
        return replace(self, more={k: v for k, v in self.more.items() if not k.startswith("SPARK_")})

    @contextmanager
    def served(self) -> Iterator[Chain]:
        """The same, its steps sharing a Spark Connect server started as the embedded night starts it."""
        with shared_spark.served(self.settings) as known:
            yield replace(self, more={**self.more, **known})

    def run(self, step: str, *argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The step's process; fails the test where the exit code is another."""
        done = subprocess.run(self._command(step, argv), capture_output=True, text=True, timeout=500, check=False,
                              env=self._environment(), cwd=self.shop.parent)
        assert done.returncode == code, f"{step} {argv} ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr[-6000:]}"
        return done

    def night(self, run_date: date, from_date: date | None = None, *, through: str = "announce") -> None:
        """The steps of a night, one after another, up to `through`."""
        span = ["--run-date", str(run_date), *(["--from-date", str(from_date)] if from_date else [])]
        for step in ("deliver", "ingest", "clean", "gate", "aggregate", "train", "evaluate", "register", "bless", "publish", "announce"):
            one_night = step in ("train", "evaluate", "register", "bless", "publish", "announce")
            self.run(step, *(span[:2] if one_night else span))
            if step == through:
                return

    def kill(self, step: str, *argv: str, after: float) -> bool:
        """SIGKILLs the step and all it started `after` seconds from its start; False where it had ended by then."""
        started = subprocess.Popen(self._command(step, argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True, env=self._environment(), cwd=self.shop.parent)
        time.sleep(after)
        alive = started.poll() is None
        if alive:
            os.killpg(started.pid, signal.SIGKILL)
        started.wait(timeout=60)
        return alive

    def identities(self, *datasets: Dataset) -> dict[tuple[str, str], dict[str, Any]]:
        """What every published partition must agree on, by dataset and night."""
        return {
            (d.id, str(night)): manifest.identity()
            for d in (datasets or ALL) for night in self.lake.dates(d) if (manifest := self.lake.manifest(d, night))
        }

    def recount(self, dataset: Dataset, night: date) -> int:
        """Rows of a published partition, read from its files; fails where they are not those the manifest digested."""
        partition = self.lake.at(dataset, night)
        rows, _ = content_digest(partition.files, dataset)
        assert rows == partition.manifest.rows_out
        return rows

    def _command(self, step: str, argv: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", f"jobs.{step}", "--shop", str(self.shop), *argv]

    def _environment(self) -> dict[str, str]:
        mine = {k: v for k, v in os.environ.items() if k not in ("NIGHTMARKET_ROOT", "NIGHTMARKET_SHOP", "MLFLOW_TRACKING_URI")}
        return {**mine, **self.more}
