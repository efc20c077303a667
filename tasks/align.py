"""align: move the SFT policy towards what people prefer, by the algorithm that is named on the command line."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.algorithms.actor_critic import ActorCritic
from rlhf.algorithms.dpo import Dpo, reference_log_probs
from rlhf.algorithms.gdpo_belief import GdpoBelief
from rlhf.algorithms.gr_dpo import GroupRobustDpo
from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.ipo import Ipo
from rlhf.algorithms.kto import Judged, Kto, kto_steps, mismatched
from rlhf.algorithms.online import OnlineAlgorithm
from rlhf.algorithms.ppo import Ppo
from rlhf.algorithms.rankings import ranking_steps
from rlhf.algorithms.reinforce import Reinforce
from rlhf.algorithms.rloo import Rloo
from rlhf.algorithms.source import OnlineSource
from rlhf.algorithms.supervised import pack
from rlhf.batching.beliefs import encode_conditioned
from rlhf.batching.encoding import Turn, encode_ended, encode_prompts
from rlhf.batching.rankings import Rankings
from rlhf.config.training import LoopConfig, LoraConfig
from rlhf.data.ids import prompt_hash
from rlhf.data.rows import read_judgements, read_rows
from rlhf.errors import DataError
from rlhf.models.cached import arithmetic, cached
from rlhf.models.loading import load_policy, load_reward_model, load_tokenizer, save_model
from rlhf.models.lora import AdapterOff, adapt
from rlhf.models.recomputation import recompute_layers
from rlhf.models.scoring import turn_log_probs
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.rollouts.engine import sampler
from rlhf.rollouts.rewards import Rewards
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.curves import first_learned, in_words, of_training, tail_mean, write_curves
from rlhf.training.learner import make_accelerator
from rlhf.training.loop import train
from rlhf.training.noise import gradient_noise
from rlhf.training.snapshots import Snapshots
from rlhf.training.step import Step, Steps
from tasks.tables import read_groups, read_rankings, read_thumbs

Curves = list[dict[str, float]]
Outcome = tuple[Curves, dict[str, Any], str]  # curves, metrics, the stage's line


@dataclass(frozen=True)
class Run:
    """The stage, and the policy that it trains."""

    stage: Stage
    tokenizer: PreTrainedTokenizerBase
    policy: PreTrainedModel

    @property
    def config(self) -> Any:
        """The algorithm's own section."""
        return getattr(self.stage.config.align, str(self.stage.item))

    @property
    def seed(self) -> int:
        """Of everything random in the algorithm."""
        return self.stage.seed + int(self.stage.config.align.seed)

    @property
    def lora(self) -> LoraConfig | None:
        """The adapter in which the policy learns, and a separate critic."""
        return self.stage.config.align.lora

    @property
    def criteria(self) -> dict[str, float]:
        """By which answers are judged, with the weight of each."""
        return dict(self.stage.config.reward.criteria)

    def reference(self) -> AbstractContextManager[PreTrainedModel]:
        """SFT to the online algorithms: the policy without its adapter, or where it has none, a model of its own."""
        return AdapterOff(self.policy) if self.lora else nullcontext(load_policy(self.stage.input("models/sft")))

    def reward(self) -> Rewards:
        """What answers are worth to the online algorithms."""
        return Rewards.load(self.stage.input("models/reward"), self.criteria, self.stage.config.reward.combine)

    def critic(self) -> PreTrainedModel:
        """The start of a separate critic: the reward model of the first criterion."""
        model = load_reward_model(self.stage.input(f"models/reward/{next(iter(self.criteria))}"))
        return adapt(model, self.lora, self.seed)

    def noise(self, objective: nn.Module, steps: Iterable[Step]) -> dict[str, Any]:
        """A metric: the noise of the gradient at the untrained policy, of the first `align.noise_steps` of `steps`."""
        wanted = self.stage.config.align.noise_steps
        if not wanted:
            return {}
        if self.config.loop.gradient_checkpointing:
            recompute_layers(objective)
        with self.stage.aside():
            found = gradient_noise(objective, self.policy, islice(steps, wanted))
        return {"gradient_noise": asdict(found)} if found else {}

    def train(self, objective: nn.Module, steps: Steps, total: int, loop: LoopConfig) -> Curves:
        """The loop, with this stage's checkpoints, snapshots and journal."""
        kept, wanted = Checkpoints(self.stage.work), self.stage.config.align.snapshots
        snapshots = Snapshots(self.policy, self.stage.work / "snapshots", count=wanted, total_steps=total)
        steps = snapshots.on_the_way(steps)
        history = train(objective, steps, total_steps=total, config=loop, checkpoints=kept, recorder=self.stage)
        snapshots.copy_to(self.stage.output(f"models/snapshots/{self.stage.item}"), end=len(history))
        return history


