"""GDPO: beliefs as a group of people holds them, and DPO given a belief (Yao et al. 2025; lecture 000).

    loss   = c KL(p* || pi(b | x))  +  DPO of y_c over y_r given x and b_c

Where people differ, DPO takes the side of the more numerous. Here what the policy believes is fitted to everybody's
votes, and the preferences decide on the rest of the answer alone. A ranking whose prompt has no poll is plain DPO.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.algorithms.dpo import Dpo
from rlhf.batching.batches import RankedPart
from rlhf.batching.beliefs import Poll, pad_polls
from rlhf.config.algorithms import GdpoBeliefConfig
from rlhf.models.scoring import sequence_log_probs
from rlhf.objectives import Metrics
from rlhf.objectives.calibration import belief_calibration, vote_shares


class GdpoBelief(nn.Module):
    """DPO over rankings given a belief, and the calibration of the beliefs that their prompts were polled on."""

    def __init__(
        self, policy: PreTrainedModel, reference: Tensor, polls: Sequence[Poll | None], config: GdpoBeliefConfig
    ) -> None:
        """reference: as `Dpo`, of rankings given a belief. polls: one for each ranking, None where nobody was asked."""
        super().__init__()
        self.preference = Dpo(policy, reference, config)
        self._polls, self._config = polls, config

    def forward(self, micro_batch: RankedPart) -> tuple[Tensor, Metrics]:
        """Sum over the prompts of a micro-batch."""
        config = self._config
        loss, metrics = self.preference(micro_batch)
        polls = [poll for row in micro_batch[0] if (poll := self._polls[row])]
        if not polls:
            return loss, metrics | {"calibration": (loss.new_zeros(()), loss.new_zeros(()))}
        policy = self.preference.policy
        batch = pad_polls(polls).to(policy.device)
        log_probs = batch.per_belief(sequence_log_probs(policy, batch.statements))
        shares = vote_shares(batch.votes, batch.mask, smoothing=config.smoothing)
        calibration, found = belief_calibration(log_probs, shares, batch.mask, renormalized=config.renormalized)
        return loss + config.calibration_coefficient * calibration, metrics | found
