"""The loop: when it reads what it measured changes nothing, and a step that is not finite does no harm."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlhf.algorithms.supervised import LikelihoodObjective, supervised_steps
from rlhf.errors import UserError
from rlhf.training import loop as training
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import Step, train
from tests.algorithms.tiny import Silent, loop, tiny_policy, turns


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


class Line(nn.Module):
    """A loss whose gradient is what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(3))

    def forward(self, given: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        return (given * self.weights).sum(), {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_named_and_changes_nothing(
    value: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "read_every", lambda device: 10)
    given = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, value, 3.0])]
    ended = []
    for steps in (1, 2):
        objective, recorder = Line(), Written()
        with pytest.raises(UserError, match="of step 1 is not finite") if steps == 2 else nullcontext():
            train(
                objective,
                lambda start, steps=steps: (Step([rows], count=1.0) for rows in given[:steps]),
                total_steps=9,
                config=loop(checkpoint_every=99),
                checkpoints=Checkpoints(tmp_path),
                recorder=recorder,
            )
        assert [row["step"] for row in recorder.rows] == [0]
        ended.append(objective.weights.detach())
    assert torch.equal(*ended)
    assert not torch.equal(ended[0], torch.ones(3))


def test_a_checkpoint_whose_removal_was_broken_off_is_not_taken_for_one(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    Checkpoints(tmp_path).save(1, model, optimizer, [])
    for name in ("MANIFEST.json", "weights.safetensors"):
        (tmp_path / "step-00000001" / name).unlink()
    assert Checkpoints(tmp_path).restore(model, optimizer) == (0, [])
