"""From an experiment's winner to the champion: through the model gate's own record, and the ledger.

The gate has decided about every registered version, with each check on record. What shoppers did outranks two of them: `not_worse`,
which asked offline how the model compares with the champion, and `newer`. All others must have been passed as they stand.
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


def promote(ledger: Ledger, model: str, state: State, rules: Experiment, who: str, why: str | None = None) -> list[Move]:
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
    evidence = {"experiment": state.to_json(), "gate": record}
    said = f"won experiment {state.name}: {state.why}"
    return ledger.promote(model, version, champion, who, f"{why} ({said})" if why else said, evidence,
                          date.fromisoformat(decided.run_date) if decided.run_date else None)
