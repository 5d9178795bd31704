"""Nothing that was started is left running, whatever ends the night."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nightmarket.embedded.services import (
    Service,
    ServiceError,
    Supervisor,
    free_port,
    leaders,
    listens,
    running,
    stop_all,
)
from nightmarket.shop import child_environment

# a service with a child in a session of its own that will not listen, as a job of a task has
STUBBORN = """
import os, pathlib, signal, subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""
# one that hides its environment, as processes that give themselves a title do, and whose child lives in its tree
NIGHT = """
import sys, time
from pathlib import Path
from nightmarket.embedded.services import Service, Supervisor
from nightmarket.shop import child_environment
import signal
def interrupt(*_): raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupt)
root, stubborn = Path(sys.argv[1]), sys.argv[2]
with Supervisor(root / "state", root / "logs", child_environment()) as supervisor:
    supervisor.start(Service("stubborn", [sys.executable, "-c", stubborn, str(root / "pids")], lambda: (root / "pids").exists()))
    supervisor.wait(60)
    (root / "ready").touch()
    if sys.argv[3] == "fault":
        raise RuntimeError("the night broke")
    time.sleep(600)
"""


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _stubborn(root: Path) -> Service:
    return Service("stubborn", [sys.executable, "-c", STUBBORN, str(root / "pids")], (root / "pids").exists)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor.stop, "__defaults__", (1.5,))


@pytest.mark.parametrize("end", ["interrupt", "terminate", "fault"])
def test_nothing_is_left(tmp_path: Path, end: str) -> None:
    night = subprocess.Popen([sys.executable, "-c", NIGHT, str(tmp_path), STUBBORN, end], env=child_environment(),
                             stderr=subprocess.DEVNULL)
    _wait_for(tmp_path / "ready")
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    if end == "interrupt":
        night.send_signal(signal.SIGINT)
        night.send_signal(signal.SIGINT)  # an impatient person presses twice
    elif end == "terminate":
        night.terminate()
    assert night.wait(60) != 0
    assert len(pids) == 2
    assert not [p for p in pids if _alive(p)]
    assert running(tmp_path / "state") is None


@pytest.mark.usefixtures("quick")
def test_kept_services_are_stopped_later_by_somebody_else(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "state", tmp_path / "logs", child_environment()) as supervisor:
        supervisor.start(_stubborn(tmp_path))
        supervisor.wait(60)
        supervisor.keep = True
    told = running(tmp_path / "state")
    assert told is not None
    [pid] = leaders(told)
    assert _alive(pid)
    assert stop_all(told["mark"], leaders(told), patience=1.5) == 2
    assert running(tmp_path / "state") is None


@pytest.mark.usefixtures("quick")
def test_a_service_that_dies_is_named_with_its_last_words(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "state", tmp_path / "logs", child_environment()) as supervisor:
        supervisor.start(Service("poor", [sys.executable, "-c", "import sys; sys.exit('no database')"], lambda: False))
        with pytest.raises(ServiceError, match=r"(?s)poor ended with 1;.*no database"):
            supervisor.wait(60)


@pytest.mark.usefixtures("quick")
def test_a_service_that_is_never_ready_is_named(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "state", tmp_path / "logs", child_environment()) as supervisor:
        supervisor.start(Service("slow", [sys.executable, "-c", "import time; time.sleep(600)"], lambda: False))
        with pytest.raises(ServiceError, match="slow not ready after 1 s"):
            supervisor.wait(1)


@pytest.mark.usefixtures("quick")
def test_a_command_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "state", tmp_path / "logs", child_environment())
    with supervisor, pytest.raises(ServiceError, match=r"(?s)migrate ended with 1;.*locked"):
        supervisor.call("migrate", [sys.executable, "-c", "import sys; sys.exit('database is locked')"])


def test_a_reused_process_id_is_not_ours(tmp_path: Path) -> None:
    told = {"services": [{"name": "old", "pid": os.getpid(), "created": 1.0, "url": None}]}
    assert leaders(told) == []


def test_ports() -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        busy = somebody.getsockname()[1]
        assert listens(busy)
        first, second = free_port(busy), free_port(busy)
    assert busy < first < second, "neither a port in use nor one that was just given away"
