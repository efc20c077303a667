"""The alignment tax on language: what a model makes of texts that it has not seen (Ouyang et al. 2022, section 3.5)."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rlhf.batching.encoding import Turn, encode_ended


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int) -> list[Turn]:
    """Each text with its end, to be predicted from the end of another as in pretraining; those of more than `longest`
    tokens are left out."""
    documents = encode_ended(tokenizer, texts)
    return [Turn([tokenizer.eos_token_id], ids) for ids in documents if len(ids) + 1 <= longest]
