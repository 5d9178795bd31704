"""The Spark server that the steps of a night share, and what its clients are told."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nightmarket.embedded import services
from nightmarket.shop import Settings, child_environment
from nightmarket.spark import server


def clients(port: int) -> dict[str, str]:
    """Environment of the server on `port` and of its clients; the token keeps other users of this machine out."""
    # pyspark's client wants 'localhost' for a token without TLS
    return {"SPARK_REMOTE": f"sc://localhost:{port}", "SPARK_CONNECT_AUTHENTICATE_TOKEN": secrets.token_urlsafe(24),
            "PYSPARK_PYTHON": sys.executable}


@contextmanager
def served(settings: Settings) -> Iterator[dict[str, str]]:
    """A running server; yields the environment of its clients. Raises ServiceError where it does not start."""
    port = services.free_port(15_100)
    told = clients(port)
    process = subprocess.Popen(server(settings, port), env=child_environment(**told), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not services.listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise services.ServiceError("the Spark server did not start")
            time.sleep(0.3)
        yield told
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
