"""`python -m rlhf` is `rlhf`."""

from rlhf.cli import app

if __name__ == "__main__":
    app(prog_name="rlhf")
