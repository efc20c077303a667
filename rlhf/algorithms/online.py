"""What the online algorithms share: an iteration samples answers, scores them, credits their tokens, and learns.

    R(x, y)   score of the reward models, less a penalty when the answer did not end
    credit    each algorithm's own: advantages, and what else its loss needs, for every token
    learn     `epochs` passes over the iteration's answers, a loss each algorithm's own

Everything random is a function of the seed and the iteration, so training resumes at the end of any iteration.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.batching.batches import SequenceBatch, pad
from rlhf.batching.encoding import Ids, Turn
from rlhf.batching.order import micro_batches, rows_of_step, steps_in
from rlhf.batching.transfer import to_device
from rlhf.config.algorithms import OnlineConfig
from rlhf.models.machine import product_dtype
from rlhf.models.processes import shared_out
from rlhf.models.scoring import TokenScores, token_log_probs
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import token_rewards
from rlhf.objectives.kl import k1
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sampler
from rlhf.training.step import Step

# By the type that products are computed in: of the ratio of an iteration's first minibatch, which is scored twice in
# the same shape; and, in nats a token, between what sampled an answer and what scores it.
_RATIO_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
_SAMPLER_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Answers of one iteration as they were when sampled: G answers of a prompt stand side by side, B in all."""

    batch: SequenceBatch  # on the CPU, as are the tensors
    parts: Sequence[tuple[Tensor, SequenceBatch]]  # of each micro-batch the rows, and these where the policy is
    answers: int  # G
    scores: Tensor  # (B,) R(x, y)
    log_probs: Tensor  # (B, T) by the policy; as they were drawn, where the algorithm has no use for them
    reference: Tensor  # (B, T) log-probabilities by SFT

    def of_each_token(self, function: Callable[[SequenceBatch], Tensor]) -> Tensor:
        """What a function of a batch, (B, T), gives for all answers, a micro-batch at a time."""
        return _of_each_token(function, self.batch, self.parts)

    def penalized(self, kl_coefficient: float) -> Tensor:
        """(B, T) reward of each token: the score on the last one, less beta k1 on every one."""
        kl = k1(self.log_probs, self.reference)
        return token_rewards(self.scores, kl, self.batch.mask, kl_coefficient=kl_coefficient)

    @property
    def divergence(self) -> float:
        """Estimate of KL(pi || pi_sft), nats a sequence: the mean over answers of the sum of k1."""
        return float((k1(self.log_probs, self.reference) * self.batch.mask).sum(dim=1).mean())


@dataclass(frozen=True, slots=True)
class Experience:
    """Answers to learn from, and what belongs to each of their tokens: `log_probs`, `reference`, `advantages`, ..."""

    batch: SequenceBatch
    tokens: dict[str, Tensor]  # (B, T) each

    def __getitem__(self, name: str) -> Tensor:
        return self.tokens[name]

    def rows(self, index: Tensor) -> "Experience":
        """Some of the answers, trimmed to the longest of them."""
        batch = self.batch.rows(index)
        width = batch.ids.shape[1]
        return Experience(batch, {name: values[index, :width] for name, values in self.tokens.items()})

    def to(self, device: torch.device) -> "Experience":
        """The same experience on `device`."""
        return Experience(self.batch.to(device), {name: to_device(t, device) for name, t in self.tokens.items()})


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A micro-batch of experience, and pretraining text beside it when the mix is on."""

    experience: Experience
    first: bool  # of its iteration: the policy is still the one that sampled
    text: SequenceBatch | None = None
    text_weight: float = 0.0  # count of the step / text tokens of the step: makes the mix a mean over text tokens


class OnlineAlgorithm(nn.Module, ABC):
    """A policy, what else is trained beside it, and how it learns from its own answers."""

    def __init__(self, policy: PreTrainedModel, config: OnlineConfig) -> None:
        super().__init__()
        self.policy, self._temperature = policy, config.rollout.temperature

    @abstractmethod
    def credit(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """What the loss needs of every token, (B, T) each; `advantages` among it."""

    @abstractmethod
    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Sum over a micro-batch of what `count` counts."""

    def count(self, batch: SequenceBatch) -> float:
        """What the loss is a mean over: the answers, unless an algorithm says otherwise."""
        return float(len(batch))

    @property
    def uses_old_log_probs(self) -> bool:
        """Whether credit or loss depend on what the policy gave the answers before it learned from any of them."""
        return True

    def score(self, micro_batch: MicroBatch, *, entropy: bool = False) -> TokenScores:
        """The current policy's scores of a micro-batch."""
        old = micro_batch.experience
        scores = token_log_probs(self.policy, old.batch, temperature=self._temperature, entropy=entropy)
        if micro_batch.first and self.uses_old_log_probs:
            _check_ratio(scores.log_probs.detach(), old["log_probs"])
        return scores


