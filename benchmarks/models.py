"""Models of random weights, the same on both sides, and a tokenizer whose words are the ids themselves."""

from functools import cache
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    set_seed,
)

from benchmarks.jobs import END, Job
from rlhf.models.loading import device

SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": END, "tie_word_embeddings": True}
CONFIGS: dict[str, PreTrainedConfig] = {
    "small": LlamaConfig(  # 0.8 M parameters
        vocab_size=2_000,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        **SPECIAL,
    ),
    "medium": LlamaConfig(  # 26 M
        vocab_size=32_000,
        hidden_size=384,
        intermediate_size=1_536,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=512,
        **SPECIAL,
    ),
    "large": Qwen2Config(  # 0.5 B, the configuration of Qwen2.5-0.5B
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4_864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
        **SPECIAL,
    ),
}


def config_of(name: str) -> PreTrainedConfig:
    """A configuration of CONFIGS, or `llama-256`: that of the small model, but for its width."""
    kind, _, width = name.partition("-")
    if not width:
        return CONFIGS[kind]
    d = int(width)
    sizes = {"hidden_size": d, "intermediate_size": 3 * d, "num_attention_heads": d // 32}
    return LlamaConfig.from_dict(CONFIGS["small"].to_dict() | sizes | {"num_key_value_heads": d // 32, "head_dim": 32})


def policy(job: Job, *, ends: bool = False) -> PreTrainedModel:
    """A causal language model in fp32, in evaluation mode. With `ends`, its answers end as those of the job do."""
    set_seed(job.seed)
    model = AutoModelForCausalLM.from_config(config_of(job.model)).to(device()).eval()
    if ends:
        _end(model, job)
    return model


def scalar_model(job: Job, offset: int = 0) -> PreTrainedModel:
    """A reward model or critic: one scalar over the last hidden state. Another offset gives other weights."""
    set_seed(job.seed + offset)
    config = type(config_of(job.model)).from_dict(config_of(job.model).to_dict() | {"num_labels": 1})
    return AutoModelForSequenceClassification.from_config(config).to(device()).eval()


def tokenizer(job: Job) -> PreTrainedTokenizerFast:
    """The word `17` is the id 17."""
    words = {"<pad>": 0, "<end>": END} | {str(i): i for i in range(END + 1, job.vocabulary)}
    made = Tokenizer(WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = WhitespaceSplit()
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", chat_template=template)


def words(ids: list[int]) -> str:
    """Text that the tokenizer reads as `ids`, whatever text stands before it."""
    return "".join(" <end>" if i == END else f" {i}" for i in ids)


def forward_flops(job: Job, tokens: float) -> float:
    """Of a forward pass over `tokens` tokens: 2 N each for N parameters of the body, causal attention over sequences of
    T, and the vocabulary where the tokens of answers are predicted: never by a reward model, nor by PPO's critic."""
    config, length = config_of(job.model), job.prompt.median + job.answer.median
    vocabulary = config.vocab_size * config.hidden_size
    predicting = {"reward": 0.0, "ppo": 0.5}.get(job.stage, 1.0) * job.answer.median / length
    products = parameters(job.model) - vocabulary + predicting * vocabulary
    return tokens * (2 * products + 2 * config.num_hidden_layers * config.hidden_size * length)


@cache
def parameters(name: str) -> int:
    """N of a model; its embedding, which is also its head, counts once."""
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config_of(name)).parameters())


@torch.no_grad()
def _end(model: PreTrainedModel, job: Job) -> None:
    """Make the end-of-turn token as likely, after any token, as its mean share of an answer.

    Every state gets a component along one direction, which all words share and the softmax does not see; the
    end-of-turn token's own embedding gets more of it.
    """
    embedding = cast(torch.nn.Embedding, model.get_input_embeddings()).weight
    along = torch.nn.functional.normalize(torch.ones_like(embedding[0]), dim=0)
    embedding += embedding.norm(dim=1).mean() * along
    ids = torch.randint(END + 1, job.vocabulary, (8, job.prompt.median), device=embedding.device)
    states = cast(PreTrainedModel, model.base_model)(ids).last_hidden_state.flatten(0, 1)
    scores = states @ embedding.T
    wanted = scores.logsumexp(dim=1) - torch.log(torch.tensor(float(job.answer.median)))
    embedding[END] += along * ((wanted - scores[:, END]).mean() / (states @ along).mean())
