"""Points, and what shows whether a judge is one; a judge that is none never promotes, through a real server."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.checks import run_checks
from rlhf.gate.decision import assess
from rlhf.gate.evidence import Evidence
from rlhf.gate.records import Check
from rlhf.judges import validity
from rlhf.judges.door import Comparison, Judge, Judged, Verdict, by_scores, in_both_orders
from rlhf.judges.endpoint import EndpointJudge
from tests.judges.server import Answer, Server, wise

BOOTSTRAP = {"confidence": 0.95, "resamples": 300, "seed": 0}
PROMPT = [{"role": "user", "content": "?"}]
N = 300


def test_two_verdicts_make_a_point() -> None:
    said: dict[str, tuple[Verdict | None, Verdict | None]] = {
        "agree for the first": ("first", "second"),
        "agree for the second": ("second", "first"),
        "agree on a tie": ("tie", "tie"),
        "always the place": ("first", "first"),
        "half a tie": ("first", "tie"),
        "one is missing": ("first", None),
        "none": (None, None),
    }
    some = [Comparison(name, PROMPT, "x", "y") for name in said] + [Comparison("the same", PROMPT, "x", "x")]

    def ask(asked: Any) -> list[Verdict | None]:
        return [said[one.prompt_id][one.first == "y"] for one in asked]

    judged = in_both_orders(ask, some)
    np.testing.assert_array_equal(judged.points, [1, 0, 0.5, 0.5, 0.5, np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(judged.consistent, [1, 1, 1, 0, 0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(judged.first_place, [1, 1, 0, 2, 1, 1, 0, 0])
    np.testing.assert_array_equal(judged.decided, [2, 2, 0, 2, 1, 1, 0, 0])


def test_scores_need_no_second_order() -> None:
    judged = by_scores(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0]))
    assert judged.points.tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(judged.consistent).all()
    assert validity.consistency([judged], [np.arange(3)], BOOTSTRAP) is None
    assert validity.primacy([judged], [np.arange(3)], BOOTSTRAP) is None


def test_labelled_pairs_are_untied_the_better_one_first_and_as_many_as_asked_for() -> None:
    ranking = {"prompt": PROMPT, "responses": ["a", "b", "c", "too long"], "ranks": [2, 1, 2, None]}
    pairs = validity.pairs_of([ranking], 9, 0, str)
    assert [(one.first, one.second) for one in pairs] == [("b", "a"), ("b", "c")]
    assert len(validity.pairs_of([ranking] * 9, 5, 0, str)) == 5


def judging(judge: Judge, rows: int = N) -> tuple[np.ndarray, dict[str, Any]]:
    """Points of a policy whose answers are good where SFT's are bad, and the report on the judge."""
    texts = [(f"A good answer {number}.", f"A bad answer {number}.") for number in range(rows)]
    compared = [Comparison(f"p{number:04}", PROMPT, *pair) for number, pair in enumerate(texts)]
    same = [Comparison(one.prompt_id, PROMPT, one.second, f"A bad answer again {one.prompt_id}.") for one in compared]
    judged = judge(compared)
    owners = [np.array([one.prompt_id for one in compared])]
    return judged.points, {
        "asked": "both orders",
        "consistency": validity.consistency([judged], owners, BOOTSTRAP),
        "primacy": validity.primacy([judged], owners, BOOTSTRAP),
        "agreement": validity.agreement(judge, compared[:120], BOOTSTRAP),
        "a_a": validity.a_a(judge, same[:120], BOOTSTRAP),
    }


def chance(shown: dict[str, Any], share: float, salt: str = "") -> bool:
    """Whether a draw that the texts decide is below the share."""
    return int(sha256(f"{salt}{shown['answer_A']}{shown['answer_B']}".encode()).hexdigest(), 16) % 1000 < 1000 * share


def at_random(shown: dict[str, Any]) -> str:
    return "[[A]]" if chance(shown, 0.5) else "[[B]]"


def fair(shown: dict[str, Any]) -> str:
    """Right wherever one answer is better, and equal chances where none is."""
    alike = ("good" in shown["answer_A"]) == ("good" in shown["answer_B"])
    return at_random(shown) if alike else wise(shown)


INVALID: dict[str, tuple[Answer, str]] = {
    "always the first": (lambda shown: "[[A]]", "judge_consistent"),
    "at random": (at_random, "judge_agrees"),
    "always a tie": (lambda shown: "[[C]]", "judge_agrees"),
    "refuses one in five": (
        lambda shown: "I would rather not say." if chance(shown, 0.2, "no") else fair(shown),
        "judge_complete",
    ),
    "leans to the first place": (
        lambda shown: "[[A]]" if chance(shown, 0.3, "lean") else fair(shown),
        "judge_consistent",
    ),
    "prefers the worse": (lambda shown: "[[B]]" if wise(shown).endswith("[[A]]") else "[[A]]", "judge_agrees"),
}


