"""What all jobs share: arguments, exit codes, the account they give, the memory they used."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.register import kind_argument
from nightmarket import command, log
from nightmarket.command import DONE, FAULT, REFUSED, USAGE, MemoryWatch, Night, Refused, UsageError
from nightmarket.contracts import DAILY_SALES
from nightmarket.lake import Input, LakeError, Manifest, code_version
from nightmarket.monitor import account
from nightmarket.steps import STEPS, step

SHOP = """\
shop: corner
time_zone: UTC
currency: EUR
owners: {default: {name: Ada, mail: [ada@corner.example]}}
sources: {log: {kind: files, path: drop, pattern: "{date}.csv", format: csv}}
datasets: {events: {source: log, columns: {event_ts: at, event_type: what, item_id: sku}}}
storage: {root: var}
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("NIGHTMARKET_ROOT", raising=False)
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    return file


def _main(run, shop: Path, *argv: str) -> int:  # type: ignore[no-untyped-def]
    return command.main("trial", "A trial.", run, ["--shop", str(shop), *argv])


@pytest.mark.parametrize(("error", "code"), [
    (None, DONE), (Refused("no"), REFUSED), (UsageError("so not"), USAGE), (LakeError("not there"), FAULT),
    (ValueError("odd"), FAULT), (OSError("disk full"), FAULT), (KeyboardInterrupt(), 130),
])
def test_each_ending_has_its_exit_code(shop: Path, error: BaseException | None, code: int) -> None:
    def run(night: Night) -> list[Manifest]:
        if error:
            raise error
        return []

    assert _main(run, shop, "--run-date", "2026-01-05") == code


@pytest.mark.parametrize(("argv", "says"), [
    (["--run-date", "05.01.2026"], "write YYYY-MM-DD"),
    (["--run-date", "2026-02-30"], "write YYYY-MM-DD"),
    ([], "--run-date"),
    (["--run-date", "2026-01-05", "--from-date", "2026-01-06"], "swap them"),
    (["--run-date", "2026-01-05", "--frm"], "unrecognized"),
])
def test_bad_usage_says_what_would_be_right(shop: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(lambda night: [], shop, *argv) == USAGE
    assert says in capsys.readouterr().err


def test_a_bad_shop_is_a_usage_error(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.write_text(SHOP.replace("EUR", "euro"))
    assert _main(lambda night: [], shop, "--run-date", "2026-01-05") == USAGE
    assert "line 3: currency" in capsys.readouterr().err


def _rows(sold: int) -> pa.Table:
    schema = DAILY_SALES.arrow_schema()
    row = {"sale_date": date(2026, 1, 5), "item_id": "a", "country": "FR", "units_sold": sold, "units_returned": 0,
           "revenue_sold": None, "revenue_returned": None, "order_count": 1}
    return pa.Table.from_pylist([row], schema=schema)


def test_a_step_runs_once_for_the_same_recipe_and_reports_its_manifests(shop: Path, tmp_path: Path) -> None:
    ran: list[int] = []

    def run(night: Night) -> list[Manifest]:
        inputs = [Input("a.csv", "123")]
        if night.is_current(DAILY_SALES, night.run_date, inputs, "s"):
            made = night.lake.manifest(DAILY_SALES, night.run_date)
            assert made is not None
            return [made]
        ran.append(1)
        with night.lake.writer(DAILY_SALES, night.dates) as writer:
            writer.stage_arrow(night.run_date, _rows(len(ran)))
            return [writer.publish(night.run_date, inputs=inputs, settings="s", code=code_version(), run_id=night.run_id)]

    result = tmp_path / "result.json"
    again = ["--run-date", "2026-01-05", "--result", str(result)]
    assert [_main(run, shop, *again), _main(run, shop, *again), len(ran)] == [DONE, DONE, 1]
    (path,) = json.loads(result.read_text())
    assert Manifest.from_json(Path(path).read_text()).rows_out == 1
    assert path.endswith("lake/gold/daily_sales/run_date=2026-01-05/manifest.json")
    assert _main(run, shop, *again, "--force") == DONE
    assert len(ran) == 2


def test_every_line_of_a_log_says_what_it_is_about(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours, those of a thread and of other people, and the last one, which says why it failed; the traceback belongs to it."""
    def run(night: Night) -> list[Manifest]:
        log.logger("trial").info(log.said("began", rows=3))
        log.identify(model_version="7")
        thread = threading.Thread(target=lambda: log.logger("elsewhere").warning("from a thread"))
        thread.start()
        thread.join()
        logging.getLogger("somebody.else").error("not ours")
        raise ValueError("odd = bad")

    asked = ["--shop", str(shop), "--run-date", "2026-01-05", "--run-id", "manual__2026-01-06T02:00:00+00:00", "--model", "screener"]
    assert command.main("bless", "A trial.", run, asked, kind_argument) == FAULT
    said = [line for line in capsys.readouterr().err.splitlines() if re.match(r"\d{4}-\d\d-\d\dT", line)]
    about = "run_id=manual__2026-01-06T02:00:00+00:00 step=bless model_kind=screener"
    assert [line.split(" ", 1)[1] for line in said] == [
        f"INFO nightmarket.trial began rows=3 {about}",
        f"WARNING nightmarket.elsewhere from a thread {about} model_version=7",
        f"ERROR somebody.else not ours {about} model_version=7",
        f'ERROR nightmarket.bless failed run_date=2026-01-05 why="ValueError: odd = bad" {about} model_version=7',
    ]
    (ran,) = account.runs(shop.parent / "var" / "logs", date(2026, 1, 5))
    assert "from a thread" in ran.log[1] and ran.log[1].endswith("model_version=7")
    assert _main(lambda night: [], shop, "--run-date", "2026-01-05") == DONE
    assert re.search(r" done .* run_id=hand-\d{8}T\d{6}-\d+ step=trial$", capsys.readouterr().err.rstrip()), "what nobody named has a name, and nobody else's"


def test_memory_watch_counts_children() -> None:
    block = "import time; b = bytearray(200 * 2**20); time.sleep(1.2)"
    with MemoryWatch(every=0.1) as alone:
        pass
    with MemoryWatch(every=0.1) as watch:
        subprocess.run([sys.executable, "-c", block], check=True)
    assert watch.peak_mb > alone.peak_mb + 150


@pytest.mark.parametrize("name", [s.name for s in STEPS])
def test_every_step_explains_itself(name: str) -> None:
    said = subprocess.run([sys.executable, "-m", f"jobs.{name}", "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    assert ("--run-date" in said.stdout) == step(name).dated and "exit codes: 0 done" in said.stdout
    assert len(said.stdout.split("\n\n")[1]) > 30  # the job's own words, not only its options
