"""`python -m jobs.send`: the night never fails because mail is down; the mailbox shows what came."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import report, send
from nightmarket.embedded import mailbox
from nightmarket.quality.outbox import Outbox
from nightmarket.shop import Settings
from tests.quality import nights as n


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Settings:
    return n.shop(make_settings, mail={"port": free_port()})


def run(shop: Settings, *more: str) -> int:
    return send.main(["--run-date", "2020-01-01", "--shop", str(shop.file), *more])


def test_a_dead_server_then_the_mailbox(shop: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--run-date", str(n.MONDAY), "--shop", str(shop.file)]) == 0
    assert run(shop) == 0, "mail that is down is no fault of the night"
    assert "0 sent now, 2 waiting, 0 undelivered (ConnectionRefusedError" in capsys.readouterr().out
    box = tmp_path / "mailbox"
    controller = mailbox.serve(box, shop.shop.mail.port)
    try:
        assert run(shop) == 0
        assert "0 sent now, 2 waiting" in capsys.readouterr().out, "the pause is not over"
        assert run(shop, "--now") == 0
        assert "2 sent now, 0 waiting" in capsys.readouterr().out
        assert run(shop, "--now") == 0
    finally:
        controller.stop()
    assert len(list(box.glob("*.eml"))) == 2
    index = (box / "index.html").read_text()
    assert "Night of 2026-02-02: the delivery did not arrive" in index and "夜间数据：未送达" in index
    for shown in sorted(box.glob("2*.html")):
        text = shown.read_text()
        assert f"href='{shown.name}'" in index
        assert "data:image/png;base64,iVBOR" in text and "cid:" not in text, "the picture is inside the page"
        assert "default-src 'none'" in text
    assert Outbox(shop.places.outbox).counts().sent == 2


def test_nothing_waits_nothing_happens(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop) == 0
    assert "0 sent now, 0 waiting, 0 undelivered" in capsys.readouterr().out


def test_a_dry_run_sends_nothing(shop: Settings, tmp_path: Path) -> None:
    report.main(["--run-date", str(n.MONDAY), "--shop", str(shop.file)])
    assert run(shop, "--dry-run") == 0
    assert all(e.attempts == 0 for e in Outbox(shop.places.outbox).entries())


def test_the_mailbox_bars_scripts_and_shows_plain_mails(tmp_path: Path) -> None:
    port = free_port()
    controller = mailbox.serve(tmp_path, port)
    try:
        with smtplib.SMTP("127.0.0.1", port) as smtp:
            smtp.sendmail("a@x", ["b@y"], b"Subject: <b>hi</b>\r\nTo: b@y\r\n\r\n1 < 2\r\n")
    finally:
        controller.stop()
    page = next(tmp_path.glob("2*.html")).read_text()
    assert "1 &lt; 2" in page and "&lt;b&gt;hi&lt;/b&gt;" in page
    assert "default-src 'none'" in page
