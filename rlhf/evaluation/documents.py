"""The alignment tax on language: what a model makes of texts that it has not seen (Ouyang et al. 2022, section 3.5)."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rlhf.batching.encoding import Turn, encode_texts


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int) -> list[Turn]:
    """Each text with its end, to be predicted from the end of another as in pretraining; those of more than `longest`
    tokens are left out."""
    end = tokenizer.eos_token_id
    return [Turn([end], [*ids, end]) for ids in encode_texts(tokenizer, texts) if len(ids) + 2 <= longest]
