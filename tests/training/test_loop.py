"""The loop: when it reads changes nothing, a broken step does no harm, and a signal waits for a checkpoint."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf.algorithms.supervised import LikelihoodObjective, supervised_steps
from rlhf.errors import DataError, SetBack, UserError
from rlhf.pipeline.stage.work import LASTING
from rlhf.training import loop as training
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import train
from rlhf.training.setbacks import SETBACKS
from rlhf.training.step import Step
from tests.algorithms.tiny import Line, Silent, loop, tiny_policy, turns

Curves = list[dict[str, float]]


class Written(Silent):
    def __init__(self) -> None:
        self.rows = list[dict[str, float]]()

    def log(self, step: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, **values})


def test_steps_that_are_read_together_are_recorded_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reads fall on the third step, on a checkpoint after the fourth, on the seventh and on the last."""
    ended = []
    for every in (1, 3):
        monkeypatch.setattr(training, "read_every", lambda device, every=every: every)
        config, recorder = loop(micro_batch_size=3, checkpoint_every=4), Written()
        objective, checkpoints = LikelihoodObjective(tiny_policy()), Checkpoints(tmp_path / str(every))
        steps, total = supervised_steps(turns(30), config, epochs=2, seed=1)
        history = train(objective, steps, total_steps=total, config=config, checkpoints=checkpoints, recorder=recorder)
        assert history == recorder.rows
        ended.append(
            (history, (tmp_path / str(every) / "step-00000004/state.json").read_text(), objective.state_dict())
        )
    one, three = ended
    assert three[:2] == one[:2]
    assert [row["step"] for row in three[0]] == list(range(8))
    assert all(torch.equal(value, three[2][name]) for name, value in one[2].items())


TOTAL, ITERATION = 9, 3
HERE = 1.0  # the weights before any step
Value = Callable[[int], float]  # of a step


def learn(
    work: Path,
    value: Value = float,
    *,
    objective: Line | None = None,
    recorder: Silent | None = None,
    diverges: Callable[[int, Tensor], bool] = lambda number, weights: False,
    **changes: object,
) -> tuple[Tensor, Curves]:
    """Nine steps in iterations of three, as the online algorithms have them.

    diverges: of the first step of an iteration and the weights that it is sampled from.
    """
    objective = objective or Line()

    def steps(start: int) -> Iterator[Step]:
        for number in range(start, TOTAL):
            given = torch.tensor([1.0, value(number), 3.0])
            far = number % ITERATION == 0 and diverges(number, objective.weights.detach())
            yield Step([given], 1.0, {"reward": value(number)}, ITERATION, diverged=far)

    config = loop(**{"checkpoint_every": 2} | changes)
    history = train(
        objective,
        steps,
        total_steps=TOTAL,
        config=config,
        checkpoints=Checkpoints(work),
        recorder=recorder or Silent(),
    )
    return objective.weights.detach(), history


def learn_in_the_end(work: Path, value: Value = float, **changes: object) -> tuple[Tensor, Curves, int]:
    """As a stage does: begun again after each setback. Also how many there were."""
    for setbacks in range(TOTAL):
        try:
            return *learn(work, value, **changes), setbacks
        except SetBack:
            pass
    raise AssertionError("it goes back for ever")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("reads", [1, 10])
