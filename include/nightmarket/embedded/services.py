"""Processes that the embedded night starts, and the promise that none of them outlives it.

Every process is started in its own session with a mark in its environment, which all that it starts inherit. Stopping
ends what was started, its descendants, and whoever else carries the mark: jobs and JVMs that made sessions of their own.
(The mark alone would not do: a process that gives itself a title, as Airflow's do, overwrites its environment.)
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from nightmarket.lake import write_atomically
from nightmarket.shop import PROJECT

MARK = "NIGHTMARKET_INSTANCE"


class ServiceError(Exception):
    """A service did not start, or died; the message names it, its log and the log's last lines."""


@dataclass
class Service:
    """One process: what it is called, how it starts, and how one sees that it is ready."""

    name: str
    argv: Sequence[str]
    ready: Callable[[], bool]
    url: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)


class Supervisor:
    """Starts, watches and stops services. A context manager that stops everything, unless told to leave it running."""

    def __init__(self, state: Path, logs: Path, environment: Mapping[str, str]):
        self.state = state
        self.logs = logs
        self.mark = uuid.uuid4().hex
        self.environment = {**environment, MARK: self.mark}
        self.services: list[Service] = []
        self.keep = False

    def __enter__(self) -> Supervisor:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._write()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            self.stop()

    def start(self, service: Service) -> None:
        """Starts it; its output goes to `<logs>/<name>.log`, a new file each time."""
        with self._log(service.name).open("wb") as log:
            service.process = subprocess.Popen(
                list(service.argv), cwd=PROJECT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
        self.services.append(service)
        self._write()

    def call(self, name: str, argv: Sequence[str]) -> None:
        """Runs a command to its end. Raises ServiceError where it fails."""
        path = self._log(name)
        with path.open("wb") as log:
            code = subprocess.run(
                list(argv), cwd=PROJECT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, check=False,
            ).returncode
        if code:
            raise ServiceError(f"{name} ended with {code}; {path} ends:\n{_tail(path)}")

    def wait(self, seconds: float) -> None:
        """Until all services are ready. Raises ServiceError naming the one that died or was not ready in time."""
        deadline = time.monotonic() + seconds
        waiting = list(self.services)
        while waiting:
            self.check()
            waiting = [s for s in waiting if not s.ready()]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(s.name for s in waiting)
                path = self._log(waiting[0].name)
                raise ServiceError(f"{names} not ready after {seconds:.0f} s; {path} ends:\n{_tail(path)}")
            if waiting:
                time.sleep(0.3)

    def check(self) -> None:
        """Raises ServiceError where a service has died."""
        for service in self.services:
            if service.process is not None and service.process.poll() is not None:
                path = self._log(service.name)
                raise ServiceError(f"{service.name} ended with {service.process.returncode}; {path} ends:\n{_tail(path)}")

    def stop(self, patience: float = 15) -> None:
        """Ends everything that carries the mark, first kindly. Other signals are ignored meanwhile."""
        before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)} if _in_main_thread() else {}
        try:
            stop_all(self.mark, [s.process.pid for s in self.services if s.process], patience)
            for service in self.services:
                if service.process:
                    service.process.wait()
            (self.state / "services.json").unlink(missing_ok=True)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _write(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        told = {
            "mark": self.mark,
            "services": [
                {"name": s.name, "pid": s.process.pid, "created": psutil.Process(s.process.pid).create_time(), "url": s.url}
                for s in self.services if s.process
            ],
        }
        write_atomically(self.state / "services.json", json.dumps(told, indent=1))


def running(state: Path) -> dict[str, Any] | None:
    """What `services.json` says, where any of its processes is still alive; None otherwise."""
    try:
        told = dict(json.loads((state / "services.json").read_text()))
    except FileNotFoundError:
        return None
    return told if _belonging(told["mark"], leaders(told)) else None


def leaders(told: Mapping[str, Any]) -> list[int]:
    """Process ids of the services in `services.json` that are still the processes that were started."""
    found = []
    for service in told["services"]:
        with suppress(psutil.NoSuchProcess):
            if service["pid"] and abs(psutil.Process(service["pid"]).create_time() - service["created"]) < 1:
                found.append(int(service["pid"]))
    return found


def _belonging(mark: str, leaders: Sequence[int]) -> list[psutil.Process]:
    """Living processes that are leaders, descend from one, or carry the mark."""
    found: set[psutil.Process] = set()
    for pid in leaders:
        with suppress(psutil.NoSuchProcess):
            leader = psutil.Process(pid)
            found |= {leader, *leader.children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.environ().get(MARK) == mark:
                found.add(process)
    return [p for p in found if _alive(p)]


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def stop_all(mark: str, leaders: Sequence[int] = (), patience: float = 15) -> int:
    """Ends all processes with the mark, the leaders and their descendants; returns how many there were.

    First the leaders are asked, which end their own children in order; then whoever is left is asked; then killed.
    """
    everybody = set(_belonging(mark, leaders))

    def left() -> list[psutil.Process]:
        everybody.update(_belonging(mark, leaders))  # some may have been started meanwhile
        return [p for p in everybody if _alive(p)]

    _signal([p for p in everybody if p.pid in leaders], signal.SIGTERM)
    _until(lambda: not any(p.pid in leaders for p in left()), patience * 2 / 3)
    _signal(left(), signal.SIGTERM)
    _until(lambda: not left(), patience / 3)
    while stubborn := left():
        _signal(stubborn, signal.SIGKILL)
        _until(lambda: not left(), 1)
    return len(everybody)


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)


_taken: list[IO[str]] = []


def free_port(wanted: int) -> int:
    """The first port from `wanted` on that nobody listens on, kept from other starters on this machine until we end.

    A service takes its port half a minute after it was chosen; without the lock two shops started together would collide.
    """
    for port in range(wanted, min(wanted + 100, 65_536)):
        handle = (Path(tempfile.gettempdir()) / f"nightmarket-{os.getuid()}-port-{port}.lock").open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:  # locked, or somebody listens
            handle.close()
            continue
        _taken.append(handle)
        return port
    raise ServiceError(f"ports {wanted} to {wanted + 99} of 127.0.0.1 are all taken; free one of them")


def listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _tail(path: Path, lines: int = 15) -> str:
    if not path.exists():
        return "  (nothing)"
    return "\n".join(f"  {line}" for line in path.read_text(errors="replace").splitlines()[-lines:])
