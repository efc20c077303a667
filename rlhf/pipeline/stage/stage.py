"""One run of one stage, as its program sees it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from rlhf import durable, manifest
from rlhf.config import Config, load_config
from rlhf.config.section import Section
from rlhf.errors import ConfigError, Retryable
from rlhf.locks import hold
from rlhf.pipeline import champion, fingerprint
from rlhf.pipeline.declared import declared_params, declared_sections, declared_view
from rlhf.pipeline.disk import require_room
from rlhf.pipeline.events import Events
from rlhf.pipeline.graph import PARAMS, StageSpec
from rlhf.pipeline.memory import Allowance
from rlhf.pipeline.receipt import circumstances, content_key, make_receipt
from rlhf.pipeline.stage.publishing import discard, publish
from rlhf.pipeline.stage.work import KEPT, LOCK
from rlhf.serving import peak_memory
from rlhf.tracking.journal import JOURNAL, WORK, Journal
from rlhf.tracking.outputs import read_receipt


class Stage:
    """One run of one stage. Its inputs have been verified when it is made; its outputs appear when it is finished."""

    def __init__(self, spec: StageSpec, workspace: Path, code: str, events: Events) -> None:
        """`code` is the fingerprint of the program. Raises DataError for an input that is missing or damaged."""
        self.name = spec.name
        self.item = spec.name.partition("@")[2] or None
        self.workspace = workspace
        self.params = declared_params(spec, workspace)
        self.inputs = {path: manifest.digest(workspace / path) for path in spec.inputs}
        self.receipt = make_receipt(self.name, code, self.params, self.inputs)
        self.key = str(self.receipt["key"])
        self.work = workspace / WORK / self.key
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
        return {path.relative_to(self.workspace).as_posix(): read_receipt(path) for path in below}

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
            "versions": self.receipt["versions"],
        }
        return self.workspace / KEPT / f"{content_key(made_by | determining)}.safetensors"

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
            discard(self.workspace, self._spec)
            require_room(self.workspace, self._spec)
            self._record("start", **self.receipt, **circumstances(self.workspace), memory=str(self._allowance))
            status = "failed"
            try:
                yield
                self._require_same_params()
                self._require_same_inputs()
                for path, digest in publish(self.workspace, self._spec, self.receipt):
                    self._record("output", path=path, digest=digest)
                status = "done"
            finally:
                discard(self.workspace, self._spec)
                seconds, aside = round(time.monotonic() - started, 3), round(self._aside, 3)
                self._record("end", status=status, seconds=seconds, aside=aside, peak_memory=peak_memory())

    @contextmanager
    def following(self) -> Iterator[None]:
        """Work beside the process of rank 0, which alone keeps a journal, tells how it goes and publishes."""
        with TemporaryDirectory(prefix="rlhf-rank-") as directory:
            self._scratch = Path(directory)
            yield

    def allow_less(self) -> Allowance | None:
        """After memory ran out: what the next process may take, less than this one; None when nothing less is left."""
        less = self._allowance.less(self._sections)
        if less:
            less.write(self.work)
        return less

    def _require_same_params(self) -> None:
        """Raises ConfigError where DVC, which reads parameters after a stage, would note others than it ran with."""
        now = declared_params(self._spec, self.workspace)
        if changed := [name for name, value in self.params.items() if now[name] != value]:
            raise ConfigError(
                f"{', '.join(changed)} changed while `{self.name}` ran, and what it made is not kept. Run again; set "
                "back to what it began with, it goes on from its last checkpoint"
            )

    def _require_same_inputs(self) -> None:
        """Raises Retryable where DVC, which hashes inputs after a stage, would note others than it has read."""
        for path, digest in self.inputs.items():
            if manifest.digest(self.workspace / path) != digest:
                raise Retryable(f"{path} changed while `{self.name}` ran, and what it made is not kept. Run again")

    def _record(self, kind: str, **fields: Any) -> None:
        if self._journal:
            self._journal.write(kind, **fields)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
