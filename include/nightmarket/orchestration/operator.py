"""The operator of every step: `python -m jobs.<name>` in a process of its own.

A JVM or TensorFlow must not live in a process that Airflow forks, and a job that runs the same from a terminal is easy to
repeat by hand: the rendered command says how.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from nightmarket.command import DONE, REFUSED, USAGE
from nightmarket.contracts import FEATURES, QUALITY
from nightmarket.lake import Lake
from nightmarket.shop import PROJECT, child_environment, load_shop

_GRACE_SECONDS = 20
_LEVEL = re.compile(r"^\S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_WHY = {
    USAGE: "the arguments or shop.yaml are wrong; mend them and run again",
    REFUSED: "refused; the log says what and the remedy, and a retry cannot help",
}


class JobOperator(BaseOperator):
    """Runs a step's command, streams its log, and turns its exit code into a task state.

    0 is success; 1, or death by a signal, is a fault that is retried; 2 (usage) and 3 (refused) fail at once. The XCom is
    the list of published manifests' paths. A dry run ends as skipped, so that no asset event says that data changed.

    :param command: the command line (templated). `--result` is added when it runs.
    :param arguments: appended to it as they are; what a mapped task maps over, for Airflow renders no template that is mapped.
    :param may_be_late: what cannot be done leaves the task skipped instead of failed: the next night tries again.
    """

    template_fields: Sequence[str] = ("command",)
    template_fields_renderers = {"command": "bash"}
    ui_color = "#e8eefc"

    def __init__(self, *, command: str, arguments: str = "", may_be_late: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.arguments = arguments
        self.may_be_late = may_be_late
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> list[str]:
        with tempfile.TemporaryDirectory(prefix="nightmarket-") as folder:
            result = Path(folder) / "manifests.json"
            code = self._run([*shlex.split(self.command), *shlex.split(self.arguments), "--result", str(result)])
            manifests = json.loads(result.read_text()) if result.exists() else []
        dry = bool((context.get("params") or {}).get("dry_run"))
        if code == DONE and not dry:
            self._mark_partition(context)
            return manifests
        if code == DONE:
            raise AirflowSkipException("dry run: nothing was published")
        what = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        if dry and code != USAGE:
            raise AirflowSkipException(f"dry run: {what}: it may need what an earlier step would have published")
        if code in _WHY:
            raise (AirflowSkipException if self.may_be_late else AirflowFailException)(f"{what}: {_WHY[code]}")
        ti = context.get("ti")
        if self.may_be_late and ti is not None and ti.try_number > (ti.max_tries or 0):
            raise AirflowSkipException(f"{what}: given up for this night; the next one tries again")
        raise AirflowException(f"{what}: a fault; it is retried")

    def _run(self, argv: list[str]) -> int:
        if argv[0] == "python":
            argv = [sys.executable, *argv[1:]]
        # Airflow's own settings hold its keys; a job needs none of them
        environment = {k: v for k, v in child_environment(PYTHONUNBUFFERED="1").items() if not k.startswith("AIRFLOW__")}
        process = self._process = subprocess.Popen(
            argv, cwd=PROJECT, env=environment, text=True, errors="replace", stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                level = _LEVEL.match(line)
                getattr(self.log, level[1].lower() if level else "info")("%s", line.rstrip()[:4000])
            return process.wait()
        finally:
            self._stop()  # a timeout or a kill arrives here as an exception
            process.stdout.close()

    def on_kill(self) -> None:
        self._stop()

    def _stop(self) -> None:
        """Ends the job's whole process group: a JVM or a pool of workers must not outlive its task."""
        process, self._process = self._process, None
        if process is None:
            return
        for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 5)):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break  # nobody of the group is left
            if process.poll() is None:
                try:
                    process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue

    def _mark_partition(self, context: Any) -> None:
        """Says which night the outlets' events are about, also in a manual run that has no partition of its own."""
        events = context.get("outlet_events")
        if events is None:
            return
        night = re.search(r"--run-date (\S+)", self.command)
        for outlet in self.outlets:
            if night:
                events[outlet].add_partitions(night[1])


class NightReady(BaseSensorOperator):
    """Waits, without holding a worker, until the night was judged and its histories are published; fails at once where the gate
    refused it.

    :param night: the night, YYYY-MM-DD (templated).
    """

    template_fields: Sequence[str] = ("night",)
    ui_color = "#f3f0ff"

    def __init__(self, *, night: str, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", **kwargs)
        self.night = night

    def poke(self, context: Any) -> bool:
        lake, night = Lake(load_shop().places.lake), date.fromisoformat(self.night)
        judged, histories = lake.manifest(QUALITY, night), lake.manifest(FEATURES, night)
        if judged is not None and judged.notes["verdict"] == "refused":
            raise AirflowFailException(f"the gate refused the night of {night}: nothing is trained on it, and the last publication keeps serving")
        self.log.info("%s: %s, histories %s", night, "judged" if judged else "not judged yet", "published" if histories else "not published yet")
        return judged is not None and histories is not None


def _die_with_parent() -> None:
    """A job ends with the task process that started it, also where that one was killed outright (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
