"""The Bradley-Terry reward model on K-wise rankings (lecture 001, step 2)."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.batching.batches import RankedPart
from rlhf.models.scoring import rewards
from rlhf.objectives import Metrics
from rlhf.objectives.preference import bradley_terry, centering


class RewardObjective(nn.Module):
    """Ranking loss of the scores of a prompt's answers, and a pull of the scores to zero."""

    def __init__(self, reward_model: PreTrainedModel, *, center: float) -> None:
        super().__init__()
        self.reward_model, self._center = reward_model, center

    def forward(self, micro_batch: RankedPart) -> tuple[Tensor, Metrics]:
        """Sum over the prompts of a micro-batch."""
        batch = micro_batch[1].to(self.reward_model.device)
        scores = batch.per_answer(rewards(self.reward_model, batch.sequences))
        loss, metrics = bradley_terry(scores, batch.ranks, batch.mask)
        return loss + self._center * centering(scores, batch.mask), metrics
