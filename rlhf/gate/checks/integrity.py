"""What was evaluated is what will be served, and where it came from is known."""

from collections.abc import Mapping
from typing import Any

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unusable, judged, number
from rlhf.gate.findings import fact
from rlhf.gate.records import Check

ROUNDING = 1e-5  # reports hold six significant digits


def policy_bytes(evidence: Evidence, config: GateConfig) -> Check:
    """The files that were evaluated are the files that are there now."""
    same = evidence.evaluation.get("policy_digest") == evidence.policy_digest
    return fact(same, "the evaluated files are the policy's files", "the policy's files changed after its evaluation")


def reference_bytes(evidence: Evidence, config: GateConfig) -> Check:
    """The policy was compared with the SFT model that it was trained from."""
    reference = evidence.evaluation.get("reference_digest")
    same = reference is not None and reference == _inputs(evidence).get("models/sft")
    return fact(same, "compared with the SFT model that it started from", "compared with another SFT model")


def lineage(evidence: Evidence, config: GateConfig) -> Check:
    """The policy's receipt leads to SFT, the reward models and the judgements, each by digest."""
    wanted = ("models/sft", *(f"models/reward/{criterion}" for criterion in evidence.reward), "data/judgements")
    missing = [name for name in wanted if not _inputs(evidence).get(name)]
    return fact(not missing, "the receipt names every input by digest", f"the receipt lacks {', '.join(missing)}")


def rows_agree(evidence: Evidence, config: GateConfig) -> Check:
    """The reported win rate and number of prompts are those of the rows, a row a prompt."""
    points = judged(evidence, "sft")
    reported, prompts = number(evidence.evaluation, "win_rate", "value"), number(evidence.evaluation, "prompts")
    distinct = len(set(evidence.rows["prompt_id"])) if "prompt_id" in evidence.rows else 0
    same = abs(points.mean() - reported) <= ROUNDING and len(points) == prompts == distinct
    return fact(
        same,
        "the rows give the reported win rate",
        f"{len(points)} rows of {distinct} prompts with a win rate of {points.mean():.6g} against {prompts:.0f} prompts"
        f" and {reported:.6g} in the report",
    )


def unseen_prompts(evidence: Evidence, config: GateConfig) -> Check:
    """No prompt of the test split is in another split."""
    seen, alike = (number(evidence.validation, "set", "overlap", name) for name in ("prompts", "same_words"))
    return Check(
        outcome="fail" if seen else "pass",
        reason=f"{seen:.0f} prompts of the test split are in another split, must be none; {alike:.0f} differ from one "
        "in case and punctuation only",
        value=seen,
        threshold=0.0,
        at_least=False,
    )


def _inputs(evidence: Evidence) -> Mapping[str, Any]:
    inputs = evidence.receipt.get("inputs")
    if not isinstance(inputs, Mapping):
        raise Unusable("the policy has no receipt that names its inputs")
    return inputs
