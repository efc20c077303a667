"""The program that promotes, in a process of its own, so that flows need not import MLflow:

python -m flows.promoting WORKSPACE [--approver NAME] [--approved DIGEST]
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rlhf.errors import Exit, UserError
from rlhf.tracking.promotion import passing, promote, proposal


def main(arguments: list[str]) -> Exit:
    """Promote the winner of a workspace; say in one line what was done or what is wrong. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.promoting")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--approver", default="")
    parser.add_argument("--approved", help="the digest of the decision that the approver was shown")
    options = parser.parse_args(arguments)
    try:
        approval = None
        if options.approved is not None:
            stands = proposal(passing(options.workspace), options.approver)
            approval = replace(stands, decision=options.approved)
        done = promote(options.workspace, approver=options.approver, approval=approval)
    except UserError as error:
        sys.stdout.write(f"{error}\n")
        return Exit(error.exit)
    sys.stdout.write(f"{done.sentence}\n")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
