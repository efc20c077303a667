"""Gradient checkpointing: the same bits for less memory."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from rlhf.algorithms.supervised import LikelihoodObjective, supervised_steps
from rlhf.batching.batches import SequenceBatch, pad
from rlhf.models.recomputation import layers_of, recompute_layers
from rlhf.rollouts.sampling import sample
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import train
from tests.algorithms.tiny import Silent, loop, turns

MODELS = {
    "llama": LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, pad_token_id=0
    ),
    "gpt2": GPT2Config(vocab_size=300, n_embd=16, n_layer=4, n_head=2, n_positions=64, pad_token_id=0),
}


def kept_bytes(objective: nn.Module, batch: SequenceBatch) -> int:
    """Bytes that the graph of one forward pass keeps for the backward pass."""
    kept = list[int]()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        objective(batch)
    return sum(kept)


@pytest.mark.parametrize("name", MODELS)
def test_layers_that_are_computed_again_learn_the_same_and_keep_less(name: str, tmp_path: Path) -> None:
    """Also that they sample the same, with a cache, and that nothing drops out, for which GPT-2 has a share set."""
    weights, kept, answers = [], [], []
    for again in (False, True):
        torch.manual_seed(0)
        policy = AutoModelForCausalLM.from_config(MODELS[name]).eval()
        config = loop(gradient_checkpointing=again)
        objective, checkpoints = LikelihoodObjective(policy), Checkpoints(tmp_path / str(again))
        steps, total = supervised_steps(turns(20), config, epochs=1, seed=1)
        train(objective, steps, total_steps=total, config=config, checkpoints=checkpoints, recorder=Silent())
        weights.append(objective.state_dict())
        kept.append(kept_bytes(objective, pad(turns(8))))
        prompts = [t.prompt for t in turns(4)]
        answers.append(sample(policy, prompts, max_tokens=8, temperature=1.0, eos=1, batch_size=4, seed=0))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert answers[0] == answers[1]
    assert kept[1] < kept[0] / 3


def test_layers_that_do_so_already_stay_as_they_are() -> None:
    policy = AutoModelForCausalLM.from_config(MODELS["gpt2"])
    recompute_layers(policy)
    once = [layer.forward for layer in layers_of(policy)]
    recompute_layers(policy)
    assert [layer.forward for layer in layers_of(policy)] == once
    assert len(once) == 4
