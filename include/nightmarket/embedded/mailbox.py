"""A local mailbox: a real SMTP server that keeps every mail as a file, and as a page to look at.

  python -m nightmarket.embedded.mailbox --port 1025 --folder var/mailbox

For one machine: it listens on 127.0.0.1, delivers nowhere and asks for no login. Each mail becomes `<received>.eml` and
`<received>.html` (its pictures inlined, scripts barred); `index.html` lists them, newest first.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from nightmarket.lake import write_atomically

_BARRED = ('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
           'style-src \'unsafe-inline\'"><meta name="viewport" content="width=device-width, initial-scale=1">')
_STYLE = """body{margin:0;background:#f3f4f6;color:#111827;font:15px/1.5 system-ui,'Noto Sans',sans-serif}
main{max-width:860px;margin:0 auto;padding:24px 16px}h1{font-size:22px;margin:0 0 16px}
table{width:100%;border-collapse:collapse;background:#fff;border:1px solid #e5e7eb;border-radius:8px}
td,th{text-align:left;padding:10px 14px;border-bottom:1px solid #e5e7eb;vertical-align:top}th{font-size:13px;color:#4b5563}
a{color:#1d4ed8}.none{color:#4b5563}"""


class Mailbox:
    """aiosmtpd handler that keeps what it is given in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.keep(envelope.original_content or envelope.content, envelope.rcpt_tos)
        return "250 kept"

    def keep(self, content: bytes, recipients: Sequence[str] = ()) -> Path:
        """Stores one mail; returns the path of its page."""
        message: EmailMessage = message_from_bytes(content, policy=policy.default)  # type: ignore[assignment]
        with self._lock:
            stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
            raw = self.folder / f"{stamp}.eml"
            raw.write_bytes(content)
            shown = self.folder / f"{stamp}.html"
            write_atomically(shown, page(message, recipients))
            write_atomically(self.folder / "index.html", index(self.folder))
        return shown


def page(message: EmailMessage, recipients: Sequence[str] = ()) -> str:
    """The mail as one HTML file without outside parts: its HTML, else its text, under a block with the headers."""
    body = message.get_body(preferencelist=("html", "plain"))
    content = body.get_content() if body is not None else ""
    if body is None or body.get_content_type() != "text/html":
        content = f"<pre style='white-space:pre-wrap;padding:16px'>{html.escape(content)}</pre>"
    pictures = {
        str(part["Content-ID"]).strip("<> "): _inline(part) for part in message.walk() if part["Content-ID"] and not part.is_multipart()
    }
    content = re.sub(r"cid:([^\"'\s)]+)", lambda m: pictures.get(m[1], m[0]), content)
    inner = re.search(r"<body[^>]*>(.*)</body>", content, re.DOTALL | re.IGNORECASE)
    style = "".join(re.findall(r"<style[^>]*>.*?</style>", content, re.DOTALL | re.IGNORECASE))
    rows = [("From", message["From"]), ("To", message["To"] or ", ".join(recipients)), ("Subject", message["Subject"]),
            ("Date", message["Date"]), ("Message-ID", message["Message-ID"])]
    head = "".join(f"<div><b>{n}</b> {html.escape(str(v or ''))}</div>" for n, v in rows)
    return (f"<!doctype html><html><head><meta charset='utf-8'>{_BARRED}<title>{html.escape(str(message['Subject'] or ''))}</title>{style}</head>"
            f"<body style='margin:0'><div style='font:13px/1.6 system-ui,sans-serif;padding:12px 16px;background:#fff;color:#111827;"
            f"border-bottom:1px solid #e5e7eb'><a href='index.html' style='color:#1d4ed8'>mailbox</a>{head}</div>"
            f"{inner[1] if inner else content}</body></html>")


def _inline(part: Any) -> str:
    return f"data:{part.get_content_type()};base64,{base64.b64encode(part.get_payload(decode=True)).decode()}"


def index(folder: Path) -> str:
    """A page that lists the mails in `folder`, newest first."""
    rows = []
    for path in sorted(folder.glob("*.eml"), reverse=True):
        message = message_from_bytes(path.read_bytes(), policy=policy.default)
        link = html.escape(path.with_suffix(".html").name)
        cells = [f"<a href='{link}'>{html.escape(str(message['Subject'] or '(no subject)'))}</a>",
                 html.escape(str(message["To"] or "")), html.escape(str(message["Date"] or ""))]
        rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    table = (f"<table><thead><tr><th>Subject</th><th>To</th><th>Date</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
             if rows else "<p class='none'>No mail yet.</p>")
    return (f"<!doctype html><html lang='en'><head><meta charset='utf-8'>{_BARRED}<title>Mailbox</title><style>{_STYLE}</style></head>"
            f"<body><main><h1>Mailbox: {len(rows)} mails</h1>{table}</main></body></html>")


def serve(folder: Path, port: int, host: str = "127.0.0.1") -> Any:
    """A started aiosmtpd controller; `.stop()` ends it."""
    from aiosmtpd.controller import Controller

    mailbox = Mailbox(folder)
    write_atomically(folder / "index.html", index(folder))
    controller = Controller(mailbox, hostname=host, port=port, enable_SMTPUTF8=True, data_size_limit=25 * 2**20)
    controller.start()
    return controller


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nightmarket.embedded.mailbox", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=1025)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args(argv)
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    try:
        controller = serve(args.folder, args.port)
    except OSError as error:
        print(f"mailbox: 127.0.0.1:{args.port}: {error}; choose another --port", file=sys.stderr)
        return 1
    print(f"mailbox: listening on 127.0.0.1:{args.port}, mails are kept in {args.folder}", flush=True)
    end.wait()
    controller.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
