"""The outbox in real SMTP conversations: TLS and login, a dead server, refused recipients, kills, two flushers."""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nightmarket.quality.outbox import Outbox, OutboxBusy, Server
from nightmarket.shop import Settings, ShopError

START = datetime(2026, 2, 3, 2, tzinfo=timezone.utc)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Keeper:
    """Keeps every mail; answers what `answers` says to a recipient, or `data` to a mail."""

    def __init__(self, **answers: str) -> None:
        self.mails: list[tuple[list[str], EmailMessage]] = []
        self.answers = {k.replace("_at_", "@"): v for k, v in answers.items()}
        self.data: list[str] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        answer = self.answers.get(address, "250 ok")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.data:
            return self.data.pop(0)
        message = message_from_bytes(envelope.content, policy=policy.default)
        self.mails.append((list(envelope.rcpt_tos), message))  # type: ignore[arg-type]
        return "250 kept"


class Listener(Controller):
    def _trigger_server(self) -> None:
        """Wakes the new server by a bare connection; aiosmtpd would shake hands with the server's own TLS context."""
        socket.create_connection((self.hostname, self.port), 5).close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(keeper: Keeper, **options: Any) -> Iterator[int]:
    controller = Listener(keeper, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def mail(to: str = "ada@example.org", subject: str = "Night of 2026-02-02: 通过") -> EmailMessage:
    message = EmailMessage(policy=policy.SMTP.clone(cte_type="7bit"))
    message["From"], message["To"], message["Subject"] = "nightmarket@example.org", to, subject
    message.set_content("Grüße\n", cte="quoted-printable")
    return message


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(tmp_path: Path, clock: Clock) -> Outbox:
    return Outbox(tmp_path / "outbox", clock)


def server(port: int, **more: Any) -> Server:
    return Server("127.0.0.1", port, timeout=10, sender="nightmarket@example.org", **more)


def test_a_mail_arrives_as_it_was_written(outbox: Outbox) -> None:
    entry, new = outbox.put(mail(), "shop/2026-02-02/ada/1")
    keeper = Keeper()
    with serving(keeper) as port:
        counts = outbox.flush(server(port))
        again = outbox.flush(server(port))
    assert new and counts.sent_now == 1 and again.sent_now == 0
    (recipients, arrived), = keeper.mails
    assert recipients == ["ada@example.org"]
    assert arrived["Subject"] == "Night of 2026-02-02: 通过"
    assert arrived["Message-ID"] == f"<{entry.id}@example.org>"
    assert arrived.get_content().split() == ["Grüße"]
    assert outbox.entries("sent")[0].id == entry.id


def test_the_same_key_is_queued_once_unless_forced(outbox: Outbox) -> None:
    first, _ = outbox.put(mail(), "k")
    again, new = outbox.put(mail(), "k")
    other, other_new = outbox.put(mail(), "another")
    forced, forced_new = outbox.put(mail(), "k", force=True)
    assert (again.id, new, other_new, forced_new) == (first.id, False, True, True)
    assert len({first.id, other.id, forced.id}) == 3 == outbox.counts().queued


def test_a_dead_server_keeps_mails_until_it_is_back(outbox: Outbox, clock: Clock) -> None:
    outbox.put(mail(), "k")
    dead = server(free_port())
    counts = outbox.flush(dead)
    assert (counts.queued, counts.sent_now) == (1, 0) and "ConnectionRefusedError" in counts.reason
    keeper = Keeper()
    with serving(keeper) as port:
        assert outbox.flush(server(port)).queued == 1, "the pause is not over"
        clock.now += timedelta(minutes=5)
        assert outbox.flush(server(port)).sent_now == 1
    entry = outbox.entries()[0]
    assert entry.attempts == 2 and [e["outcome"] for e in entry.log][-1] == "sent"


def test_now_ignores_the_pause(outbox: Outbox) -> None:
    outbox.put(mail(), "k")
    outbox.flush(server(free_port()))
    keeper = Keeper()
    with serving(keeper) as port:
        assert outbox.flush(server(port), now=True).sent_now == 1


def test_pauses_double_up_to_six_hours_and_end(outbox: Outbox, clock: Clock) -> None:
    """5, 10, 20, 40, 80, 160, 320, 360 minutes; the eighth failure is the last."""
    outbox.put(mail(), "k")
    dead = server(free_port())
    pauses = []
    for _ in range(8):
        outbox.flush(dead)
        entry = outbox.entries()[0]
        pauses.append((datetime.fromisoformat(entry.not_before) - clock.now).total_seconds() / 60)
        assert entry.state == ("queued" if len(pauses) < 8 else "undelivered")
        clock.now = datetime.fromisoformat(entry.not_before)
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 360]
    keeper = Keeper()
    with serving(keeper) as port:
        assert outbox.flush(server(port), now=True).sent_now == 0
    assert not keeper.mails and outbox.counts().undelivered == 1


def test_each_recipient_has_a_fate_of_its_own(outbox: Outbox, clock: Clock) -> None:
    keeper = Keeper(gone_at_b="550 no such user", busy_at_c="451 try later")
    outbox.put(mail("ok@a, gone@b, busy@c"), "k")
    with serving(keeper) as port:
        outbox.flush(server(port))
        entry = outbox.entries()[0]
        assert {r.address: (r.state, r.reason) for r in entry.recipients} == {
            "ok@a": ("sent", ""), "gone@b": ("undelivered", "550 no such user"), "busy@c": ("queued", "451 try later")}
        assert entry.state == "queued"
        del keeper.answers["busy@c"]
        clock.now += timedelta(minutes=5)
        outbox.flush(server(port))
    assert [r for r, _ in keeper.mails] == [["ok@a"], ["busy@c"]], "nobody gets it twice"
    assert outbox.entries()[0].state == "undelivered"


