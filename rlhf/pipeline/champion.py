"""champion.json: the policy in use that the next one has to beat, a parameter file to DVC; and where its files are.

The ledger of promotions says who is the champion now. What an evaluation was made against is written down here before
it starts, so that a decision cannot speak of another champion than the one that was looked at.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rlhf import durable
from rlhf.errors import DataError, require_format
from rlhf.gate import looks
from rlhf.gate.ledger import Ledger
from rlhf.manifest import json_digest
from rlhf.pipeline.graph import CHAMPION
from rlhf.tracking.champions import FILES, whole
from rlhf.tracking.standing import standing

FORMAT = 2  # of champion.json
POLICY, GENERATION, JUDGED = "champion.policy", "champion.generation", "champion.judged"  # keys that dvc.yaml declares


@dataclass(frozen=True)
class Pinned:
    """The champion that evaluations are made against."""

    generation: int = 0  # of the ledger; 0 before the first promotion
    policy: str = ""  # the digest of its files; "" before the first promotion
    judged: list[looks.Run] = field(default_factory=list)  # the looks at test sets, in order


def pinned(workspace: Path) -> Pinned:
    """What champion.json says. Raises DataError for a file that is damaged."""
    path = workspace / CHAMPION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        require_format(path, content.get("format"), FORMAT)
        if content["digest"] != json_digest(content["champion"]):
            raise ValueError
        return Pinned(**content["champion"])
    except FileNotFoundError:
        return Pinned()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is damaged. Delete it and run again: `rlhf run` writes it from the ledger") from None


def pin(workspace: Path, champion: Pinned) -> bool:
    """Write champion.json where it says something else. Returns whether it changed."""
    if (workspace / CHAMPION).is_file() and pinned(workspace) == champion:
        return False
    values = asdict(champion)
    durable.write_json(workspace / CHAMPION, {"format": FORMAT, "champion": values, "digest": json_digest(values)})
    return True


def refresh(workspace: Path, stale: Collection[str]) -> bool:
    """Bring champion.json up to date before a run of the `stale` stages. Returns whether it changed."""
    return pin(workspace, due(workspace, stale))


def due(workspace: Path, stale: Collection[str]) -> Pinned:
    """What the next run compares with: the champion in use. Only where nothing is stale, and the champion in use is so
    by the very decision that stands here, is it still the one before it: there is nothing to compare again."""
    before, book = pinned(workspace), Ledger.of(workspace)
    current = book.current()
    if current is None and before.generation:
        return before  # of a champion that was promoted elsewhere: this ledger knows nothing of it
    now = Pinned(current.generation, current.policy) if current else Pinned()
    decision = standing(workspace)
    other = (now.generation, now.policy) != (before.generation, before.policy)
    elsewhere = other and (current is None or decision is None or decision.digest != current.report_digest)
    if stale or elsewhere or not (workspace / CHAMPION).is_file():
        # a clone has champion.json, and not the ledger of where it was committed
        return replace(now, judged=looks.in_order(before.judged, book.judged()))
    return before


def champion_files(workspace: Path, policy: str) -> Path:
    """Where the files of a champion are, verified. Raises DataError."""
    if not whole(workspace, policy):
        raise DataError(
            f"{workspace / FILES / policy} does not hold the champion that was promoted: its files are missing here, "
            "or damaged. `rlhf sync` fetches them; into a clone bring .rlhf/ledger.db first, from where it was promoted"
        )
    return workspace / FILES / policy
