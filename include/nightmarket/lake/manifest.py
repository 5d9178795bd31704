"""The manifest of one published partition: what it holds, where it came from, and how to make it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

_INCIDENTAL = ("run_id", "created_at", "seconds", "peak_memory_mb")
"""What may differ between two runs of the same night on the same inputs."""


@dataclass(frozen=True)
class Input:
    """One thing a partition was made from: a delivered file or another partition."""

    name: str
    """File name, or 'layer.dataset/run_date'."""
    digest: str
    """SHA-256 of the file, or content digest of the partition."""
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Manifest:
    """Published last and atomically: a partition without one does not exist for readers."""

    dataset: str
    run_date: str
    version: str
    """Folder of the rows, beside the manifest."""
    rows_in: int
    rows_out: int
    quarantined: dict[str, int]
    """Rejected rows by reason code; rows_in = rows_out + their sum."""
    digest: str
    """Order-independent digest of the rows."""
    schema: str
    """Digest of the column names and types."""
    inputs: tuple[Input, ...]
    settings: str
    """Digest of the settings that the step reads."""
    code: str
    seed: int | None = None
    sums: dict[str, str] = field(default_factory=dict)
    """Totals of the contract's `sums` over the rows delivered, out and quarantined, as exact decimals."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Stated behaviour that applied: new columns ignored, late files taken, values filled, verdicts."""
    run_id: str = ""
    created_at: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def __post_init__(self) -> None:
        if self.rows_in != self.rows_out + sum(self.quarantined.values()):
            raise ValueError(
                f"{self.dataset} of {self.run_date}: {self.rows_in} rows in, but {self.rows_out} out and "
                f"{sum(self.quarantined.values())} quarantined; a step lost or made rows"
            )

    def identity(self) -> dict[str, Any]:
        """Everything that two runs of the same night must agree on."""
        return {k: v for k, v in asdict(self).items() if k not in _INCIDENTAL}

    def recipe(self) -> str:
        """Digest of inputs, settings, code and seed: the same recipe needs no second run."""
        return recipe(self.inputs, self.settings, self.code, self.seed)

    def as_input(self) -> Input:
        return Input(f"{self.dataset}/{self.run_date}", self.digest, self.rows_out)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        data = json.loads(text)
        known = {f.name for f in fields(cls)}
        data = {k: v for k, v in data.items() if k in known}
        data["inputs"] = tuple(Input(**i) for i in data["inputs"])
        return cls(**data)

    def with_(self, **changes: Any) -> Manifest:
        return replace(self, **changes)


def recipe(inputs: tuple[Input, ...], settings: str, code: str, seed: int | None) -> str:
    """Digest of what a partition is made from; order of inputs does not matter."""
    parts = [f"{i.name}={i.digest}" for i in sorted(inputs, key=lambda i: (i.name, i.digest))]
    return hashlib.sha256("\n".join([*parts, settings, code, str(seed)]).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def code_version() -> str:
    """Digest of the source of include/ and jobs/: true also outside git and with uncommitted changes."""
    package = Path(__file__).resolve().parents[1]
    roots = [package, package.parents[1] / "jobs"]
    seen = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".j2", ".yaml") and "__pycache__" not in path.parts:
                seen.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return seen.hexdigest()[:12]
