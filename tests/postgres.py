"""A real PostgreSQL server for tests, which they may stop and start again."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Postgres:
    """A server on a port of its own, without passwords; its user and superuser is `night`."""

    binaries: Path
    folder: Path
    port: int
    run_as: dict[str, Any]
    more: str = ""

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://night@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self._control("start")

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends its connections, `immediate` is as a crash."""
        self._control("-m", mode, "stop")

    def restart(self, mode: str = "fast") -> None:
        self._control("-m", mode, "restart")

    def _control(self, *words: str) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off {self.more}"
        self.call("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, *words)

    def call(self, program: str, *words: str) -> None:
        subprocess.run([self.binaries / program, *words], check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **self.run_as)


@contextmanager
def postgres_server(more: str = "") -> Iterator[Postgres]:
    """A running server, as another user where we are root; skips, aloud, where its programs are not installed.

    `more`: options of the server, e.g. `-c timezone=America/New_York`.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    on_path = shutil.which("postgres")
    if not programs and not on_path:
        pytest.skip("no PostgreSQL server programs: install the package postgresql to run this test")
    run_as: dict[str, Any] = {}
    user = next((u for u in ("postgres", "nobody") if _known(u)), None)
    if os.geteuid() == 0:  # the server refuses to run as root
        if user is None:
            pytest.skip("PostgreSQL refuses to run as root and there is no user postgres or nobody")
        run_as = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="nm-pg-", dir="/tmp"))  # short: the path of a socket may have 107 bytes
    if run_as:
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Postgres(programs[-1] if programs else Path(on_path or "").parent, folder, port, run_as, more)
    try:
        server.call("initdb", "-D", str(folder / "data"), "-U", "night", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
