"""Write the configuration of Prometheus, Alertmanager and Grafana for a shop.

From shop.yaml: owners become Alertmanager's receivers, `mail` its server, `monitoring.webhook` a second way; alert rules and
Grafana dashboards (provisioned files) come with the project. Start the three with what is written:

  python -m jobs.monitoring --out monitoring
  prometheus --config.file=monitoring/prometheus.yml
  prometheus-alertmanager --config.file=monitoring/alertmanager.yml

Airflow's own metrics are shown by the look-up service that `make up` starts; `monitoring.airflow` of shop.yaml names another receiver.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nightmarket.command import DONE, EPILOG, USAGE
from nightmarket.shop import ShopError, load_shop


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m jobs.monitoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write; made where it is missing")
    p.add_argument("--lookup", action="append", metavar="HOST:PORT", help="a look-up service to scrape, once for each (default: 127.0.0.1:8088)")
    p.add_argument("--prometheus", default="127.0.0.1:9090", metavar="HOST:PORT", help="where Grafana finds Prometheus")
    p.add_argument("--alertmanager", default="127.0.0.1:9093", metavar="HOST:PORT", help="where Prometheus finds Alertmanager")
    p.add_argument("--airflow", metavar="HOST:PORT", help="a collector that shows Airflow's own metrics (default: the look-up service does)")
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    from nightmarket.monitor.stack import Addresses, write

    addresses = Addresses(tuple(args.lookup or ("127.0.0.1:8088",)), args.prometheus, args.alertmanager, args.airflow)
    try:
        for path in write(load_shop(args.shop), args.out, addresses):
            print(path)
    except ShopError as error:
        print(f"monitoring: {error}", file=sys.stderr)
        return USAGE
    return DONE


if __name__ == "__main__":
    sys.exit(main())
