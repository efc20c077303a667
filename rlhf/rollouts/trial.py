"""Whether a model is read here as transformers reads it.

Scoring reads tokens packed, in blocks, or as a padded table, and sampling has a cache and a decoder of its own. What an
architecture does beyond that (masks of its own, states that are carried along, logits that are squashed) would be left
out, and nothing later would notice. So a model that is taken in is tried: what scores and what samples, beside its own
forward pass over each row alone.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.errors import DataError, first_line
from rlhf.models.scoring import token_log_probs
from rlhf.rollouts.sampling import sample

NATS = 1e-2  # of a token: rounding stays far below, and what is read otherwise far above
_ANSWER = 6  # tokens of the longest answer


def require_read_alike(policy: PreTrainedModel, path: Path | str, *, eos: int, longest: int) -> None:
    """Raises DataError for a model that is not, in rows of up to `longest` tokens, and for one that has no form with a
    scalar head."""
    if type(policy.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise DataError(
            f"{path} is of type {policy.config.model_type}, of which transformers has no AutoModelForSequence"
            "Classification, and so no reward model. Choose a model of another architecture"
        )
    try:
        gap = _largest_gap(policy, eos, longest)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"{path} is of type {policy.config.model_type}, which cannot be scored and sampled from here: "
            f"{first_line(error)}. Choose a model of another architecture"
        ) from None
    if not gap < NATS:
        raise DataError(
            f"{path} is of type {policy.config.model_type}, which is read otherwise here than by transformers: by "
            f"{gap:.2g} nats a token. Choose a model of another architecture"
        )


@torch.no_grad()
def _largest_gap(policy: PreTrainedModel, eos: int, longest: int) -> float:
    """In nats, over the tokens of a few answers that are given and of a few that are drawn; NaN where any is."""
    vocabulary = len(cast(nn.Embedding, policy.get_input_embeddings()).weight)
    long = max(1, longest - _ANSWER)
    ids = torch.randint(vocabulary, (long + 4 * _ANSWER,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [ids[:long], ids[:long], ids[:2], ids[1:4]]  # two answers share the first
    answers = [ids[long + _ANSWER * place :][:tokens] for place, tokens in enumerate((_ANSWER, 1, 5, 2))]
    turns = [Turn(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    batch = pad(turns).to(policy.device)
    given = token_log_probs(policy, batch).log_probs[batch.mask].cpu()
    samples = sample(policy, prompts, max_tokens=_ANSWER, temperature=1.0, eos=eos, batch_size=3, seed=0)
    said = torch.tensor([log_prob for each in samples for log_prob in each.log_probs])
    answered = [Turn(prompt, each.response) for prompt, each in zip(prompts, samples, strict=True)]
    gaps = [(given - _by_transformers(policy, turns)).abs(), (said - _by_transformers(policy, answered)).abs()]
    return float(torch.cat(gaps).max())


def _by_transformers(policy: PreTrainedModel, turns: list[Turn]) -> Tensor:
    """Log-probabilities of the answers' tokens, end to end."""
    found = []
    for turn in turns:
        row = torch.tensor([[*turn.prompt, *turn.response]], device=policy.device)
        logits = policy(input_ids=row, use_cache=False).logits[0, len(turn.prompt) - 1 : -1]
        found.append(logits.float().log_softmax(dim=-1).gather(1, row[0, len(turn.prompt) :, None]).squeeze(1).cpu())
    return torch.cat(found)
