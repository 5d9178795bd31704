"""Mails that wait until they are delivered, or known to be undelivered.

A mail is two files: `<id>.eml`, written once, and `<id>.json`, its state: recipients and every attempt with its reason.
Both are written atomically, so a crash leaves a mail that is queued or not, never half of one. One flusher works at a
time. A flusher killed after the server took a mail and before that was noted sends it again with the same Message-ID,
which mail programs show once: a mail may come twice, never not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

from nightmarket.lake import write_atomically
from nightmarket.log import said
from nightmarket.shop import Settings, ShopError

State = Literal["queued", "sent", "undelivered"]
FIRST_PAUSE = timedelta(minutes=5)
LONGEST_PAUSE = timedelta(hours=6)
KEPT_ATTEMPTS = 50
"""Attempts kept in a mail's log; older ones are dropped."""
log = logging.getLogger("nightmarket.outbox")


class OutboxBusy(Exception):
    """Another flusher is at work."""


@dataclass(frozen=True)
class Server:
    """Where mails go. `security` starttls and tls verify the server's certificate, against `ca_file` where one is given."""

    host: str
    port: int
    security: Literal["none", "starttls", "tls"] = "none"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    sender: str = "nightmarket@localhost.localdomain"
    attempts: int = 8
    timeout: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> Server:
        """The server of shop.yaml `mail`. Raises ShopError where a login is incomplete or would travel in clear text."""
        mail = settings.shop.mail
        if (mail.user is None) != (mail.password is None):
            raise ShopError(settings.file, ["mail: user and password go together; give both, or neither"])
        if mail.user and mail.security == "none":
            raise ShopError(settings.file, ["mail.security: a login over 'none' shows the password to the network; "
                                            "write starttls or tls"])
        password = settings.secret(mail.password).decode() if mail.password else None
        ca_file = str(settings.resolve(mail.ca_file)) if mail.ca_file else None
        if ca_file and not Path(ca_file).is_file():
            raise ShopError(settings.file, [f"mail.ca_file: {ca_file} does not exist; give the certificate authority's PEM file"])
        return cls(mail.host, mail.port, mail.security, mail.user, password, ca_file, mail.sender, mail.attempts)

    @contextmanager
    def connect(self) -> Iterator[smtplib.SMTP]:
        """A session, encrypted and logged in as configured. Raises OSError or smtplib.SMTPException."""
        name = self.sender.rpartition("@")[2]  # instead of this machine's own name, which is slow to find and nobody's business
        context = None if self.security == "none" else ssl.create_default_context(cafile=self.ca_file)
        if self.security == "tls":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, name, timeout=self.timeout, context=context)
        else:
            smtp = smtplib.SMTP(self.host, self.port, name, timeout=self.timeout)
        try:
            smtp.ehlo_or_helo_if_needed()
            if self.security == "starttls":
                smtp.starttls(context=context)
            if self.user is not None and self.password is not None:
                smtp.login(self.user, self.password)
            yield smtp
        finally:
            try:
                smtp.quit()
            except (OSError, smtplib.SMTPException):
                smtp.close()  # the server hung up first


@dataclass
class Recipient:
    """Each recipient has a fate of its own: a server may take a mail for one and refuse it for another."""

    address: str
    state: State = "queued"
    reason: str = ""


@dataclass
class Entry:
    """A mail's state, as `<id>.json` has it."""

    id: str
    subject: str
    recipients: list[Recipient]
    created_at: str
    attempts: int = 0
    not_before: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def state(self) -> State:
        states = {r.state for r in self.recipients}
        return "queued" if "queued" in states else "undelivered" if "undelivered" in states else "sent"

    @classmethod
    def from_json(cls, text: str) -> Entry:
        data = json.loads(text)
        data.pop("state")
        return cls(**{**data, "recipients": [Recipient(**r) for r in data["recipients"]]})

    def to_json(self) -> str:
        return json.dumps({"state": self.state, **asdict(self)}, indent=1, ensure_ascii=False)


