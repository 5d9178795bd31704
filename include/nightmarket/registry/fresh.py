"""Loads a registered version as a stranger would, and answers its input example.

`python -m nightmarket.registry.fresh --uri URI --model NAME --version N --answer FILE` runs in a process of its own, which
may not unpickle anything. `Registry.verify` starts it and compares.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nightmarket.registry.client import prepare


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m nightmarket.registry.fresh", description=__doc__)
    p.add_argument("--uri", required=True, help="MLflow tracking URI")
    p.add_argument("--model", required=True)
    p.add_argument("--version", required=True)
    p.add_argument("--answer", type=Path, required=True, metavar="FILE", help="where the answers go, as JSON")
    args = p.parse_args(argv)
    prepare(args.uri)
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(args.uri)
    mlflow.set_registry_uri(args.uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{args.model}/{args.version}")
    questions = pd.DataFrame(loaded.input_example)
    args.answer.write_text(loaded.predict(questions).to_json(orient="records", double_precision=15), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
