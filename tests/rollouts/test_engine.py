"""vLLM answers as our own loop does: the same tokens, the policy's distribution and the weights of the moment."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.errors import ConfigError
from rlhf.models.loading import save_model
from rlhf.models.scoring import token_log_probs
from rlhf.models.small import make_llama
from rlhf.rollouts.engine import sampler
from rlhf.rollouts.sampling import Sampler, sample
from tests.algorithms.tiny import PARAMS, tiny_tokenizer

VLLM = PARAMS.decoding.model_copy(update={"engine": "vllm", "gpu_memory": 0.1})
LIMITS = PARAMS.tokens.model_copy(update={"prompt": 48, "response": 16})
PROMPTS = [[5 + (i * j) % 200 for j in range(2, 4 + 5 * (i % 8))] for i in range(1, 13)]
installed = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_message_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"decoding\.engine is vllm, which is not installed: `make vllm`"):
        sampler(VLLM, tmp_path, LIMITS, 8)


def policy(seed: int) -> LlamaForCausalLM:
    """Weights so large that every token that is attended to matters."""
    config = PARAMS.base.model.model_copy(update={"hidden_size": 64, "layers": 2, "heads": 2})
    model = make_llama(config, tiny_tokenizer(), 64, seed)
    torch.manual_seed(seed)
    for weight in model.model.layers.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    path = tmp_path_factory.mktemp("model")
    save_model(policy(9), tiny_tokenizer(), path, title="", summary="")
    return sampler(VLLM, path, LIMITS, 8)


@installed
def test_greedy_tokens_are_those_of_our_loop_with_the_weights_of_each_call(draw: Sampler) -> None:
    options = {"max_tokens": 16, "temperature": 0.0, "seed": 0}
    for model in (policy(0), policy(1), policy(0)):
        free = sample(model, PROMPTS, **options, eos=-1, batch_size=64)
        eos = free[0].response[5]
        ours = sample(model, PROMPTS, **options, eos=eos, batch_size=64)
        found = draw(model, PROMPTS, **options, eos=eos)
        assert [(a.response, a.terminated) for a in found] == [(a.response, a.terminated) for a in ours]
        assert {a.terminated for a in found} == {True, False}


@installed
def test_answers_are_drawn_from_the_policy_at_the_temperature(draw: Sampler) -> None:
    model, draws, temperature = policy(0), 2000, 0.7
    found = draw(model, [PROMPTS[3]] * draws, max_tokens=2, temperature=temperature, eos=1, seed=3)
    batch = pad([Turn(PROMPTS[3], a.response) for a in found])
    with torch.no_grad():
        scored = token_log_probs(model, batch, temperature=temperature).log_probs[batch.mask]
        expected = (model(torch.tensor([PROMPTS[3]])).logits[0, -1] / temperature).softmax(-1)
    torch.testing.assert_close(
        torch.tensor([log_prob for a in found for log_prob in a.log_probs]), scored, rtol=0.0, atol=1e-4
    )
    counts = torch.bincount(torch.tensor([a.response[0] for a in found]), minlength=len(expected))
    error = (counts / draws - expected).abs() / (expected * (1 - expected) / draws).sqrt()
    assert error[expected > 10 / draws].max() < 5.0  # standard errors


@installed
def test_answers_follow_from_the_seed_and_their_place(draw: Sampler) -> None:
    options = {"max_tokens": 8, "temperature": 1.0, "eos": 1}
    model, prompts = policy(0), [PROMPTS[0]] * 3 + PROMPTS
    found = draw(model, prompts, **options, seed=5)
    assert found == draw(model, prompts, **options, seed=5) != draw(model, prompts, **options, seed=6)
    assert len({tuple(a.response) for a in found[:3]}) == 3
