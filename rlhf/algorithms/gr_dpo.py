"""Group robust DPO: for the group of people that the policy serves worst (Ramesh et al. 2024; lecture 000).

    min over pi, max over alpha   sum_g alpha_g L_g(pi)        L_g: DPO's loss on the rankings of group g

    alpha_g <- alpha_g exp(eta L_g), divided by their sum      before every step, of the step's rankings
    loss    =  alpha_g / p_g times that of DPO                 of each ranking of group g, which are a share p_g of all

DPO is a mean over rankings, so that the larger a group, the more it counts. Here it counts as much as it is behind. L_g
is estimated without bias from the B rankings of a step, with a noise that grows as 1 / (B p_g). The paper tells the
policy whose answer is asked for; here it serves all with one answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.algorithms.dpo import answer_log_probs
from rlhf.batching.batches import RankedPart, RankingBatch
from rlhf.batching.transfer import to_device
from rlhf.config.algorithms import GrDpoConfig
from rlhf.models.processes import shared_out
from rlhf.objectives import Metrics
from rlhf.objectives.preference import bradley_terry, implicit_rewards
from rlhf.objectives.robust import towards_worst
from rlhf.training.step import Step, Steps


class GroupRobustDpo(nn.Module):
    """DPO over every pair of a ranking, weighted by whose ranking it is."""

    log_weights: Tensor  # (groups,) log alpha, which every step moves; with the policy in a checkpoint

    def __init__(self, policy: PreTrainedModel, reference: Tensor, groups: Sequence[str], config: GrDpoConfig) -> None:
        """reference: (prompts, K) log pi_ref(y | x) of every answer. groups: the name of each ranking's, (prompts,)."""
        super().__init__()
        self.policy, self._reference, self._config = policy, reference, config
        self.groups = sorted(set(groups))
        self._of = torch.tensor([self.groups.index(group) for group in groups])
        self._shares = self._of.bincount().double() / len(groups)  # p
        self.register_buffer("log_weights", torch.zeros_like(self._shares).log_softmax(dim=0).to(policy.device))

    def forward(self, micro_batch: RankedPart) -> tuple[Tensor, Metrics]:
        """Sum over the prompts of a micro-batch."""
        rewards, batch, of = self._rewards(micro_batch)
        counts = self.log_weights.exp() / to_device(self._shares, of.device)
        return bradley_terry(rewards, batch.ranks, batch.mask, weights=counts[of].to(rewards))

    def weighing(self, steps: Steps) -> Steps:
        """The steps, with the weights moved before each of them, be it taken or left out."""

        def weighed(start: int) -> Iterator[Step]:
            for step in steps(start):
                yield replace(step, metrics=step.metrics | self._weigh(step))

        return weighed

    @torch.no_grad()
    def _weigh(self, step: Step) -> dict[str, float]:
        """Move the weights; returns the loss of each group that has a ranking in the step, and the weights."""
        sums = torch.stack(shared_out(self._losses, step.micro_batches)).sum(dim=0)
        if sums.isfinite().all():  # else the loop sees it too
            losses = sums / (step.count * self._shares)  # without bias: a group that is absent has lost nothing
            self.log_weights.copy_(towards_worst(self.log_weights.cpu(), losses, rate=self._config.rate))
        counts = self._of[np.concatenate([rows for rows, _ in step.micro_batches])].bincount(minlength=len(sums))
        of_each = zip(self.groups, sums.tolist(), counts.tolist(), self.log_weights.exp().tolist(), strict=True)
        metrics = dict[str, float]()
        for group, total, count, weight in of_each:
            metrics |= {f"weight/{group}": weight} | ({f"loss/{group}": total / count} if count else {})
        return metrics

    def _losses(self, micro_batch: RankedPart) -> Tensor:
        """DPO's loss, summed over the prompts of each group, (groups,), on the CPU."""
        rewards, batch, of = self._rewards(micro_batch)
        mine = [(of == group).to(rewards) for group in range(len(self.groups))]
        sums = [bradley_terry(rewards, batch.ranks, batch.mask, weights=weights)[0] for weights in mine]
        return torch.stack(sums).double().cpu()

    def _rewards(self, micro_batch: RankedPart) -> tuple[Tensor, RankingBatch, Tensor]:
        """The implicit rewards of a micro-batch, (B, K), it, and the group of each of its rankings, (B,)."""
        batch, log_probs, reference, _ = answer_log_probs(self.policy, micro_batch, self._reference)
        rewards = implicit_rewards(log_probs, reference, beta=self._config.beta)
        return rewards, batch, to_device(self._of[micro_batch[0]], rewards.device)
