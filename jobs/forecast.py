"""Forecast every series of your own file, with intervals.

Rows of --sales: series_id, ds, y; one row a series and period. Out: series_id, ds, mean, lo80, hi80, lo95, hi95, model; one row
a series and future period. --known-columns names columns whose values are known in advance (promotion, price, holiday, open):
they are read from --sales for history and from --future for the forecast dates.

What is out of order is sorted and what is missing is mended by stated rules, each told with its series; contradictions are
refused. A method is chosen for each series by backtests inside its own history.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nightmarket import log as logs
from nightmarket import standalone
from nightmarket.command import UsageError

log = logs.logger("forecast")


def build_parser() -> argparse.ArgumentParser:
    p = standalone.parser("forecast", __doc__)
    p.add_argument("--sales", type=Path, required=True, metavar="FILE", help="series_id, ds, y: Parquet, CSV or JSON Lines")
    p.add_argument("--freq", choices=("D", "W", "MS"), required=True, help="days, weeks or months (dated on their 1st)")
    p.add_argument("--horizon", type=int, required=True, metavar="H", help="periods ahead")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="Parquet, or CSV where the name says so")
    p.add_argument("--known-columns", default="", metavar="A,B", help="columns known in advance")
    p.add_argument("--future", type=Path, metavar="FILE", help="series_id, ds and the known columns on the forecast dates")
    p.add_argument("--levels", default="80,95", metavar="80,95", help="central prediction intervals, in percent")
    p.add_argument("--budget", choices=standalone.BUDGETS, default="balanced", help="how much time to spend (default: balanced)")
    return p


def run(args: argparse.Namespace) -> int:
    """Writes the forecasts and returns their number of rows."""
    import pyarrow as pa

    from nightmarket.forecast.series import read_panel
    from nightmarket.forecast.spread import forecast_chunks
    from nightmarket.forecast.table import forecast_table

    if args.horizon < 1:
        raise UsageError(f"--horizon {args.horizon}: give a number of periods of at least 1")
    levels, known = _levels(args.levels), _columns(args.known_columns)
    if known and args.future is None:
        raise UsageError(f"--known-columns {args.known_columns}: their values on the forecast dates are needed; give --future")
    sales = standalone.read(args.sales, "--sales", ["series_id", "ds", "y", *known])
    future = standalone.read(args.future, "--future", ["series_id", "ds", *known]) if args.future and known else None
    if args.future and not known:
        log.warning(logs.said("future_unused", why="no --known-columns were named"))
    panel, mended = read_panel(sales, args.freq, args.horizon, known, future, f"--sales {args.sales}", f"--future {args.future}")
    for line in mended:
        log.warning(logs.said("mended", rule=line.rule, count=line.count, series=",".join(line.series)))
    log.info(logs.said("series", count=panel.size, longest=panel.length, known=",".join(known) or None))
    kinds = sales.schema.field("series_id").type, sales.schema.field("ds").type
    tables, failed = [], 0
    for part in forecast_chunks(panel, levels, args.budget, args.seed):
        tables.append(forecast_table(part.panel, part.made, *kinds))
        failed += len(part.quarantined)
    if failed:
        log.warning(logs.said("fallback", series=failed, why="they could not be forecast as the others; see the lines above"))
    table = pa.concat_tables(tables).sort_by([("series_id", "ascending"), ("ds", "ascending")])
    standalone.write(table, args.out)
    return table.num_rows


def _levels(text: str) -> tuple[int, ...]:
    try:
        levels = sorted({int(part) for part in text.split(",")})
    except ValueError:
        levels = []
    if not levels or levels[0] < 1 or levels[-1] > 99:
        raise UsageError(f"--levels {text}: give whole percents from 1 to 99, as in 80,95")
    return tuple(levels)


def _columns(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    wrong = {"series_id", "ds", "y"} & set(names)
    if wrong or len(set(names)) < len(names):
        raise UsageError(f"--known-columns {text}: {', '.join(sorted(wrong)) or 'a name twice'}; name each covariate once")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    return standalone.main("forecast", build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
