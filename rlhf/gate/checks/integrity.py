"""What was evaluated is what will be served, where it came from is known, and nobody has learned the test by heart."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.gate import GateConfig
from rlhf.gate.checks.quality import better_than_champion, better_than_sft
from rlhf.gate.evidence import ROUNDING, Evidence, Unusable, column, judged, number, prompt_ids
from rlhf.gate.findings import fact, opponents
from rlhf.gate.records import Check

TAUGHT = "data/clean/demonstrations.parquet"  # the table of data/clean that sft reads by itself


def policy_bytes(evidence: Evidence, config: GateConfig) -> Check:
    """The files that were evaluated are the files that are there now."""
    same = evidence.evaluation.get("policy_digest") == evidence.policy_digest
    return fact(same, "the evaluated files are the policy's files", "the policy's files changed after its evaluation")


def reference_bytes(evidence: Evidence, config: GateConfig) -> Check:
    """The policy was compared with the SFT model that it was trained from."""
    reference = evidence.evaluation.get("reference_digest")
    same = reference is not None and reference == _inputs(evidence.receipt).get("models/sft")
    return fact(same, "compared with the SFT model that it started from", "compared with another SFT model")


def champion_bytes(evidence: Evidence, config: GateConfig) -> Check:
    """The policy was compared with the champion that the decision will name, or with none before the first."""
    if "champion_digest" not in evidence.evaluation:
        raise Unusable("champion_digest is missing from the report")
    compared = evidence.evaluation["champion_digest"]
    said = f"compared with {_short(compared)}"
    return fact(compared == evidence.champion, said, f"{said}, but the champion is {_short(evidence.champion)}")


def file_format(evidence: Evidence, config: GateConfig) -> Check:
    """Weights are safetensors, what stands beside them is known, names no code, and the chat template is SFT's."""
    found = _mapping(evidence.evaluation, "files")
    foreign, code, same = (found.get(name) for name in ("foreign", "code", "same_template"))
    if not isinstance(foreign, list) or not isinstance(code, list) or not isinstance(same, bool):
        raise Unusable("files of the report does not say what stands in the policy's directory")
    faults = [f"holds {name}" for name in foreign] + [f"{name} names code of its own" for name in code]
    faults += [] if same else ["its chat template is not SFT's"]
    yes = "safetensors and known texts alone, no code, SFT's chat template"
    return fact(not faults, yes, f"the policy's directory: {', '.join(faults)}")


def lineage(evidence: Evidence, config: GateConfig) -> Check:
    """Receipts lead from the policy to SFT, the reward models and the judgements, from these to the base model and the
    data, and wherever two of them name the same thing they name the same bytes."""
    known = _mapping(evidence.evaluation, "lineage")
    links = list(_links(evidence, known))
    missing = sorted({path for path, digest, _ in links if not digest})
    if missing:
        return fact(False, "", f"the receipts lack {', '.join(missing)}")
    first: dict[str, tuple[str | None, str]] = {}
    for path, digest, where in links:
        other, whence = first.setdefault(path, (digest, where))
        if other != digest:
            reason = f"{path} is {_short(other)} by {whence} and {_short(digest)} by {where}"
            return fact(False, "", f"the receipts disagree: {reason}")
    return fact(True, f"receipts lead to {len(first)} inputs, each by one digest", "")


def rows_agree(evidence: Evidence, config: GateConfig) -> Check:
    """The reported win rates and number of prompts are those of the rows, a row a prompt."""
    prompts, found = number(evidence.evaluation, "prompts"), []
    for opponent, _ in opponents(evidence):
        name = "win_rate" if opponent == "sft" else f"{opponent}_win_rate"
        points, reported = judged(evidence, opponent), number(evidence.evaluation, name, "value")
        if abs(points.mean() - reported) > ROUNDING:
            found.append(f"{name} is {points.mean():.6g} by the rows and {reported:.6g} in the report")
    distinct = len(set(prompt_ids(evidence)))
    if not len(points) == prompts == distinct:
        found.append(f"{len(points)} rows of {distinct} prompts, of which the report counts {prompts:.0f}")
    return fact(not found, "the rows give what is reported", "; ".join(found))


