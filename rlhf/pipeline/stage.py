"""A stage from inside: what its program may read, where it writes, and how it ends.

def main(stage: Stage) -> None:
    rows = read(stage.input("data/clean"))
    write(stage.output("models/sft"), train(rows, stage.config.sft))

if __name__ == "__main__":
    run_stage(main)
"""

import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from rlhf import durable, manifest
from rlhf.config import Config, load_config
from rlhf.config.reading import read_yaml
from rlhf.config.section import Section
from rlhf.errors import ConfigError, Exit, SetBack
from rlhf.garbage import leave_out_loaded
from rlhf.pipeline import champion, fingerprint, receipt
from rlhf.pipeline.declared import declared_sections, declared_view
from rlhf.pipeline.events import Events
from rlhf.pipeline.faults import explain
from rlhf.pipeline.graph import CODE, PARAMS, StageSpec, load_graph, look_up
from rlhf.pipeline.lock import hold
from rlhf.pipeline.memory import Allowance
from rlhf.pipeline.process import (
    ENVIRONMENT,
    die_with_parent,
    exit_on_sigterm,
    gpus,
    keep_freed_memory,
    start_again,
    take_gpu,
    tell_where_on_sigusr1,
)
from rlhf.pipeline.room import require_room
from rlhf.tracking.journal import Journal

JOURNAL, LOCK = "journal.jsonl", "lock"  # in a stage's work directory
LASTING = {JOURNAL, LOCK, "not-finite"}  # there, when the stage is done; the last is rlhf/training/setbacks.py's
KEPT = ".work/cache"  # of a workspace
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that getrusage counts by
NOTHING_LESS = (
    "No smaller batch is left to try. Give it a machine with more memory, lower `tokens` in params.yaml, or take a "
    "smaller model"
)
RUN = "RLHF_RUN"  # environment: id of the pipeline run that a stage belongs to


