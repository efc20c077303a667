"""What must not change a run: how a step is cut, padded and ordered; of being killed, see test_steps.py."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rlhf.algorithms.actor_critic import ActorCritic
from rlhf.algorithms.dpo import Dpo, reference_log_probs
from rlhf.algorithms.gdpo_belief import GdpoBelief
from rlhf.algorithms.gr_dpo import GroupRobustDpo
from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.ipo import Ipo
from rlhf.algorithms.kto import Judged, Kto, kto_steps, mismatched
from rlhf.algorithms.online import Experience, MicroBatch, OnlineAlgorithm
from rlhf.algorithms.ppo import Ppo
from rlhf.algorithms.rankings import ranking_steps
from rlhf.algorithms.reinforce import Reinforce
from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.rloo import Rloo
from rlhf.algorithms.source import OnlineSource
from rlhf.algorithms.supervised import LikelihoodObjective, pack, supervised_steps
from rlhf.batching.beliefs import Poll
from rlhf.config.training import LoopConfig
from rlhf.models.loading import load_policy, scalar_model_from
from rlhf.models.lora import AdapterOff, adapt, merged_weights
from rlhf.models.scoring import rewards, turn_log_probs
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import sample
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import train
from rlhf.training.noise import gradient_noise
from rlhf.training.snapshots import Snapshots
from rlhf.training.step import Steps
from tests.algorithms.tiny import LORA, PARAMS, Silent, groups, loop, tiny_policy, turns
from tests.conftest import ROOT

Run = tuple[nn.Module, Steps, int, LoopConfig]
ONLINE = {
    "reinforce": {"baseline": "token"},
    "reinforce-sequence": {"baseline": "sequence"},
    "rloo": {},
    "actor_critic": {},
    "ppo": {"entropy_coefficient": 0.01, "pretraining_coefficient": 0.1},
    "ppo-lora": {"entropy_coefficient": 0.01},
    "ppo-head": {"critic": "head", "kl_placement": "k3", "kl_target": 0.01, "kl_horizon": 100},
    "grpo": {},
    "grpo-token": {"mean_over": "token", "normalize": False},
    "grpo-constant": {"mean_over": "constant"},
}
ALGORITHMS = ["sft", "base", "reward", *ONLINE, "dpo", "dpo-lora", "ipo", "gr_dpo", "kto", "gdpo_belief"]
KILLED = ALGORITHMS[0]  # by two_processes.py, in its midst


def make(name: str, sft: Path, config: LoopConfig, **changes: object) -> Run:
    """A fresh run of an algorithm; `changes` are of its section, when it is online."""
    if name == "sft":
        return LikelihoodObjective(tiny_policy()), *supervised_steps(turns(30), config, epochs=2, seed=1), config
    if name == "base":
        blocks = pack([turn.response for turn in turns(60)], 12)
        return LikelihoodObjective(tiny_policy()), *supervised_steps(blocks, config, epochs=1, seed=1), config
    if name in ONLINE:
        return online(name, sft, config, **changes)
    policy = adapt(tiny_policy(), LORA if name == "dpo-lora" else None, 0)
    if name == "kto":
        judged = [Judged(turn, number % 3 > 0) for number, turn in enumerate(turns(40))]
        section = PARAMS.align.kto.model_copy(update={"loop": config, "epochs": 2.0})
        others = mismatched(judged, 1)
        reference = torch.stack([turn_log_probs(policy, t, 4) for t in ([row.turn for row in judged], others)])
        return Kto(policy, section), *kto_steps(policy, judged, others, reference, section, seed=1), config
    ranked = groups(20)
    steps, total = ranking_steps(ranked, config, epochs=2, seed=1)
    if name == "reward":
        return RewardObjective(scalar_model_from(sft, 0), center=0.01), steps, total, config
    reference = reference_log_probs(policy, ranked, 4)
    if name == "ipo":
        return Ipo(policy, reference, PARAMS.align.ipo), steps, total, config
    if name == "gr_dpo":
        objective = GroupRobustDpo(policy, reference, [f"{len(group.ranks)}" for group in ranked], PARAMS.align.gr_dpo)
        return objective, objective.weighing(steps), total, config
    if name == "gdpo_belief":
        polls = [
            Poll(group.answers, (3, 1, 0, 2)[: len(group.ranks)]) if row % 3 else None
            for row, group in enumerate(ranked)
        ]
        return GdpoBelief(policy, reference, polls, PARAMS.align.gdpo_belief), steps, total, config
    section = PARAMS.align.dpo.model_copy(update={"length_normalized": True, "sft_coefficient": 0.5})
    return Dpo(policy, reference, section), steps, total, config


def online(name: str, sft: Path, config: LoopConfig, **changes: object) -> Run:
    """A fresh run of an algorithm that samples as it learns."""
    algorithm, source, config = online_source(name, sft, config, **changes)
    return algorithm, source.steps, source.total_steps, config


def online_source(
    name: str, sft: Path, config: LoopConfig, **changes: object
) -> tuple[OnlineAlgorithm, OnlineSource, LoopConfig]:
    """Three iterations of 16 answers, in one step each where there is no ratio."""
    kind = name.split("-")[0]
    section = getattr(PARAMS.align, kind)
    answers = 4 if kind in ("rloo", "grpo") else 1
    shape = {"prompts": 16 // answers, "answers": answers}
    if kind in ("reinforce", "rloo", "actor_critic"):
        config = config.model_copy(update={"batch_size": 16, "checkpoint_every": 1})
    section = section.model_copy(
        update={"iterations": 3, "loop": config, "rollout": section.rollout.model_copy(update=shape)}
        | ONLINE[name]
        | changes
    )
    lora = LORA if name == "ppo-lora" else None
    policy, critic = (adapt(model, lora, 0) for model in (tiny_policy(), scalar_model_from(sft, 0)))
    algorithm: OnlineAlgorithm = {
        "reinforce": lambda: Reinforce(policy, section),
        "rloo": lambda: Rloo(policy, section),
        "actor_critic": lambda: ActorCritic(policy, critic, section),
        "ppo": lambda: Ppo(policy, critic if section.critic == "separate" else None, section),
        "grpo": lambda: Grpo(policy, section, max_tokens=6),
    }[kind]()
    source = OnlineSource(
        algorithm,
        AdapterOff(policy) if lora else nullcontext(tiny_policy()),
        partial(sample, batch_size=section.rollout.batch_size),
        Rewards({"overall": partial(rewards, scalar_model_from(sft, 0))}, {"overall": 1.0}, "raw"),
        [t.prompt for t in turns(20)],
        section,
        max_tokens=6,
        eos=1,
        seed=1,
        text=turns(30, 5) if name == "ppo" else (),
    )
    return algorithm, source, config


def finish(run: Run, directory: Path) -> dict[str, torch.Tensor]:
    objective, steps, total, config = run
    train(objective, steps, total_steps=total, config=config, checkpoints=Checkpoints(directory), recorder=Silent())
    return {k: v.clone() for k, v in objective.state_dict().items()}


class Killed(Exception):
    pass


class KillAt(Silent):
    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, step: int, values: dict[str, float]) -> None:
        if step == self.step:
            raise Killed


class Watching(KillAt):
    """Keeps the policy's whole weights after every step."""

    def __init__(self, policy: nn.Module, step: int = -1) -> None:
        super().__init__(step)
        self._policy, self.after = policy, dict[int, dict[str, torch.Tensor]]()

    def log(self, step: int, values: dict[str, float]) -> None:
        self.after[step + 1] = {name: value.clone() for name, value in merged_weights(self._policy)}
        super().log(step, values)


