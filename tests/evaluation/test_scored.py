"""What is read off a model agrees with its full softmax, in the order that was asked for."""

import pytest
import torch
from transformers import PreTrainedModel

from rlhf.batching.batches import RankedTurns, SequenceBatch
from rlhf.batching.encoding import Turn
from rlhf.evaluation.answers import Answers, of_samples, score
from rlhf.evaluation.documents import encode_documents
from rlhf.evaluation.preferences import untied_pairs
from rlhf.models.scoring import scored, turn_log_probs
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sample
from tests.algorithms.tiny import PARAMS, tiny_policy, tiny_tokenizer


def test_pairs_of_several_rankings_of_one_prompt_are_of_one_prompt() -> None:
    asked = [RankedTurns((Turn([prompt], [8, 1]), Turn([prompt], [9])), (1, 2)) for prompt in (5, 6, 5, 5)]
    margins, prompts, longer = untied_pairs(asked, [torch.tensor([1.0, 0.5])] * 4)
    assert prompts.tolist() == [0, 1, 0, 0]
    assert (margins.tolist(), longer.tolist()) == ([0.5] * 4, [1] * 4)


@torch.no_grad()
def log_softmax_of(policy: PreTrainedModel, turn: Turn) -> torch.Tensor:
    """(R, V) of the distributions that each token of a response was drawn from."""
    logits = policy(torch.tensor([[*turn.prompt, *turn.response]])).logits[0]
    return logits[len(turn.prompt) - 1 : -1].log_softmax(dim=-1)


def test_nats_of_a_document_are_those_of_all_its_tokens_and_its_end() -> None:
    policy, tokenizer = tiny_policy(), tiny_tokenizer()
    texts = ["red green blue one two", "north", "south two three red one blue north red"]
    documents = encode_documents(tokenizer, texts, longest=64)
    end = tokenizer.eos_token_id
    assert [(one.prompt, list(one.response)) for one in documents] == [
        ([end], [*tokenizer(t)["input_ids"], end]) for t in texts
    ]
    expected = [
        -log_softmax_of(policy, one).gather(1, torch.as_tensor(one.response).long()[:, None]).sum().item()
        for one in documents
    ]
    assert (-turn_log_probs(policy, documents, 2)).tolist() == pytest.approx(expected, rel=1e-5)
    (spelled,) = encode_documents(tokenizer, ["red<|end|>"], 64)
    assert list(spelled.response).count(end) == 1, "what a text spells is text"
    longest = max(len(one.response) for one in documents)
    assert len(encode_documents(tokenizer, texts, longest)) == 2, "with its beginning the longest does not fit"
    assert encode_documents(tokenizer, [], 64) == turn_log_probs(policy, [], 2).tolist() == []


def test_groups_are_scored_in_batches_of_like_length_and_come_back_in_their_order() -> None:
    groups = [[Turn([7] * p, [8] * r) for r in range(1, k + 1)] for p, k in ((9, 2), (1, 1), (5, 4), (2, 3), (1, 2))]
    batches = list[int]()

    def lengths(batch: SequenceBatch) -> torch.Tensor:
        batches.append(len(batch))
        return torch.stack([batch.starts, batch.attention.sum(dim=1)], dim=1)

    found = scored(lengths, groups, 2, torch.device("cpu"))
    assert [each.tolist() for each in found] == [[[len(t.prompt), t.tokens] for t in group] for group in groups]
    assert batches == [3, 5, 4], "two groups at a time, by their tokens"


def test_what_is_scored_is_computed_in_the_precision_of_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, autocast in (("bf16", 1.0), ("fp32", 0.0)):
        monkeypatch.setenv("RLHF_PRECISION", name)
        (found,) = scored(
            lambda batch: torch.tensor([torch.is_autocast_enabled("cpu")]), [[Turn([7], [8])]], 1, torch.device("cpu")
        )
        assert found.item() == autocast


def test_the_entropy_of_an_answer_is_the_mean_over_its_tokens() -> None:
    policy, reference = tiny_policy(), tiny_policy(1)
    for one in (policy, reference):
        torch.nn.init.normal_(one.lm_head.weight, std=1.0)
    turns = [Turn([7, 8, 9], [20, 30, 40, 50, 1]), Turn([9], [60, 1]), Turn([5, 6], [70, 80, 1])]
    rewards = Rewards({"overall": lambda batch: batch.starts.float()}, {"overall": 1.0}, "raw")
    judges = rewards, lambda batch: -batch.starts.float()
    found = score(turns, policy, reference, judges, PARAMS.evaluate.model_copy(update={"batch_size": 2}))
    spread = [log_softmax_of(policy, turn) for turn in turns]
    assert found["entropy"].tolist() == pytest.approx(
        [-(p.exp() * p).sum(dim=1).mean().item() for p in spread], rel=1e-4
    )
    assert found["rewards"].squeeze(1).tolist() == [3.0, 1.0, 2.0]
    assert found["referee"].tolist() == [-3.0, -1.0, -2.0]


def test_answers_come_back_from_their_tensors() -> None:
    samples = [Sample([4, 5, 1], True), Sample([6, 7, 8], False)]
    measured = {"referee": [2.0, 3.0], "kl": [0.5, 1.5], "entropy": [0.25, 0.75]}
    tensors = of_samples(samples) | measured | {"rewards": torch.ones(2, 1)}
    back = Answers.of({name: torch.as_tensor(value) for name, value in tensors.items()})
    assert (back.samples, back.referee, back.kl, back.entropy) == (samples, *measured.values())