def test_a_fault_that_passes_leaves_no_trace(
    wrong: float, reads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The batch is kept, training goes back to its last checkpoint, and the same batch is learned from."""
    monkeypatch.setattr(training, "read_every", lambda device: reads)
    seen = list[int]()

    def flaky(number: int) -> float:
        seen.append(number)
        return wrong if number == 4 and seen.count(4) == 1 else float(number)

    weights, history, setbacks = learn_in_the_end(tmp_path / "flaky", flaky)
    expected = learn(tmp_path / "whole")
    assert setbacks == 1
    assert torch.equal(weights, expected[0])
    assert history == expected[1]
    kept = load_file(tmp_path / "flaky" / SETBACKS / "step-00000004.safetensors")
    torch.testing.assert_close(kept["micro_batch.0"], torch.tensor([1.0, wrong, 3.0]), equal_nan=True)


def test_a_step_that_is_not_finite_is_not_applied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anyone has read that it was not, samples are drawn from the weights."""
    monkeypatch.setattr(training, "read_every", lambda device: 10)
    objective = Line()
    with pytest.raises(SetBack, match="of step 1 is not finite"):
        learn(tmp_path, lambda number: float("nan") if number == 1 else 1.0, objective=objective)
    assert objective.weights.isfinite().all()


def test_a_batch_that_fails_twice_is_left_out_whole_and_for_good(tmp_path: Path) -> None:
    """An iteration is one batch. Who resumes later, or makes the stage once more, leaves out the same one."""
    bad = lambda number: float("nan") if number == 4 else float(number)  # noqa: E731
    weights, history, setbacks = learn_in_the_end(tmp_path, bad)
    assert setbacks == 2
    assert [row["step"] for row in history if row.get("skipped")] == [3, 4, 5]
    assert [row.get("reward") for row in history] == [0, 1, 2, 3, None, 5, 6, 7, 8]
    for entry in tmp_path.iterdir():
        if entry.name.startswith("step-00000009"):
            (entry / "state.json").write_text("torn")
    again = learn(tmp_path, bad)
    assert torch.equal(again[0], weights)
    assert again[1] == history
    assert SETBACKS in LASTING


@pytest.mark.parametrize("limit", [0, 3])
def test_setbacks_are_bounded_and_the_last_one_names_the_batch(limit: int, tmp_path: Path) -> None:
    bad = lambda number: float("nan") if number >= 6 - limit else 1.0  # noqa: E731
    said = r"of step 6 is not finite; its batch is in .*step-00000006.*max_setbacks"
    with pytest.raises(UserError, match=said) as e:
        learn_in_the_end(tmp_path, bad, max_setbacks=limit)
    assert not isinstance(e.value, SetBack)
    kept = [path.stem for path in (tmp_path / SETBACKS).glob("*.safetensors")]
    assert sorted(kept) == (["step-00000003", "step-00000006"] if limit else ["step-00000006"])


def test_a_batch_after_which_the_policy_diverges_is_left_out_as_one_that_is_not_finite(tmp_path: Path) -> None:
    """The checkpoint that was written after it, before anyone had sampled, is not gone on from."""
    value = lambda number: float(3 <= number < 6)  # noqa: E731
    far = lambda number, weights: float(weights[1]) < HERE  # noqa: E731
    weights, history, setbacks = learn_in_the_end(tmp_path / "far", value, diverges=far)
    nan = lambda number: float("nan") if number == 3 else value(number)  # noqa: E731
    expected = learn_in_the_end(tmp_path / "nan", nan)
    assert setbacks == 1
    assert torch.equal(weights, expected[0])
    assert [row["step"] for row in history if row.get("skipped")] == [3, 4, 5]
    assert history[6:] == expected[1][6:]
    kept = load_file(tmp_path / "far" / SETBACKS / "step-00000006.safetensors")
    assert kept["micro_batch.0"].tolist() == [1.0, 0.0, 3.0]


@pytest.mark.parametrize("limit", [0, 1])
def test_a_policy_that_diverges_too_often_ends_as_it_was_when_it_was_within(limit: int, tmp_path: Path) -> None:
    """Of three iterations, what the first two learned takes it too far; without the first, the second does."""
    far = lambda number, weights: float(weights[1]) < HERE  # noqa: E731
    weights, history, setbacks = learn_in_the_end(tmp_path, diverges=far, max_setbacks=limit)
    assert setbacks == limit + 1
    assert torch.equal(weights, torch.ones(3))
    assert [row.get("skipped") for row in history] == [1.0] * ITERATION * limit
    assert json.loads((tmp_path / SETBACKS / "setbacks.json").read_text()) == [
        {"batch": ITERATION * number, "why": "diverged"} for number in range(limit + 1)
    ]
    assert not [path for path in tmp_path.glob("step-*") if int(path.name[5:]) > ITERATION * limit]


@pytest.mark.parametrize("damaged", ["", "[", "[1]", '[{"batch": 3}]', '{"batch": 3}'])
def test_a_damaged_record_of_setbacks_is_named(damaged: str, tmp_path: Path) -> None:
    (tmp_path / SETBACKS).mkdir()
    (tmp_path / SETBACKS / "setbacks.json").write_text(damaged)
    with pytest.raises(DataError, match=r"setbacks\.json is damaged"):
        learn(tmp_path)


def test_a_batch_that_was_left_out_is_not_blamed(tmp_path: Path) -> None:
    """The second iteration was; so it is the first that took the policy where the third finds it."""
    nan = lambda number: float("nan") if number == 4 else 1.0  # noqa: E731
    far = lambda number, weights: number == 6 and float(weights[1]) < HERE  # noqa: E731
    weights, history, setbacks = learn_in_the_end(tmp_path, nan, diverges=far)
    assert setbacks == 3
    assert [row["step"] for row in history if "skipped" not in row] == [6, 7, 8]
    assert weights[1] < HERE


class Signalled(Written):
    """Sends this process a signal after a step."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__()
        self._number, self._step = number, step

    def progress(self, done: int, total: int, label: str = "") -> None:
        if done == self._step + 1:
            os.kill(os.getpid(), self._number)


def leave(number: int, frame: object) -> None:
    raise SystemExit(22)


@pytest.fixture
def handled() -> Iterator[None]:
    """Signals as a stage takes them, whatever runs the tests."""
    taken = {signal.SIGTERM: leave, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in taken.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", range(TOTAL))
def test_a_signal_waits_for_the_next_checkpoint_and_loses_nothing(number: int, step: int, tmp_path: Path) -> None:
    """At whichever step it comes: the iteration is finished, and the next process goes on after it."""
    recorder = Signalled(number, step)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        learn(tmp_path / "left", recorder=recorder, checkpoint_every=99)
    assert signal.getsignal(signal.SIGTERM) is leave
    end = (step // ITERATION + 1) * ITERATION
    assert [row["step"] for row in recorder.rows] == list(range(end))
    rest = Written()
    weights, history = learn(tmp_path / "left", recorder=rest, checkpoint_every=99)
    assert [row["step"] for row in rest.rows] == list(range(end, TOTAL))
    expected = learn(tmp_path / "whole")
    assert torch.equal(weights, expected[0])
    assert history == expected[1]


@pytest.mark.usefixtures("handled")
def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    class Impatient(Written):
        def log(self, step: int, values: dict[str, float]) -> None:
            super().log(step, values)
            os.kill(os.getpid(), signal.SIGINT)

    recorder = Impatient()
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, recorder=recorder)
    assert len(recorder.rows) == 2


def test_checkpoints_are_as_far_apart_as_they_should_be_where_iterations_are_longer(tmp_path: Path) -> None:
    """Every 4 steps, of which each third can be resumed after: not after the twelfth alone."""
    learn(tmp_path, checkpoint_every=4)
    assert [json.loads(path.read_text())["step"] for path in tmp_path.glob("step-*/state.json")] == [6]


def test_a_checkpoint_whose_removal_was_broken_off_is_not_taken_for_one(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    Checkpoints(tmp_path).save(1, model, optimizer, [])
    for name in ("MANIFEST.json", "weights.safetensors"):
        (tmp_path / "step-00000001" / name).unlink()
    assert Checkpoints(tmp_path).restore(model, optimizer) == (0, [])
