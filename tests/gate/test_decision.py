"""One decision from the verdicts: the best of those that pass, and never a promotion on what is not known."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.checks import run_checks
from rlhf.gate.decision import assess, candidate, decide
from rlhf.gate.evidence import Evidence
from rlhf.gate.records import Check, Decision, Part, WinRate

RATE = WinRate(0.8, 0.75, 0.85, 320, 0, 80)


@pytest.fixture
def passing(evidence: Callable[..., Evidence], thresholds: GateConfig) -> tuple[Check, ...]:
    return run_checks(evidence(), thresholds)


def spoiled(checks: tuple[Check, ...], name: str, **changes: Any) -> list[Check]:
    return [replace(check, **changes) if check.name == name else check for check in checks]


def test_the_winner_has_the_highest_lower_bound(passing: tuple[Check, ...]) -> None:
    sure = candidate("dpo", "aa", passing, RATE)
    vague = candidate("ppo", "aa", passing, WinRate(0.9, 0.7, 0.99, 36, 0, 4))
    decision = decide([vague, sure], "gold", "ff", 3)
    assert (decision.decision, decision.winner) == ("PROMOTE", "dpo")
    assert decision.sentence == (
        "Promote dpo: it has 80.0% of 400 prompts against SFT (75.0% to 85.0%), judged by the world's gold reward, "
        "which no stage trained on, and it passes every check."
    )


def test_nothing_is_promoted_without_candidates_or_checks() -> None:
    assert decide([], "gold", "ff", 3).decision == "ERROR"
    assert candidate("dpo", "aa", [], RATE).decision == "ERROR"
    assert decide([candidate("dpo", "aa", [], RATE)], "gold", "ff", 3).winner is None


@pytest.mark.parametrize("judge", [None, "martian"])
def test_an_unknown_judge_promotes_nobody(judge: str | None, passing: tuple[Check, ...]) -> None:
    decision = decide([candidate("dpo", "aa", passing, RATE)], judge, "ff", 3)
    assert (decision.decision, decision.winner) == ("ERROR", None)
    assert "name no judge that is known" in decision.sentence


def test_a_check_twice_or_out_of_place_is_an_error(passing: tuple[Check, ...]) -> None:
    assert candidate("dpo", "aa", [*passing, passing[0]], RATE).decision == "ERROR"
    assert candidate("dpo", "aa", passing[::-1], RATE).decision == "ERROR"


def test_an_error_outweighs_a_failure_and_a_failure_an_open_question(passing: tuple[Check, ...]) -> None:
    open_question = spoiled(passing, "kl", outcome="undecided", needed=1234)
    failed = spoiled(tuple(open_question), "empty", outcome="fail")
    broken = spoiled(tuple(failed), "lineage", outcome="error")
    verdicts = [candidate("dpo", "aa", checks, RATE).decision for checks in (passing, open_question, failed, broken)]
    assert verdicts == ["PROMOTE", "INCONCLUSIVE", "REJECT", "ERROR"]
    assert candidate("dpo", "aa", passing, None).decision == "ERROR"


def test_an_error_counts_even_in_a_warning(passing: tuple[Check, ...]) -> None:
    assert candidate("dpo", "aa", spoiled(passing, "reward_calibration", outcome="error"), RATE).decision == "ERROR"


def test_a_refusal_names_what_is_in_the_way(passing: tuple[Check, ...]) -> None:
    open_question = candidate("ppo", "aa", spoiled(passing, "kl", outcome="undecided", needed=1234), RATE)
    failed = candidate("dpo", "aa", spoiled(passing, "empty", outcome="fail"), RATE)
    decision = decide([open_question, failed], "gold", "ff", 3)
    assert (decision.decision, decision.winner) == ("INCONCLUSIVE", None)
    assert decision.sentence == (
        "Not enough is known to promote: ppo leaves open kl (about 1,234 prompts would settle it); dpo fails empty."
    )
    assert decide([failed], "gold", "ff", 3).decision == "REJECT"


def test_what_several_policies_lack_is_said_once_and_its_first_checks_named(passing: tuple[Check, ...]) -> None:
    ten, stopping = tuple(passing), [check.name for check in passing[:10]]
    for name in stopping:
        ten = tuple(spoiled(ten, name, outcome="error"))
    decision = decide([candidate(name, "aa", ten, RATE) for name in ("ppo", "dpo", "kto")], "gold", "ff", 3)
    named = ", ".join(stopping[:8])
    assert decision.sentence == f"Nothing can be judged: each of ppo, dpo, kto could not be checked {named}, 2 more."


def test_a_warning_is_noted_in_the_sentence(passing: tuple[Check, ...]) -> None:
    warned = candidate("dpo", "aa", spoiled(passing, "reward_calibration", outcome="fail"), RATE)
    assert decide([warned], "gold", "ff", 3).sentence.endswith("nothing stands against it; noted: reward_calibration.")


def test_a_decision_survives_json(passing: tuple[Check, ...]) -> None:
    parts = (Part(0.8, 0.7, 0.9, 120, "chat"), Part(0.4, 0.1, 0.7, 12, "others"))
    checks = spoiled(passing, "no_use_case_worse", parts=parts)
    decision = decide([candidate("ppo", "aa", checks, RATE), candidate("dpo", "aa", [], None)], "reward", "ff", 3)
    raw = json.loads(json.dumps(decision.to_json(), allow_nan=False, sort_keys=True))
    assert Decision.from_json(raw) == decision
    assert raw["candidates"]["ppo"]["passed"] == len(passing)
    assert {"name", "group", "value", "low", "high", "n", "threshold", "passed", "reason"} <= raw["candidates"]["ppo"][
        "checks"
    ][0].keys()


def test_evidence_without_rows_is_an_error_and_no_crash(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    assert assess(evidence(reward={}, receipt={}, evaluation={}), thresholds).decision == "ERROR"
    empty = assess(replace(evidence(), rows={}), thresholds)
    assert (empty.decision, empty.win_rate) == ("ERROR", None)
    reasons = {check.name: check.reason for check in empty.checks}
    assert "no column points_sft" in reasons["rows_agree"]
    assert "no column seen" in reasons["contamination"]
