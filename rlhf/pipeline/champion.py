"""champion.json: the policy in use that the next one has to beat, a parameter file to DVC; and where its files are.

The ledger of promotions says who is the champion now. What an evaluation was made against is written down here before
it starts, so that a decision cannot speak of another champion than the one that was looked at.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf import durable, manifest
from rlhf.errors import DataError

CHAMPION = "champion.json"
POLICY, GENERATION, USES = "champion.policy", "champion.generation", "champion.uses"  # keys that dvc.yaml declares
FILES = ".rlhf/champions"  # of a workspace: a directory for each policy that was ever promoted, by its digest


@dataclass(frozen=True)
class Pinned:
    """The champion that evaluations are made against."""

    generation: int = 0  # of the ledger; 0 before the first promotion
    policy: str = ""  # the digest of its files; "" before the first promotion
    uses: int = 0  # different decisions that the gate has made on the test set so far


def pinned(workspace: Path) -> Pinned:
    """What champion.json says. Raises DataError for a file that is damaged."""
    path = workspace / CHAMPION
    try:
        return Pinned(**json.loads(path.read_text(encoding="utf-8"))["champion"])
    except FileNotFoundError:
        return Pinned()
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is damaged. Delete it and run again: `rlhf run` writes it from the ledger") from None


def pin(workspace: Path, champion: Pinned) -> bool:
    """Write champion.json where it says something else. Returns whether it changed."""
    if (workspace / CHAMPION).is_file() and pinned(workspace) == champion:
        return False
    durable.write_json(workspace / CHAMPION, {"champion": asdict(champion)})
    return True


def champion_files(workspace: Path, policy: str) -> Path:
    """Where the files of a champion are, verified. Raises DataError."""
    path = workspace / FILES / policy
    if not path.is_dir():
        raise DataError(
            f"{path} does not exist: the champion's files are not on this machine. `rlhf sync` fetches them"
        )
    if manifest.digest(path) != policy:
        raise DataError(f"{path} does not hold the champion that was promoted. Delete it; `rlhf sync` fetches it")
    return path