ONLINE: dict[str, Callable[[Run], OnlineAlgorithm]] = {
    "reinforce": lambda run: Reinforce(run.policy, run.config),
    "rloo": lambda run: Rloo(run.policy, run.config),
    "actor_critic": lambda run: ActorCritic(run.policy, run.critic(), run.config),
    "ppo": lambda run: Ppo(run.policy, run.critic() if run.config.critic == "separate" else None, run.config),
    "grpo": lambda run: Grpo(run.policy, run.config, max_tokens=run.stage.config.tokens.response),
}
ON_RANKINGS = {"dpo": Dpo, "ipo": Ipo}


def main(stage: Stage) -> None:
    """Write models/policy/<algorithm> and models/snapshots/<algorithm>."""
    sft = stage.input("models/sft")
    run = Run(stage, load_tokenizer(sft), load_policy(sft))
    adapt(run.policy, run.lora, run.seed)
    learn = next(learn for learn, names in LEARNERS if stage.item in names)
    history, values, summary = learn(run)
    save_model(
        run.policy,
        run.tokenizer,
        stage.output(f"models/policy/{stage.item}"),
        title=f"Policy aligned by {stage.item}",
        summary="Aligned with human feedback from the SFT policy.",
    )
    write_curves(stage.output(f"reports/align/{stage.item}/curves.csv"), history)
    stage.metrics(of_training(history) | values)
    stage.summary(summary + in_words(history))


def learn_online(run: Run) -> Outcome:
    """From answers to prompts of the train split, which the reward models judge."""
    stage, tokens, config = run.stage, run.stage.config.tokens, run.config
    rows = read_rows(stage.input("data/clean"), "prompts", "train")
    encoded = encode_prompts(run.tokenizer, (row["prompt"] for row in rows))
    prompts = encoded.where(encoded.lengths <= tokens.prompt)
    if not prompts:
        raise DataError(
            f"No prompt to sample for: {len(encoded)} in the train split, all longer than {tokens.prompt} tokens"
        )
    algorithm = ONLINE[str(stage.item)](run)
    source = OnlineSource(
        algorithm,
        run.reference(),
        sampler(stage.config.decoding, stage.input("models/sft"), tokens, config.rollout.batch_size),
        run.reward(),
        prompts,
        config,
        max_tokens=tokens.response,
        eos=run.tokenizer.eos_token_id,
        seed=run.seed,
        text=pretraining_text(run) if getattr(config, "pretraining_coefficient", 0.0) else [],
    )
    noise = run.noise(algorithm, map(source.whole, count()))
    history = run.train(algorithm, source.steps, source.total_steps, config.loop)
    first = first_learned(history)
    judged = [name for name in first if name.startswith("reward")]
    values = {name: tail_mean(history, name) for name in (*judged, "kl", "length")}
    done = len(history) // source.steps_an_iteration
    stopped = "" if len(history) == source.total_steps else f", ended by max_kl after {done} iterations"
    reward = f"reward {first['reward']:.2f} to {values['reward']:.2f}"
    return (
        history,
        values | noise | {"too_long": len(encoded) - len(prompts)},
        f"{reward}, KL {values['kl']:.1f} nats a sequence{stopped}",
    )


def pretraining_text(run: Run) -> list[Turn]:
    """Blocks of plain text for the pretraining mix."""
    texts = read_rows(run.stage.input("data/clean"), "texts", "train")
    if not texts:
        raise DataError(
            f"align.{run.stage.item}.pretraining_coefficient is above 0, but data/clean has no texts. "
            "Set it to 0, or add a text source to collect.sources"
        )
    documents = encode_ended(run.tokenizer, (row["text"] for row in texts))
    return pack(documents, run.stage.config.tokens.prompt + run.stage.config.tokens.response)


def learn_from_rankings(run: Run) -> Outcome:
    """From rankings of the train split."""
    groups, _, too_long = read_rankings(run.stage, run.tokenizer, "train", run.criteria)
    algorithm = ON_RANKINGS[str(run.stage.item)]
    return prefer(run, groups, too_long, lambda reference: algorithm(run.policy, reference, run.config))


def learn_from_groups(run: Run) -> Outcome:
    """From rankings of the train split, with the groups of people who made them."""
    rankings, rows, too_long = read_rankings(run.stage, run.tokenizer, "train", run.criteria)
    names = read_groups(run.stage, "train", run.criteria, rows)
    counts = Counter(names)
    if len(counts) == 1:
        raise DataError(
            "gr_dpo weighs groups of people against each other, and all rankings of the train split are of "
            f"{names[0]}. Give the judgements a column `group`, set label.group to null, or use dpo"
        )
    few = [name for name, count in counts.items() if count * run.config.loop.batch_size < len(names)]
    if few:
        raise DataError(
            f"gr_dpo estimates what a group loses in each step, and {', '.join(few)} would have less than one of its "
            f"{run.config.loop.batch_size} rankings on average. Raise align.gr_dpo.loop.batch_size, or put small "
            "groups together in the column `group`"
        )
    history, values, line = prefer(
        run,
        rankings,
        too_long,
        lambda reference: GroupRobustDpo(run.policy, reference, names, run.config),
        GroupRobustDpo.weighing,
    )
    weights = {name: tail_mean(history, f"weight/{name}") for name in sorted(counts)}
    groups = {name: {"rankings": counts[name], "weight": weight} for name, weight in weights.items()}
    line += ", weights " + ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    return history, values | {"groups": groups}, line


