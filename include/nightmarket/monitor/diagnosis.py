"""What an on-call person asks first: which step, what its log says, what it read, what is different today, and what to type next.

Everything is read back: the account of the night (`monitor.account`), Airflow's own logs where it ran there, the manifests, the
outbox. Nothing is guessed beyond a stated table of causes (`CAUSES`): where none fits, the last words of the log stand alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nightmarket import log as logfmt
from nightmarket.contracts import ALL, QUALITY, Dataset
from nightmarket.lake import Lake, Manifest
from nightmarket.monitor import account
from nightmarket.monitor.account import Run
from nightmarket.quality.outbox import Outbox
from nightmarket.registry import kinds
from nightmarket.shop import Settings
from nightmarket.steps import STEPS

RELEVANT = 12
"""Lines of a log that are shown."""
_TROUBLE = re.compile(r"\b(ERROR|CRITICAL|Traceback|Error:|Exception:|refused|Refused|failed|killed)\b")


@dataclass(frozen=True)
class Cause:
    """A pattern in a step's last words, what it means, and what to type. Filled in: `{again}`, the command of the step; `{judge}`, that of
    its kind of model's evaluation; `{model}`, the kind as an argument; `{night}` and `{root}`."""

    pattern: str
    means: str
    command: str


CAUSES: tuple[Cause, ...] = (
    Cause(r"model registry at \S+ (does not answer|failed)", "The model registry is down or cannot be reached.",
          "start it (`make up`), or mend MLFLOW_TRACKING_URI; then {again}"),
    Cause(r"No space left on device|Errno 28|Disk quota exceeded", "The disk is full.",
          "df -h {root}; make room; then {again}"),
    Cause(r"File too large|Errno 27", "A file was not allowed to grow: a limit of the process or the file system.",
          "ulimit -f; df -h {root}; then {again}"),
    Cause(r"Read-only file system|Permission denied|Errno 13|Errno 30", "A folder of the shop cannot be written.",
          "ls -ld {root} {root}/lake; mend owner and mode; then {again}"),
    Cause(r"is being written by another process", "Two runs wanted the same night at once; the other one goes on.",
          "wait for the other run; then {again}"),
    Cause(r"was expected at .* and is at", "Two nights decided about the same model at once; one of them moved the alias.",
          "python -m jobs.ledger; then {judge} --force and python -m jobs.bless --run-date {night}{model}"),
    Cause(r"was judged against champion", "The champion changed between evaluation and decision.",
          "{judge} --force; then python -m jobs.register --run-date {night}{model} and python -m jobs.bless --run-date {night}{model}"),
    Cause(r"the gate refused the night|nothing downstream may use it", "The data gate refused the night's delivery.",
          "read the report under {root}/reports/quality/{night}; have the delivery mended; then ingest, clean and gate of the night again"),
    Cause(r"was not judged|is not published", "An earlier step of the night did not run or did not end.",
          "run the step that the message names, then {again}"),
    Cause(r"OutOfMemory|MemoryError|Cannot allocate memory|ResourceExhausted|Java heap space", "The machine, or the JVM, ran out of memory.",
          "free -h; lower demands (NIGHTMARKET_SPARK_MEMORY, model.batch_size); then {again}"),
    Cause(r"is not a number at epoch|is not finite", "Training diverged.",
          "lower model.learning_rate or use model.precision: float32 in shop.yaml; then {again} --force"),
    Cause(r"UNAUTHENTICATED|StatusCode\.UNAVAILABLE|Py4JNetworkError|SparkConnectGrpcException", "The shared Spark server is gone or refuses the token.",
          "make down; make up; or unset SPARK_REMOTE; then {again}"),
    Cause(r"shop\.yaml|: \d+ problems?\b", "shop.yaml or an argument is wrong; the message names the line and the remedy.",
          "mend it; then {again}"),
    Cause(r"mails? .*(waiting|undelivered)|SMTP|ConnectionRefusedError.*25", "The mail server does not take mails; they wait in the outbox.",
          "mend `mail` in shop.yaml or start the server; then python -m jobs.send --run-date {night}"),
)


@dataclass(frozen=True)
class Change:
    """One difference from the last good night."""

    what: str
    before: str
    now: str


