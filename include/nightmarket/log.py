"""Structured logs and progress, on standard error.

A line is `time level logger event key=value …` (logfmt) and ends with what the process is about: `run_id`, `step`, and, where it is about
a model, `model_kind` and `model_version` as soon as it is known. Values are counts, names and digests: never rows, secrets or personal data.
Progress shows stage, rate and time left on a terminal, and one line a stage elsewhere.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_ROOT = "nightmarket"
_about: dict[str, str] = {}
"""What this process is about. Not a context variable: threads that a job starts are about the same."""


def logger(name: str) -> logging.Logger:
    return logging.getLogger(f"{_ROOT}.{name}")


def configure(verbose: bool = False) -> None:
    """Once per process, by the command line: our lines at INFO, other people's at ERROR."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    logging.getLogger(_ROOT).setLevel(logging.DEBUG if verbose else logging.INFO)


class _Formatter(logging.Formatter):
    """Adds what the process is about, also to other people's lines. A traceback stands below, in the same record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return " ".join([super().formatMessage(record), *(f"{k}={_quoted(v)}" for k, v in _about.items())])


def identify(**ids: str | None) -> None:
    """Every later line of this process ends with these: `run_id`, `step`, `model_kind`, `model_version`. None or "" takes one away."""
    for name, value in ids.items():
        _about.pop(name, None)
        if value:
            _about[name] = value


@contextmanager
def about(**ids: str | None) -> Iterator[None]:
    """The same while it lasts; then what was before."""
    before = dict(_about)
    identify(**ids)
    try:
        yield
    finally:
        _about.clear()
        _about.update(before)


def said(event: str, **values: Any) -> str:
    """A logfmt line, e.g. `log.info(said("published", dataset=d.id, rows=n))`."""
    return " ".join([event, *(f"{k}={_quoted(v)}" for k, v in values.items() if v is not None)])


def _quoted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list, tuple)) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ' "=\n') else text


@contextmanager
def stage(log: logging.Logger, name: str, **values: Any) -> Iterator[dict[str, Any]]:
    """Times a stage: one line when it ends. What is put into the yielded dict is logged with it."""
    started = time.monotonic()
    terminal = sys.stderr.isatty()
    if terminal:
        print(f"… {name}", end="\r", file=sys.stderr, flush=True)
    result: dict[str, Any] = {}
    yield result
    log.info(said(name, **values, **result, seconds=round(time.monotonic() - started, 2)))


def progress(items: Iterable[T], total: int, name: str) -> Iterator[T]:
    """Yields items; on a terminal shows how many are done, the rate and the time left, twice a second."""
    started = shown = time.monotonic()
    terminal = sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if terminal and (now - shown > 0.5 or done == total):
            rate = done / max(now - started, 1e-9)
            left = (total - done) / rate if rate else 0.0
            end = "\n" if done == total else "\r"
            print(f"  {name} {done}/{total}  {rate:.1f}/s  {left:.0f} s left ", end=end, file=sys.stderr, flush=True)
            shown = now
