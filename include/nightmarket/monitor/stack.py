"""The configuration of Prometheus, Alertmanager and Grafana for a shop, made from shop.yaml: who is told is who owns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nightmarket.lake import write_atomically
from nightmarket.monitor import dashboards
from nightmarket.shop import Settings, ShopError

RULES = Path(__file__).with_name("rules") / "nightmarket.yml"


@dataclass(frozen=True)
class Addresses:
    """Where the parts of the monitoring listen, as host:port."""

    lookup: Sequence[str] = ("127.0.0.1:8088",)
    prometheus: str = "127.0.0.1:9090"
    alertmanager: str = "127.0.0.1:9093"
    airflow: str | None = None
    """Of a collector that shows Airflow's own metrics; None where the look-up service does, to which `monitoring.airflow` sends them."""


@dataclass(frozen=True)
class Pace:
    """How often is looked, and how long alerts wait for each other."""

    every: str = "30s"
    group_wait: str = "1m"
    group_interval: str = "5m"
    repeat: str = "12h"


def write(settings: Settings, folder: Path, addresses: Addresses | None = None, pace: Pace | None = None) -> list[Path]:
    """Writes everything below `folder`; returns the files. Raises ShopError where a mail password is not in a file."""
    addresses, pace = addresses or Addresses(), pace or Pace()
    texts = {
        "prometheus.yml": yaml.safe_dump(prometheus(settings, addresses, pace), sort_keys=False),
        "rules/nightmarket.yml": RULES.read_text(encoding="utf-8"),
        "alertmanager.yml": yaml.safe_dump(alertmanager(settings, pace), sort_keys=False, allow_unicode=True),
        "grafana/provisioning/datasources/nightmarket.yml": yaml.safe_dump({"apiVersion": 1, "datasources": [{
            "name": "Nightmarket", "uid": dashboards.DATASOURCE, "type": "prometheus", "access": "proxy", "url": f"http://{addresses.prometheus}",
        }]}, sort_keys=False),
        "grafana/provisioning/dashboards/nightmarket.yml": yaml.safe_dump({"apiVersion": 1, "providers": [{
            "name": "Nightmarket", "folder": "Nightmarket", "type": "file", "disableDeletion": True, "allowUiUpdates": False,
            "options": {"path": str((folder / "grafana" / "dashboards").resolve())},
        }]}, sort_keys=False),
        **{f"grafana/dashboards/{name}.json": json.dumps(dashboards.dashboard(name), indent=1) + "\n" for name in dashboards.DASHBOARDS},
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def prometheus(settings: Settings, addresses: Addresses, pace: Pace) -> dict[str, Any]:
    """Scrapes the look-up services, Airflow's collector and the push gateway, where there are some."""
    jobs: list[dict[str, Any]] = [{"job_name": "nightmarket-lookup", "static_configs": [{"targets": list(addresses.lookup)}]}]
    if addresses.airflow:
        jobs.append({"job_name": "airflow", "static_configs": [{"targets": [addresses.airflow]}]})
    if gateway := settings.shop.monitoring.push_gateway:
        # labels that were pushed are the truth, not those of the gateway's own address
        jobs.append({"job_name": "pushed", "honor_labels": True, "scheme": gateway.split("://")[0],
                     "static_configs": [{"targets": [gateway.split("://")[1].rstrip("/")]}]})
    return {
        "global": {"scrape_interval": pace.every, "evaluation_interval": pace.every},
        "rule_files": ["rules/*.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [addresses.alertmanager]}]}]},
        "scrape_configs": jobs,
    }


def alertmanager(settings: Settings, pace: Pace) -> dict[str, Any]:
    """Mails the owner that an alert names, else the default one; the webhook gets every alert."""
    mail, monitoring = settings.shop.mail, settings.shop.monitoring
    hook = [{"url": monitoring.webhook, "send_resolved": True}] if monitoring.webhook else []
    receivers = [
        {
            "name": who,
            "email_configs": [{"to": ", ".join(owner.mail), "send_resolved": True, "headers": {"Subject": _SUBJECT}, "html": "", "text": _TEXT}],
            **({"webhook_configs": hook} if hook else {}),
        }
        for who, owner in settings.shop.owners.items()
    ]
    routes = [{"matchers": [f'owner="{who}"'], "receiver": who} for who in settings.shop.owners if who != "default"]
    told: dict[str, Any] = {
        "smtp_smarthost": f"{mail.host}:{mail.port}", "smtp_from": mail.sender, "smtp_hello": mail.sender.rpartition("@")[2],
        "smtp_require_tls": mail.security == "starttls",
    }
    if mail.user and mail.password:
        told |= {"smtp_auth_username": mail.user, "smtp_auth_password_file": str(_password_file(settings, mail.password))}
    return {
        "global": told,
        "route": {"receiver": "default", "group_by": ["shop", "alertname"], "group_wait": pace.group_wait, "group_interval": pace.group_interval,
                  "repeat_interval": pace.repeat, "routes": routes},
        # a refused night explains that nothing newer was published and measured
        "inhibit_rules": [{"source_matchers": ['alertname="GateRefused"'], "target_matchers": ['alertname=~"PublicationStale|MetricsMissing"'],
                           "equal": ["shop"]}],
        "receivers": receivers,
    }


_SUBJECT = '[{{ .GroupLabels.shop }}] {{ if eq .Status "firing" }}{{ .GroupLabels.alertname }}{{ else }}over: {{ .GroupLabels.alertname }}{{ end }}'
_TEXT = """{{ range .Alerts }}{{ .Annotations.summary }}
{{ if eq .Status "firing" }}What to do: {{ .Annotations.action }}{{ else }}It is over.{{ end }}
Since {{ .StartsAt.Format "2006-01-02 15:04 MST" }}, {{ .Labels.severity }}.

{{ end }}"""


def _password_file(settings: Settings, name: str) -> Path:
    """Alertmanager reads the secret itself: it is in none of these files."""
    described = settings.shop.secrets[name]
    if described.file is None:
        raise ShopError(settings.file, [f"secrets.{name}: Alertmanager reads the mail password from a file; say file: beside env:"])
    path = Path(described.file).expanduser()
    return path if path.is_absolute() else settings.places.root / path
