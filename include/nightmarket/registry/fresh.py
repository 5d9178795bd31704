"""Loads a registered version as a stranger would, and answers its input example.

`python -m nightmarket.registry.fresh --uri URI --model NAME --answer FILE` runs in a process of its own, which may not unpickle anything,
and reads from its input, once it has imported what takes long, which version. `Registry.stranger` starts it, `Registry.verify` compares.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from nightmarket.registry.client import prepare


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m nightmarket.registry.fresh", description=__doc__)
    p.add_argument("--uri", required=True, help="MLflow tracking URI")
    p.add_argument("--model", required=True)
    p.add_argument("--answer", type=Path, required=True, metavar="FILE", help="where the answers go, as JSON")
    p.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE", help="what the model will need")
    args = p.parse_args(argv)
    prepare(args.uri)
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(args.uri)
    mlflow.set_registry_uri(args.uri)
    for module in args.modules:
        importlib.import_module(module)
    version = sys.stdin.readline().strip()
    if not version:
        print("whoever started this ended without naming a version", file=sys.stderr)
        return 1
    loaded = mlflow.pyfunc.load_model(f"models:/{args.model}/{version}")
    questions = pd.DataFrame(loaded.input_example)
    args.answer.write_text(loaded.predict(questions).to_json(orient="records", double_precision=15), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