@pytest.mark.parametrize("name", ["ppo-head", "ppo-lora", "kto", "gr_dpo"])
def test_what_is_measured_on_the_way_does_not_change_a_run(name: str, sft: Path, tmp_path: Path) -> None:
    """Gradient noise before it and snapshots within it, of a run that is killed and resumed."""
    whole = finish(make(name, sft, loop()), tmp_path / "whole")
    total = make(name, sft, loop())[2]
    for killed_at in (total // 2, -1):
        if name in ONLINE:
            objective, source, config = online_source(name, sft, loop())
            steps, measured = source.steps, map(source.whole, range(3))
        else:
            objective, steps, _, config = make(name, sft, loop())
            measured = islice(steps(0), 3)
        noise = gradient_noise(objective, objective.policy, measured)
        assert noise is not None
        assert noise.variance > 0
        recorder = Watching(objective.policy, killed_at)
        snapshots = Snapshots(objective.policy, tmp_path / "snapshots", count=2, total_steps=total)
        with suppress(Killed):
            train(
                objective,
                snapshots.on_the_way(steps),
                total_steps=total,
                config=config,
                checkpoints=Checkpoints(tmp_path / "killed"),
                recorder=recorder,
            )
    assert all(torch.equal(whole[k], value) for k, value in objective.state_dict().items())
    snapshots.copy_to(tmp_path, end=total)
    last = max(tmp_path.glob("step-*.safetensors"))
    (ended := tmp_path / "ended").mkdir()
    snapshots.copy_to(ended, end=round(total * 2 / 3))
    assert [path.name for path in ended.iterdir()] == [f"step-{round(total / 3):08d}.safetensors"]
    assert [path.stem for path in sorted(tmp_path.glob("step-*"))] == [
        f"step-{round(total * part / 3):08d}" for part in (1, 2)
    ]
    kept, expected = load_file(last), recorder.after[int(last.stem[5:])]
    assert all(torch.equal(value, expected[name]) for name, value in kept.items())


def gradient(name: str, sft: Path, config: LoopConfig) -> torch.Tensor:
    """Gradient of the first step, as one vector."""
    objective, steps, _, _ = make(name, sft, config)
    step = next(steps(0))
    for batch in step.micro_batches:
        (objective(batch)[0] / step.count).backward()
    return torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_micro_batches_do_not_change_the_gradient(name: str, micro_batch_size: int, sft: Path) -> None:
    """The last pieces are narrower too, so this also holds padding."""
    whole, cut = (gradient(name, sft, loop(micro_batch_size=size)) for size in (8, micro_batch_size))
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)


