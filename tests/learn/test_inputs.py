"""Examples from Parquet: every row once, in a replayable order, in whole batches, without holding the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightmarket.learn.inputs import Examples, Field, InputError, write_examples

X = Field("x", "float32")


def numbers(folder: Path, rows: int, name: str = "part", first: int = 0, group: int = 16) -> Path:
    return write_examples(folder, name, {"x": np.arange(first, first + rows, dtype=np.float32)}, group)


def learnt(examples: Examples, epoch: int = 0, skip: int = 0) -> list[float]:
    """The values that count, in the order of the batches."""
    return [float(v) for b in examples.batches(epoch, skip) for v, w in zip(b["x"], b["weight"], strict=True) if w > 0]


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 200), batch=st.integers(1, 50), buffer=st.integers(1, 100), seed=st.one_of(st.none(), st.integers(0, 9)))
def test_every_row_counts_once_in_whole_batches(tmp_path_factory: pytest.TempPathFactory, rows: int, batch: int, buffer: int, seed: int | None) -> None:
    folder = tmp_path_factory.mktemp("rows")
    files = (numbers(folder, rows), numbers(folder, 7, "more", first=rows))
    examples = Examples(files, (X,), batch, buffer, seed)
    batches = list(examples.batches())
    assert len(batches) == examples.steps == -(-(rows + 7) // batch)
    assert {len(b["x"]) for b in batches} == {batch}
    assert sorted(learnt(examples)) == list(range(rows + 7))
    assert sum(b["weight"].sum() for b in batches) == rows + 7


def test_without_a_seed_rows_come_in_file_order(tmp_path: Path) -> None:
    assert learnt(Examples((numbers(tmp_path, 40),), (X,), 16)) == list(range(40))


def test_an_epoch_can_be_replayed_and_continued(tmp_path: Path) -> None:
    examples = Examples((numbers(tmp_path, 100),), (X,), 8, 32, seed=3)
    whole = learnt(examples, epoch=2)
    assert whole == learnt(examples, epoch=2)
    assert whole != learnt(examples, epoch=1)
    assert learnt(examples, epoch=2, skip=5) == whole[40:]


def test_lists_fill_a_tensor_and_are_padded(tmp_path: Path) -> None:
    path = write_examples(tmp_path, "lists", {"x": pa.array([[1, 2, 3], [], [4]], pa.list_(pa.int32()))})
    batch = next(Examples((path,), (Field("x", "int32", (2, 2)),), 4).batches())
    assert batch["x"].tolist() == [[[1, 2], [3, 0]], [[0, 0], [0, 0]], [[4, 0], [0, 0]], [[0, 0], [0, 0]]]
    assert batch["weight"].tolist() == [1, 1, 1, 0]


def test_a_list_longer_than_its_tensor_is_refused_by_file_row_and_column(tmp_path: Path) -> None:
    path = write_examples(tmp_path, "long", {"x": pa.array([[1], [1, 2, 3]], pa.list_(pa.int32()))})
    with pytest.raises(InputError, match=r"long.parquet: row 1 of x has 3 values; shape \(2,\) takes 2"):
        next(Examples((path,), (Field("x", "int32", (2,)),), 4).batches())


def test_no_more_than_the_buffer_and_a_row_group_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbers(tmp_path, 1000, group=10)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        table = original(self, group, columns=columns)
        read.append(table.num_rows)
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    stream = Examples((path,), (X,), 8, shuffle_rows=64, seed=1).batches()
    for taken in range(1, 100):
        next(stream)
        assert sum(read) - taken * 8 <= 64 + 10
