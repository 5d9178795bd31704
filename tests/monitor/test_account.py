"""The account of a night, and what `jobs.diagnose` makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from jobs import diagnose, metrics
from jobs.register import kind_argument
from nightmarket import command, log
from nightmarket.command import Night, Refused
from nightmarket.contracts import EVENTS, QUALITY
from nightmarket.lake import Lake, Manifest
from nightmarket.monitor import account
from nightmarket.monitor.diagnosis import relevant, state_of
from nightmarket.monitor.metrics import text_file
from nightmarket.monitor.summary import morning, trouble
from nightmarket.shop import PROJECT, Settings
from tests.registry.nights import D

DAY = D(0)


def run(settings: Settings, step: str, body: Callable[[Night], list[Manifest]], night: date = DAY, *more: str) -> int:
    return command.main(step, "doc", body, ["--shop", str(settings.file), "--run-date", str(night), *more], kind_argument)


def fine(_: Night) -> list[Manifest]:
    log.logger("tests").info("all well")
    return []


def broken(_: Night) -> list[Manifest]:
    log.logger("tests").error("no luck")
    raise OSError(28, "No space left on device")


def refused(_: Night) -> list[Manifest]:
    raise Refused("the gate refused the night of 2026-03-01; mend the delivery")


def test_every_step_leaves_how_it_ended(settings: Settings) -> None:
    assert [run(settings, s, f) for s, f in (("ingest", fine), ("clean", broken), ("gate", refused), ("clean", fine))] == [0, 1, 3, 0]
    found = account.runs(settings.places.logs, DAY)
    assert [(r.step, r.exit_code, state_of(r)) for r in found] == [
        ("ingest", 0, "done"), ("clean", 1, "failed"), ("gate", 3, "refused"), ("clean", 0, "done")]
    assert "No space left on device" in found[1].why and any("no luck" in line for line in found[1].log)
    assert found[0].log == () and found[3].why == ""
    assert account.nights(settings.places.logs) == [DAY]


def test_a_dry_run_and_wrong_arguments_leave_nothing(settings: Settings) -> None:
    run(settings, "ingest", fine, DAY, "--dry-run")
    run(settings, "ingest", fine, DAY, "--from-date", str(D(3)))
    assert account.runs(settings.places.logs, DAY) == []


def test_a_killed_step_has_a_beginning_and_no_end(settings: Settings) -> None:
    code = ("import os, signal, sys\nfrom nightmarket import command\n"
            "def run(night):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
            "sys.exit(command.main('train', 'doc', run, sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "--shop", str(settings.file), "--run-date", str(DAY)], cwd=PROJECT, check=False)
    assert done.returncode == -9
    (found,) = account.runs(settings.places.logs, DAY)
    assert state_of(found) == "killed" and not found.alive


def test_a_step_that_runs_is_no_failure(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    made = account.Account("train", DAY, "")
    made.begin(settings.places.logs)
    (found,) = account.runs(settings.places.logs, DAY)
    assert found.pid == os.getpid() and state_of(found) == "running"
    assert diagnose.main(["--shop", str(settings.file), "--run-date", str(DAY)]) == 0
    assert "state running" in capsys.readouterr().out


def test_a_line_that_a_crash_cut_off_is_left_out(settings: Settings) -> None:
    run(settings, "ingest", fine)
    with account.file_of(settings.places.logs, DAY).open("a") as out:
        out.write('{"event": "beg')
    assert len(account.runs(settings.places.logs, DAY)) == 1


def test_an_account_that_cannot_be_written_stops_nothing(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings.places.logs.mkdir(parents=True)
    (settings.places.logs / "steps").write_text("in the way")
    assert run(settings, "ingest", fine) == 0
    assert "lacks this step" in capsys.readouterr().err


def publish(settings: Settings, night: date, rows_in: int, code: str, **notes: Any) -> None:
    """EVENTS of a night with nothing in it but a manifest that rejects everything."""
    import pyarrow as pa

    from nightmarket.lake.partitions import QUARANTINE

    rejected = pa.Table.from_pylist(
        [{"reason": "bad_event_ts", "source_file": "f", "source_row": n, "delivered_on": night, "record": "x"} for n in range(rows_in)],
        schema=QUARANTINE.arrow_schema())
    with Lake(settings.places.lake).writer(EVENTS, [night]) as writer:
        writer.stage_arrow(night, EVENTS.arrow_schema().empty_table(), rejected)
        writer.publish(night, inputs=[], settings="s", code=code, notes=notes, run_id=f"run of {night}")


def shown(settings: Settings, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert diagnose.main(["--shop", str(settings.file), *argv]) == 0
    return capsys.readouterr().out


def test_what_an_on_call_person_needs(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for n, rows, code in ((0, 30, "c1"), (1, 90, "c2")):
        publish(settings, D(n), rows, code, new_columns=["colour"] if n else [])
        run(settings, "ingest", fine, D(n), "--run-id", f"run of {D(n)}")
    run(settings, "aggregate", fine, D(0))
    run(settings, "aggregate", broken, D(1), "--run-id", "manual__2026-03-02")
    text = shown(settings, capsys, "--run-date", str(D(1)))
    assert "step  aggregate: failed" in text
    assert "The disk is full." in text and f"df -h {settings.places.root}; make room; then python -m jobs.aggregate --run-date {D(1)}" in text
    assert "silver.events: 0 rows, 90 rejected" in text and "silver.users: not published for this night" in text
    assert f"since the last good night, {D(0)}" in text
    for change in ("code: c1 -> c2", "new columns of silver.events: none -> colour", "rows delivered to silver.events: 30 -> 90",
                   "silver.events rejected for bad_event_ts: 30 -> 90"):
        assert change in text
    assert "ingest done, aggregate failed" in text
    told = json.loads(shown(settings, capsys, "--run-id", "manual__2026-03-02", "--json"))
    assert (told["night"], told["step"], told["state"], told["last_good"]) == (str(D(1)), "aggregate", "failed", str(D(0)))
    assert "No space left on device" in told["why"]


def test_a_refusal_is_told_once_beside_what_led_to_it(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone and under Airflow, whose log has the terminal's last line too; a fault keeps its traceback."""

    def judged(_: Night) -> list[Manifest]:
        log.logger("tests").error(log.said("failed", rule="events.volume", observed="9 / 90"))
        raise Refused('the night "broke" events.volume; mend the delivery')

    run(settings, "gate", judged, DAY, "--run-id", "manual__1")
    alone = shown(settings, capsys, "--run-date", str(DAY))
    folder = settings.places.root / "airflow" / "logs" / "dag_id=shop_ingestion" / "run_id=manual__1" / "task_id=gate"
    folder.mkdir(parents=True)
    (made,) = account.runs(settings.places.logs, DAY)
    lines = [*made.log, 'gate: refused: the night "broke" events.volume; mend the delivery', "exit code 3: refused; the log says what and the remedy"]
    (folder / "attempt=1.log").write_text("".join(json.dumps({"logger": "x.JobOperator", "event": line, "level": "info"}) + "\n" for line in lines))
    for text in (alone, shown(settings, capsys, "--run-date", str(DAY))):
        assert text.count("mend the delivery") == 1 and text.count("rule=events.volume") == 1
    run(settings, "train", broken)
    assert "Traceback" in shown(settings, capsys, "--run-id", account.runs(settings.places.logs, DAY)[-1].run_id)