def launch_two(program: str, sft: Path, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of this directory, run by two processes on the CPU."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment
    command = [*launch, "-m", f"tests.algorithms.{program}", str(sft), str(directory)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)


def test_shards_end_where_one_process_does(sft: Path, tmp_path: Path) -> None:
    """FSDP, of runs that were killed and resumed; the saved model loads, and snapshots are whole."""
    done = launch_two("sharded", sft, tmp_path, ACCELERATE_USE_FSDP="true")
    assert done.returncode == 0, done.stderr
    for name in ("sft", "ppo", "gr_dpo"):
        objective, steps, total, config = make(name, sft, loop(micro_batch_size=5))
        snapshots = Snapshots(objective.policy, tmp_path / f"one-{name}", count=1, total_steps=total)
        finish((objective, snapshots.on_the_way(steps), total, config), tmp_path / f"work-one-{name}")
        one, two = objective.policy.state_dict(), load_policy(tmp_path / name).state_dict()
        (kept_one,), (kept_two,) = (list((tmp_path / f"{kind}-{name}").glob("*")) for kind in ("one", "two"))
        assert kept_one.name == kept_two.name
        for found, expected in ((two, one), (load_file(kept_two), load_file(kept_one))):
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_two_processes_end_where_one_does(sft: Path, tmp_path: Path) -> None:
    """Data parallelism on the CPU; a step's micro-batches are shared out, and the last round may lack one.

    One process of the first launch is killed: the other ends too, and a second launch goes on, to the same bits.
    """
    hits = tmp_path / "hits"
    killed = launch_two("two_processes", sft, tmp_path, RLHF_FAILPOINT=f"{hits}:14:kill")
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr, killed.stderr
    assert [path.parent.name for path in tmp_path.glob("work-*/step-*2")] == [f"work-{KILLED}"]
    assert not (tmp_path / f"{KILLED}.safetensors").exists()
    done = launch_two("two_processes", sft, tmp_path)
    assert done.returncode == 0, done.stderr
    resumed, whole = (load_file(tmp_path / f"{KILLED}{kind}.safetensors") for kind in ("", "-whole"))
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    for name in ALGORITHMS:
        one = finish(make(name, sft, loop(micro_batch_size=5)), tmp_path / f"one-{name}")
        two = load_file(tmp_path / f"{name}.safetensors")
        for key, value in one.items():
            torch.testing.assert_close(
                two[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name, k=key: f"{n} {k}: {m}"
            )


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_answers_to_one_prompt_are_learned_side_by_side(name: str, sft: Path) -> None:
    """So that they share it, however the step is cut."""
    _, steps, _, _ = make(name, sft, loop(batch_size=8, micro_batch_size=8))
    for batch in (m.experience.batch for m in next(steps(0)).micro_batches):
        assert torch.unique_consecutive(batch.prompts, return_counts=True)[1].tolist() == [4, 4]


def test_in_one_step_an_iteration_grpo_needs_no_pass_of_an_older_policy(sft: Path) -> None:
    """But for a micro-batch of the first iteration, on which the sampler is tried. The gradient is to the bit that of
    answers scored before; of what their sampler says, the gap alone is told."""
    found, passes = {}, {}
    for epochs in (1, 2):  # with a second pass over the answers, the first of its two steps is this one
        algorithm, source, _ = online_source("grpo", sft, loop(batch_size=16, micro_batch_size=8), epochs=epochs)
        passes[epochs] = [count_calls(algorithm.policy.base_model, partial(source.collect, n)) for n in (1, 0)]
        step = next(source.steps(0))
        totals = [algorithm(aside(micro_batch) if epochs == 1 else micro_batch) for micro_batch in step.micro_batches]
        sum(total for total, _ in totals).backward()
        found[epochs] = torch.cat([p.grad.flatten() for p in algorithm.policy.parameters()])
        gaps = [metrics["sampler_gap"] for _, metrics in totals if "sampler_gap" in metrics]
        gap = sum(float(total) for total, _ in gaps) / sum(float(n) for _, n in gaps) if gaps else None
        assert gap == (pytest.approx(0.25, abs=1e-6) if epochs == 1 else None)
        assert ("sampler_gap" in step.metrics) == (epochs == 2)
    parts = len(step.micro_batches)
    assert [before - now for now, before in zip(passes[1], passes[2], strict=True)] == [parts - 1, parts]
    assert float(found[1].norm()) > 0
    assert torch.equal(found[1], found[2])


def aside(micro_batch: MicroBatch) -> MicroBatch:
    """The same, from a sampler that gives each token another probability than the policy does."""
    old = micro_batch.experience
    return replace(micro_batch, experience=Experience(old.batch, old.tokens | {"log_probs": old["log_probs"] - 0.25}))


def count_calls(module: nn.Module, run: Callable[[], object]) -> int:
    """Forward passes of a module while something runs."""
    calls = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    run()
    handle.remove()
    return len(calls)