def test_set(evidence: Evidence, config: GateConfig) -> Check:
    """Every candidate of the run was judged on the prompts that are pinned, and these are not worn out: who chooses
    among many policies on the same prompts fits the choice to them. An unpinned set is a warning in the small profile.
    """
    limit = config.limits.max_uses
    if len(evidence.test_sets) != 1 or None in evidence.test_sets:
        return fact(False, "", "the candidates of the run were not all judged on the same prompts")
    (digest,) = evidence.test_sets
    if digest != evidence.evaluation.get("prompts_digest") or config.test_set not in (None, digest):
        return fact(False, "", f"judged on {digest}, but gate.test_set of params.yaml is {config.test_set}")
    worn = Check(
        outcome="pass" if evidence.uses <= limit else "fail",
        reason=f"these prompts were looked at {evidence.uses} times before, of at most {limit}",
        value=float(evidence.uses),
        threshold=float(limit),
        at_least=False,
    )
    if config.test_set is None and worn.passed:
        reason = f"the prompts are not pinned: set gate.test_set of params.yaml to {digest}; {worn.reason}"
        return replace(worn, outcome="undecided", reason=reason, blocking=config.profile == "production")
    return worn


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


def unseen_conversations(evidence: Evidence, config: GateConfig) -> Check:
    """No conversation or document of a source is in the test split and in another."""
    shared = number(evidence.validation, "set", "overlap", "conversations")
    return Check(
        outcome="fail" if shared else "pass",
        reason=f"{shared:.0f} records of the sources have rows in the test split and in another, must be none",
        value=shared,
        threshold=0.0,
        at_least=False,
    )


def contamination(evidence: Evidence, config: GateConfig) -> Check:
    """Few of the prompts were read in training: by their words, in runs of 13 (rlhf/data/contamination.py)."""
    dirty, limit = _dirty(evidence, config), config.limits.max_contaminated
    share, names = float(dirty.mean()), list(prompt_ids(evidence)[dirty])
    listed = f": {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}" if names else ""
    return Check(
        outcome="pass" if share <= limit else "fail",
        reason=f"{len(names)} of {len(dirty)} prompts ({share:.1%}) have {config.limits.dirty:.0%} of their words in "
        f"training texts, may be {limit:.1%}{listed}",
        value=share,
        threshold=limit,
        at_least=False,
        n=len(dirty),
    )


def clean_subset(evidence: Evidence, config: GateConfig) -> Check:
    """What is better on all prompts is better on those that nobody read in training."""
    clean = ~_dirty(evidence, config)
    if clean.all() or not clean.any():
        return fact(bool(clean.all()), "no prompt was read in training", "every prompt was read in training")
    kept = replace(evidence, rows={name: values[clean] for name, values in evidence.rows.items()})
    for check in (better_than_sft, better_than_champion):
        if check(evidence, config).passed and not (found := check(kept, config)).passed:
            return replace(found, reason=f"on the {int(clean.sum())} clean prompts alone the {found.reason}")
    return fact(True, f"the {int(clean.sum())} clean prompts alone do not change who is better", "")


CHECKS = (
    policy_bytes,
    reference_bytes,
    champion_bytes,
    file_format,
    lineage,
    rows_agree,
    test_set,
    unseen_prompts,
    unseen_conversations,
    contamination,
    clean_subset,
)


def _dirty(evidence: Evidence, config: GateConfig) -> NDArray[np.bool_]:
    return column(evidence.rows, "seen") >= config.limits.dirty


def _links(evidence: Evidence, known: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    """Everything that stands behind the policy: path, digest (None where nothing says it), and who says so."""
    rewards = (f"models/reward/{criterion}" for criterion in evidence.reward)
    made_from = {"models/sft": ("models/base", TAUGHT), TAUGHT: ("data/clean",), "data/judgements": ("data/clean",)}
    made_from |= dict.fromkeys(rewards, ("models/sft", "data/judgements")) | {"data/clean": ("data/raw",)}
    named = _inputs(evidence.receipt)
    for path, sources in made_from.items():
        entry = known.get(path)
        there = entry if isinstance(entry, Mapping) else {}
        yield path, there.get("digest"), "the evaluation"
        if path != TAUGHT:
            yield path, named.get(path), "the policy"
        inputs = there.get("inputs")
        said = inputs if isinstance(inputs, Mapping) else {}
        for source in dict.fromkeys([*sources, *said]):
            yield source, said.get(source), path


def _inputs(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = receipt.get("inputs")
    if not isinstance(inputs, Mapping):
        raise Unusable("the policy has no receipt that names its inputs")
    return inputs


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    if not isinstance(found, Mapping):
        raise Unusable(f"{name} is missing from the report")
    return found


def _short(digest: Any) -> str:
    return str(digest)[:12] if digest else "none"