def test_the_first_step_that_failed_is_the_one(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run(settings, "publish", refused)
    run(settings, "gate", refused)
    assert "step  gate: refused" in shown(settings, capsys, "--run-date", str(DAY))
    run(settings, "gate", fine)
    assert "step  publish: refused" in shown(settings, capsys, "--run-date", str(DAY))
    run(settings, "publish", fine)
    assert "Every step that ran ended well." in shown(settings, capsys, "--run-date", str(DAY))


@pytest.mark.parametrize("step", ["register", "bless", "retrain"])
def test_a_kind_whose_step_failed_is_not_hidden_by_one_whose_step_did_well(
    settings: Settings, capsys: pytest.CaptureFixture[str], step: str,
) -> None:
    run(settings, step, fine, D(0), "--model", "recommender")
    run(settings, step, broken, D(1), "--model", "recommender", "--run-id", "n")
    run(settings, step, fine, D(1), "--model", "forecaster", "--run-id", "n")
    assert [(s, state) for s, state, _ in trouble(settings, D(1))] == [(f"{step} (recommender)", "failed")]
    letter = morning(settings, Lake(settings.places.lake), D(1))
    assert letter.tone == "bad" and letter.subject.endswith(f"{step} (recommender) needs you")
    told = json.loads(shown(settings, capsys, "--run-date", str(D(1)), "--json"))
    assert (told["step"], told["model"], told["state"], told["last_good"]) == (step, "recommender", "failed", str(D(0)))
    assert told["command"].endswith(f"python -m jobs.{step} --run-date {D(1)} --model recommender")
    assert told["steps"] == [[f"{step} (recommender)", "failed"], [f"{step} (forecaster)", "done"]]
    assert metrics.main(["--shop", str(settings.file), "--run-date", str(D(1))]) == 0
    lines = text_file(settings).read_text().splitlines()
    assert f'nightmarket_step_runs{{model="recommender",outcome="fault",shop="small",step="{step}"}} 1.0' in lines
    assert f'nightmarket_step_runs{{model="forecaster",outcome="done",shop="small",step="{step}"}} 1.0' in lines
    run(settings, step, fine, D(1), "--model", "recommender")
    assert trouble(settings, D(1)) == []


def test_accounts_that_name_no_model_are_read_as_before(settings: Settings) -> None:
    """Of register nobody knows whose it was: the next one, whosever it is, stands for it. Training is the recommender's own."""
    lines = [{"step": s, "run_date": str(DAY), "run_id": "", "pid": 1_000_000 + n, "at": f"2026-03-02T02:00:0{n}+00:00", **e} for n, s, e in (
        (1, "train", {"event": "began"}), (1, "train", {"event": "ended", "exit_code": 0, "why": "", "log": []}),
        (2, "register", {"event": "began"}), (2, "register", {"event": "ended", "exit_code": 1, "why": "gone", "log": []}))]
    file = account.file_of(settings.places.logs, DAY)
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(r.step, r.model, r.name) for r in account.runs(settings.places.logs, DAY)] == [
        ("train", "recommender", "train"), ("register", "", "register")]
    assert trouble(settings, DAY) == [("register", "failed", "gone")]
    run(settings, "register", fine, DAY, "--model", "screener")
    assert trouble(settings, DAY) == []


