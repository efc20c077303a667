"""Where an online algorithm's steps come from: an iteration samples answers, scores them, credits their tokens.

    R(x, y)   score of the reward models, less a penalty when the answer did not end
    credit    each algorithm's own: advantages, and what else its loss needs, for every token
    learn     `epochs` passes over the iteration's answers, a loss each algorithm's own

Everything random is a function of the seed and the iteration, so training resumes at the end of any iteration.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms.online import Experience, MicroBatch, OnlineAlgorithm, Part, Rollouts, of_each_token
from rlhf.batching.batches import SequenceBatch, pad
from rlhf.batching.encoding import Ids, Turn
from rlhf.batching.order import micro_batches, rows_of_step, steps_in
from rlhf.config.algorithms import OnlineConfig
from rlhf.models.machine import product_dtype
from rlhf.models.processes import shared_out
from rlhf.models.scoring import token_log_probs
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sampler
from rlhf.training.step import Step

# In nats a token, between what sampled an answer and what scores it, by the type that products are computed in.
_SAMPLER_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


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
            reference = of_each_token(partial(self._log_probs, sft), batch, parts)
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
        self, drawn: Tensor, batch: SequenceBatch, parts: Sequence[Part]
    ) -> tuple[Tensor, dict[str, float]]:
        """(B, T) as the policy scores what it sampled, and how far that is from `drawn`, in nats a token.

        An algorithm that has no use for them gets `drawn` back; once, one micro-batch is scored all the same.
        """
        policy, used = self._algorithm.policy, self._algorithm.uses_old_log_probs
        if self._tried and not used:
            return drawn, {}
        some = parts if used else parts[:1]
        scored = of_each_token(partial(self._log_probs, policy), batch, some)
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


def _check_sampler(gap: float, dtype: torch.dtype) -> None:
    """Finds answers that were drawn from another distribution than the policy's: another temperature, old weights."""
    assert not gap > _SAMPLER_TOLERANCE[dtype], (
        f"what was sampled is {gap:.2g} nats a token from how the policy scores it: sampling differs from scoring"
    )


def _mix(seed: int, iteration: int) -> int:
    """A seed for one iteration."""
    return int(np.random.SeedSequence((seed, iteration)).generate_state(1)[0])
