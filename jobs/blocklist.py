"""The blocklist by hand: who is on it and why; block, unblock, appeal; answer proposals; exchange with other shops.

  python -m jobs.blocklist list
  python -m jobs.blocklist block   --kind device --id p1:… --by Ada --evidence "case 7" [--days 90]
  python -m jobs.blocklist unblock --kind device --id p1:… --by Ada --evidence "the customer's own"
  python -m jobs.blocklist appeal  --kind customer --id C42 --by "the customer" --evidence "I was in hospital"
  python -m jobs.blocklist approve --by Ada [--kind … --id …]     what is proposed, or one of it (refuse likewise)
  python -m jobs.blocklist export  --out FILE --clear IDS.csv --key-file KEY --sign-key PEM
  python -m jobs.blocklist import  --file FILE --shop-key PEM --of NAME --clear IDS.csv --key-file KEY --by Ada

Identifiers are those of the lake: pseudonyms of cards, devices, addresses; the shop's own keys of customers and products. `--clear IDS.csv` (columns kind,
identifier) holds identifiers as other shops know them; they are compared as keyed hashes and written nowhere. An import proposes,
it never blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from nightmarket import log as logs
from nightmarket.command import EPILOG, Refused, UsageError, guarded
from nightmarket.shop import load_shop

if TYPE_CHECKING:
    from nightmarket.shop import Settings

log = logs.logger("blocklist")
_COLUMN = {"card": "card_id", "device": "device_id", "ip": "ip_address", "address": "shipping_address", "email": "email", "phone": "phone"}
"""The contract's column whose pseudonym an identifier of a kind is; other kinds are the shop's own keys, as they are."""


def build_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jobs.blocklist", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    p.add_argument("--shop", type=Path, metavar="FILE", help="shop.yaml (default: $NIGHTMARKET_SHOP, else the demo)")
    p.add_argument("--verbose", action="store_true", help="more lines, and tracebacks")
    todo = p.add_subparsers(dest="todo", required=True)
    todo.add_parser("list", help="entries that hold, appeals, and what is proposed, as JSON lines")
    for name in ("block", "unblock", "appeal", "propose"):
        one = todo.add_parser(name)
        one.add_argument("--kind", required=True)
        one.add_argument("--id", required=True)
        one.add_argument("--evidence", required=True)
        one.add_argument("--by", required=True, metavar="NAME")
        if name == "block":
            one.add_argument("--days", type=int, metavar="N", help="until it expires (default: screening.block_days)")
    for name in ("approve", "refuse"):
        answer = todo.add_parser(name)
        answer.add_argument("--by", required=True, metavar="NAME")
        answer.add_argument("--kind")
        answer.add_argument("--id")
    for name in ("export", "import"):
        exchange = todo.add_parser(name)
        exchange.add_argument("--clear", type=Path, required=True, metavar="FILE")
        exchange.add_argument("--key-file", type=Path, required=True, metavar="FILE", help="the key that the shops share, 16 bytes or more")
        if name == "export":
            exchange.add_argument("--out", type=Path, required=True, metavar="FILE")
            exchange.add_argument("--sign-key", type=Path, required=True, metavar="PEM", help="this shop's private key (Ed25519)")
        else:
            exchange.add_argument("--file", type=Path, required=True, metavar="FILE")
            exchange.add_argument("--of", required=True, metavar="NAME", help="the shop that made the file")
            exchange.add_argument("--shop-key", type=Path, required=True, metavar="PEM", help="that shop's public key")
            exchange.add_argument("--by", required=True, metavar="NAME")
    return p


def run(args: argparse.Namespace) -> None:
    """Does what is asked. Raises UsageError, Refused."""
    settings = load_shop(args.shop)
    now = datetime.now(timezone.utc)
    doing: dict[str, Callable[[], None]] = {
        "list": lambda: _list(settings, now), "approve": lambda: _answer(settings, args, now), "refuse": lambda: _answer(settings, args, now),
        "export": lambda: _export(settings, args, now), "import": lambda: _import(settings, args, now),
    }
    doing.get(args.todo, lambda: _act(settings, args, now))()


def _act(settings: Settings, args: argparse.Namespace, now: datetime) -> None:
    from nightmarket.screen import ledger
    from nightmarket.screen.blocklist import APPEAL, BLOCK, UNBLOCK, Action, holds

    expires = now + timedelta(days=args.days or settings.shop.screening.block_days) if args.todo == BLOCK else None
    try:
        action = Action(now, args.kind, args.id, args.todo, args.by.strip(), args.evidence.strip(), expires)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.todo in (UNBLOCK, APPEAL) and (args.kind, args.id) not in holds(ledger.read(settings), now):
        raise Refused(f"{args.kind} {args.id} is not on the list now; see `python -m jobs.blocklist list`")
    ledger.append(settings, [action])
    log.info(logs.said(args.todo, kind=args.kind, by=args.by))


def _list(settings: Settings, now: datetime) -> None:
    from nightmarket.screen import ledger
    from nightmarket.screen.blocklist import holds, waiting

    actions = ledger.read(settings)
    for (kind, key), entry in sorted(holds(actions, now).items()):
        a = entry.action
        told = {"state": "blocked", "kind": kind, "id": key, "since": a.at.isoformat(), "expires": a.expires_at and a.expires_at.isoformat(), "by": a.decided_by,
                "evidence": a.evidence, "appeal": entry.appeal and {"by": entry.appeal.decided_by, "says": entry.appeal.evidence}}
        print(json.dumps(told, ensure_ascii=False))
    for (kind, key), a in sorted(waiting(actions, now).items()):
        print(json.dumps({"state": "proposed", "kind": kind, "id": key, "since": a.at.isoformat(), "by": a.decided_by, "evidence": a.evidence}, ensure_ascii=False))


def _answer(settings: Settings, args: argparse.Namespace, now: datetime) -> None:
    from nightmarket.screen import ledger
    from nightmarket.screen.blocklist import BLOCK, REFUSE, Action, waiting

    if (args.kind is None) != (args.id is None):
        raise UsageError("--kind and --id belong together; without them all proposals are answered")
    open_ = [a for k, a in waiting(ledger.read(settings), now).items() if args.kind is None or k == (args.kind, args.id)]
    if not open_:
        raise Refused("nothing of that is proposed; see `python -m jobs.blocklist list`")
    what = BLOCK if args.todo == "approve" else REFUSE
    expires = now + timedelta(days=settings.shop.screening.block_days) if what == BLOCK else None
    ledger.append(settings, [Action(now, a.kind, a.identifier, what, args.by.strip(), a.evidence, expires) for a in open_])
    log.info(logs.said(args.todo, proposals=len(open_), by=args.by))


def _clear(settings: Settings, path: Path) -> dict[tuple[str, str], str]:
    """(kind, identifier in the lake) -> the identifier as other shops know it."""
    from nightmarket import standalone
    from nightmarket.protect.keys import Keyring
    from nightmarket.screen.blocklist import KINDS

    keyring = Keyring.load(settings)
    found = {}
    for number, row in enumerate(standalone.read(path, "--clear", ("kind", "identifier")).to_pylist(), start=1):
        kind, clear = row["kind"], str(row["identifier"])
        if kind not in KINDS:
            raise UsageError(f"--clear {path} row {number}: kind {kind!r}; write one of {', '.join(KINDS)}")
        found[kind, keyring.pseudonym(_COLUMN[kind], clear) if kind in _COLUMN else clear] = clear
    return found


def _export(settings: Settings, args: argparse.Namespace, now: datetime) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from nightmarket.screen import ledger
    from nightmarket.screen.blocklist import export, holds

    signer = load_pem_private_key(_bytes(args.sign_key, "--sign-key"), None)
    if not isinstance(signer, Ed25519PrivateKey):
        raise UsageError(f"--sign-key {args.sign_key}: not an Ed25519 key")
    try:
        content = export(holds(ledger.read(settings), now), _clear(settings, args.clear), settings.shop.shop, now, _bytes(args.key_file, "--key-file").strip(), signer)
    except ValueError as error:
        raise UsageError(f"--key-file {args.key_file}: {error}") from None
    args.out.write_bytes(content)
    log.info(logs.said("exported", entries=content.count(b"\n") - 2))


def _import(settings: Settings, args: argparse.Namespace, now: datetime) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from nightmarket.screen import ledger
    from nightmarket.screen.blocklist import PROPOSE, Action, ExchangeError, holds, read_foreign, waiting

    public = load_pem_public_key(_bytes(args.shop_key, "--shop-key"))
    if not isinstance(public, Ed25519PublicKey):
        raise UsageError(f"--shop-key {args.shop_key}: not an Ed25519 key")
    try:
        foreign = read_foreign(_bytes(args.file, "--file"), {args.of: public})
    except ExchangeError as error:
        raise Refused(f"{args.file}: {error}") from None
    key, clear, actions = _bytes(args.key_file, "--key-file").strip(), _clear(settings, args.clear), ledger.read(settings)
    known = set(holds(actions, now)) | set(waiting(actions, now))
    made = [Action(now, kind, own, PROPOSE, args.by.strip(), f"blocked by {foreign.shop}, as of {foreign.made_at:%Y-%m-%d}")
            for (kind, own), theirs in sorted(clear.items()) if (kind, own) not in known and foreign.matches(key, kind, [theirs], now)[0]]
    ledger.append(settings, made)
    log.info(logs.said("imported", of=foreign.shop, theirs=len(foreign.entries), proposed=len(made)))


def _bytes(path: Path, argument: str) -> bytes:
    if not path.is_file():
        raise UsageError(f"{argument} {path}: no such file")
    return path.read_bytes()


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return guarded("blocklist", args.verbose, lambda peak: run(args))


if __name__ == "__main__":
    sys.exit(main())
