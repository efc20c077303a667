"""`rlhf status`: what is up to date, what would run and why, the last run, the services, the champion."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.results import GOOD
from rlhf.cli.console import JsonOption, WorkspaceOption, find_workspace, out, print_json

OTHER = "another champion"  # than the last evaluation was made against
AT_WORK = "a run is at work"  # on this stage, or on one before it


def status(as_json: JsonOption = False, workspace: WorkspaceOption = None) -> None:
    """Show each stage (up to date, or changed and why), the last run, the services and the champion."""
    from rlhf.config import load_config
    from rlhf.config.reading import PARAMS
    from rlhf.gate.ledger import Ledger
    from rlhf.pipeline.graph import load_graph
    from rlhf.services.local import recorded

    directory = find_workspace(workspace)
    load_config(directory / PARAMS)
    champion, last = Ledger.of(directory).current(), last_run(directory)
    value = {
        "workspace": str(directory),
        "frozen": [spec.name for spec in load_graph(directory) if spec.frozen],
        "stages": stages_of(directory, last) if last and last["status"] == "running" else stage_reasons(directory),
        "last_run": last,
        "services": {service.server.name: service.pages for service in recorded(directory)},
        "champion": asdict(champion) if champion else None,
    }
    if as_json:
        print_json(value)
    else:
        _show(value)


def stage_reasons(workspace: Path) -> dict[str, list[str]]:
    """For every stage why it would run; an empty list when it is up to date."""
    from rlhf.pipeline.champion import due, pinned
    from rlhf.pipeline.fingerprint import fingerprints, stored
    from rlhf.pipeline.graph import CHAMPION, load_graph
    from rlhf.pipeline.versioning import changes

    graph = load_graph(workspace)
    code, kept = fingerprints(workspace), stored(workspace) or {}
    changed = changes(workspace)
    other = due(workspace, ()).generation != pinned(workspace).generation
    reasons: dict[str, list[str]] = {}
    for spec in graph:
        direct = list(_reasons(changed.get(spec.name, [])))
        if not spec.frozen:
            if code.get(spec.program) != kept.get(spec.program) and "its code" not in direct:
                direct.append("its code")
            if other and CHAMPION in spec.params and OTHER not in direct:
                direct.append(OTHER)
            direct = direct or [f"{before} runs" for before in graph.upstream[spec.name] if reasons[before]]
        reasons[spec.name] = direct
    return reasons


def stages_of(workspace: Path, run: dict[str, Any]) -> dict[str, list[str]]:
    """The same while a run goes on, during which DVC tells nobody: whether it has brought the stage up to date."""
    from rlhf.pipeline.graph import load_graph

    states = run["stages"]
    done = {name for name, state in states.items() if state in GOOD}
    return {name: [] if name in done else [states.get(name, AT_WORK)] for name in load_graph(workspace).stages}


def last_run(workspace: Path) -> dict[str, Any] | None:
    """When the last run began, how it ended, and how each of its stages did."""
    from rlhf.tracking.journal import RUNS, alive, read

    journals = sorted((workspace / RUNS).glob("*.jsonl"))
    if not journals:
        return None
    last = next(filter(alive, reversed(journals)), journals[-1])  # names go by the clock, which may have gone back
    records = list(read(last))
    start = next((record for record in records if record["kind"] == "start"), None)
    if start is None:
        return None
    end = next((record for record in records if record["kind"] == "end"), None)
    unfinished = "running" if alive(last) else "died"
    return {
        "id": start["run_id"],
        "started": start["time"],
        "status": end["status"] if end else unfinished,
        "seconds": (end or records[-1])["time"] - start["time"],
        "stages": {record["name"]: record["state"] for record in records if record["kind"] == "stage"},
    }


def _reasons(changes: list[Any]) -> Iterator[str]:
    """DVC's findings on one stage, in words."""
    from rlhf.pipeline.champion import JUDGED
    from rlhf.pipeline.graph import CHAMPION, CODE, PARAMS

    for change in changes:
        if not isinstance(change, dict):
            yield "its command"
            continue
        for path, found in change.get("changed deps", {}).items():
            if path == CODE:
                yield "its code"
            elif path == CHAMPION:
                if found != "new":  # it has not run yet
                    yield "the test set was looked at again" if set(found) == {JUDGED} else OTHER
            elif path == PARAMS:
                yield from found if isinstance(found, dict) else ["it has not run yet"]
            else:
                yield path if found == "modified" else f"{path} is missing"
        for path, found in change.get("changed outs", {}).items():
            yield f"{path} was {'edited' if found == 'modified' else 'removed'}"


def _when(seconds: float) -> str:
    """A time since 1970 as people read it, in the zone of this machine, which it names."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _show(value: dict[str, Any]) -> None:
    stages = Table(box=SIMPLE_HEAD)
    for name in ("stage", "state", "last run"):
        stages.add_column(name)
    last = value["last_run"]
    changed = "" if last and last["status"] == "running" else "changed: "
    for name, reasons in value["stages"].items():
        new = "it has not run yet" in reasons
        text = "not run yet" if new else f"{changed}{', '.join(reasons)}"
        rests = Text("frozen", "yellow") if name in value["frozen"] else Text("up to date", "green")
        state = Text(text, "yellow") if reasons else rests
        stages.add_row(name, state, last["stages"].get(name, "") if last else "")
    out.print(stages)
    if last:
        began = _when(last["started"])
        out.print(f"last run  {last['status']}, {began}, {last['seconds']:.0f} s ({last['id']})", soft_wrap=True)
    else:
        out.print("last run  none yet: rlhf run")
    services = ", ".join(f"{name} {pages}" for name, pages in value["services"].items())
    out.print(f"services  {services or 'none runs: rlhf up'}", soft_wrap=True)
    champion = value["champion"]
    if champion:
        since = _when(champion["time"])
        by = f", by {champion['approver']}" if champion["approver"] else ""
        said = f"{champion['version']}, generation {champion['generation']}, since {since} ({champion['action']}{by})"
        out.print(f"champion  {said}", soft_wrap=True)
    else:
        out.print("champion  none yet; what the gate promotes becomes it")


COMMANDS = (status,)
