"""Look at the world: `python -m rlhf.world [params.yaml]` shows demonstrations, their flaws and their gold reward."""

import sys
from dataclasses import asdict
from pathlib import Path

from rlhf.config import load_config
from rlhf.world import World
from rlhf.world.demonstrator import Demonstration
from rlhf.world.gold import gold

SHOWN = 12


def main(params: Path) -> None:
    """Show a dozen demonstrations of the world that `params` describes."""
    config = load_config(params)
    said = World(config.world, config.seed).demonstrations()[:SHOWN]
    sys.stdout.write("\n".join(described(use_case, demonstration) for use_case, demonstration in said))


def described(use_case: str, said: Demonstration) -> str:
    """The prompt, the answer, its flaws and its gold reward, a line each."""
    parts = gold(said.prompt, said.response)
    lines = [f"--- {use_case}"]
    lines += [f"{message['role']:>9}: {message['content']}" for message in said.prompt]
    lines.append(f"   answer: {said.response}")
    lines.append(f"    flaws: {', '.join(name for name, has in asdict(said.flaws).items() if has) or 'none'}")
    lines.append("     gold: " + ", ".join(f"{name} {value:.2f}" for name, value in asdict(parts).items()))
    return "\n".join([*lines, f"    total: {parts.total:.2f}", ""])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "params.yaml"))