def test_a_judgement_that_is_out_of_date_is_made_again_by_its_own_kind(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    def late(_: Night) -> list[Manifest]:
        raise Refused("it was judged against champion 3, and 4 serves")

    run(settings, "bless", late, DAY, "--model", "screener")
    text = shown(settings, capsys, "--run-date", str(DAY))
    assert f"python -m jobs.judge_screener --run-date {DAY} --force; then python -m jobs.register --run-date {DAY} --model screener and" in text
    assert "step  bless: refused\nmodel screener\n" in text


def test_the_log_of_a_mapped_task_is_that_of_its_kind(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run(settings, "retrain", broken, DAY, "--model", "recommender", "--run-id", "manual__1")
    for n, kind in enumerate(("recommender", "forecaster")):
        folder = settings.places.root / "airflow" / "logs" / "dag_id=nightly" / "run_id=manual__1" / "task_id=retrain" / f"map_index={n}"
        folder.mkdir(parents=True)
        (folder / "attempt=1.log").write_text(json.dumps({"logger": "x.JobOperator", "event": f"planned model={kind}", "level": "info"}) + "\n")
    assert "map_index=0" in shown(settings, capsys, "--run-date", str(DAY))


def test_a_run_that_nobody_knows_is_usage(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run(settings, "ingest", fine, DAY, "--run-id", "manual__1")
    assert diagnose.main(["--shop", str(settings.file), "--run-id", "manual__2"]) == 2
    assert "known are manual__1" in capsys.readouterr().err
    assert diagnose.main(["--shop", str(settings.file)]) == 2


def test_a_run_is_found_by_its_manifests_too(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    publish(settings, DAY, 1, "c")
    assert f"night {DAY}" in shown(settings, capsys, "--run-id", f"run of {DAY}")


def test_airflows_own_log_is_read_where_it_ran_there(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run(settings, "train", broken, DAY, "--run-id", "manual__1")
    folder = settings.places.root / "airflow" / "logs" / "dag_id=nightly" / "run_id=manual__1" / "task_id=train"
    folder.mkdir(parents=True)
    lines = [{"logger": "x.JobOperator", "event": f"line {n}", "level": "info"} for n in range(30)]
    lines.append({"logger": "x.JobOperator", "event": "train: the model registry at http://r failed: gone", "level": "info"})
    (folder / "attempt=2.log").write_text("\n".join(json.dumps(line) for line in lines) + "\nnot json\n")
    text = shown(settings, capsys, "--run-date", str(DAY))
    assert "attempt=2.log" in text and "The model registry is down" not in text.split("log (")[1]
    assert "the model registry at http://r failed" in text


def test_the_relevant_part_begins_with_the_first_trouble() -> None:
    assert relevant([f"fine {n}" for n in range(20)], 3) == ["fine 17", "fine 18", "fine 19"]
    assert relevant(["fine", "x ERROR y", "after", "end"]) == ["x ERROR y", "after", "end"]
    assert relevant(["Traceback", *map(str, range(30)), "end"], 6) == ["Traceback", "0", "…", "28", "29", "end"]


def test_the_gates_verdict_is_mentioned(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with Lake(settings.places.lake).writer(QUALITY, [DAY]) as writer:
        writer.publish(DAY, inputs=[], settings="s", code="c",
                       notes={"verdict": "refused", "from_date": str(DAY), "failed": {"critical": ["events.volume_lost"], "warning": [], "info": []}})
    run(settings, "gate", refused)
    text = shown(settings, capsys, "--run-date", str(DAY))
    assert "data gate: refused (critical events.volume_lost)" in text and "The data gate refused the night's delivery." in text


def test_constants_are_of_known_steps() -> None:
    from nightmarket.monitor.diagnosis import CAUSES
    from nightmarket.steps import STEPS

    filled = [c.command.format(again="python -m jobs.x", judge="python -m jobs.evaluate", model="", night="y", root="z") for c in CAUSES]
    named = {w.removeprefix("jobs.") for text in filled for w in text.replace(";", " ").split() if w.startswith("jobs.")}
    assert named <= {s.name for s in STEPS} | {"x", "ledger"}
