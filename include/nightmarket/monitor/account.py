"""What became of each step of each night, one line an event, so that nobody has to remember: `jobs.diagnose` reads it.

`<root>/logs/steps/<run date>.jsonl` gets a line when a step begins and one when it ends, with exit code, reason and, where it did
not end well, the last lines of its log. A step that was killed has a beginning and no end. Lines are appended whole (one write of
a file opened for appending), so steps that run at once do not spoil each other's. A line names the kind of model that the run is about;
lines of an older account do not, and a run of `register` there is about nobody knows which.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from nightmarket.registry import kinds

KEPT_LINES = 40
"""Of a step's log, kept where it did not end well."""
_LONGEST = 8_000
"""Characters of a reason or of one line; a line of the file stays far below what a file system writes at once."""


@dataclass(frozen=True)
class Run:
    """One run of a step."""

    step: str
    run_date: str
    run_id: str
    pid: int
    began_at: str
    ended_at: str | None = None
    exit_code: int | None = None
    """None: it goes on, or it was killed."""
    why: str = ""
    log: tuple[str, ...] = ()
    model: str = ""
    """Id of the kind of model that it is about; empty where that is none, all, or not known."""

    @property
    def name(self) -> str:
        """The step, and the kind of model where the step alone does not say it."""
        return f"{self.step} ({self.model})" if self.model and self.step in kinds.SHARED else self.step

    @property
    def alive(self) -> bool:
        """Whether it goes on: it has not ended, and its process is there."""
        return self.exit_code is None and Path(f"/proc/{self.pid}").exists()


class _Tail(logging.Handler):
    """Keeps the newest lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record)[:_LONGEST])


@dataclass
class Account:
    """Writes the lines of one run of a step. Where they cannot be written the step goes on: a full disk is bad enough."""

    step: str
    run_date: date
    run_id: str
    model: str = ""
    _file: Path | None = None
    _tail: _Tail = field(default_factory=_Tail)

    def begin(self, logs: Path) -> None:
        self._file = file_of(logs, self.run_date)
        self._append({"event": "began"})

    def end(self, code: int, why: str) -> None:
        """Nothing where it never began: wrong arguments are nobody's night."""
        if self._file is not None:
            kept = list(self._tail.lines) if code else []
            self._append({"event": "ended", "exit_code": code, "why": why[-_LONGEST:], "log": kept})

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keeps the newest log lines of this process while it lasts."""
        root = logging.getLogger()
        self._tail.setFormatter(root.handlers[0].formatter if root.handlers else None)
        root.addHandler(self._tail)
        try:
            yield
        finally:
            root.removeHandler(self._tail)

    def _append(self, said: dict[str, Any]) -> None:
        line = {"step": self.step, "model": self.model, "run_date": self.run_date.isoformat(), "run_id": self.run_id, "pid": os.getpid(),
                "at": datetime.now(timezone.utc).isoformat(timespec="seconds"), **said}
        assert self._file is not None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as out:
                out.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            print(f"{self.step}: {self._file} cannot be written ({error}); the account of the night lacks this step", file=sys.stderr)


def file_of(logs: Path, run_date: date) -> Path:
    return logs / "steps" / f"{run_date.isoformat()}.jsonl"


def nights(logs: Path) -> list[date]:
    """Nights with an account, oldest first."""
    return sorted(date.fromisoformat(p.stem) for p in (logs / "steps").glob("????-??-??.jsonl"))


def runs(logs: Path, run_date: date) -> list[Run]:
    """Every run of every step of a night, in the order of their beginnings. A line that was cut off by a crash is left out."""
    made: list[Run] = []
    try:
        lines = file_of(logs, run_date).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for text in lines:
        try:
            said = json.loads(text)
        except json.JSONDecodeError:
            continue
        if said["event"] == "began":
            model = said.get("model") or kinds.about(said["step"])
            made.append(Run(said["step"], said["run_date"], said["run_id"], said["pid"], said["at"], model=model))
            continue
        for n in range(len(made) - 1, -1, -1):
            run = made[n]
            if (run.step, run.pid, run.exit_code) == (said["step"], said["pid"], None):
                made[n] = Run(**{**asdict(run), "ended_at": said["at"], "exit_code": said["exit_code"], "why": said["why"], "log": tuple(said["log"])})
                break
    return made


def newest(made: Iterable[Run]) -> dict[tuple[str, str], Run]:
    """The newest run of each step for each kind of model, by (step, model). A run that names no kind stands for all of them, and the
    next run of the step replaces it, whichever kind that is about."""
    found: dict[tuple[str, str], Run] = {}
    for run in made:
        over = [key for key in found if key[0] == run.step and (not run.model or key[1] in ("", run.model))]
        for key in over:
            del found[key]
        found[run.step, run.model] = run
    return found
