"""Decisions of the gate about policies of which nothing but their digest matters."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.gate.records import DECISION, Candidate, Check, Decision, Verdict


def made_of(verdict: Verdict, sentence: str, policies: Mapping[str, str], *checks: Check, **said: Any) -> Decision:
    """A decision about policies, digests by algorithm, each with these checks; PROMOTE is for the first of them."""
    candidates = tuple(Candidate(name, digest, verdict, None, checks) for name, digest in policies.items())
    winner = candidates[0].algorithm if verdict == "PROMOTE" else None
    champion, generation = said.pop("champion", None), said.pop("generation", 0)
    return Decision(verdict, sentence, winner, None, candidates, champion, generation, **said)


def write(workspace: Path, decision: Decision) -> Path:
    """Leave it where the gate does."""
    path = workspace / DECISION
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(decision.to_json()))
    return path
