"""`rlhf`, and `python -m rlhf`: a Ctrl-C is no traceback while the command line is being imported either."""

import sys


def main() -> None:
    """Run the command that the arguments name, and exit."""
    try:
        from rlhf.cli import app
    except KeyboardInterrupt:
        sys.exit(130)  # rlhf.cli.console.INTERRUPTED, which is part of what was being imported
    app(prog_name="rlhf")


if __name__ == "__main__":
    main()
