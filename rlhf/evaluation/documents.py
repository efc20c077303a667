"""The alignment tax on language: what a model makes of texts that it has not seen (Ouyang et al. 2022, section 3.5)."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn, encode_texts
from rlhf.models.machine import precision
from rlhf.models.scoring import sequence_log_probs


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int) -> list[Turn]:
    """Each text with its end, to be predicted from the end of another as in pretraining; those of more than `longest`
    tokens are left out."""
    end = tokenizer.eos_token_id
    return [Turn([end], [*ids, end]) for ids in encode_texts(tokenizer, texts) if len(ids) + 2 <= longest]


@torch.no_grad()
def document_nats(model: PreTrainedModel, documents: Sequence[Turn], batch_size: int) -> list[float]:
    """-log p(text) of each, nats, in the order of `documents`."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i].response))
    nats = dict[int, float]()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = pad([documents[i] for i in rows]).to(model.device)
        with precision(model.device):
            nats.update(zip(rows, (-sequence_log_probs(model, batch)).tolist(), strict=True))
    return [nats[i] for i in range(len(documents))]
