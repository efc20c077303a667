"""`rlhf doctor`: what is wrong with this machine or this workspace, and how to mend it."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import typer
from rich.text import Text

from rlhf.cli.console import JsonOption, WorkspaceOption, find_workspace, out, print_json
from rlhf.errors import Busy, ConfigError, Exit, UserError, first_line
from rlhf.secrets import is_secret, redact

FREE = 1e8  # bytes of disk under which a run of the small world may not end
MARKS = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["good", "warning", "bad"]
    text: str
    remedy: str = ""


Look = Callable[[Path], Iterator[Finding]]


def doctor(as_json: JsonOption = False, workspace: WorkspaceOption = None) -> None:
    """Look at what a run needs and say how to mend what is missing. Exit code 10 when a run could not succeed."""
    directory = find_workspace(workspace)
    findings = [finding for look in LOOKS for finding in _found(look, directory)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark, style = MARKS[finding.state]
            line = Text.assemble((f"{mark} ", style), f"{finding.name:10} {finding.text}")
            line.append(f". {finding.remedy}" if finding.remedy else "", style)
            out.print(line, soft_wrap=True)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(int(Exit.CONFIG))


def _found(look: Look, workspace: Path) -> list[Finding]:
    """What a look finds, or that it could not look: what is broken here is what people ask about."""
    try:
        return list(look(workspace))
    except (ImportError, OSError, ValueError, UserError) as error:
        name = look.__name__.strip("_")
        return [Finding(name, "bad", f"{type(error).__name__}: {first_line(error)}", "Mend this, then look again")]


def _python(workspace: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Finding("Python", "good" if good else "bad", version, "" if good else "Install Python 3.11 or newer")


def _packages(workspace: Path) -> Iterator[Finding]:
    """What is installed against what pyproject.toml asks for: some newer versions break each other."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    wrong, count = [], 0
    for requirement in map(Requirement, requires("rlhf-pipeline") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} where {requirement.specifier} is needed")
    if wrong:
        yield Finding("packages", "bad", "; ".join(wrong), "Install the locked versions: make setup")
    else:
        yield Finding("packages", "good", f"all {count} are of versions that work together")


