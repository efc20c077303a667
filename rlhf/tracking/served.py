"""Before it is the champion: the files that a promotion fetched answer as the policy did where it was evaluated."""

import json
from pathlib import Path

from rlhf.errors import DataError, GateRefused
from rlhf.serving import serve_probe

RECORD = "reports/evaluate/{}/rows/serving.json"  # what `evaluate` asked, and what the policy said


def require_served(workspace: Path, algorithm: str, files: Path) -> None:
    """A fresh process loads exactly `files` and gives, greedily, the tokens that the evaluation of `algorithm` wrote
    down for each of its probes.

    Greedy tokens are those of one arithmetic: a machine of another kind may give others, and then promotes nothing.
    Raises GateRefused for files that cannot be served or answer otherwise, DataError without the record.
    """
    path = workspace / RECORD.format(algorithm)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        prompts, answers = record["prompts"], record["answers"]
        asked = {"max_tokens": record["max_tokens"], "rounds": 1, "timeout": record["timeout"]}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, so nobody knows what to ask the policy. Run `rlhf run`") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is not a record of answers. Run `rlhf run`") from None
    probe = serve_probe(files, prompts, **asked)
    if not probe.served:
        raise GateRefused(f"The registered files of {algorithm} cannot be served ({probe.reason}). Train it anew")
    if (same := probe.agreeing(answers)) < len(answers):
        raise GateRefused(
            f"The registered files of {algorithm} give {len(answers) - same} of {len(answers)} probes another answer "
            "than the evaluation. Evaluate and promote on machines of one kind: `rlhf run` here"
        )
