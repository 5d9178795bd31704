"""A night's fits and judgements in chunks of series: in this process where one chunk is all, else each in a Spark task.

What a task is sent and sends back are NumPy archives without objects.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nightmarket.forecast import judging, spread
from nightmarket.forecast.fitted import Fitted, Piece, arrays, piece
from nightmarket.forecast.forecaster import Weights
from nightmarket.forecast.series import Panel
from nightmarket.forecast.spread import Part, Quarantined
from nightmarket.shop import Forecasting, Settings
from nightmarket.spark import session


def fitted_parts(panel: Panel, rules: Forecasting, settings: Settings) -> Iterator[Part]:
    """Forecasts of every series over the panel's horizon."""
    parts = spread.chunks(panel, rules.chunk)
    asked = [_pack(panel.take(rows), {"intervals": rules.intervals, "budget": rules.budget, "seed": rules.seed}) for rows in parts]
    for rows, made in zip(parts, _over(asked, _fit, "chunks fitted", settings), strict=True):
        held = _unpack(made)
        failed = json.loads(str(held["failed"]))
        mine = panel.take(rows)
        place = {i: k for k, i in enumerate(mine.ids)}
        for n in range(int(held["count"])):
            part = piece({k.partition("|")[2]: v for k, v in held.items() if k.startswith(f"{n}|")})
            own = mine.take([place[i] for i in part.ids])
            yield Part(own, part.made, tuple(Quarantined(i, failed[i]) for i in part.ids if i in failed))


def judged_parts(panel: Panel, rules: Forecasting, backs: Sequence[int], champion: Fitted | None, settings: Settings) -> Iterator[
    tuple[tuple[str, ...], Mapping[str, np.ndarray]]
]:
    """(ids, what `judging.judge_chunk` made of them), chunk by chunk."""
    parts = [panel.take(rows) for rows in spread.chunks(panel, rules.chunk)]
    weights = None if champion is None else champion.learnt()
    asked = [_pack(p, {"rules": rules.model_dump(mode="json"), "backs": list(backs), "budget": champion and champion.budget}, weights) for p in parts]
    for part, made in zip(parts, _over(asked, _judge, "chunks judged", settings), strict=True):
        yield part.ids, _unpack(made)


def _over(asked: Sequence[bytes], work: Any, what: str, settings: Settings) -> Iterator[bytes]:
    return spread.over(asked, work, what, session(settings, "forecast") if len(asked) > 1 else None)


def _fit(payload: bytes) -> bytes:
    panel, said, _ = _panel(payload)
    out: dict[str, Any] = {}
    failed: dict[str, str] = {}
    count = 0
    for part in spread.guarded(panel, tuple(said["intervals"]), said["budget"], said["seed"]):
        out |= {f"{count}|{k}": v for k, v in arrays(Piece(part.panel.ids, part.made)).items()}
        failed |= {str(q.series_id): q.reason for q in part.quarantined}
        count += 1
    return _packed(out | {"count": np.array(count), "failed": np.array(json.dumps(failed))})


def _judge(payload: bytes) -> bytes:
    panel, said, weights = _panel(payload)
    return _packed(judging.judge_chunk(panel, Forecasting.model_validate(said["rules"]), said["backs"], weights, said["budget"]))


def _pack(panel: Panel, said: Mapping[str, Any], weights: Weights | None = None) -> bytes:
    told = {**said, "freq": panel.freq, "names": panel.names, "categories": panel.categories, "candidates": weights and weights.names}
    known = {} if weights is None else {"weights": weights.table(panel.ids, weights.names)}
    return _packed({"ids": np.array(panel.ids, np.str_), "ends": panel.ends, "y": panel.y, "known": panel.known, "said": np.array(json.dumps(told)), **known})


def _panel(payload: bytes) -> tuple[Panel, dict[str, Any], Weights | None]:
    held = _unpack(payload)
    said = json.loads(str(held["said"]))
    ids = tuple(str(i) for i in held["ids"])
    panel = Panel(ids, said["freq"], held["ends"], held["y"], held["known"], tuple(said["names"]), tuple(said["categories"]))
    weights = Weights(tuple(said["candidates"]), dict(zip(ids, held["weights"], strict=True))) if "weights" in held else None
    return panel, said, weights


def _packed(values: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **values)
    return out.getvalue()


def _unpack(payload: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(payload), allow_pickle=False) as held:
        return {k: held[k] for k in held.files}