@dataclass(frozen=True)
class Diagnosis:
    """All that was found about one night."""

    night: date
    run_id: str | None
    step: str | None
    """The first step that did not end well; None where all that ran did."""
    model: str
    """Id of the kind of model that it was about; empty where none."""
    state: str
    """failed, refused, wrong usage, killed, running, done, or not run."""
    why: str
    log: tuple[str, ...]
    log_file: Path | None
    inputs: tuple[tuple[str, str], ...]
    """(dataset, what its manifest says)."""
    last_good: date | None
    changes: tuple[Change, ...]
    cause: str
    command: str
    steps: tuple[tuple[str, str], ...]
    """(step and, where kinds share it, kind of model; state) of the whole night."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        said = asdict(self)
        return {**said, "night": self.night.isoformat(), "last_good": self.last_good.isoformat() if self.last_good else None,
                "log_file": str(self.log_file) if self.log_file else None}


def night_of(settings: Settings, run_id: str) -> date | None:
    """The night that a run was about, by the accounts and the manifests; None where nobody knows the run."""
    logs = settings.places.logs
    for night in reversed(account.nights(logs)):
        if any(r.run_id == run_id for r in account.runs(logs, night)):
            return night
    lake = Lake(settings.places.lake)
    for dataset in ALL:
        for night in reversed(lake.dates(dataset)):
            made = lake.manifest(dataset, night)
            if made is not None and made.run_id == run_id:
                return night
    return None


def known_runs(settings: Settings, most: int = 5) -> list[str]:
    """Ids of the newest runs, newest first."""
    found: dict[str, None] = {}
    for night in reversed(account.nights(settings.places.logs)):
        for run in reversed(account.runs(settings.places.logs, night)):
            if run.run_id:
                found.setdefault(run.run_id)
        if len(found) >= most:
            break
    return list(found)[:most]


def diagnose(settings: Settings, night: date, run_id: str | None = None) -> Diagnosis:
    """Everything about a night, or about one run of it."""
    lake, logs = Lake(settings.places.lake), settings.places.logs
    ran = [r for r in account.runs(logs, night) if run_id is None or r.run_id == run_id]
    order = {s.name: n for n, s in enumerate(STEPS)}
    newest = sorted(account.newest(ran).values(), key=lambda r: order.get(r.step, len(order)))
    states = {r.name: state_of(r) for r in newest}
    run = next((r for r in newest if state_of(r) not in ("done", "running")), None)
    step = run.step if run else None
    log_file = _airflow_log(settings, run) if run else None
    words = _airflow_words(log_file) if log_file else [part for line in run.log for part in line.splitlines()] if run else []
    why = run.why.strip() if run else ""
    spec = next((s for s in STEPS if s.name == step), None)
    reads = spec.reads if spec else ()
    good = _last_good(lake, logs, night, run)
    cause, command = _cause(settings, night, run, "\n".join([why, *words]))
    return Diagnosis(
        night, run_id or (run.run_id if run else None) or None, step, run.model if run else "", state_of(run) if run else _whole(states), _last_line(why) or (words[-1] if words else ""),
        tuple(relevant(_beside(why, words, bool(log_file)))), log_file, tuple((d.id, _said(lake.manifest(d, night))) for d in reads), good,
        tuple(changes(lake, good, night)) if good else (), cause, command,
        tuple((r.name, state_of(r)) for r in newest if r.step in order), tuple(_notes(settings, lake, night)),
    )


def state_of(run: Run) -> str:
    if run.exit_code is None:
        return "running" if run.alive else "killed"
    return {0: "done", 2: "wrong usage", 3: "refused"}.get(run.exit_code, "failed")


def _whole(states: dict[str, str]) -> str:
    if not states:
        return "not run"
    return "running" if "running" in states.values() else "done"


def _beside(why: str, words: Sequence[str], whole: bool) -> list[str]:
    """What the log tells beyond the reason, which is told by itself: a refusal is a line of the log and the step's last words too. A traceback
    stays, and where the log is not the `whole` of what was said it is added."""
    if len(why.splitlines()) > 1:
        return [*words, *([] if whole else [line for line in why.splitlines() if line not in words])]
    again = (why, logfmt.said("", why=why).strip())
    return [line for line in words if not why or not any(a in line for a in again)]


def relevant(lines: Sequence[str], most: int = RELEVANT) -> list[str]:
    """The part of a log that matters: from the first sign of trouble on, its beginning and its end where that is long."""
    first = next((n for n, line in enumerate(lines) if _TROUBLE.search(line)), None)
    part = list(lines[first:]) if first is not None else list(lines[-most:])
    return part if len(part) <= most else [*part[: most // 3], "…", *part[-(most - most // 3 - 1):]]


def changes(lake: Lake, good: date, night: date) -> list[Change]:
    """How the night's manifests differ from those of the last good one: code, settings, columns, rows and rejections."""
    found: dict[tuple[str, str, str], None] = {}
    for dataset in ALL:
        before, now = lake.manifest(dataset, good), lake.manifest(dataset, night)
        if before is None or now is None:
            if before is not None:
                found.setdefault((dataset.id, f"{before.rows_out:,} rows", "not published"))
            continue
        if before.code != now.code:
            found.setdefault(("code", before.code, now.code))
        if before.settings != now.settings:
            found.setdefault((f"settings read by {dataset.id}", before.settings, now.settings))
        for note in ("new_columns", "missing_columns"):
            if before.notes.get(note) != now.notes.get(note):
                found.setdefault((f"{note.replace('_', ' ')} of {dataset.id}", _list(before.notes.get(note)), _list(now.notes.get(note))))
        if _apart(before.rows_in, now.rows_in):
            found.setdefault((f"rows delivered to {dataset.id}", f"{before.rows_in:,}", f"{now.rows_in:,}"))
        for reason in sorted({*before.quarantined, *now.quarantined}):
            was, is_ = before.quarantined.get(reason, 0), now.quarantined.get(reason, 0)
            if _apart(was, is_) and max(was, is_) >= 10:
                found.setdefault((f"{dataset.id} rejected for {reason}", f"{was:,}", f"{is_:,}"))
    return [Change(*c) for c in found]