class Stage:
    """One run of one stage. Its inputs have been verified when it is made; its outputs appear when it is finished."""

    def __init__(self, spec: StageSpec, workspace: Path, code: str, events: Events) -> None:
        """`code` is the fingerprint of the program. Raises DataError for an input that is missing or damaged."""
        self.name = spec.name
        self.item = spec.name.partition("@")[2] or None
        self.workspace = workspace
        self.params = _declared_params(spec, workspace)
        self.inputs = {path: manifest.digest(workspace / path) for path in spec.inputs}
        self.code = code
        self.key = receipt.stage_key(self.name, code, self.params, self.inputs)
        self.work = workspace / ".work" / self.key
        durable.make_private(self.work)
        self._spec = spec
        self._events = events
        self._journal: Journal | None = None
        self._allowance = Allowance.read(self.work)
        self._sections: list[Section] = []  # of params.yaml that this stage may read, once it has
        self._aside = 0.0  # seconds
        self._scratch: Path | None = None  # in a process of rank 1 and above: where it writes, to be thrown away

    @cached_property
    def config(self) -> Config:
        """params.yaml, of which the sections that dvc.yaml declares for this stage can be read.

        What goes through a model at once is what this machine's memory allows, if that is less.
        """
        config, keys = load_config(self.workspace / PARAMS), self._spec.params.get(PARAMS, ())
        self._sections = declared_sections(config, keys)
        return declared_view(self._allowance.fit(config), keys, self.name)

    @property
    def seed(self) -> int:
        """The seed of everything random in this stage."""
        return self.config.seed

    @cached_property
    def upstream(self) -> dict[str, dict[str, Any]]:
        """The receipt of every input, and of every output inside an input, that a stage made, by path."""
        below = (path for dep in self.inputs for path in manifest.outputs_below(self.workspace / dep))
        return {path.relative_to(self.workspace).as_posix(): receipt.read_receipt(path) for path in below}

    def input(self, path: str) -> Path:
        """Where an input is. It is a declared dep or lies in one, and its bytes have been verified; of a directory that
        holds outputs of other stages, theirs."""
        parents = [PurePosixPath(path), *PurePosixPath(path).parents]
        if not any(str(parent) in self._spec.deps for parent in parents):
            raise ConfigError(
                f"Stage `{self.name}` reads {path}, which dvc.yaml does not declare. Add it to its `deps`"
            )
        return self.workspace / path

    @property
    def champion(self) -> Path | None:
        """The files of the policy in use, verified; None before the first promotion. dvc.yaml declares which it is."""
        policy = str(self.params[champion.POLICY])
        return champion.champion_files(self.workspace, policy) if policy else None

    def output(self, path: str) -> Path:
        """Where to write an output: a directory that exists, or a file when the name has a suffix.

        It lies beside the target, has the target's suffix, and is renamed when the stage is finished.
        """
        if path not in self._spec.made:
            raise ConfigError(
                f"Stage `{self.name}` writes {path}, which dvc.yaml does not declare. Add it to its `outs`"
            )
        temporary = self._scratch / path if self._scratch else durable.partial(self.workspace / path)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if not temporary.suffix:
            temporary.mkdir(exist_ok=True)
        return temporary

    def kept(self, function: Callable[..., Any], **determining: Any) -> Path:
        """The file in which stages keep for each other what `function` makes; rlhf.models.cached reads and writes it.

        It is named after the function with the code of its module and of all that this imports, the versions of
        packages, and `determining`: whatever else makes its bits what they are, as JSON and arrays.
        """
        made_by = {
            "function": f"{function.__module__}.{function.__qualname__}",
            "code": fingerprint.of_program(Path(str(sys.modules[function.__module__].__file__))),
            "versions": receipt.versions(),
        }
        return self.workspace / KEPT / f"{receipt.content_key(made_by | determining)}.safetensors"

    def metrics(self, values: dict[str, Any]) -> None:
        """Write the stage's metrics file: what is worth comparing between runs (`dvc metrics diff`)."""
        (path,) = self._spec.metrics
        self.report(path, values)

    def report(self, path: str, values: dict[str, Any]) -> None:
        """Write an output of JSON: numbers to 6 significant digits, sorted keys. NaN and infinity are errors."""
        rounded = _rounded(values)
        durable.write_json(self.output(path), rounded)
        self._record("metrics_final", values=rounded)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record the metrics of one training step: the live curves."""
        self._record("metrics", step=step, values=values)

    def progress(self, done: int, total: int, label: str = "") -> None:
        """Tell how far the stage is. It may be called as often as one likes."""
        if not self._scratch:
            self._events.progress(done, total, label)

    def summary(self, text: str) -> None:
        """The one line that is shown when the stage is finished."""
        if not self._scratch:
            saved = f"; for want of memory with {self._allowance}" if str(self._allowance) else ""
            self._events.emit("summary", text=text + saved)

    def allow_less(self) -> Allowance | None:
        """After memory ran out: what the next process may take, less than this one; None when nothing less is left."""
        less = self._allowance.less(self._sections)
        if less:
            less.write(self.work)
        return less

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work on which no output but a metric depends: the journal's `end` tells its seconds apart."""
        started = time.monotonic()
        yield
        self._aside += time.monotonic() - started

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the stage's work directory, keep its journal, and publish the outputs when the body ends well."""
        started = time.monotonic()
        lock = hold(self.work / LOCK, f"Stage `{self.name}` of {self.workspace}")
        with lock, Journal(self.work / JOURNAL) as self._journal:
            self._discard()
            require_room(self.workspace, self._spec)
            self._record("start", **self._start())
            status = "failed"
            try:
                yield
                self._publish()
                status = "done"
            finally:
                self._discard()
                seconds, aside = round(time.monotonic() - started, 3), round(self._aside, 3)
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
                self._record("end", status=status, seconds=seconds, aside=aside, peak_memory=memory)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Work beside the process of rank 0, which alone keeps a journal, tells how it goes and publishes."""
        with TemporaryDirectory(prefix="rlhf-rank-") as directory:
            self._scratch = Path(directory)
            yield

    def _start(self) -> dict[str, Any]:
        """Who runs what where: the part of a run that may differ between equal outputs is in the journal only."""
        return {
            **self._receipt(),
            "git": receipt.git_state(self.workspace),
            "user": receipt.git_user(self.workspace),
            "host": socket.gethostname(),
            "pipeline_run": os.environ.get(RUN),
            "memory": str(self._allowance),
            "machine": _machine(),
        }

    def _receipt(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "key": self.key,
            "seed": self.params.get("seed"),
            "params": self.params,
            "inputs": self.inputs,
            "code": self.code,
            "versions": receipt.versions(),
        }

    def _publish(self) -> None:
        """Give every output its receipt and manifest, then all of them their names."""
        staged = {path: durable.partial(self.workspace / path) for path in self._spec.made}
        missing = [path for path, temporary in staged.items() if not temporary.exists()]
        if missing:
            raise FileNotFoundError(f"stage `{self.name}` ended without making {', '.join(missing)}")
        digests = {path: self._sealed(temporary) for path, temporary in staged.items()}
        for path, temporary in staged.items():
            durable.publish(temporary, self.workspace / path)
            self._record("output", path=path, digest=digests[path])

    def _sealed(self, temporary: Path) -> str:
        """Add receipt and manifest to a directory, the manifest last; return the digest of a directory or a file."""
        if temporary.is_file():
            return manifest.sha256(temporary)
        durable.write_json(temporary / receipt.RECEIPT, self._receipt())
        return manifest.write_manifest(temporary)

    def _discard(self) -> None:
        """Remove what was begun and not published, by this run or by one that was killed."""
        for path in self._spec.made:
            durable.remove(durable.partial(self.workspace / path))

    def _record(self, kind: str, **fields: Any) -> None:
        if self._journal:
            self._journal.write(kind, **fields)


def run_stage(main: Callable[[Stage], None]) -> NoReturn:
    """Run the program of a stage in the current directory and exit with its code; dvc.yaml says what the stage is.

    The stage's name is that of the program's file, with the first argument as its item: `tasks/align.py ppo` runs
    align@ppo.
    """
    program = Path(main.__code__.co_filename)
    name = "@".join([program.stem, *sys.argv[1:]])
    workspace = Path.cwd()
    events, stage = Events(name), None
    try:
        _prepare_process()
        stage, leads = _open(name, program, workspace, events)
        with stage.running() if leads else stage.following():
            main(stage)
        code, message = Exit.DONE, ""
    except SetBack as error:
        code, message = explain(error, name, workspace)
        _begin_again(message, events)
    except BaseException as error:  # a stage has no caller: whatever ends it becomes an exit code here
        code, message = explain(error, name, workspace)
    if stage and code == Exit.OUT_OF_MEMORY:
        message = _with_less(stage, message, events)
    events.close()
    with suppress(OSError):  # a disk that is full; the exit code says so
        events.emit("exit", code=int(code), message=message)
    sys.exit(code)


def clear_checkpoints(workspace: Path, spec: StageSpec) -> None:
    """Remove the checkpoints of the work behind a stage's outputs, which DVC has now. What is LASTING stays."""
    for path in spec.outs:
        if (workspace / path / receipt.RECEIPT).is_file():
            work = workspace / ".work" / receipt.read_receipt(workspace / path)["key"]
            for entry in work.iterdir() if work.is_dir() else ():
                if entry.name not in LASTING:
                    durable.remove(entry)