def learn_with_beliefs(run: Run) -> Outcome:
    """From rankings of the train split and from what people who were asked about the same prompts believe."""
    rows = read_rows(run.stage.input("data/judgements"), "beliefs", "train")
    beliefs = {prompt_hash(row["prompt"]): row for row in rows}
    judged = read_judgements(run.stage.input("data/judgements"), "rankings", "train", run.criteria)
    asked = ((row, beliefs.get(prompt_hash(row["prompt"]))) for row in judged)
    groups, polls, too_long = encode_conditioned(run.tokenizer, asked, run.stage.config.tokens)
    if groups and not any(polls):
        raise DataError(
            f"GDPO calibrates a policy to what people believe, and data/judgements has {len(beliefs)} beliefs, none of "
            "which an answer that was ranked states. Add a source of the table `beliefs` to collect.sources"
        )
    history, values, line = prefer(
        run, groups, too_long, lambda reference: GdpoBelief(run.policy, reference, polls, run.config)
    )
    calibrated = tail_mean(history, "calibration")
    found = {"calibration": calibrated, "polled": sum(poll is not None for poll in polls), "polls": len(beliefs)}
    return history, values | found, f"{line}, KL(p* || pi) of beliefs {calibrated:.2f}"


def prefer(
    run: Run,
    groups: Rankings,
    too_long: int,
    objective: Callable[[Tensor], nn.Module],
    pace: Callable[[Any, Steps], Steps] = lambda _, steps: steps,
) -> Outcome:
    """Train an objective of rankings that compares with the reference, in steps at the `pace` of the objective."""
    config = run.config
    if not groups:
        raise DataError(f"No ranking to learn from: data/judgements has none that fits ({too_long} answers too long)")
    reference = by_reference(run, reference_log_probs, groups, ids=groups.arrays())
    steps, total = ranking_steps(groups, config.loop, epochs=config.epochs, seed=run.seed)
    trained = objective(reference)
    steps = pace(trained, steps)
    noise = run.noise(trained, steps(0))
    history = run.train(trained, steps, total, config.loop)
    ends = [name for name in ("chosen_reward", "rejected_reward") if name in first_learned(history)]
    values = {name: tail_mean(history, name) for name in ("accuracy", "margin", *ends)}
    loss = f"loss {tail_mean(history, 'loss'):.3f}"
    line = f"{loss}, accuracy {values['accuracy']:.1%}, margin {values['margin']:.2f}"
    return history, values | noise | {"too_long": too_long}, line


def learn_from_thumbs(run: Run) -> Outcome:
    """From answers of the train split that were judged one by one."""
    stage, config = run.stage, run.config
    judged, up = read_thumbs(stage, run.tokenizer, run.criteria)
    fits = judged.fit(stage.config.tokens)
    turns = judged.where(fits)
    fitting = [Judged(turn, thumb) for turn, thumb in zip(turns, up[fits].tolist(), strict=True)]
    if len({row.up for row in fitting}) < 2:
        raise DataError(
            f"KTO learns from thumbs up and thumbs down, and data/judgements has {len(fitting)} that fit, "
            "not both kinds among them"
        )
    others, score = mismatched(fitting, run.seed), partial(by_reference, run, turn_log_probs, ids=turns.arrays())
    reference = torch.stack([score(turns), score(others, mismatched=run.seed)])
    steps, total = kto_steps(run.policy, fitting, others, reference, config, seed=run.seed)
    objective = Kto(run.policy, config)
    noise = run.noise(objective, steps(0))
    history = run.train(objective, steps, total, config.loop)
    values = {name: tail_mean(history, name) for name in ("kl", "up_reward", "down_reward")}
    line = (
        f"loss {tail_mean(history, 'loss'):.3f}, reward {values['up_reward']:.2f} up, {values['down_reward']:.2f} down"
    )
    return history, values | noise | {"too_long": len(judged) - len(fitting)}, line


def by_reference(
    run: Run, score: Callable[[PreTrainedModel, Any, int], Tensor], rows: Sequence[Any], **rows_are: Any
) -> Tensor:
    """What `score` gives of `rows` by the reference, which the policy still is: once for all who compare with it."""
    size = run.config.loop.micro_batch_size
    with make_accelerator().autocast():  # what is learned is compared with it
        path = run.stage.kept(
            score,
            model=run.stage.inputs["models/sft"],
            arithmetic=arithmetic(run.policy),
            micro_batch_size=size,
            **rows_are,
        )
        return cached(path, lambda: {"log_probs": score(run.policy, rows, size)})["log_probs"]


LEARNERS: list[tuple[Callable[[Run], Outcome], Collection[str]]] = [
    (learn_online, ONLINE),
    (learn_from_rankings, ON_RANKINGS),
    (learn_from_groups, {"gr_dpo"}),
    (learn_with_beliefs, {"gdpo_belief"}),
    (learn_from_thumbs, {"kto"}),
]

if __name__ == "__main__":
    run_stage(main)