class OnlineSource:
    """Samples, scores and credits the answers that each iteration learns from."""

    def __init__(
        self,
        algorithm: OnlineAlgorithm,
        reference: AbstractContextManager[PreTrainedModel],
        draw: Sampler,
        reward: Rewards,
        prompts: Sequence[Ids],
        config: OnlineConfig,
        *,
        max_tokens: int,
        eos: int,
        seed: int,
        text: Sequence[Turn] = (),
    ) -> None:
        """reference: SFT, while it is entered. prompts: ids. text: blocks for the pretraining mix; none: no mix."""
        self._algorithm, self._reference, self._draw, self._reward = algorithm, reference, draw, reward
        self._prompts, self._text, self._config = prompts, text, config
        self._max_tokens, self._eos, self._seed = max_tokens, eos, seed
        self._tried = False  # whether what samples was found to be what scores

    @property
    def steps_an_iteration(self) -> int:
        """Optimizer steps of one iteration."""
        rollout = self._config.rollout
        return steps_in(rollout.prompts * rollout.answers, self._config.loop.batch_size, self._config.epochs)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, unless too many iterations pass the KL limit."""
        return self._config.iterations * self.steps_an_iteration

    def steps(self, start: int) -> Iterator[Step]:
        """The steps from number `start`, which is the first of an iteration."""
        assert start % self.steps_an_iteration == 0, start
        for iteration in range(start // self.steps_an_iteration, self._config.iterations):
            experience, metrics = self.collect(iteration)
            if metrics["kl"] > self._config.max_kl:
                yield Step([experience], len(experience.batch), metrics, self.steps_an_iteration, diverged=True)
            yield from self._minibatches(experience, metrics, iteration)

    def whole(self, iteration: int) -> Step:
        """All answers of an iteration in one step: the gradient that they give the policy that sampled them."""
        experience, metrics = self.collect(iteration)
        parts = self._parts(experience, self._first_pass(experience.batch, iteration))
        return Step(*self._with_text(parts, iteration, first=True), metrics)

    @torch.no_grad()
    def collect(self, iteration: int) -> tuple[Experience, dict[str, float]]:
        """One iteration's experience, and how its answers are on average."""
        rollouts, metrics = self._roll_out(iteration)
        tokens = {"log_probs": rollouts.log_probs, "reference": rollouts.reference}
        return Experience(rollouts.batch, tokens | self._algorithm.credit(rollouts)), metrics

    def _roll_out(self, iteration: int) -> tuple[Rollouts, dict[str, float]]:
        """Sample and score."""
        policy, rollout = self._algorithm.policy, self._config.rollout
        rows = rows_of_step(iteration, len(self._prompts), rollout.prompts, self._seed)
        prompts = [ids for i in rows for ids in [np.asarray(self._prompts[i]).tolist()] * rollout.answers]
        answers = self._draw(
            policy,
            prompts,
            max_tokens=self._max_tokens,
            temperature=rollout.temperature,
            eos=self._eos,
            seed=_mix(self._seed, iteration),
        )
        batch = pad([Turn(p, a.response) for p, a in zip(prompts, answers, strict=True)])
        unfinished = torch.tensor([not a.terminated for a in answers])
        parts = [(rows, batch.rows(rows).to(policy.device)) for rows in self._first_pass(batch, iteration)]
        order = torch.cat([rows for rows, _ in parts]).argsort()
        rewards = torch.cat(shared_out(lambda part: self._reward(part[1]).cpu(), parts))[order]
        torch.clear_autocast_cache()
        scores = self._reward.scores(rewards, rollout.answers)
        drawn = batch.per_token(torch.tensor([log_prob for a in answers for log_prob in a.log_probs]))
        log_probs, gap = self._old_log_probs(drawn, batch, parts)
        with self._reference as sft:
            reference = _of_each_token(partial(self._log_probs, sft), batch, parts)
        rollouts = Rollouts(
            batch=batch,
            parts=parts,
            answers=rollout.answers,
            scores=scores - self._config.missing_eos_penalty * unfinished,
            log_probs=log_probs,
            reference=reference,
        )
        return rollouts, {
            **gap,
            **self._reward.means(rewards),
            "kl": rollouts.divergence,
            "length": batch.count / len(batch),
            "unfinished": float(unfinished.float().mean()),
        }

    def _old_log_probs(
        self, drawn: Tensor, batch: SequenceBatch, parts: Sequence[tuple[Tensor, SequenceBatch]]
    ) -> tuple[Tensor, dict[str, float]]:
        """(B, T) as the policy scores what it sampled, and how far that is from `drawn`, in nats a token.

        An algorithm that has no use for them gets `drawn` back; once, one micro-batch is scored all the same.
        """
        policy, used = self._algorithm.policy, self._algorithm.uses_old_log_probs
        if self._tried and not used:
            return drawn, {}
        some = parts if used else parts[:1]
        scored = _of_each_token(partial(self._log_probs, policy), batch, some)
        seen = torch.cat([rows for rows, _ in some])
        gap = float((drawn - scored)[seen][batch.mask[seen]].abs().mean())
        _check_sampler(gap, product_dtype(next(policy.parameters())))
        self._tried = True
        return (scored, {"sampler_gap": gap}) if used else (drawn, {})

    def _log_probs(self, model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
        return token_log_probs(model, batch, temperature=self._config.rollout.temperature).log_probs

    def _first_pass(self, batch: SequenceBatch, iteration: int) -> list[Tensor]:
        """Every answer once, in the micro-batches in which the first pass learns from them."""
        steps = len(batch) // self._config.loop.batch_size
        return [part for number in range(steps) for part in self._micro_batches(batch, number, iteration)]

    def _micro_batches(self, batch: SequenceBatch, number: int, iteration: int) -> list[Tensor]:
        """Rows of the micro-batches of an iteration's step, answers to one prompt side by side."""
        size, answers = self._config.loop.batch_size, self._config.rollout.answers
        rows = rows_of_step(number, len(batch), size, _mix(self._seed, iteration), together=answers)
        lengths = batch.attention.sum(dim=1).numpy()
        parts = micro_batches(rows, lengths, self._config.loop.micro_batch_size, together=answers)
        return [torch.from_numpy(part) for part in parts]

    def _minibatches(self, experience: Experience, metrics: dict[str, float], iteration: int) -> Iterator[Step]:
        for number in range(self.steps_an_iteration):
            parts = self._parts(experience, self._micro_batches(experience.batch, number, iteration))
            step = iteration * self.steps_an_iteration + number
            yield Step(*self._with_text(parts, step, first=number == 0), metrics, self.steps_an_iteration)

    def _parts(self, experience: Experience, rows: Sequence[Tensor]) -> list[Experience]:
        """Some of the answers at a time, where the policy is."""
        return [experience.rows(some).to(self._algorithm.policy.device) for some in rows]

    def _with_text(self, parts: Sequence[Experience], step: int, *, first: bool) -> tuple[list[MicroBatch], float]:
        """The micro-batches of a step with the text beside them, and what their loss is a mean over."""
        count = sum(self._algorithm.count(p.batch) for p in parts)
        texts = self._text_of_step(step, parts)
        text_tokens = sum(t.count for t in texts if t is not None)
        weight = count / text_tokens if text_tokens else 0.0
        return [MicroBatch(part, first, text, weight) for part, text in zip(parts, texts, strict=True)], count

    def _text_of_step(self, step: int, parts: Sequence[Experience]) -> list[SequenceBatch | None]:
        """As many blocks of text as answers, beside each micro-batch; none when the mix is off."""
        if not self._text:
            return [None] * len(parts)
        rows = rows_of_step(step, len(self._text), sum(len(p.batch) for p in parts), self._seed)
        return [pad([self._text[i] for i in chosen]) for chosen in np.array_split(rows, len(parts))]


def _of_each_token(
    function: Callable[[SequenceBatch], Tensor], batch: SequenceBatch, parts: Sequence[tuple[Tensor, SequenceBatch]]
) -> Tensor:
    """What a function of a batch, (B, T), gives for all of its rows, computed part by part."""
    values = torch.zeros(batch.ids.shape)
    found = shared_out(lambda part: function(part[1]).cpu(), parts)
    torch.clear_autocast_cache()  # of the weights of this model: nothing learns here, and the next one needs the room
    for (rows, some), of_part in zip(parts, found, strict=True):
        values[rows, : some.ids.shape[1]] = of_part
    return values


def _check_sampler(gap: float, dtype: torch.dtype) -> None:
    """Finds answers that were drawn from another distribution than the policy's: another temperature, old weights."""
    assert not gap > _SAMPLER_TOLERANCE[dtype], (
        f"what was sampled is {gap:.2g} nats a token from how the policy scores it: sampling differs from scoring"
    )


def _check_ratio(log_probs: Tensor, old_log_probs: Tensor) -> None:
    """Finds two scorings of the same answers that differ: by their shape, dropout, or weights that changed in between.

    NaN is the loop's to see.
    """
    off = float((log_probs - old_log_probs).exp().sub(1.0).abs().max())
    assert not off >= _RATIO_TOLERANCE[product_dtype(log_probs)], (
        f"probability ratio of the first minibatch is off by {off:.2g}: it was scored otherwise before"
    )


def _mix(seed: int, iteration: int) -> int:
    """A seed for one iteration."""
    return int(np.random.SeedSequence((seed, iteration)).generate_state(1)[0])
