"""Tables in and out of the commands that run alone, and their one clear error."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightmarket import standalone
from nightmarket.command import Refused, UsageError

ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.fixture(params=["parquet", "csv", "csv.gz", "tsv", "jsonl", "jsonl.gz"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"rows.{request.param}"
    text = {"csv": "a,b\n1,x\n2,y\n", "tsv": "a\tb\n1\tx\n2\ty\n", "jsonl": '{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n'}
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif request.param.endswith(".gz"):
        path.write_bytes(gzip.compress(text[request.param.removesuffix(".gz")].encode()))
    else:
        path.write_text(text[request.param])
    return path


def test_every_format_reads_the_same_rows(file: Path) -> None:
    assert standalone.read(file, "--events", ["a", "b"]).to_pylist() == ROWS


def test_a_missing_column_is_named_with_its_file(file: Path) -> None:
    with pytest.raises(UsageError, match=rf"--events .*{file.name}: no column c, d; it has a, b"):
        standalone.read(file, "--events", ["a", "c", "d"])


def test_a_missing_file_and_one_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--items .*none.parquet: no such file"):
        standalone.read(tmp_path / "none.parquet", "--items")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UsageError, match=r"broken.parquet: cannot be read: .*Write Parquet"):
        standalone.read(tmp_path / "broken.parquet", "--items")


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    standalone.write(pa.Table.from_pylist(ROWS), tmp_path / name)
    assert standalone.read(tmp_path / name, "--out").to_pylist() == ROWS
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.parquet"
    standalone.write(pa.Table.from_pylist(ROWS), path)

    def full(table: pa.Table, where: Path, **_: object) -> None:
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        standalone.write(pa.Table.from_pylist(ROWS[:1]), path)
    assert pq.read_table(path).to_pylist() == ROWS and [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize(("error", "code", "told"), [
    (None, 0, ""), (UsageError("no column x"), 2, "try: no column x\n"), (Refused("no purchases"), 3, "try: refused: no purchases\n"),
    (ZeroDivisionError("by zero"), 1, "try: ZeroDivisionError: by zero\n"),
])
def test_exit_codes(error: Exception | None, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        assert args.seed == 5
        if error:
            raise error
        return 3

    assert standalone.main("try", standalone.parser("try", "doc"), run, ["--seed", "5"]) == code
    assert told in capsys.readouterr().err


def test_unknown_arguments_are_usage() -> None:
    assert standalone.main("try", standalone.parser("try", "doc"), lambda args: 0, ["--nonsense"]) == 2
