"""The process of a stage: how it is prepared, how it ends, and when it begins again."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rlhf.errors import ConfigError, Exit, SetBack
from rlhf.pipeline import fingerprint
from rlhf.pipeline.events import Events
from rlhf.pipeline.faults import explain
from rlhf.pipeline.graph import CODE, load_graph
from rlhf.pipeline.process import gpus, prepare, start_again, take_gpu
from rlhf.pipeline.stage.stage import Stage

NOTHING_LESS = (
    "No smaller batch is left to try. Give it a machine with more memory, lower `tokens` in params.yaml, or take a "
    "smaller model"
)


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
        prepare()
        leads = os.environ.get("RANK", "0") == "0"  # under `accelerate launch`, rank 0 does what must be done once
        stage = _open(name, program, workspace, events)
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


def _open(name: str, program: Path, workspace: Path, events: Events) -> Stage:
    """The stage, with a GPU if it asks for one."""
    stages = load_graph(workspace).stages
    if name not in stages:
        raise ConfigError(f"{workspace / 'dvc.yaml'} declares no stage `{name}`. It declares: {', '.join(stages)}")
    spec = stages[name]
    code = fingerprint.of_program(program) if CODE in spec.params else ""
    if code and (fingerprint.stored(workspace) or {}).get(spec.program, code) != code:
        raise ConfigError(
            f"The code of `{name}` is not what {CODE} says, by which DVC would note what it makes: it was edited after "
            "the run began. Run again, `rlhf run`, or write the file: python -m rlhf.pipeline.fingerprint"
        )
    if spec.meta.get("gpu"):
        _take_gpu()
    stage = Stage(spec, workspace, code, events)
    events.emit("key", key=stage.key, pid=os.getpid())
    return stage


def _take_gpu() -> None:
    """Wait for a GPU, if there are any: for any one, or as one of several processes for that of the local rank."""
    found = gpus(os.environ)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        take_gpu(found[int(os.environ.get("LOCAL_RANK", "0")) :][:1])
    elif (gpu := take_gpu(found)) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


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