def _apart(before: int, now: int) -> bool:
    """By more than three tenths either way, which an ordinary day is not."""
    return max(before, now) > 1.3 * max(min(before, now), 1)


def _list(value: Any) -> str:
    return ", ".join(map(str, value)) if value else "none"


def _last_good(lake: Lake, logs: Path, night: date, run: Run | None) -> date | None:
    """The newest earlier night of which the step ended well; without accounts, of which it, or the gate, published something."""
    for earlier in reversed([d for d in account.nights(logs) if d < night]):
        newest = account.newest(account.runs(logs, earlier))
        before = (newest.get((run.step, run.model)) or newest.get((run.step, ""))) if run else None
        if before is not None and before.exit_code == 0:
            return earlier
    spec = next((s for s in STEPS if run is not None and s.name == run.step), None)
    made: Dataset = spec.writes[0] if spec and spec.writes else QUALITY
    nights = [d for d in lake.dates(made) if d < night]
    return nights[-1] if nights else None


def _said(made: Manifest | None) -> str:
    if made is None:
        return "not published for this night"
    rejected = sum(made.quarantined.values())
    return f"{made.rows_out:,} rows" + (f", {rejected:,} rejected" if rejected else "") + f", digest {made.digest[-12:]}, made {made.created_at or '?'}"


def _cause(settings: Settings, night: date, run: Run | None, words: str) -> tuple[str, str]:
    if run is None:
        return ("Every step that ran ended well.", f"python -m jobs.diagnose --run-date {night} --json")
    model = f" --model {run.model}" if run.model else ""
    judge = kinds.kind(run.model or kinds.RECOMMENDER.id).evaluate
    again = f"python -m jobs.{run.step} --run-date {night}{model if run.step in kinds.SHARED else ''}"
    filled = {"again": again, "judge": f"python -m jobs.{judge} --run-date {night}", "model": model, "night": night.isoformat(),
              "root": str(settings.places.root)}
    for cause in CAUSES:
        if re.search(cause.pattern, words):
            return cause.means, cause.command.format(**filled)
    if (state := state_of(run)) == "killed":
        return ("It began and never ended: killed, by hand, by the machine running out of memory, or with its machine.",
                f"dmesg | grep -i 'killed process'; then {again}")
    if state == "refused":
        return "The step refused; its message says what is missing.", again
    return "None of the known causes; the log has the words.", f"{again} --verbose"


def _notes(settings: Settings, lake: Lake, night: date) -> list[str]:
    """What else is worth a look: what the gate found, mails that wait."""
    found = []
    made = lake.manifest(QUALITY, night)
    if made is not None:
        failed = [f"{severity} {', '.join(keys)}" for severity, keys in made.notes.get("failed", {}).items() if keys and severity != "info"]
        found.append(f"data gate: {made.notes['verdict']}" + (f" ({'; '.join(failed)})" if failed else ""))
    counts = Outbox(settings.places.outbox).counts()
    if counts.queued or counts.undelivered:
        found.append(f"outbox: {counts.queued} mails waiting, {counts.undelivered} undelivered")
    return found


def _airflow_log(settings: Settings, run: Run) -> Path | None:
    """The newest attempt's log of the step's task, where Airflow ran it; of a step that ran for each kind of model, this kind's."""
    if not run.run_id:
        return None
    home = settings.places.root / "airflow" / "logs"
    found = sorted(home.glob(f"dag_id=*/run_id={_globbed(run.run_id)}/task_id={run.step}/**/attempt=*.log"), key=lambda p: p.stat().st_mtime)
    if run.model and run.step in kinds.SHARED:  # mapped tasks have one name: the log's own lines say whose it is
        own = re.compile(rf"\bmodel(_kind)?={re.escape(run.model)}\b")
        found = [p for p in found if own.search(p.read_text(errors="replace"))]
    return found[-1] if found else None


def _globbed(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _airflow_words(file: Path) -> list[str]:
    """The lines that the job itself wrote, out of Airflow's structured log."""
    said = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that the logger did not write
        if str(entry.get("logger", "")).endswith("JobOperator") or entry.get("level") == "error":
            said.append(str(entry.get("event", "")))
    return said


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
