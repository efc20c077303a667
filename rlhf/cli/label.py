"""`rlhf label`: the answers that people are to rank, and what they say."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from rlhf.cli.console import WorkspaceOption, err, find_workspace, out
from rlhf.cli.policies import NAMES, find_policy, load
from rlhf.errors import DataError

if TYPE_CHECKING:
    from rlhf.data.labelling import Group

group = typer.Typer(name="label", help="Let people rank answers, to learn from.", no_args_is_help=True)


def _criterion(name: str) -> str:
    """Refuse what is no name of a criterion."""
    from rlhf.config.section import CRITERION

    if not re.fullmatch(CRITERION, name):
        raise typer.BadParameter("Give a name of lower-case letters, digits and _, such as helpful")
    return name


CriterionOption = Annotated[
    str,
    typer.Option(metavar="NAME", callback=_criterion, help="By which they are ranked, as in reward.criteria."),
]


@group.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To write, .jsonl or .csv.", show_default=False)],
    of: Annotated[str, typer.Option("--of", metavar="MODEL", help=f"Who answers: {NAMES}")] = "sft",
    prompts: Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default="all")] = None,
    criterion: CriterionOption = "overall",
    workspace: WorkspaceOption = None,
) -> None:
    """Write prompts with several answers of a model each, which nobody has ranked yet, in an order that is drawn.

    Whoever ranks writes 1 beside the best answer, 2 beside the next, equal numbers for a tie; and a name into the
    column annotator. SFT has answered in the stage sample; another model answers those prompts now.
    """
    from rlhf.data.labelling import STORE, TASKS, columns, keep_tasks, read_rankings, waiting
    from rlhf.locks import hold
    from rlhf.sheets import require_new, write_sheet

    directory = find_workspace(workspace)
    require_new(file)
    groups = _sampled(directory) if of == "sft" else _answered(directory, of, criterion, prompts)
    chosen = waiting(groups, read_rankings(directory / STORE), criterion)[:prompts]
    if not chosen:
        raise DataError(f"Every sample has been ranked by `{criterion}`. More are drawn by a higher sample.prompts")
    with hold(directory / ".rlhf" / "export.lock", "The list of what is to be ranked", patience=60.0):
        keep_tasks(directory / TASKS, chosen)
    write_sheet(file, (one.row for one in chosen), columns(chosen))
    quoted = shlex.quote(str(file))
    by = "" if criterion == "overall" else f" --criterion {shlex.quote(criterion)}"
    out.print(
        Text(f"{len(chosen)} prompts are in {file}. When people have ranked: rlhf label import {quoted}{by}"),
        soft_wrap=True,
    )


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="That people have filled in.", show_default=False)],
    criterion: CriterionOption = "overall",
    workspace: WorkspaceOption = None,
) -> None:
    """Add people's rankings to feedback/rankings.jsonl, which is a source of feedback as any other."""
    from rlhf.data.labelling import STORE, TASKS, add_rankings, read_rankings, read_tasks, waiting
    from rlhf.pipeline.workspace import hold_workspace

    directory = find_workspace(workspace)
    groups, following = read_tasks(directory / TASKS), _next(directory, criterion)
    with hold_workspace(directory):
        brought = add_rankings(file, groups, directory / STORE, criterion)
    left = len(waiting(groups, read_rankings(directory / STORE), criterion))
    said = (
        f"{brought.new} new rankings, {brought.known} known before, {brought.empty} tasks left empty. "
        f"{left} of {len(groups)} prompts that were exported wait for a first ranking"
    )
    there = (directory / STORE).is_file()
    out.print(Text(f"{said}. {following if there else 'Nobody has ranked anything yet'}"), soft_wrap=True)


def _sampled(workspace: Path) -> "dict[str, Group]":
    """What SFT answered in the stage sample. Raises DataError where nothing was sampled."""
    from rlhf.data.labelling import Group, grouped
    from rlhf.data.rows import read_rows
    from rlhf.manifest import verified
    from rlhf.tracking.outputs import read_receipt

    samples = workspace / "data/samples"
    groups = dict[str, Group]()
    if samples.is_dir():
        verified(samples)
        groups = grouped(read_rows(samples, "samples"), read_receipt(samples)["inputs"]["models/sft"])
    if not groups:
        raise DataError(
            f"{workspace} holds no prompt with different answers to rank. Draw them: rlhf run, which may end at label"
        )
    return groups


def _answered(workspace: Path, model: str, criterion: str, prompts: int | None) -> "dict[str, Group]":
    """What another model was asked before, and its answers to further prompts of the stage sample, until so many wait
    for a ranking."""
    import numpy as np

    from rlhf.batching.encoding import decode, encode_prompts
    from rlhf.config import load_config
    from rlhf.data.ids import prompt_hash
    from rlhf.data.labelling import STORE, TASKS, grouped, read_rankings, read_tasks, waiting
    from rlhf.manifest import digest
    from rlhf.rollouts.engine import sampler
    from rlhf.rollouts.groups import sample_groups

    config = load_config(workspace / "params.yaml")
    place = find_policy(workspace, model)
    policy = digest(place)
    before = {task: one for task, one in read_tasks(workspace / TASKS).items() if one.policy == policy}
    asked = {prompt_hash(one.prompt) for one in before.values()}
    others = [one.prompt for one in _sampled(workspace).values() if prompt_hash(one.prompt) not in asked]
    there = len(waiting(before, read_rankings(workspace / STORE), criterion))
    lacking = len(others) if prompts is None else max(0, prompts - there)
    if not others or not lacking:
        return before
    with err.status(f"Loading {model}"):
        tokenizer, answers = load(place)
    encoded = encode_prompts(tokenizer, others)
    chosen = np.flatnonzero(encoded.lengths <= config.tokens.prompt)[:lacking].tolist()
    with err.status(f"{model} answers {len(chosen)} prompts"):
        groups = sample_groups(
            sampler(config.decoding, place, config.tokens, config.sample.batch_size),
            answers,
            [encoded[i] for i in chosen],
            config.sample,
            max_tokens=config.tokens.response,
            eos=tokenizer.eos_token_id,
            seed=config.seed,
        )
    said = ([decode(tokenizer, one.response) for one in group] for group in groups)
    rows = ({"prompt": others[i], "responses": texts} for i, texts in zip(chosen, said, strict=True))
    return before | grouped(rows, policy)


def _next(workspace: Path, criterion: str) -> str:
    """What to do that a run learns from the rankings: the first time, name their file, and their criterion."""
    from rlhf.config import load_config
    from rlhf.config.data import FileSource
    from rlhf.data.labelling import STORE

    config = load_config(workspace / "params.yaml")
    unread = ""
    if criterion not in config.reward.criteria:
        unread = f"reward.criteria of params.yaml does not name `{criterion}`, so nothing learns from these. "
    if any(isinstance(source, FileSource) and Path(source.path) == STORE for source in config.collect.sources):
        return f"{unread}Next: rlhf run"
    return (
        f"{unread}No source reads them yet. Add this line to collect.sources of params.yaml\n"
        f"    - {{kind: file, path: {STORE}, table: rankings, columns: {{}}}}\n"
        "and to the stage collect in dvc.yaml this; where it has deps, add the path to that list\n"
        f"    deps: [{STORE}]\n"
        "Then: rlhf run"
    )