@dataclass(frozen=True)
class Counts:
    """How many mails are in which state, and how many this flush moved."""

    queued: int = 0
    sent: int = 0
    undelivered: int = 0
    sent_now: int = 0
    given_up_now: int = 0
    reason: str = ""
    """The last failure of this flush."""

    def __str__(self) -> str:
        told = f"{self.sent_now} sent now, {self.queued} waiting, {self.undelivered} undelivered"
        return f"{told} ({self.reason})" if self.reason else told


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Outbox:
    """The mails of one shop, in `folder`."""

    folder: Path
    clock: Callable[[], datetime] = _now

    def put(self, message: EmailMessage, key: str, force: bool = False) -> tuple[Entry, bool]:
        """Queues `message` under `key`; returns its entry and whether it is new.

        The same key is queued once, whatever became of it, unless `force`. Message-ID and Date are set here: stable
        for every attempt.
        """
        recipients = [a.strip() for a in ",".join(message.get_all("To", [])).split(",") if a.strip()]
        if not recipients:
            raise ValueError(f"{message['Subject']}: a mail needs a recipient in To")
        base = _id(key)
        mail_id, again = base, 1
        while (found := self.entry(mail_id)) is not None:
            if not force:
                return found, False
            again += 1
            mail_id = f"{base}-{again}"
        moment = self.clock()
        for header in ("Message-ID", "Date"):
            del message[header]
        message["Message-ID"] = f"<{mail_id}@{str(message['From']).rpartition('@')[2].strip('> ')}>"
        message["Date"] = moment
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{mail_id}.eml", message.as_bytes(policy=policy.SMTP).decode("ascii"))
        entry = Entry(mail_id, str(message["Subject"]), [Recipient(a) for a in recipients], moment.isoformat(timespec="microseconds"))
        self._save(entry)
        return entry, True

    def entry(self, mail_id: str) -> Entry | None:
        try:
            return Entry.from_json((self.folder / f"{mail_id}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def entry_of(self, key: str) -> Entry | None:
        """The mail first queued under `key`."""
        return self.entry(_id(key))

    def entries(self, state: State | None = None) -> list[Entry]:
        """All mails, or those in one state, oldest first."""
        found = [Entry.from_json(p.read_text(encoding="utf-8")) for p in self.folder.glob("*.json")]
        return sorted((e for e in found if state in (None, e.state)), key=lambda e: (e.created_at, e.id))

    def message(self, mail_id: str) -> EmailMessage:
        return message_from_bytes((self.folder / f"{mail_id}.eml").read_bytes(), policy=policy.SMTP)  # type: ignore[return-value]

    def counts(self) -> Counts:
        states = [e.state for e in self.entries()]
        return Counts(states.count("queued"), states.count("sent"), states.count("undelivered"))

    def flush(self, server: Server, now: bool = False, wait_seconds: float = 120) -> Counts:
        """Sends what is due (with `now`, everything that waits), each mail to the recipients that do not have it yet.

        A failure of server or network counts as an attempt of every mail that was due; after `server.attempts` of them a
        mail is undelivered. A recipient refused for good (5xx) is undelivered at once. Raises OutboxBusy where another
        flusher holds the outbox for `wait_seconds`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone(wait_seconds):
            moment = self.clock()
            due = [e for e in self.entries("queued") if now or not e.not_before or datetime.fromisoformat(e.not_before) <= moment]
            reason = ""
            pending = list(due)
            if pending:
                try:
                    with server.connect() as smtp:
                        while pending:
                            reason = self._send(smtp, pending[0], server) or reason
                            pending.pop(0)
                except (OSError, smtplib.SMTPException) as error:
                    reason = _reason(error)
                    for entry in pending:
                        self._failed(entry, reason, server.attempts)
            states = [e.state for e in self.entries()]
            return Counts(
                states.count("queued"), states.count("sent"), states.count("undelivered"),
                sum(e.state == "sent" for e in due), sum(e.state == "undelivered" for e in due), reason,
            )

    def _send(self, smtp: smtplib.SMTP, entry: Entry, server: Server) -> str:
        """One mail over an open session; notes the outcome of each recipient. Raises where the session broke."""
        waiting = [r for r in entry.recipients if r.state == "queued"]
        refused: dict[str, tuple[int, bytes]] = {}
        try:
            refused = smtp.sendmail(server.sender, [r.address for r in waiting], (self.folder / f"{entry.id}.eml").read_bytes())
        except smtplib.SMTPRecipientsRefused as error:
            refused = error.recipients
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            # the server lives but does not want this mail: the others may still go
            code = error.smtp_code
            refused = {r.address: (code, error.smtp_error if isinstance(error.smtp_error, bytes) else str(error.smtp_error).encode())
                       for r in waiting}
            smtp.rset()
        for recipient in waiting:
            if recipient.address in refused:
                code, text = refused[recipient.address]
                recipient.reason = f"{code} {text.decode(errors='replace')}"
                if 500 <= code < 600:
                    recipient.state = "undelivered"
            else:
                recipient.state, recipient.reason = "sent", ""
        reason = "; ".join(sorted({r.reason for r in waiting if r.reason}))
        if entry.state == "queued":
            self._failed(entry, reason, server.attempts)
        else:
            entry.attempts += 1
            self._note(entry, reason or "sent")
        log.info(said("mail", id=entry.id, state=entry.state, recipients=len(waiting), reason=_code_only(reason)))
        return reason

    def _failed(self, entry: Entry, reason: str, attempts: int) -> None:
        """Notes a failed attempt: later again, or given up."""
        entry.attempts += 1
        if entry.attempts >= attempts:
            for recipient in entry.recipients:
                if recipient.state == "queued":
                    recipient.state, recipient.reason = "undelivered", recipient.reason or reason
        pause = min(FIRST_PAUSE * 2 ** min(entry.attempts - 1, 20), LONGEST_PAUSE)
        entry.not_before = (self.clock() + pause).isoformat(timespec="seconds")
        self._note(entry, reason)

    def _note(self, entry: Entry, outcome: str) -> None:
        entry.log = [*entry.log, {"at": self.clock().isoformat(timespec="seconds"), "outcome": outcome}][-KEPT_ATTEMPTS:]
        self._save(entry)

    def _save(self, entry: Entry) -> None:
        write_atomically(self.folder / f"{entry.id}.json", entry.to_json())

    @contextmanager
    def _alone(self, wait_seconds: float) -> Iterator[None]:
        with (self.folder / ".lock").open("a") as handle:
            deadline = time.monotonic() + wait_seconds
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise OutboxBusy("another process is sending the mails that wait; nothing to do here") from None
                    time.sleep(0.1)
            yield


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else str(error.smtp_error)
        return f"{error.smtp_code} {text}"
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "the server did not answer in time"
    return f"{type(error).__name__}: {error}"


def _code_only(reason: str) -> str | None:
    """Reply codes without their text, which may repeat an address: logs carry no personal data."""
    return ",".join(part.split(" ")[0] for part in reason.split("; ") if part) or None


def key_of(*parts: str) -> str:
    return "/".join(parts)


def _id(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:24]
