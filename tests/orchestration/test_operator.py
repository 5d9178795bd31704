"""Exit codes become task states; a task's end is the end of everything that it started."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from nightmarket.contracts import FEATURES, QUALITY, Dataset
from nightmarket.lake import Lake
from nightmarket.orchestration import JobOperator, NightReady
from nightmarket.shop import Settings


def _operator(code: str, **options: Any) -> JobOperator:
    return JobOperator(task_id="step", command=f"python -c {shlex.quote(code)} --run-date 2026-03-04", **options)


def _says(code: int) -> str:
    return f"import sys; sys.exit({code})"


def test_done_hands_on_the_manifests() -> None:
    code = "import sys, pathlib; pathlib.Path(sys.argv[sys.argv.index('--result') + 1]).write_text('[\"a/manifest.json\"]')"
    assert _operator(code).execute({}) == ["a/manifest.json"]


def test_arguments_are_appended() -> None:
    code = "import sys, json, pathlib; pathlib.Path(sys.argv[-1]).write_text(json.dumps(sys.argv[1:-2]))"
    assert _operator(code, arguments="--model 'a b'").execute({}) == ["--run-date", "2026-03-04", "--model", "a b"]


def test_a_night_is_waited_for_until_it_is_judged_and_aggregated(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMARKET_SHOP", str(settings.file))
    lake, night = Lake(settings.places.lake), date(2026, 3, 4)
    wait = NightReady(task_id="wait", night="2026-03-04")

    def publish(dataset: Dataset, **notes: str) -> None:
        with lake.writer(dataset, [night]) as writer:
            writer.publish(night, inputs=[], settings="s", code="c", notes=notes)

    assert not wait.poke({})
    publish(QUALITY, verdict="warned", from_date="2026-03-04")
    assert not wait.poke({})
    publish(FEATURES)
    assert wait.poke({})
    publish(QUALITY, verdict="refused", from_date="2026-03-04")
    with pytest.raises(AirflowFailException, match="the gate refused the night of 2026-03-04"):
        wait.poke({})


def test_a_fault_is_retried() -> None:
    with pytest.raises(AirflowException, match="exit code 1") as caught:
        _operator(_says(1)).execute({})
    assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize(("code", "words"), [(2, "shop.yaml"), (3, "refused")])
def test_usage_and_refusal_are_not(code: int, words: str) -> None:
    with pytest.raises(AirflowFailException, match=words):
        _operator(_says(code)).execute({})


def test_a_killed_job_is_a_fault() -> None:
    with pytest.raises(AirflowException, match="killed by SIGKILL") as caught:
        _operator("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").execute({})
    assert not isinstance(caught.value, AirflowFailException)


def _context(dry_run: bool = False, try_number: int = 1, max_tries: int = 1) -> dict[str, Any]:
    return {"params": {"dry_run": dry_run}, "ti": SimpleNamespace(try_number=try_number, max_tries=max_tries)}


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_dry_run_ends_as_skipped(code: int) -> None:
    with pytest.raises(AirflowSkipException, match="dry run"):
        _operator(_says(code)).execute(_context(dry_run=True))


def test_a_dry_run_with_wrong_arguments_fails() -> None:
    with pytest.raises(AirflowFailException):
        _operator(_says(2)).execute(_context(dry_run=True))


def test_what_may_be_late_is_tried_and_then_left() -> None:
    late = _operator(_says(1), may_be_late=True, retries=1)
    with pytest.raises(AirflowException) as first:
        late.execute(_context(try_number=1))
    assert not isinstance(first.value, AirflowSkipException)
    with pytest.raises(AirflowSkipException):
        late.execute(_context(try_number=2))
    with pytest.raises(AirflowSkipException):
        _operator(_says(3), may_be_late=True).execute(_context())


class Heard:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, form: str, *values: object) -> None:
        self.lines.append(("info", form % values))

    def error(self, form: str, *values: object) -> None:
        self.lines.append(("error", form % values))

    def warning(self, form: str, *values: object) -> None:
        """Airflow's own remark that no task runner is there."""


def test_the_log_has_the_jobs_lines_at_their_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "2026-03-05T02:00:00+0000 INFO nightmarket.x typed\\n2026-03-05T02:00:01+0000 ERROR nightmarket.x refused\\nplain"
    heard = Heard()
    monkeypatch.setattr(JobOperator, "log", heard)
    _operator(f"print({lines.encode().decode('unicode_escape')!r})").execute({})
    assert heard.lines == [
        ("info", "2026-03-05T02:00:00+0000 INFO nightmarket.x typed"),
        ("error", "2026-03-05T02:00:01+0000 ERROR nightmarket.x refused"),
        ("info", "plain"),
    ]


def test_airflows_keys_do_not_reach_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    _operator("import os, sys; sys.exit(any(k.startswith('AIRFLOW__') for k in os.environ))").execute({})


def test_outlets_are_told_the_night() -> None:
    told: list[str] = []
    step = _operator(_says(0))
    step.outlets = ["an asset"]
    step.execute({"outlet_events": {"an asset": SimpleNamespace(add_partitions=told.append)}})
    assert told == ["2026-03-04"]


GRANDCHILD = """
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
pathlib.Path({path!r}).write_text(str(child.pid))
time.sleep(600)
"""


def _pid(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, "the job did not start"
        time.sleep(0.05)
    time.sleep(0.3)  # until the grandchild has its handler
    return int(path.read_text())


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_killing_the_task_ends_the_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightmarket.orchestration.operator._GRACE_SECONDS", 1)
    step = _operator(GRANDCHILD.format(path=str(tmp_path / "pid")))
    caught: list[BaseException] = []

    def execute() -> None:
        try:
            step.execute({})
        except AirflowException as error:
            caught.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    grandchild = _pid(tmp_path / "pid")
    step.on_kill()
    thread.join(30)
    assert not thread.is_alive()
    assert _gone(grandchild)
    assert caught, "a killed task is not a success"


def test_a_timeout_ends_the_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightmarket.orchestration.operator._GRACE_SECONDS", 1)

    class Timeout(BaseException):
        pass

    def ring(*_: object) -> None:
        raise Timeout

    before = signal.signal(signal.SIGALRM, ring)
    step = _operator(GRANDCHILD.format(path=str(tmp_path / "pid")))
    try:
        threading.Thread(target=lambda: (_pid(tmp_path / "pid"), os.kill(os.getpid(), signal.SIGALRM))).start()
        with pytest.raises(Timeout):
            step.execute({})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert _gone(_pid(tmp_path / "pid"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a parent's death is told to its child there")
def test_a_job_ends_with_a_task_that_was_killed_outright(tmp_path: Path) -> None:
    import subprocess

    code = f"import pathlib, os, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
    script = ("from nightmarket.orchestration import JobOperator; import shlex\n"
              f"JobOperator(task_id='s', command='python -c ' + shlex.quote({code!r})).execute({{}})")
    task = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    job = _pid(tmp_path / "pid")
    task.kill()
    task.wait()
    deadline = time.monotonic() + 10
    while not _gone(job) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _gone(job)
