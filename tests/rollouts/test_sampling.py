"""Sampling agrees with scoring: same model, same positions, same temperature."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.models.scoring import token_log_probs
from rlhf.rollouts.sampling import sample
from tests.algorithms.tiny import tiny_policy


def gpt2() -> PreTrainedModel:
    """Learned positions, unlike Llama's: wrong positions under padding show."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=2, n_head=2)).eval()


PROMPTS = [[7, 8, 9, 10, 11, 12], [20, 21], [30, 31, 32]]


@pytest.mark.parametrize("make", [tiny_policy, gpt2])
def test_padding_does_not_change_what_is_decoded(make) -> None:
    policy = make()
    together = sample(policy, PROMPTS, max_tokens=8, temperature=0.0, eos=1, batch_size=3, seed=0)
    alone = [sample(policy, [p], max_tokens=8, temperature=0.0, eos=1, batch_size=1, seed=0)[0] for p in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("make", [tiny_policy, gpt2])
def test_greedy_answers_are_the_likeliest_token_by_scoring(make) -> None:
    """Decoding with a cache and padding on the left gives what one forward pass with padding on the right gives."""
    policy = make()
    answers = sample(policy, PROMPTS, max_tokens=6, temperature=0.0, eos=1, batch_size=3, seed=0)
    batch = pad([Turn(p, a.response) for p, a in zip(PROMPTS, answers, strict=True)])
    with torch.no_grad():
        best = policy(input_ids=batch.ids, attention_mask=batch.attention.long()).logits.argmax(-1)
    assert torch.equal(best[:, :-1][batch.mask[:, 1:]], batch.ids[batch.mask])


def test_first_tokens_follow_the_softmax_at_the_temperature() -> None:
    policy, draws, temperature = tiny_policy(), 20_000, 0.3
    answers = sample(policy, [[7, 8, 9]] * draws, max_tokens=1, temperature=temperature, eos=1, batch_size=2000, seed=3)
    counts = torch.bincount(torch.tensor([a.response[0] for a in answers]), minlength=len(policy.lm_head.weight))
    with torch.no_grad():
        expected = (policy(torch.tensor([[7, 8, 9]])).logits[0, -1] / temperature).softmax(-1)
    error = (counts / draws - expected).abs() / (expected * (1 - expected) / draws).sqrt()
    assert error.max() < 5.0  # standard errors, over about 260 tokens


def test_scores_are_taken_at_the_sampling_temperature() -> None:
    policy, batch = tiny_policy(), pad([Turn([7, 8], [9, 1])])
    with torch.no_grad():
        logits = policy(input_ids=batch.ids).logits / 0.7
        scores = token_log_probs(policy, batch, temperature=0.7, entropy=True)
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(scores.log_probs[0, 2], expected[0, 1, 9])
    torch.testing.assert_close(scores.log_probs[0, 3], expected[0, 2, 1])
    torch.testing.assert_close(scores.entropy[0, 2], -(expected[0, 1].exp() * expected[0, 1]).sum())
    assert scores.log_probs[0, :2].tolist() == [0.0, 0.0]


def test_an_answer_ends_at_its_first_end_of_turn() -> None:
    policy = tiny_policy()
    found = sample(policy, PROMPTS * 50, max_tokens=40, temperature=1.0, eos=1, batch_size=64, seed=0)
    ended = [a for a in found if a.terminated]
    assert ended
    assert all(a.response.index(1) == len(a.response) - 1 for a in ended)
    assert all(1 not in a.response and len(a.response) == 40 for a in found if not a.terminated)


def test_the_same_seed_gives_the_same_answers() -> None:
    policy = tiny_policy()
    draw = lambda seed: sample(policy, PROMPTS, max_tokens=9, temperature=1.0, eos=1, batch_size=2, seed=seed)  # noqa: E731
    assert draw(5) == draw(5) != draw(6)