def _prepare_process() -> None:
    os.environ.update(ENVIRONMENT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it holds every secret
    die_with_parent()
    keep_freed_memory()
    leave_out_loaded()
    exit_on_sigterm()
    tell_where_on_sigusr1()


def _with_less(stage: Stage, message: str, events: Events) -> str:
    """Start again with what memory may allow; return what to tell where this process cannot."""
    less = stage.allow_less()
    if less:
        _begin_again(f"{message}. It goes on with {less}", events)
    return f"{message}. {f'The next run goes on with {less}' if less else NOTHING_LESS}"


def _begin_again(message: str, events: Events) -> None:
    """Go on from the last checkpoint in a fresh process.

    One of several processes returns, and ends: its launcher stops the others, and the next run starts them all.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        events.emit("summary", text=message)
        start_again()


def _open(name: str, program: Path, workspace: Path, events: Events) -> tuple[Stage, bool]:
    """The stage, and whether this process does what must be done once."""
    stages = load_graph(workspace).stages
    if name not in stages:
        raise ConfigError(f"{workspace / 'dvc.yaml'} declares no stage `{name}`. It declares: {', '.join(stages)}")
    spec = stages[name]
    leads = os.environ.get("RANK", "0") == "0"  # under `accelerate launch`, rank 0 does that
    if leads and spec.meta.get("gpu") and (gpu := take_gpu(gpus(os.environ))) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    stage = Stage(spec, workspace, fingerprint.of_program(program) if CODE in spec.params else "", events)
    events.emit("key", key=stage.key, pid=os.getpid())
    return stage, leads


def _machine() -> str | None:
    """How models compute here, in a stage that has loaded what computes them."""
    if "torch" not in sys.modules:
        return None
    from rlhf.models.machine import choices

    return choices()


def _declared_params(spec: StageSpec, workspace: Path) -> dict[str, Any]:
    """The values that dvc.yaml declares for a stage, by dotted key; the fingerprint of its code is not one of them."""
    values: dict[str, Any] = {}
    for file, keys in spec.params.items():
        tree = read_yaml(workspace / file) if file != CODE else {}
        for key in keys if file != CODE else ():
            try:
                values[key] = look_up(tree, key)
            except KeyError:
                raise ConfigError(
                    f"{workspace / file} has no `{key}`, which dvc.yaml declares for `{spec.name}`"
                ) from None
    return values


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