def test_a_refused_mail_does_not_hold_up_the_next(outbox: Outbox, clock: Clock) -> None:
    keeper = Keeper()
    keeper.data = ["452 full", "554 looks like spam"]
    for n in range(3):
        outbox.put(mail(subject=str(n)), str(n))
        clock.now += timedelta(seconds=1)
    with serving(keeper) as port:
        counts = outbox.flush(server(port))
    assert [m["Subject"] for _, m in keeper.mails] == ["2"]
    assert (counts.queued, counts.undelivered, counts.sent) == (1, 1, 1)


def test_a_server_that_hangs_up_in_between_keeps_the_rest(outbox: Outbox, clock: Clock) -> None:
    class HangsUp(Keeper):
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            if self.mails:
                server.transport.abort()
            return await super().handle_DATA(server, session, envelope)

    keeper = HangsUp()
    for n in range(3):
        outbox.put(mail(subject=str(n)), str(n))
        clock.now += timedelta(seconds=1)
    with serving(keeper) as port:
        counts = outbox.flush(server(port))
    assert (counts.sent, counts.queued) == (1, 2)
    assert all(e.attempts == 1 for e in outbox.entries("queued"))


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )
    certificate, private = folder / "ca.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return certificate, private


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_tls_and_login(security: str, outbox: Outbox, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    seen: list[tuple[bytes, bytes]] = []

    def login(server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)

    options: dict[str, Any] = {"authenticator": login, "auth_required": True}
    options |= {"tls_context": tls, "require_starttls": True} if security == "starttls" else {"ssl_context": tls, "auth_require_tls": False}
    outbox.put(mail(), "k")
    keeper = Keeper()
    with serving(keeper, **options) as port:
        stranger = server(port, security=security, user="shop", password="right")
        assert "CERTIFICATE_VERIFY_FAILED" in outbox.flush(stranger, now=True).reason, "an unknown certificate is not trusted"
        wrong = server(port, security=security, user="shop", password="wrong", ca_file=str(certificate))
        assert outbox.flush(wrong, now=True).reason.startswith("535"), "a wrong password is told"
        assert not keeper.mails
        right = server(port, security=security, user="shop", password="right", ca_file=str(certificate))
        assert outbox.flush(right, now=True).sent_now == 1
    assert set(seen[:-1]) == {(b"shop", b"wrong")} and seen[-1] == (b"shop", b"right")
    assert "right" not in repr(right)


def _flush_and_die(folder: Path, port: int) -> None:
    outbox = Outbox(folder)
    Outbox._save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign]
    outbox.flush(server(port))


def test_killed_after_the_server_took_it_the_mail_comes_again_with_the_same_id(outbox: Outbox) -> None:
    outbox.put(mail(), "k")
    keeper = Keeper()
    with serving(keeper) as port:
        killed = multiprocessing.get_context("fork").Process(target=_flush_and_die, args=(outbox.folder, port))
        killed.start()
        killed.join(30)
        assert killed.exitcode == -signal.SIGKILL
        assert outbox.counts().queued == 1
        assert outbox.flush(server(port)).sent_now == 1
    assert len(keeper.mails) == 2 and len({m["Message-ID"] for _, m in keeper.mails}) == 1
    assert outbox.entries("sent") and not list(outbox.folder.glob(".*.json.*"))


def test_killed_while_putting_leaves_no_half_mail(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbox, "_save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        outbox.put(mail(), "k")
    monkeypatch.undo()
    assert outbox.entries() == []
    assert outbox.put(mail(), "k")[1], "the rerun queues it"


def test_two_flushers_send_each_mail_once(outbox: Outbox) -> None:
    for n in range(20):
        outbox.put(mail(subject=str(n)), str(n))
    keeper = Keeper()
    with serving(keeper) as port:
        flushers = [threading.Thread(target=outbox.flush, args=(server(port),)) for _ in range(3)]
        for f in flushers:
            f.start()
        for f in flushers:
            f.join(60)
    assert sorted(int(m["Subject"]) for _, m in keeper.mails) == list(range(20))


def test_a_flusher_does_not_wait_for_ever(outbox: Outbox) -> None:
    outbox.put(mail(), "k")
    with outbox._alone(1), pytest.raises(OutboxBusy):
        outbox.flush(server(9), wait_seconds=0.2)


@pytest.mark.parametrize(("section", "problem"), [
    ({"user": "u"}, "user and password go together"),
    ({"user": "u", "password": "smtp", "security": "none"}, "shows the password"),
    ({"ca_file": "nowhere.pem", "security": "tls"}, "nowhere.pem does not exist"),
])
def test_mail_settings_that_cannot_be(section: dict[str, Any], problem: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(mail=section, secrets={"smtp": {"file": "keys/smtp", "create": True}})
    with pytest.raises(ShopError, match=problem):
        Server.of(settings)


def test_the_password_comes_from_the_secret(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "from the environment")
    settings = make_settings(mail={"user": "u", "password": "smtp", "security": "starttls"}, secrets={"smtp": {"env": "SMTP_PASSWORD"}})
    assert Server.of(settings).password == "from the environment"
