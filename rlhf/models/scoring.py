"""What is read off a model: token log-probabilities, values and rewards, each where it counts and nowhere else.

A head is applied to the hidden states that a loss needs: logits of prompts and padding are never made. Softmax in fp32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from rlhf.batching.batches import SequenceBatch, pad
from rlhf.batching.encoding import Turn
from rlhf.batching.order import micro_batches
from rlhf.models.kernels import packed_inputs, reads_packed
from rlhf.models.machine import precision
from rlhf.models.processes import shared_out
from rlhf.models.vocabulary import chosen_log_probs, divergence
from rlhf.objectives.advantages import last_index


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Aligned with the tokens of a batch, zero where the mask is False."""

    log_probs: Tensor  # (B, T) log p(token t | tokens before it)
    entropy: Tensor | None  # (B, T) entropy in nats of the distribution that token t was drawn from
    states: Tensor  # (N, d) hidden states from which the counted tokens were predicted, row by row


def token_log_probs(
    policy: PreTrainedModel, batch: SequenceBatch, *, temperature: float = 1.0, entropy: bool = False
) -> TokenScores:
    """Log-probability of each counted token at the sampling temperature."""
    states = states_before(policy, batch)
    log_probs, entropies = chosen_log_probs(
        states, policy.get_output_embeddings(), batch.ids.take(batch.counted), temperature=temperature, entropy=entropy
    )
    spread = None if entropies is None else batch.per_token(entropies)
    return TokenScores(batch.per_token(log_probs), spread, states)


@torch.no_grad()
def token_divergence(
    policy: PreTrainedModel, reference: PreTrainedModel, batch: SequenceBatch, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """KL(pi || pi_ref) of the next token, and the entropy of pi, in nats, (B, T) each, zero where the mask is False.

    Each given the tokens before it, and exact: summed over an answer that pi sampled, an unbiased estimate of the
    divergence of whole answers, of less variance than any from the answer's log-probabilities alone (Amini et al. 2025,
    arXiv:2504.10637).
    """
    kl, entropy = divergence(
        states_before(policy, batch),
        policy.get_output_embeddings(),
        states_before(reference, batch),
        reference.get_output_embeddings(),
        temperature=temperature,
    )
    return batch.per_token(kl), batch.per_token(entropy)


def sequence_log_probs(policy: PreTrainedModel, batch: SequenceBatch, *, temperature: float = 1.0) -> Tensor:
    """log pi(y | x) of each row at the temperature: the sum over its response tokens. Returns (B,)."""
    return token_log_probs(policy, batch, temperature=temperature).log_probs.sum(dim=1)


@torch.no_grad()
def scored(
    score: Callable[[SequenceBatch], Tensor], groups: Sequence[Sequence[Turn]], size: int, device: torch.device
) -> list[Tensor]:
    """What `score` gives for the turns of each group, (turns, ...), on the CPU.

    score: takes a batch on `device` to (B, ...). A group is of one prompt, which is read once. `size` groups of like
    length are scored at a time, in the precision of learning, and each batch by one process.
    """

    def work(part: np.ndarray) -> Tensor:
        with precision(device):
            return score(pad([turn for i in part for turn in groups[i]]).to(device)).cpu()

    lengths = np.array([len(g[0].prompt) + sum(len(turn.response) for turn in g) for g in groups], dtype=np.int64)
    parts, found = micro_batches(np.arange(len(groups)), lengths, size), dict[int, Tensor]()
    for part, values in zip(parts, shared_out(work, parts), strict=True):
        found.update(zip(part.tolist(), values.split([len(groups[i]) for i in part]), strict=True))
    return [found[i] for i in range(len(groups))]


def turn_log_probs(policy: PreTrainedModel, turns: Sequence[Turn], batch_size: int) -> Tensor:
    """log pi(y | x) of each turn, (rows,), on the CPU."""
    each = scored(partial(sequence_log_probs, policy), [[turn] for turn in turns], batch_size, policy.device)
    return torch.cat(each) if each else torch.zeros(0)


def token_values(critic: PreTrainedModel, batch: SequenceBatch) -> Tensor:
    """(B, T): at response token t, the value of the state in which t was chosen (everything before t)."""
    return batch.per_token(_score(critic, states_before(critic, batch)))


def linear_head(policy: PreTrainedModel) -> nn.Linear:
    """A head (d to 1) for `linear_values` that says 0 until it has learned."""
    head = nn.Linear(cast(nn.Linear, policy.get_output_embeddings()).in_features, 1).to(policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def linear_values(head: nn.Linear, states: Tensor, batch: SequenceBatch) -> Tensor:
    """(B, T): values that a linear head (d to 1) reads off the policy's own hidden states, (N, d)."""
    return batch.per_token(_scalars(head, states))


def rewards(reward_model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
    """Score of each whole answer, read at its last token. Returns (B,)."""
    last = last_index(batch.attention)[:, None]
    return _score(reward_model, _states(reward_model, batch, lambda places: places.gather(1, last).squeeze(1)))


def _score(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The scalar head over hidden states, (..., d) to (...)."""
    return _scalars(cast(nn.Linear, model.score), states)


def _scalars(head: nn.Linear, states: Tensor) -> Tensor:
    """A head (d to 1) over states (..., d) to (...), in fp32: bf16 has 1/64 between two numbers above 2."""
    with torch.autocast(states.device.type, enabled=False):
        return head(states.float()).squeeze(-1)


def states_before(model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
    """Hidden states from which the counted tokens are predicted, (N, d), row by row."""
    return _states(model, batch, lambda places: places.take(batch.counted - 1))


def _states(model: PreTrainedModel, batch: SequenceBatch, choose: Callable[[Tensor], Tensor]) -> Tensor:
    """Hidden states of the last layer, (N, d), of the tokens that `choose` takes from a table, (B, T) to (N,)."""
    if reads_packed(model):
        inputs, places = packed_inputs(batch.layout), batch.layout.places
    else:  # rows are padded on the right, so that no token has padding before it to be kept from
        inputs, places = {"input_ids": batch.ids}, torch.arange(batch.ids.numel(), device=batch.ids.device)
    states = model.base_model(**inputs, use_cache=False).last_hidden_state
    return embedding(choose(places.view(batch.ids.shape)), states.flatten(0, 1))
