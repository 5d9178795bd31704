"""Alert rules, dashboards and routes, on a real Prometheus and a real Alertmanager."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import airflow
import pytest
import yaml
from aiosmtpd.controller import Controller

from jobs import metrics, monitoring
from nightmarket.embedded.services import free_port
from nightmarket.monitor.dashboards import DASHBOARDS, dashboard, queries
from nightmarket.monitor.inbox import firing
from nightmarket.monitor.metrics import METRICS
from nightmarket.monitor.stack import RULES, Addresses, Pace, alertmanager, write
from nightmarket.online.service import LookupService
from nightmarket.shop import PROJECT, Settings, ShopError, load_shop
from tests.monitor.nights import EXPERIMENT, NIGHT, whole
from tests.monitor.test_airflow_metrics import speak

QUICK = Pace("1s", "1s", "1s", "1h")


def program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"no {name} here: apt-get install prometheus prometheus-alertmanager to run this test")
    return found


def test_the_rules_are_right_and_say_what_the_unit_tests_expect(tmp_path: Path) -> None:
    tool = program("promtool")
    for file in (RULES, Path(__file__).with_name("rules_test.yml")):
        shutil.copy(file, tmp_path)
    done = subprocess.run([tool, "test", "rules", "rules_test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_unit_test_an_owner_and_a_remedy() -> None:
    rules = [r for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"]]
    tested = {t["alertname"] for g in yaml.safe_load(Path(__file__).with_name("rules_test.yml").read_text())["tests"]
              for t in g["alert_rule_test"] if t["exp_alerts"]}
    assert {r["alert"] for r in rules} == tested
    assert all(r["labels"]["severity"] in ("page", "ticket") and r["annotations"]["action"] and r["annotations"]["summary"] for r in rules)
    assert {r["labels"]["owner"] for r in rules} <= set(load_shop(PROJECT / "shops" / "demo.yaml").shop.owners)


def test_what_is_written_is_accepted_by_the_servers_own_checks(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert monitoring.main(["--shop", str(settings.file), "--out", str(tmp_path / "m"), "--lookup", "a:1", "--lookup", "b:2", "--airflow", "c:3"]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(f.is_file() for f in files) and len(files) == 5 + len(DASHBOARDS)
    told = yaml.safe_load((tmp_path / "m" / "prometheus.yml").read_text())
    assert [j["job_name"] for j in told["scrape_configs"]] == ["nightmarket-lookup", "airflow"]
    assert told["scrape_configs"][0]["static_configs"][0]["targets"] == ["a:1", "b:2"]
    checks = [[program("promtool"), "check", "config", "prometheus.yml"], [program("amtool"), "check-config", "alertmanager.yml"]]
    for argv in checks:
        done = subprocess.run(argv, cwd=tmp_path / "m", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_owners_are_receivers_and_a_password_is_never_written(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    owners = {"default": {"name": "D", "mail": ["d@example.org"]}, "events": {"name": "E", "mail": ["e@example.org", "f@example.org"]}}
    mail = {"host": "smtp.example.org", "port": 587, "security": "starttls", "user": "u", "password": "smtp"}
    secrets = {"smtp": {"file": "keys/smtp"}}
    made = make_settings(owners=owners, mail=mail, secrets=secrets, monitoring={"webhook": "http://127.0.0.1:1/hook", "push_gateway": "https://gate:9091/"})
    told = alertmanager(made, Pace())
    assert [(r["name"], r["email_configs"][0]["to"]) for r in told["receivers"]] == [("default", "d@example.org"), ("events", "e@example.org, f@example.org")]
    assert all(r["webhook_configs"][0]["url"] == "http://127.0.0.1:1/hook" for r in told["receivers"])
    assert told["route"]["routes"] == [{"matchers": ['owner="events"'], "receiver": "events"}]
    assert told["global"]["smtp_auth_password_file"] == str(made.places.root / "keys" / "smtp") and told["global"]["smtp_require_tls"]
    write(made, tmp_path / "m")
    pushed = yaml.safe_load((tmp_path / "m" / "prometheus.yml").read_text())["scrape_configs"][-1]
    assert (pushed["scheme"], pushed["static_configs"][0]["targets"], pushed["honor_labels"]) == ("https", ["gate:9091"], True)
    with pytest.raises(ShopError, match="Alertmanager reads the mail password from a file"):
        alertmanager(make_settings(mail=mail, secrets={"smtp": {"env": "SMTP"}}), Pace())


def test_rules_and_dashboards_ask_only_for_metrics_that_are_measured(settings: Settings) -> None:
    """Those of a night, of the look-up service, and of Airflow by the names of its own list."""
    with LookupService(settings) as service:
        served = {f"{m.name}{end}" for m in service.registry.collect() for end in {"histogram": ("_bucket", "_count"), "counter": ("_total",)}.get(m.type, ("",))}
    theirs = yaml.safe_load((Path(airflow.__file__).parent / "_shared" / "observability" / "metrics" / "metrics_template.yaml").read_text())["metrics"]
    ends = {"counter": ("_total",), "gauge": ("",), "timer": ("_milliseconds_sum", "_milliseconds_count")}
    told = {f"airflow_{m['name'].replace('.', '_')}{end}" for m in theirs for end in ends[m["type"]]}
    rules = [r["expr"] for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"]]
    asked = {n for q in [*queries("x"), *rules] for n in re.findall(r"\b(?:nightmarket|airflow)_\w+", q)}
    assert len(asked) > 45 and asked <= {m.name for m in METRICS} | served | told, asked - {m.name for m in METRICS} - served - told
    labels = {m.name: {"shop", *m.labels} for m in METRICS}
    for query in [*queries("x"), *rules]:
        for name, given in re.findall(r"\b(nightmarket_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)[=!]", given)) <= labels.get(name, {"shop", "reason"}), (name, given)
    for name in DASHBOARDS:
        made = json.loads(json.dumps(dashboard(name)))
        assert made["uid"] == f"nightmarket-{name}"
        places = [(p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"]) for p in made["panels"]]
        taken = [(x + i, y) for x, y, w in places for i in range(w)]
        assert len(taken) == len(set(taken)) and max(x for x, _ in taken) < 24


@contextmanager
def running(argv: list[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        until(lambda: get(ready) is not None or (process.poll() is not None and pytest.fail(log.read_text()[-2000:])), 60, "it did not start")
        yield
    finally:
        process.terminate()
        process.wait()


def get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def until(done: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := done():
            return found
        time.sleep(0.2)
    pytest.fail(what)


@contextmanager
def serving(settings: Settings, port: int = 0) -> Iterator[LookupService]:
    with LookupService(settings, port=port) as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


def prometheus(folder: Path, port: int) -> list[str]:
    return [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]


@pytest.mark.e2e
def test_every_query_of_the_dashboards_answers_on_a_real_prometheus(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings(experiments={"warmer": EXPERIMENT})
    whole(settings)
    assert metrics.main(["--shop", str(settings.file), "--run-date", str(NIGHT)]) == 0
    port = free_port(19090)
    with serving(settings) as service:
        speak(service.port, tmp_path)
        write(settings, tmp_path, Addresses((f"127.0.0.1:{service.port}",), f"127.0.0.1:{port}", "127.0.0.1:1"), QUICK)
        base = f"http://127.0.0.1:{port}"
        with running(prometheus(tmp_path, port), tmp_path / "prometheus.log", f"{base}/-/ready"):
            def answers(query: str) -> Any:
                told = json.loads(get(f"{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}") or b'{"status": "no answer"}')
                assert told["status"] == "success", (query, told)
                return told["data"]["result"]

            def p99() -> float:
                """Looks up while it scrapes, so that rates have something to say."""
                assert get(f"http://127.0.0.1:{service.port}/recommend?user=u1&show=0") is not None
                found = answers('histogram_quantile(0.99, sum by (shop, le) (rate(nightmarket_lookup_seconds_bucket{shop="small"}[5m])))')
                return float(found[0]["value"][1]) if found else float("nan")

            assert 0 < until(lambda: (v := p99()) > 0 and v, 60, "no latency") <= 1
            asked = queries("small")
            assert len(asked) > 45
            until(lambda: all(answers(q) for q in asked), 60, f"no data for {[q for q in asked if not answers(q)]}")


class _Inbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 taken"


@pytest.mark.e2e
def test_a_refused_night_reaches_its_owner_by_mail_and_the_webhook(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    ports = {name: free_port(19500 + n) for n, name in enumerate(("prometheus", "alertmanager", "lookup", "mail"))}
    settings = make_settings(
        owners={"default": {"name": "D", "mail": ["d@example.org"]}, "events": {"name": "E", "mail": ["e@example.org"]}},
        mail={"host": "127.0.0.1", "port": ports["mail"]}, monitoring={"webhook": f"http://127.0.0.1:{ports['lookup']}/alerts"},
    )
    whole(settings, verdict="refused")
    assert metrics.main(["--shop", str(settings.file), "--run-date", str(NIGHT)]) == 0
    inbox = _Inbox()
    smtp = Controller(inbox, hostname="127.0.0.1", port=ports["mail"])
    smtp.start()
    try:
        with serving(settings, ports["lookup"]) as service:
            addresses = Addresses((f"127.0.0.1:{service.port}",), f"127.0.0.1:{ports['prometheus']}", f"127.0.0.1:{ports['alertmanager']}")
            write(settings, tmp_path, addresses, QUICK)
            alerts = [program("prometheus-alertmanager"), f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'am'}",
                      f"--web.listen-address={addresses.alertmanager}", "--cluster.listen-address="]
            with running(alerts, tmp_path / "am.log", f"http://{addresses.alertmanager}/-/ready"), \
                 running(prometheus(tmp_path, ports["prometheus"]), tmp_path / "prometheus.log", f"http://{addresses.prometheus}/-/ready"):
                mail = until(lambda: [m for m in inbox.mails if "GateRefused" in str(m[1]["Subject"])], 60, "no mail")[0]
                posted = until(lambda: [a for a in firing(settings) if a.name == "prometheus.GateRefused"], 60, "nothing posted")[0]
    finally:
        smtp.stop()
    assert mail[0] == ["e@example.org"] and mail[1]["Subject"] == "[small] GateRefused"
    assert "small: the data gate refused the night\nWhat to do: Nothing behind it ran" in mail[1].get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert posted.cause == "small: the data gate refused the night", "what the rules of shop.yaml may answer"
