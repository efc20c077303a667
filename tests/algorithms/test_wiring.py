"""Every coefficient reaches its term with its sign: losses and credits of a world that is worked out by hand.

Two prompts of one token are answered with three tokens each. For policy and critic only the token before counts, so a
table holds all that they say: most policies here give each token of the answers the same probability p.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf.algorithms.actor_critic import ActorCritic
from rlhf.algorithms.dpo import Dpo
from rlhf.algorithms.gdpo_belief import GdpoBelief
from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.kto import Judged, Kto, kto_steps, mismatched
from rlhf.algorithms.online import Experience, MicroBatch, OnlineAlgorithm, Rollouts
from rlhf.algorithms.ppo import Ppo
from rlhf.algorithms.reinforce import Reinforce
from rlhf.algorithms.source import OnlineSource
from rlhf.batching.batches import RankedTurns, SequenceBatch, pad, pad_rankings
from rlhf.batching.beliefs import Poll
from rlhf.batching.encoding import Turn
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sample, Sampler, sample
from tests.algorithms.enumerable import PROMPTS, Table, settings
from tests.algorithms.tiny import PARAMS, loop, talkative_policy, tiny_policy

WORDS = PROMPTS  # tokens: 0 to 4
ANSWERS = {0: [1, 2, 3], 4: [2, 3, 1]}  # by prompt
TURNS = [Turn([prompt], answer) for prompt, answer in ANSWERS.items()]
NEXT = [1, 2, 3, 1, 2]  # what follows each token in them
BATCH = pad(TURNS)
TEXT = [Turn([0], [1, 2]), Turn([3], [4])]  # of its three tokens, the last is none of NEXT


class Bigram(Table):
    """A policy whose logits, or a critic whose values, are a row of a table for each token that may stand before."""

    def base_model(self, *, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(input_ids, WORDS).float())


def speaker(p: float = 1 / WORDS) -> Any:
    """A policy that says NEXT with probability p, and all else alike; uniform, unless p is given."""
    rows = torch.full((WORDS, WORDS), (1 - p) / (WORDS - 1))
    rows[torch.arange(WORDS), NEXT] = p
    return Bigram(rows.log())


def critic(*values: float) -> Any:
    """Gives a state the value of the token that it ends with; 0, unless values are given."""
    return Bigram(torch.tensor(values or [0.0] * WORDS)[:, None])


def tokens(first: list[float], second: list[float]) -> Tensor:
    """(B, T) of what belongs to the tokens of the two answers."""
    return torch.tensor([[0.0, *first], [0.0, *second]])


def two(name: str, beta: float = 0.0, **changes: Any) -> Any:
    """The section of an algorithm that learns from both answers at once; of PPO the surrogate alone, unless asked."""
    flat = {"kl_placement": "reward", "kl_target": None, "whiten_advantages": False, "discount": 1.0, "gae_lambda": 1.0}
    terms = dict.fromkeys(("value_coefficient", "entropy_coefficient", "pretraining_coefficient"), 0.0)
    return settings(name, beta, prompts=2, answers=1, **(flat | terms if name == "ppo" else {}) | changes)


def micro_batch(**of_tokens: Tensor) -> MicroBatch:
    nothing = {name: tokens([0.0] * 3, [0.0] * 3) for name in ("advantages", "returns", "values", "reference")}
    return MicroBatch(Experience(BATCH, nothing | {"log_probs": BATCH.mask * math.log(0.6)} | of_tokens), first=False)


def source(
    algorithm: OnlineAlgorithm,
    config: Any,
    *,
    scores: tuple[float, float] = (0.0, 0.0),
    draw: Sampler | None = None,
    reference: Any = None,
    text: Sequence[Turn] = (),
    seed: int = 0,
) -> OnlineSource:
    """Rollouts of the two prompts, with the scores of their answers; the reference is uniform, unless given."""

    def judge(batch: SequenceBatch) -> Tensor:
        return torch.where(batch.ids[:, 0] == 0, *scores)

    return OnlineSource(
        algorithm,
        nullcontext(reference or speaker()),
        draw or drawing(),
        Rewards({"overall": judge}, {"overall": 1.0}, "raw"),
        [[prompt] for prompt in ANSWERS],
        config,
        max_tokens=3,
        eos=1,
        seed=seed,
        text=text,
    )


def drawing(unfinished: int | None = None) -> Sampler:
    """Answers every prompt as ANSWERS says; the answer to `unfinished` did not end."""

    def draw(policy: Any, prompts: list[list[int]], *, temperature: float, **_: Any) -> list[Sample]:
        assert temperature == 1.0
        turns = [(prompt, ANSWERS[prompt]) for (prompt,) in prompts]
        log_probs = policy.log_probs().detach()
        of_answer = [log_probs[[prompt, *answer[:-1]], answer].tolist() for prompt, answer in turns]
        return [Sample(a, p != unfinished, of) for (p, a), of in zip(turns, of_answer, strict=True)]

    return draw


# Rewards of the tokens, with beta 0.5: -1, 0, 4 and 0, -1, 0. Values of their states: 2, 1, 3 and 0.5, 3, -1.
ROLLOUTS = Rollouts(
    batch=BATCH,
    parts=[(torch.tensor([row]), BATCH.rows(torch.tensor([row]))) for row in (1, 0)],
    answers=1,
    scores=torch.tensor([3.0, 2.0]),
    log_probs=tokens([-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]),
    reference=tokens([-3.0, -2.0, -1.0], [-1.0, -3.0, -5.0]),
)
VALUES = (2.0, 1.0, 3.0, -1.0, 0.5)
RETURNS = tokens([2.24, 3.6, 4.0], [-0.9, -1.0, 0.0])  # with gamma 0.9: -1 + 0.9 * 3.6, 0.9 * 4, 4; 0 - 0.9, -1, 0

VALUED = tokens([2.0, 1.0, 3.0], [0.5, 3.0, -1.0])
# delta: -1 + 0.9 - 2, 0 + 2.7 - 1, 4 - 3; and 0 + 2.7 - 0.5, -1 - 0.9 - 3, 0 + 1. gamma lambda is 0.45.
GENERALIZED = tokens([-2.1 + 0.45 * 2.15, 1.7 + 0.45, 1.0], [2.2 - 0.45 * 4.45, -4.9 + 0.45, 1.0])


def agree(found: Tensor, expected: Tensor | float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-6, atol=2e-6)


def test_credit_of_ppo() -> None:
    config = two("ppo", 0.5, discount=0.9, gae_lambda=0.5)
    found = Ppo(speaker(), critic(*VALUES), config).credit(ROLLOUTS)
    agree(found["advantages"], GENERALIZED)
    agree(found["values"], VALUED)
    agree(found["returns"], GENERALIZED + VALUED)
    white = Ppo(speaker(), critic(*VALUES), config.model_copy(update={"whiten_advantages": True}))
    counted = GENERALIZED[BATCH.mask]
    expected = (counted - counted.mean()) / counted.std(correction=0)
    agree(white.credit(ROLLOUTS)["advantages"][BATCH.mask], expected)


def test_credit_of_the_policy_gradients() -> None:
    config = two("actor_critic", 0.5, discount=0.9)
    found = ActorCritic(speaker(), critic(*VALUES), config).credit(ROLLOUTS)
    agree(found["returns"], RETURNS)
    agree(found["advantages"], tokens([0.24, 2.6, 1.0], [-1.4, -4.0, 1.0]))
    config = two("actor_critic", 0.5, discount=0.9, gae_lambda=0.5)
    found = ActorCritic(speaker(), critic(*VALUES), config).credit(ROLLOUTS)
    agree(found["advantages"], GENERALIZED)
    agree(found["returns"], GENERALIZED + VALUED)
    for baseline, mean in (("none", 0.0), ("batch", 0.67)):  # (2.24 - 0.9) / 2
        config = two("reinforce", 0.5, discount=0.9, baseline=baseline)
        found = Reinforce(speaker(), config).credit(ROLLOUTS)
        agree(found["returns"], RETURNS)
        agree(found["advantages"], (RETURNS - mean) * BATCH.mask)
        whole = Reinforce(speaker(), config.model_copy(update={"credit": "trajectory"})).credit(ROLLOUTS)
        agree(whole["returns"], tokens([2.24] * 3, [-0.9] * 3))
        agree(whole["advantages"], tokens([2.24 - mean] * 3, [-0.9 - mean] * 3))


# Ratios on both sides of every limit; the policy gives each token 0.6.
RATIOS = tokens([1.5, 0.5, 1.3], [1.5, 0.5, 0.9])
MOVED = {
    "log_probs": (math.log(0.6) - RATIOS.log()).masked_fill(~BATCH.mask, 0.0),
    "advantages": tokens([2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]),
}


def test_ppo_clips_ratio_and_value_each_by_its_own_limit() -> None:
    """The critic says 0, and said the old values, from which it may move by 0.5: to 0.5, -0.5, 0, 0, 0, -1.5."""
    values, returns = tokens([1.0, -1.0, 0.3], [0.0, 0.2, -2.0]), tokens([-1.0, -1.0, 1.0], [1.0, 0.5, -1.0])
    surrogate = -1.2 * 2 - 0.5 * 2 - 1.2 * 2 + 1.5 + 0.8 + 0.9
    value_loss = 0.5 * (1.5**2 + 1.0 + 1.0 + 1.0 + 0.5**2 + 1.0)
    algorithm = Ppo(speaker(0.6), critic(), two("ppo", clip=0.2, value_clip=0.5, value_coefficient=0.4))
    loss, metrics = algorithm(micro_batch(values=values, returns=returns, **MOVED))
    agree(loss, surrogate + 0.4 * value_loss)
    agree(metrics["value_loss"][0], value_loss)
    assert metrics["clip_share"] == (5, 6)


@pytest.mark.parametrize(("mean_over", "over", "count"), [("token", 1, 6), ("answer", 3, 2), ("constant", 4, 2)])
def test_grpo_has_another_limit_above_one(mean_over: str, over: int, count: float) -> None:
    """Answers have three tokens, of four allowed; the loss is a sum, of which the step takes the mean over `count`."""
    changes = {"mean_over": mean_over, "clip": 0.2, "clip_high": 0.4}
    algorithm = Grpo(speaker(0.6), settings("grpo", 0.0, prompts=2, answers=2, steps=2, **changes), max_tokens=4)
    loss, metrics = algorithm(micro_batch(**MOVED))
    agree(loss, (-1.4 * 2 - 0.5 * 2 - 1.3 * 2 + 1.5 + 0.8 + 0.9) / over)
    assert algorithm.count(BATCH) == count
    assert metrics["clip_share"] == (4, 6)


@pytest.mark.parametrize("coefficient", [0.1, 0.3])
def test_ppo_is_rewarded_for_entropy(coefficient: float) -> None:
    """Each of six tokens was one of five: one of probability 0.6, four of 0.1."""
    entropy = -6 * (0.6 * math.log(0.6) + 0.4 * math.log(0.1))
    sections = (two("ppo", entropy_coefficient=c) for c in (coefficient, 0.0))
    with_it, without = (Ppo(speaker(0.6), critic(), section)(micro_batch())[0] for section in sections)
    agree(with_it - without, -coefficient * entropy)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_ppo_learns_text_beside_its_answers(micro_batch_size: int) -> None:
    """gamma times the mean over three tokens of text, times the six tokens of answers that the loss is a mean over."""
    of_loop = loop(batch_size=2, micro_batch_size=micro_batch_size)
    config = two("ppo", pretraining_coefficient=0.7, loop=of_loop)
    algorithm = Ppo(speaker(0.6), critic(), config)
    step = next(source(algorithm, config, text=TEXT).steps(0))
    assert step.count == 6
    mixed = sum(algorithm(m)[0] - algorithm(replace(m, text=None))[0] for m in step.micro_batches)
    agree(mixed, 0.7 * 6 * -(2 * math.log(0.6) + math.log(0.1)) / 3)


@pytest.mark.parametrize(
    ("placement", "nats", "expected"),
    [("reward", 12, (0.5, 0.52, 0.4992)), ("k1", 6, (0.52, 0.4992, 0.479232))],
)
def test_beta_rises_above_the_target_and_falls_below_it(placement: str, nats: int, expected: tuple[float, ...]) -> None:
    """An answer of three tokens diverges by 3 log 5p, which is 3.3 and then 1.2; the target is 2.

    In the reward an iteration is penalised with what the one before it made of beta; in the loss with its own. Scores
    and values are 0, so the loss is beta times the divergence: in the reward a token's holds what follows it too.
    """
    config = two("ppo", 0.5, kl_placement=placement, kl_target=2.0, kl_horizon=10)
    algorithm = Ppo(speaker(), critic(), config)
    steps, found, logged = source(algorithm, config).steps(0), [], []
    for p in (0.6, 0.3, 0.3):
        algorithm.policy.load_state_dict(speaker(p).state_dict())
        (each,) = next(steps).micro_batches
        loss, metrics = algorithm(each)
        found.append(float(loss.detach()) / (nats * math.log(5 * p)))
        logged.append(metrics["kl_coefficient"])
    assert found == pytest.approx(expected, rel=3e-6)
    assert [float(used / count) for used, count in logged] == pytest.approx(expected, rel=1e-9)


def test_an_answer_that_did_not_end_is_worth_less() -> None:
    config = two("reinforce", baseline="none", discount=1.0, missing_eos_penalty=0.75)
    algorithm = Reinforce(speaker(), config)
    experience, metrics = source(algorithm, config, scores=(2.0, 3.0), draw=drawing(unfinished=4)).collect(0)
    found = dict(zip(experience.batch.ids[:, 0].tolist(), experience["advantages"][:, 1:].tolist(), strict=True))
    assert found == {0: [2.0] * 3, 4: [2.25] * 3}
    assert metrics["reward"] == 2.5
    assert metrics["unfinished"] == 0.5


def test_every_iteration_draws_by_a_seed_of_its_own() -> None:
    """Which it draws by again when it is begun anew."""
    config, seeds, draw = two("reinforce", baseline="none", discount=1.0), list[int](), drawing()

    def watched(*arguments: Any, seed: int, **named: Any) -> list[Sample]:
        seeds.append(seed)
        return draw(*arguments, **named)

    for own in (0, 1):
        rollouts = source(Reinforce(speaker(), config), config, draw=watched, seed=own)
        for iteration in (0, 1, 0):
            rollouts.collect(iteration)
    first, second, again = seeds[:3]
    assert first == again
    assert len({first, second, *seeds[3:]}) == 4


def test_answers_are_scored_at_the_temperature_that_they_were_sampled_at() -> None:
    """By policy and reference, and by the loss."""
    config = two("reinforce", baseline="none", discount=1.0)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"temperature": 0.7})})
    policy, reference = talkative_policy(), talkative_policy(1)
    algorithm, sampler = Reinforce(policy, config), partial(sample, batch_size=2)
    made = source(algorithm, config, scores=(2.0, -1.0), draw=sampler, reference=reference)
    experience, metrics = made.collect(0)
    (each,) = next(made.steps(0)).micro_batches
    batch = experience.batch

    def by_hand(model: Any) -> Tensor:
        with torch.no_grad():
            logits = torch.cat([model(ids[None, :-1]).logits / 0.7 for ids in batch.ids])
        chosen = logits.log_softmax(dim=-1).gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
        return torch.nn.functional.pad(chosen, (1, 0)).masked_fill(~batch.mask, 0.0)

    for name, model in (("log_probs", policy), ("reference", reference)):
        torch.testing.assert_close(experience[name], by_hand(model), rtol=1e-6, atol=1e-5)
    assert metrics["sampler_gap"] < 1e-5
    scores = torch.where(batch.ids[:, 0] == 0, 2.0, -1.0)
    torch.testing.assert_close(algorithm(each)[0], -(scores @ by_hand(policy).sum(dim=1)), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("baseline", ["sequence", "token"])
def test_a_learned_baseline_leaves_the_policy_alone(baseline: str) -> None:
    """Where no answer is better than expected, only the baseline learns."""
    config = two("reinforce", baseline=baseline)
    algorithm = Reinforce(tiny_policy(), config)
    torch.nn.init.ones_(algorithm.baseline.weight)
    algorithm(micro_batch(returns=RETURNS))[0].backward()
    assert all(p.grad is None or not p.grad.any() for p in algorithm.policy.parameters())
    assert algorithm.baseline.weight.grad.any()
    assert algorithm.baseline.bias.grad.any()


def test_actor_critic_weighs_what_its_critic_learns() -> None:
    """Advantages that sum to 2.5, and a critic that says 0."""
    config = two("actor_critic", value_coefficient=0.3)
    algorithm = ActorCritic(speaker(0.6), critic(), config)
    returns = tokens([1.0, 2.0, -1.0], [0.0, 1.0, 3.0])
    loss, _ = algorithm(micro_batch(advantages=tokens([0.0, 1.0, 2.0], [-1.0, 0.5, 0.0]), returns=returns))
    agree(loss, -2.5 * math.log(0.6) + 0.3 * 8.0)


def rankings() -> tuple[list[RankedTurns], Tensor]:
    """Three answers, the second of them best and the third worst; two, the first of them best.

    And the reference of which a uniform policy says: log-ratios of 1, 2, 4 and 0.5, -1.
    """
    three = RankedTurns((Turn([0], [1]), Turn([0], [2, 3]), Turn([0], [4, 4, 1])), (2, 1, 3))
    two = RankedTurns((Turn([4], [1]), Turn([4], [2])), (1, 2))
    log_probs = -math.log(WORDS) * torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 0.0]])
    return [three, two], log_probs - torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 0.0]])


def test_dpo_tells_the_rewards_of_the_best_and_of_the_worst() -> None:
    made, reference = rankings()
    changes = {"beta": 0.2, "label_smoothing": 0.0, "length_normalized": False, "sft_coefficient": 0.0}
    section = PARAMS.align.dpo.model_copy(update=changes)
    loss, metrics = Dpo(speaker(), reference, section)((np.arange(2), pad_rankings(made)))
    margins = [(2.0 - 1.0, 2.0 - 4.0, 1.0 - 4.0), (0.5 + 1.0,)]
    agree(loss, sum(math.log1p(math.exp(-0.2 * m)) / len(row) for row in margins for m in row))
    for name, total in (("chosen_reward", 2.0 + 0.5), ("rejected_reward", 4.0 - 1.0)):
        agree(metrics[name][0], 0.2 * total)
        assert metrics[name][1] == 2


def test_dpo_by_token_and_with_the_likelihood_of_the_best() -> None:
    """Rewards are divided by the lengths of the answers, 1, 2 and 3 and 1 and 1; a token of the best has ln 5."""
    made, reference = rankings()
    changes = {"beta": 0.2, "label_smoothing": 0.0, "length_normalized": True, "sft_coefficient": 0.3}
    section = PARAMS.align.dpo.model_copy(update=changes)
    loss, metrics = Dpo(speaker(), reference, section)((np.arange(2), pad_rankings(made)))
    one, two, three = 1.0, 2.0 / 2, 4.0 / 3
    margins = [(two - one, two - three, one - three), (0.5 + 1.0,)]
    preferred = sum(math.log1p(math.exp(-0.2 * m)) / len(row) for row in margins for m in row)
    agree(loss, preferred + 0.3 * 2 * math.log(WORDS))
    agree(metrics["chosen_reward"][0], 0.2 * (two + 0.5))


def test_gdpo_weighs_calibration() -> None:
    """Three of four people hold what the policy says with 1/5, as the other belief: 3/4 ln 15/4 + 1/4 ln 5/4."""
    made, reference = rankings()
    changes = {"renormalized": False, "smoothing": 0.0, "calibration_coefficient": 7.0}
    section = PARAMS.align.gdpo_belief.model_copy(update=changes)
    polls = [Poll((Turn([0], [1]), Turn([0], [2])), (3, 1)), None]
    batch = (np.arange(2), pad_rankings(made))
    policy = speaker()
    loss, _ = GdpoBelief(policy, reference, polls, section)(batch)
    without, _ = GdpoBelief(policy, reference, [None, None], section)(batch)
    agree(loss - without, 7.0 * (0.75 * math.log(3.75) + 0.25 * math.log(1.25)))


@pytest.mark.parametrize(("others", "point"), [((-3.0, 1.0), 0.0), ((3.0, -1.0), 1.0)])
def test_the_reference_point_of_kto_is_never_negative(others: tuple[float, float], point: float) -> None:
    """Log-ratios of mismatched pairs: their mean, of -1 and of 1, is held at 0. Those of the answers are 1 and -0.5."""
    judged, policy = [Judged(TURNS[0], True), Judged(TURNS[1], False)], speaker()
    changes = {"beta": 0.4, "up_weight": 1.0, "down_weight": 2.0, "epochs": 1.0, "loop": loop(batch_size=2)}
    section = PARAMS.align.kto.model_copy(update=changes)
    reference = -3 * math.log(WORDS) - torch.tensor([[1.0, -0.5], others])
    steps, _ = kto_steps(policy, judged, mismatched(judged, 0), reference, section, seed=0)
    (batch,) = next(steps(0)).micro_batches
    loss, _ = Kto(policy, section)(batch)
    agree(loss, 1 / (1 + math.exp(0.4 * (1.0 - point))) + 2 / (1 + math.exp(0.4 * (point + 0.5))))
