"""From an experiment's winner to the champion: through the model gate's own record, and the ledger.

The gate has decided about every registered version, with each check on record. What shoppers did outranks two of them: `not_worse`,
which asked offline how the model compares with the champion, and `newer`. All others must have been passed as they stand, and what was taken
out of service comes back by a person's name only.

What came of a winner is a row of the ledger, a promotion or a refusal: so it is tried by itself once, whatever nights are run again.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from nightmarket.command import Refused
from nightmarket.online.experiments import State
from nightmarket.shop import Experiment

if TYPE_CHECKING:
    from nightmarket.registry.ledger import Ledger, Move

LIFTED = ("not_worse", "newer")
REFUSE, ALREADY = "refuse", "already"
"""What a row says that moves nothing: the winner may not serve, or it served before it had won."""


def outcome(ledger: Ledger, model: str, state: State, until: date | None = None) -> Move | None:
    """The newest row about this very experiment's winner, of a night up to `until`; None where nobody tried to promote it."""
    found = [m for m in ledger.history(model) if m.alias != "previous" and _about(m, state)
             and (until is None or m.evidence["experiment"]["night"] <= until.isoformat())]
    return found[-1] if found else None


def promoted(move: Move | None) -> bool:
    """Whether the row is a promotion, not a refusal."""
    return move is not None and move.action in ("promote", ALREADY)


def _about(move: Move, state: State) -> bool:
    told = move.evidence.get("experiment", {})
    return (told.get("name"), told.get("definition")) == (state.name, state.definition) and (move.alias, move.action) in (
        ("champion", "promote"), ("challenger", REFUSE), ("challenger", ALREADY))


def promote(ledger: Ledger, model: str, state: State, rules: Experiment, who: str, why: str | None = None, person: bool = False) -> list[Move]:
    """Makes the version that the winning arm was served by the champion; nothing where it is already.

    Raises Refused where the experiment has no winner, no model served it, or the gate's record does not let the version serve; and
    Moved where the champion changed meanwhile.
    """
    if state.status != "won" or state.arm is None:
        raise Refused(f"experiment {state.name} has not been won (it is {state.status}: {state.why}); wait for its verdict")
    version = rules.serves.get(state.arm)
    if version is None:
        raise Refused(f"{state.arm} of experiment {state.name} is served by the shop's own code, not by a registered version; roll it out there")
    champion = ledger.current(model, "champion")
    if version == champion:
        return []
    decided = ledger.decision(model, version)
    if decided is None:
        raise Refused(f"the model gate never decided about {model} version {version}; run `python -m jobs.bless` for its night first")
    record = decided.evidence["decision"]
    failed = [c["name"] for c in record["checks"] if not c["passed"] and c["name"] not in LIFTED]
    if failed:
        raise Refused(f"{model} version {version} won {state.name}, but the model gate holds against it: {', '.join(failed)}; "
                      f"see the decision of {decided.run_date}")
    if not person and (out := ledger.gone_back_from(model).get(version)) is not None:
        raise Refused(f"{model} version {version} won {state.name}, but {out.who} took it out of service on {out.at[:10]} ({out.why}); "
                      f"a person may bring it back")
    evidence = {"experiment": state.to_json(), "gate": record}
    said = f"won experiment {state.name}: {state.why}"
    return ledger.promote(model, version, champion, who, f"{why} ({said})" if why else said, evidence,
                          date.fromisoformat(decided.run_date) if decided.run_date else None)


def promote_once(ledger: Ledger, model: str, state: State, rules: Experiment, who: str) -> Move | None:
    """The same without a person, and only where nothing came of this winner before; a refusal becomes a row too. The new row, if any."""
    if outcome(ledger, model, state) is not None:
        return None
    try:
        moves, action, why = promote(ledger, model, state, rules, who), ALREADY, f"won experiment {state.name}, and serves already"
    except Refused as refused:
        moves, action, why = [], REFUSE, str(refused)
    if not moves:
        here = ledger.current(model, "challenger")
        ledger.move(model, "challenger", here, here, who, why, {"experiment": state.to_json()}, action=action)
    return outcome(ledger, model, state)
