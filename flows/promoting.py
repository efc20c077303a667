"""The program that promotes, in a process of its own, so that flows need not import MLflow:

python -m flows.promoting WORKSPACE [--generation N] [--approver NAME]
"""

import argparse
import sys
from pathlib import Path

from rlhf.errors import Exit, UserError
from rlhf.tracking.promotion import promote


def main(arguments: list[str]) -> Exit:
    """Promote the winner of a workspace; say in one line what was done or what is wrong. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.promoting")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--generation", type=int, help="the generation of the champion that the decision is about")
    parser.add_argument("--approver", default="")
    options = parser.parse_args(arguments)
    try:
        done = promote(options.workspace, expected_generation=options.generation, approver=options.approver)
    except UserError as error:
        sys.stdout.write(f"{error}\n")
        return Exit(error.exit)
    sys.stdout.write(f"{done.sentence}\n")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
