"""Looks at a test set: what was judged on its prompts before, each of which raises what the next must show.

A look is a policy with its answers and its judge. To draw other answers from it, or to ask another judge, is another
look; to compare the same answers with another champion, or to hear more people on them, is none. Looks are numbered
from 1 in the order of time. Those new in one run share their chance of error, and keep it whenever they come again.

A set that has gained a prompt, or lost one, is the set that it was. So its name, DIGEST.SKETCH, holds beside the digest
of all its prompts a sample of theirs by which any two sets can be compared.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

Run = dict[str, Any]  # test_set, a name; looks, those that were new in one run of the gate

SAMPLE = 64  # prompts of a sketch
DIGITS = 8  # of each, in hex
SHARED = 0.1  # of the prompts of both, from which on they count as one set


def sketch(prompts: Iterable[Any]) -> str:
    """The smallest digests of a set of prompts, 64 at most: a sample that is the same in every set that holds them.

    Of two sets, the share of the smallest digests of both that both hold is that of the prompts of both (Broder 1997,
    On the resemblance and containment of documents).
    """
    digests = {hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:DIGITS] for prompt in prompts}
    return "".join(sorted(digests)[:SAMPLE])


def name(evaluation: Mapping[str, Any]) -> str:
    """The name of the set that an evaluation was made on; "" where it does not say."""
    return ".".join(filter(None, [evaluation.get("prompts_digest"), evaluation.get("prompts_sketch")]))


def look(policy: str, judge: str | None, answers: Iterable[str | None]) -> str:
    """The digest of a look. policy: of its files. judge: what it is. answers: of the policy, in the order of the
    prompts."""
    return hashlib.sha256(json.dumps([policy, judge, list(answers)]).encode()).hexdigest()


def in_order(*told: Iterable[Run]) -> list[Run]:
    """What several tell of the looks there were, one after the other, each look at a set once."""
    known, found = defaultdict[str, set[str]](set), list[Run]()
    for run in chain(*told):
        if new := sorted({*run["looks"]} - known[run["test_set"]]):
            known[run["test_set"]].update(new)
            found.append({"test_set": run["test_set"], "looks": new})
    return found


def looks_before(test_set: str, judged: Iterable[Run]) -> list[set[str]]:
    """The looks at this set, and at those that share a tenth of their prompts with it: those new in each run."""
    runs = [{*run["looks"]} for run in judged if test_set and _same(test_set, run["test_set"])]
    new = [looks.difference(*runs[:place]) for place, looks in enumerate(runs)]
    return [looks for looks in new if looks]


def sharing(look: str, candidates: Collection[str], before: Sequence[Collection[str]]) -> range:
    """The numbers of the looks that a look of this run, at `candidates`, shares its chance of error with, itself among
    them. before: the looks new in each run."""
    first = 1
    for run in before:
        if look in run:
            return range(first, first + len(run))
        first += len(run)
    return range(first, first + len({*candidates}.difference(*before)))


def _same(one: str, other: str) -> bool:
    (digest, _, mine), (its, _, theirs) = one.partition("."), other.partition(".")
    if digest == its or not mine or not theirs:
        return digest == its
    samples = _digests(mine), _digests(theirs)
    smallest = sorted(samples[0] | samples[1])[:SAMPLE]
    return sum(digest in samples[0] & samples[1] for digest in smallest) >= SHARED * len(smallest)


def _digests(sketch: str) -> set[str]:
    return {sketch[start : start + DIGITS] for start in range(0, len(sketch), DIGITS)}
