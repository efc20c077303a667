"""`rlhf lineage`, `rlhf promote`, `rlhf approve`, `rlhf rollback`: where a model came from, and which one is in use."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from rlhf.cli.console import JsonOption, WorkspaceOption, find_workspace, out, print_json
from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from rlhf.tracking.lineage import Node
    from rlhf.tracking.promotion import Promotion


def lineage(
    model: Annotated[
        str,
        typer.Argument(
            help="champion, base, sft, reward, reward-helpful, referee, an algorithm (dpo), a path, or a version "
            "(policy/3)."
        ),
    ] = "champion",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Show what a model was made from, down to the sources of its feedback."""
    from rlhf.tracking.lineage import lineage as find

    node = find(find_workspace(workspace), model)
    if as_json:
        print_json(asdict(node))
    else:
        out.print(_tree(node))


def promote(
    approver: Annotated[
        str, typer.Option(help="Who answers for it, for the ledger, where no approval is required.")
    ] = "",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Make the gate's winner the champion in place of the one it was compared with. Exit code 12 when it is refused."""
    from rlhf.tracking.promotion import promote as change

    _show(change(find_workspace(workspace), approver=approver), as_json)


def approve(
    key: Annotated[Path, typer.Option(help="Your private SSH key, or the public one of a key that ssh-agent holds.")],
    approver: Annotated[
        str, typer.Option(help="Your name among the allowed signers. Without it: git's user.email.", show_default=False)
    ] = "",
    comment: Annotated[str, typer.Option(help="What you want to say; it is signed too.")] = "",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Sign the gate's decision to promote, as a person who did not train the policy. `rlhf promote` then acts on it."""
    from rlhf.pipeline.receipt import git_user
    from rlhf.tracking.promotion import approve as give

    directory = find_workspace(workspace)
    if not (name := approver or git_user(directory)):
        raise ConfigError("git has no user.email here. Say who approves: --approver a@b.c")
    decision, approval, path = give(directory, name, key, comment)
    if as_json:
        print_json({"path": str(path), **asdict(approval)})
    else:
        said = f"{approval.approver} approves: {decision.said.sentence} Signed in {path}. Next: rlhf promote"
        out.print(Text(said), soft_wrap=True)


def rollback(
    approver: Annotated[str, typer.Option(help="Who approves, for the ledger.")] = "",
    generation: Annotated[
        int | None,
        typer.Option(help="Roll back only if the champion is still of this generation.", show_default=False, min=0),
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Make the champion before the current one champion again. Exit code 12 when there is none."""
    from rlhf.tracking.promotion import rollback as change

    _show(change(find_workspace(workspace), expected_generation=generation, approver=approver), as_json)


def _show(promotion: "Promotion", as_json: bool) -> None:
    if as_json:
        print_json(asdict(promotion))
    else:
        out.print(Text(promotion.sentence), soft_wrap=True)


def _tree(node: "Node") -> Tree:
    """The node and what is below it; what was shown already is not unfolded again."""
    shown = {node.digest}

    def unfold(node: "Node", place: Tree) -> None:
        for child in node.children:
            known = child.digest is not None and child.digest in shown
            shown.add(child.digest)
            branch = place.add(_label(child, known))
            if not known:
                unfold(child, branch)

    root = Tree(_label(node, False))
    unfold(node, root)
    return root


def _label(node: "Node", known: bool) -> Text:
    parts = [(node.name, "bold"), (f"  {node.stage}", "cyan" if node.key else "yellow")]
    if known:
        return Text.assemble(*parts, ("  (see above)", "dim"))
    facts = {"key": node.key and node.key[:12], "dvc": node.md5 and node.md5[:12], "commit": _short(node.commit)}
    if node.program and (node.commit or "no") not in node.program:  # else the workspace is the program's checkout
        facts["program"] = " ".join(map(_short, node.program.split()))
    facts |= {"without": ", ".join(node.params.get("validate.revoked") or ())}
    said = [f"{name} {value}" for name, value in facts.items() if value]
    return Text.assemble(*parts, *((f"  {fact}", "dim") for fact in [*filter(None, [node.version]), *said]))


def _short(commit: str | None) -> str:
    return f"{commit[:10]}{'+' if commit.endswith('+') and len(commit) > 10 else ''}" if commit else ""


COMMANDS = (lineage, promote, approve, rollback)