def _disk(workspace: Path) -> Iterator[Finding]:
    try:
        TemporaryFile(dir=workspace).close()
    except OSError as error:
        remedy = "Let its owner run this, or mount the disk so that it may be written to"
        yield Finding("disk", "bad", f"{workspace} cannot be written to: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(workspace).free
    text = f"{free / 1e9:,.1f} GB free for {workspace}"
    if free < FREE:
        yield Finding("disk", "bad", text, f"Make room: a run of the small world takes up to {FREE / 1e9:.1f} GB")
    else:
        yield Finding("disk", "good", text)


def _git(workspace: Path) -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding("git", "bad", "not installed", "Install git: DVC needs it")
        return
    if _said("git", "-C", str(workspace), "rev-parse", "--git-dir") is None:
        yield Finding("git", "bad", f"{workspace} is in no git repository", "Make one: git init")
        return
    who = [_said("git", "-C", str(workspace), "config", f"user.{key}") for key in ("name", "email")]
    if all(who):
        yield Finding("git", "good", f"commits are by {who[0]} <{who[1]}>")
    else:
        remedy = "To commit, tell who you are: git config user.name NAME; git config user.email ADDRESS"
        yield Finding("git", "warning", "no identity is set", remedy)


def _dvc(workspace: Path) -> Iterator[Finding]:
    if not (workspace / ".dvc").is_dir():
        yield Finding("DVC", "bad", f"{workspace} holds no .dvc", "Make it: dvc init")
        return
    remotes = (_said(sys.executable, "-m", "dvc", "--cd", str(workspace), "remote", "list") or "").split("\n")
    named = ", ".join(line.split()[0] for line in remotes if line.strip())
    config = workspace / ".dvc" / "config"
    if config.is_file() and _holds_secret(config.read_text(encoding="utf-8")):
        remedy = (
            "Move it to .dvc/config.local, which git does not know: dvc remote modify --local NAME password PASSWORD"
        )
        yield Finding("DVC", "bad", f"{config} holds a password, and git keeps that file", remedy)
    yield Finding("DVC", "good", f"remotes: {named}" if named else "no remote: outputs stay on this machine")


def _gpu(workspace: Path) -> Iterator[Finding]:
    import os
    from importlib.metadata import version

    from rlhf.pipeline.process import gpus

    found = gpus(os.environ)
    torch = version("torch")
    if not found:
        yield Finding("GPU", "good", f"none: stages run on the CPU (torch {torch})")
    elif torch.endswith("+cpu"):
        remedy = "Install a CUDA build, https://pytorch.org/get-started, or set CUDA_VISIBLE_DEVICES to nothing"
        yield Finding("GPU", "bad", f"{len(found)} found, but torch {torch} cannot use it", remedy)
    else:
        yield Finding("GPU", "good", f"{', '.join(found)} (torch {torch})")


def _machine(workspace: Path) -> Iterator[Finding]:
    from rlhf.models.machine import choices

    try:
        text = choices()
    except ConfigError as error:
        yield Finding("computing", "bad", str(error))
    else:
        yield Finding("computing", "good", f"{text}; OMP_NUM_THREADS, RLHF_PRECISION, RLHF_PRODUCTS choose otherwise")


def _services(workspace: Path) -> Iterator[Finding]:
    from rlhf.services.local import recorded
    from rlhf.services.ports import holder, is_free
    from rlhf.services.servers import SERVERS

    running = {service.server: service for service in recorded(workspace)}
    for server in SERVERS:
        elsewhere = server.elsewhere()
        address = elsewhere or (running[server].address if server in running else None)
        if address:
            trouble = server.trouble(address)
            remedy = f"Start it, or unset {server.setting}" if elsewhere else "Start it again: rlhf down, rlhf up"
            yield (
                Finding(server.title, "bad", redact(f"{address}: {trouble}"), remedy)
                if trouble
                else Finding(server.title, "good", f"answers at {redact(server.pages(address))}")
            )
        elif is_free(server.usual_port):
            yield Finding(server.title, "good", f"not started; port {server.usual_port} is free")
        else:
            who = holder(server.usual_port) or "another program"
            text = f"not started; port {server.usual_port} is held by {who}"
            yield Finding(server.title, "warning", text, "The next free port will be taken")


def _params(workspace: Path) -> Iterator[Finding]:
    from rlhf.config import load_config

    try:
        load_config(workspace / "params.yaml")
        yield Finding("params", "good", "params.yaml is valid")
    except UserError as error:
        yield Finding("params", "bad", str(error), "Correct params.yaml")


def _code(workspace: Path) -> Iterator[Finding]:
    from rlhf.pipeline.fingerprint import fingerprints, stored
    from rlhf.pipeline.graph import CODE

    try:
        fresh = fingerprints(workspace)
    except UserError as error:
        yield Finding("code", "bad", str(error), "Correct dvc.yaml")
        return
    if not (workspace / CODE).exists():
        yield Finding("code", "good", f"{CODE} is written by the first run")
        return
    kept = stored(workspace) or {}
    stale = [name for name in fresh if fresh[name] != kept.get(name)]
    if stale:
        yield Finding(
            "code", "warning", f"{CODE} is stale for {', '.join(stale)}", "`rlhf run` renews it and runs them"
        )
    else:
        yield Finding("code", "good", f"{CODE} is fresh")


def _inputs(workspace: Path) -> Iterator[Finding]:
    """What stages read and no stage makes, and what lies in the way of reading the rest."""
    from rlhf.pipeline.graph import load_graph
    from rlhf.pipeline.readable import refusal, require_deps

    try:
        graph = load_graph(workspace)
        for spec in graph:
            require_deps(workspace, spec)
    except UserError as error:
        yield Finding("inputs", "bad", str(error))
        return
    sources = [(spec, workspace / dep) for spec, dep in graph.sources]
    absent = [refusal(path, "does not exist", spec) for spec, path in sources if not path.exists()]
    for text in absent:
        yield Finding("inputs", "bad", text)
    if not absent:
        yield Finding("inputs", "good", f"{len(sources)} from outside, all there" if sources else "none from outside")


def _state(workspace: Path) -> Iterator[Finding]:
    """What the last run left, as `rlhf status` and the next run read it."""
    from rlhf.cli.status import stage_reasons
    from rlhf.gate.ledger import Ledger

    try:
        Ledger.of(workspace).current()
        stage_reasons(workspace)
        yield Finding("state", "good", "dvc.lock, champion.json and the ledger can be read")
    except Busy as busy:
        yield Finding("state", "warning", str(busy), "Look again when the run has ended")
    except UserError as error:
        yield Finding("state", "bad", str(error))


def _holds_secret(config: str) -> bool:
    """Whether a file of DVC's settings has a password, in an address or by itself. `ask_password = true` is none."""
    settings = (line.partition("=") for line in config.splitlines())
    named = any(is_secret(name.strip()) and value.strip() not in ("true", "false") for name, _, value in settings)
    return named or redact(config) != config


def _said(*command: str) -> str | None:
    """What a command prints, stripped; None when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


LOOKS: tuple[Look, ...] = (
    _python,
    _packages,
    _disk,
    _git,
    _dvc,
    _gpu,
    _machine,
    _services,
    _params,
    _code,
    _inputs,
    _state,
)
COMMANDS = (doctor,)