def found(checks: tuple[Check, ...], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def with_judge(evidence: Evidence, points: np.ndarray, report: dict[str, Any]) -> Evidence:
    wins = {"value": float(np.nan_to_num(points).mean())}
    values = {**evidence.evaluation, "judge": "endpoint", "prompts": N, "judging": report, "win_rate": wins}
    rows = {name: column[:N] for name, column in evidence.rows.items()} | {"points_sft": points}
    return replace(evidence, evaluation=values, rows=rows)


@pytest.mark.parametrize("name", INVALID)
def test_a_judge_that_is_none_is_no_win(
    name: str, server: Server, judge: Callable[..., EndpointJudge], good: Evidence, limits: GateConfig
) -> None:
    server.answer, stopped = INVALID[name]
    spoiled = with_judge(good, *judging(lambda some: in_both_orders(judge(parallel=2), some)))
    checks = run_checks(spoiled, limits)
    assert found(checks, stopped).outcome == "fail", found(checks, stopped).reason
    assert assess(spoiled, limits).decision in ("REJECT", "INCONCLUSIVE", "ERROR")


def test_a_judge_that_is_one_promotes_and_its_verdicts_flip_with_the_models(
    server: Server, judge: Callable[..., EndpointJudge], good: Evidence, limits: GateConfig
) -> None:
    server.answer = fair
    points, report = judging(lambda some: in_both_orders(judge(parallel=2), some))
    assert assess(with_judge(good, points, report), limits).decision == "PROMOTE"
    assert report["consistency"]["value"] == 1.0
    assert report["agreement"]["pairs"] == 120
    assert assess(with_judge(good, 1 - points, report), limits).decision == "REJECT"


def test_verdicts_that_are_absent_are_lost_and_none_at_all_is_an_error(good: Evidence, limits: GateConfig) -> None:
    points, report = np.where(np.arange(N) < 6, np.nan, 1.0), good.evaluation["judging"]
    checks = run_checks(with_judge(good, points, report), limits)
    better = found(checks, "better_than_sft")
    assert better.value == pytest.approx(294 / 300)
    assert "294 wins, 0 ties, 6 losses" in better.reason
    assert found(checks, "judge_complete").outcome == "undecided"
    nothing = with_judge(good, np.full(N, np.nan), report)
    assert found(run_checks(nothing, limits), "better_than_sft").outcome == "error"
    assert assess(nothing, limits).decision == "ERROR"


def test_a_judge_that_nobody_looked_at_is_an_error(good: Evidence, limits: GateConfig) -> None:
    bare = {name: value for name, value in good.evaluation.items() if name != "judging"}
    for values in (bare, bare | {"judging": {**good.evaluation["judging"], "asked": "maybe"}}):
        checks = run_checks(replace(good, evaluation=values), limits)
        assert found(checks, "judge_consistent").outcome == "error"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_judge_may_lean_to_neither_place(sign: int, good: Evidence, limits: GateConfig) -> None:
    """The interval of how far it leans holds 0 where that of the lean does, and lies on one side of it elsewhere."""
    most = limits.limits.max_judge_primacy
    for ends, outcome in (((1.1, 1.3), "fail"), ((-0.9, 0.9), "pass"), ((0.5, 1.5), "undecided")):
        low, high = sorted(sign * most * end for end in ends)
        lean = {"value": (low + high) / 2, "low": low, "high": high, "n": N}
        report = {**good.evaluation["judging"], "primacy": lean}
        checks = run_checks(replace(good, evaluation={**good.evaluation, "judging": report}), limits)
        assert found(checks, "judge_consistent").outcome == outcome, ends


def test_a_judge_that_says_nothing_of_a_labelled_pair_does_not_agree_with_people() -> None:
    """Two prompts of two pairs: right, nothing; nothing, a tie."""
    labelled = [Comparison(f"p{number // 2}", PROMPT, "good", f"bad {number}") for number in range(4)]
    points = np.array([1.0, np.nan, np.nan, 0.5])
    silent = np.full(4, np.nan)
    agreed = validity.agreement(lambda some: Judged(points, silent, silent, silent), labelled, BOOTSTRAP)
    assert agreed is not None
    assert (agreed["value"], agreed["pairs"], agreed["n"]) == (0.375, 4, 2)


def test_scores_are_consistent_by_nature_but_must_agree(good: Evidence, limits: GateConfig) -> None:
    alone = {**good.evaluation["judging"], "asked": "alone", "consistency": None, "primacy": None}
    scored = replace(good, evaluation={**good.evaluation, "judging": alone})
    assert assess(scored, limits).decision == "PROMOTE"
    unlabelled = replace(good, evaluation={**good.evaluation, "judging": {**alone, "agreement": None}})
    assert found(run_checks(unlabelled, limits), "judge_agrees").outcome == "unmeasured"
    assert assess(unlabelled, limits).decision == "INCONCLUSIVE"
    few = {**alone["agreement"], "pairs": 20}
    short = replace(good, evaluation={**good.evaluation, "judging": {**alone, "agreement": few}})
    assert found(run_checks(short, limits), "judge_agrees").outcome == "undecided"
