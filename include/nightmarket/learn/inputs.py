"""Training examples from Parquet to tf.data, a few row groups at a time: memory does not grow with the table.

Rows are shuffled within a bounded buffer after the order of row groups is drawn; both depend on (seed, epoch) alone, so an epoch
can be replayed. Every batch has exactly `batch_size` rows: the last one is padded with rows of weight 0, because replicas that
get unequal shares would weigh their examples differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WEIGHT = "weight"
"""Name of the (batch,) float32 example weight that every batch carries; 0 for padding."""


class InputError(ValueError):
    """The examples do not fit what the model reads. The message names file, column and row."""


@dataclass(frozen=True)
class Field:
    """One input: a number a row (`shape` ()), or a list column that fills a tensor of `shape` row by row, padded with 0."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Examples:
    """Parquet files of examples and the fields a model reads from them."""

    files: tuple[Path, ...]
    fields: tuple[Field, ...]
    batch_size: int
    """Global: over all replicas."""
    shuffle_rows: int = 16_384
    """Rows held for shuffling."""
    seed: int | None = None
    """None: in file order."""

    @property
    def rows(self) -> int:
        return sum(pq.ParquetFile(f).metadata.num_rows for f in self.files)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-self.rows // self.batch_size)

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Batches of one epoch as arrays; `skip` leaves out those that an interrupted run has learnt from already."""
        for block in self._blocks(epoch, skip):
            for n in range(len(block[WEIGHT])):
                yield {k: v[n] for k, v in block.items()}

    def _blocks(self, epoch: int, skip: int) -> Iterator[dict[str, np.ndarray]]:
        """The same batches, those of one shuffled block together: (batches, batch_size, …)."""
        names = [f.name for f in self.fields]
        about = {file: pq.read_metadata(file) for file in self.files}
        groups = [(file, g) for file in self.files for g in range(about[file].num_row_groups)]
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        order = range(len(groups)) if rng is None else rng.permutation(len(groups))
        held: list[dict[str, np.ndarray]] = []
        count = made = 0
        room = max(self.shuffle_rows, self.batch_size)
        for place, n in enumerate(order):
            file, group = groups[n]
            table = pq.ParquetFile(file, metadata=about[file]).read_row_group(group, columns=[*names, WEIGHT])
            held.append({f.name: _tensor(table, f, file) for f in (*self.fields, Field(WEIGHT, "float32"))})
            count += table.num_rows
            last = place == len(groups) - 1
            if (count < room and not last) or not count:
                continue
            block = _shuffled(held, rng)
            whole = -(-count // self.batch_size) if last else count // self.batch_size
            size = whole * self.batch_size
            held, count = [{k: v[size:] for k, v in block.items()}], max(0, count - size)
            left_out = min(max(0, skip - made), whole)
            made += whole
            if left_out < whole:
                yield {k: padded(v[:size], size).reshape(whole, self.batch_size, *v.shape[1:])[left_out:] for k, v in block.items()}

    def dataset(self, tf: Any, epoch: int = 0, skip: int = 0, epochs: int = 1) -> Any:
        """tf.data.Dataset of the same batches, read ahead while the model computes; of `epochs` epochs from this one on, `skip` of the
        first left out.

        Python hands over whole shuffled blocks, TensorFlow cuts them into batches: what crossing over costs is paid once a block.
        """
        spec = {
            f.name: tf.TensorSpec((None, self.batch_size, *f.shape), f.dtype) for f in (*self.fields, Field(WEIGHT, "float32"))
        }
        def made() -> Iterator[dict[str, np.ndarray]]:
            for n in range(epochs):
                yield from self._blocks(epoch + n, 0 if n else skip)

        blocks = tf.data.Dataset.from_generator(made, output_signature=spec)
        options = tf.data.Options()
        # workers each read all files and keep their share of every batch: the global batch is the same as on one machine
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        options.deterministic = True
        return blocks.prefetch(1).unbatch().with_options(options).prefetch(4)


def write_examples(folder: Path, name: str, columns: Mapping[str, np.ndarray | pa.Array], rows_per_group: int = 1024) -> Path:
    """Writes one Parquet file of examples and returns its path.

    Arrays of several axes become columns of fixed-size bytes, a row's values one after another: they are read back without being
    taken apart, which lists would be.
    """
    arrays = {k: v if isinstance(v, pa.Array) else as_bytes(v) for k, v in columns.items()}
    if WEIGHT not in arrays:
        arrays[WEIGHT] = pa.array(np.ones(len(next(iter(arrays.values()))), np.float32))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    schema = pa.schema([pa.field(k, v.type, nullable=v.null_count > 0) for k, v in arrays.items()])
    pq.write_table(pa.table(arrays, schema), path, row_group_size=rows_per_group, compression="lz4", use_dictionary=False)
    return path


def as_lists(values: np.ndarray) -> pa.Array:
    """(n,) to a plain column, (n, …) to a list column of n flattened rows."""
    if values.ndim == 1:
        return pa.array(values)
    width = int(np.prod(values.shape[1:]))
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))


def as_bytes(values: np.ndarray) -> pa.Array:
    """(n,) to a plain column, (n, …) to one of n rows as bytes."""
    if values.ndim == 1:
        return pa.array(values)
    whole = np.ascontiguousarray(values)
    width = whole.dtype.itemsize * int(np.prod(values.shape[1:]))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(whole)])


def padded(values: np.ndarray, rows: int) -> np.ndarray:
    """`values` with rows of zeros after it, `rows` in all."""
    if len(values) == rows:
        return values
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])


def _tensor(table: pa.Table, field: Field, file: Path) -> np.ndarray:
    column = table[field.name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    if not field.shape:
        return column.to_numpy(zero_copy_only=False).astype(field.dtype)
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        if width != field.size * np.dtype(field.dtype).itemsize:
            raise InputError(f"{file.name}: {field.name} has {width} bytes a row; {field.dtype} of shape {field.shape} has "
                             f"{field.size * np.dtype(field.dtype).itemsize}")
        held = np.frombuffer(column.buffers()[1], field.dtype, len(column) * field.size, column.offset * width)
        return held.reshape(len(column), *field.shape)
    lengths = np.diff(column.offsets.to_numpy())
    if len(lengths) and lengths.max() > field.size:
        raise InputError(
            f"{file.name}: row {int(lengths.argmax())} of {field.name} has {lengths.max()} values; shape {field.shape} takes {field.size}"
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    out = np.zeros((len(column), field.size), field.dtype)
    if len(lengths) and (lengths == field.size).all():
        out[:] = values.reshape(len(column), field.size)
    else:
        out[np.arange(field.size)[None, :] < lengths[:, None]] = values
    return out.reshape(len(column), *field.shape)


def _shuffled(blocks: Sequence[dict[str, np.ndarray]], rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    joined = {k: np.concatenate([b[k] for b in blocks]) for k in blocks[0]}
    if rng is None:
        return joined
    order = rng.permutation(len(joined[WEIGHT]))
    return {k: v[order] for k, v in joined.items()}
