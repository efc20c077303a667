"""Who samples: the loop of sampling.py, or vLLM (Kwon et al. 2023, arXiv:2309.06180) in the same process.

vLLM rounds otherwise than the forward pass that scores: bf16 weights, kernels and batches of its own. So what it draws
comes from a distribution beside the policy's, and only its own log-probabilities, `Sample.log_probs`, are of that one.
"""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rlhf.config.training import DecodingConfig, TokensConfig
from rlhf.errors import ConfigError
from rlhf.models.lora import merged_weights
from rlhf.models.machine import autocasts, precision
from rlhf.models.processes import launched
from rlhf.rollouts.sampling import Sample, Sampler, sample


def sampler(config: DecodingConfig, model: Path, tokens: TokensConfig, batch_size: int) -> Sampler:
    """What `decoding.engine` names, for policies of the architecture of the model in a directory. Raises ConfigError.

    batch_size: sequences decoded at once.
    """
    if config.engine == "vllm":
        return VllmEngine(model, tokens.prompt + tokens.response, batch_size, config.gpu_memory)

    def draw(policy: PreTrainedModel, prompts: Sequence[list[int]], **settings: Any) -> list[Sample]:
        with precision(policy.device):
            return sample(policy, prompts, batch_size=batch_size, **settings)

    return draw


class VllmEngine:
    """A `Sampler`. The engine has no weights of its own: each call hands it those of the policy."""

    def __init__(self, model: Path, context: int, batch_size: int, gpu_memory: float) -> None:
        """context: tokens of the longest prompt with its answer. gpu_memory: share of the GPU. Raises ConfigError."""
        if find_spec("vllm") is None:
            raise ConfigError("decoding.engine is vllm, which is not installed: `make vllm`, or set it to own")
        if launched() > 1:
            raise ConfigError(
                "decoding.engine is vllm, which samples in one process here. Launch one, or set it to own"
            )
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over by reference, in an order of ours
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import vllm
        from vllm.platforms import current_platform

        if not current_platform.device_type:
            raise ConfigError(
                "decoding.engine is vllm, which finds no GPU here. Set it to own, or use a machine with one"
            )
        try:
            self._llm = vllm.LLM(
                str(model),
                load_format="dummy",
                hf_overrides={"tie_word_embeddings": False},  # not every platform renews a head that is tied
                skip_tokenizer_init=True,
                generation_config="vllm",  # and not the model's own, which may cut the distribution
                dtype="bfloat16" if autocasts() else "float32",  # as it is trained
                max_model_len=context,
                max_num_seqs=batch_size,
                gpu_memory_utilization=gpu_memory,
                enable_prefix_caching=True,  # a prompt is read once for all of its answers
                logprobs_mode="processed_logprobs",  # at the temperature
            )
        except ValueError as error:
            raise ConfigError(f"decoding.engine is vllm, which cannot start with {model}: {error}") from None
        self._parameters = vllm.SamplingParams

    @torch.no_grad()
    def __call__(
        self,
        policy: PreTrainedModel,
        prompts: Sequence[list[int]],
        *,
        max_tokens: int,
        temperature: float,
        eos: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Sample]:
        """As `sample`. The random numbers of an answer depend on the seed and on its place alone."""
        seeds = torch.randint(2**63 - 1, (len(prompts),), generator=torch.Generator().manual_seed(seed))
        requests = [
            self._parameters(
                temperature=temperature,
                max_tokens=max_tokens,
                stop_token_ids=[eos],
                ignore_eos=True,  # the model's own, which may be another or several
                logprobs=0,  # the token that was drawn, no others beside it
                detokenize=False,
                seed=one,
            )
            for one in seeds.tolist()
        ]
        with torch.autocast(policy.device.type, enabled=False):  # it was compiled without
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(policy)})
            self._llm.reset_prefix_cache()  # keys and values of other weights
            found = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], requests, use_tqdm=False)
        if progress:
            progress(len(prompts), len(prompts))
        return [_sample(request.outputs[0], eos) for request in found]


def _sample(output: Any, eos: int) -> Sample:
    """output: vllm.CompletionOutput."""
    ids = list(output.token_ids)
    return Sample(ids, ids[-1] == eos, [of[token].logprob for token, of in zip(ids, output.logprobs, strict=True)])
