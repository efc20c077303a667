"""GDPO: where beliefs stand in answers, preferences that leave them alone, and beliefs held as people hold them."""

from typing import Any

import numpy as np
import pytest
import torch

from rlhf.algorithms.dpo import Dpo, reference_log_probs
from rlhf.algorithms.gdpo_belief import GdpoBelief
from rlhf.batching.batches import pad_rankings
from rlhf.batching.beliefs import Poll, Stated, encode_conditioned, encode_poll, find_statement, pad_polls
from rlhf.batching.encoding import Turn, encode_prompt
from rlhf.evaluation.beliefs import belief_shares, contested_margins, jensen_shannon_distance, sides
from rlhf.models.scoring import sequence_log_probs
from rlhf.objectives.calibration import belief_calibration, vote_shares
from tests.algorithms.tiny import PARAMS, groups, tiny_policy, tiny_tokenizer

STATEMENTS = ["one is red.", "one is green.", "one is dark blue."]
ASK = [{"role": "user", "content": "two?"}]
POLL: dict[str, Any] = {"prompt": ASK, "statements": STATEMENTS, "votes": [6, 3, 1]}
TOKENS, SECTION = PARAMS.tokens, PARAMS.align.gdpo_belief
TOKENIZER = tiny_tokenizer()


def ranking(*responses: str) -> dict[str, Any]:
    return {"prompt": ASK, "responses": list(responses), "ranks": list(range(1, len(responses) + 1))}


def test_the_statement_of_an_answer_by_hand() -> None:
    assert find_statement("Well, one is green. So there.", STATEMENTS) == Stated("Well, ", 1, " So there.")
    assert find_statement("one is red.", STATEMENTS) == Stated("", 0, "")
    for answer in ("two is red.", "one is red. one is green.", "one is red. one is red.", ""):
        assert find_statement(answer, STATEMENTS) is None


def test_every_answer_states_the_belief_of_the_best_one_and_is_given_it() -> None:
    row = ranking("I say nothing.", "one is dark blue. north", "Oh, one is red.")
    (group,), (poll,), too_long = encode_conditioned(TOKENIZER, [(row, POLL)], TOKENS)
    texts = [TOKENIZER.decode(turn.response) for turn in group.answers]
    assert texts == ["I say nothing.<|end|>", "one is dark blue. north<|end|>", "Oh, one is dark blue.<|end|>"]
    spans = [TOKENIZER.decode(turn.response[slice(*turn.given)]) for turn in group.answers]
    assert spans == ["", "one is dark blue.", " one is dark blue."]
    assert (group.ranks, too_long) == ((1, 2, 3), 0)
    assert poll is not None
    assert poll.votes == (6, 3, 1)
    assert [TOKENIZER.decode(turn.response) for turn in poll.statements] == STATEMENTS
    prompt = encode_prompt(TOKENIZER, ASK)
    assert all(turn.prompt == prompt for turn in poll.statements)  # the best one opens with its belief
    after = encode_poll(TOKENIZER, prompt, "Oh, ", POLL)
    assert [TOKENIZER.decode(turn.prompt[len(prompt) :]) for turn in after.statements] == ["Oh,"] * 3


def test_a_ranking_without_a_poll_or_a_statement_is_plain() -> None:
    silent, unasked = ranking("north", "south"), ranking("one is red.", "south")
    made, polls, _ = encode_conditioned(TOKENIZER, [(silent, POLL), (unasked, None)], TOKENS)
    assert polls == [None, None]
    assert all(turn.given == (0, 0) for group in made for turn in group.answers)


def test_an_answer_that_is_too_long_states_nothing() -> None:
    """The belief is that of the best answer that is learned from, and nothing longer than an answer is read."""
    limits = TOKENS.model_copy(update={"response": 24})
    row = ranking("north " * 30 + "one is green.", "south, one is red.", "Oh, one is red.", "east")
    (group,), (poll,), too_long = encode_conditioned(TOKENIZER, [(row, POLL)], limits)
    assert (group.ranks, too_long) == ((2, 3, 4), 1)
    spans = [TOKENIZER.decode(turn.response[slice(*turn.given)]).strip() for turn in group.answers]
    assert spans == ["one is red.", "one is red.", ""]
    assert poll is not None
    assert all(turn.tokens - len(group.answers[0].prompt) <= 24 for turn in poll.statements)
    wordy = POLL | {"statements": [*STATEMENTS[:2], "one is " + "dark " * 30]}
    _, polls, _ = encode_conditioned(TOKENIZER, [(row, wordy)], limits)
    assert polls == [None]


def objective(policy: Any, made: list[Any], polls: list[Poll | None], **changes: float) -> GdpoBelief:
    section = SECTION.model_copy(update=changes)
    return GdpoBelief(policy, reference_log_probs(tiny_policy(1), made, 4), polls, section)


def test_without_polls_it_is_dpo() -> None:
    policy, made = tiny_policy(), groups(6)
    batch = (np.arange(6), pad_rankings(made))
    dpo = Dpo(policy, reference_log_probs(tiny_policy(1), made, 4), SECTION)
    assert torch.equal(objective(policy, made, [None] * 6)(batch)[0], dpo(batch)[0])


def test_the_preference_is_that_of_the_rest_of_the_answer_given_the_belief() -> None:
    """log pi(y) of the whole answer less log pi(b | x, what stands before), both from scoring of their own."""
    policy, row = tiny_policy(), ranking("Well, one is green. north", "one is red. south east")
    (given,), (poll,), _ = encode_conditioned(TOKENIZER, [(row, POLL)], TOKENS)
    (whole,), _, _ = encode_conditioned(
        TOKENIZER, [(ranking("Well, one is green. north", "one is green. south east"), None)], TOKENS
    )
    assert poll is not None
    prompt = encode_prompt(TOKENIZER, ASK)
    stated = [encode_poll(TOKENIZER, prompt, before, POLL).statements[1] for before in ("Well, ", "")]
    with torch.no_grad():
        rest = sequence_log_probs(policy, pad_rankings([given]).sequences)
        everything = sequence_log_probs(policy, pad_rankings([whole]).sequences)
        beliefs = sequence_log_probs(policy, pad_polls([Poll(tuple(stated), (1, 1))]).statements)
    torch.testing.assert_close(rest, everything - beliefs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("renormalized", [True, False])
def test_beliefs_of_several_tokens_come_to_be_held_as_people_do(renormalized: bool) -> None:
    """Two questions, each asked after words of its own. Given a belief the answers are alike: only calibration acts."""
    policy = tiny_policy()
    rows = [ranking("Well, one is green.", "Well, one is red."), ranking("one is red.", "one is dark blue.")]
    other = POLL | {"votes": [1, 2, 7]}
    made, polls, _ = encode_conditioned(TOKENIZER, zip(rows, (POLL, other), strict=True), TOKENS)
    trained = objective(policy, made, polls, renormalized=renormalized, smoothing=0.0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        trained((np.arange(2), pad_rankings(made)))[0].backward()
        optimizer.step()
    batch = pad_polls([poll for poll in polls if poll])
    with torch.no_grad():
        log_probs = batch.per_belief(sequence_log_probs(policy, batch.statements)).double()
    held = log_probs.softmax(dim=1).numpy()
    for shares, people in zip(held, ([0.6, 0.3, 0.1], [0.1, 0.2, 0.7]), strict=True):
        assert jensen_shannon_distance(shares, np.array(people)) < 0.02
    if not renormalized:
        assert (log_probs.exp().sum(dim=1) > 0.9).all()  # nothing else is said there


def test_calibration_by_hand() -> None:
    """KL((3/4, 1/4) || (1/2, 1/4)) = 3/4 ln 3/2, and among the two alone (2/3, 1/3): 3/4 ln 9/8 + 1/4 ln 3/4."""
    log_probs = torch.tensor([[0.5, 0.25, 0.125], [0.5, 0.25, 0.125]]).log()
    mask = torch.tensor([[True, True, False], [True, True, False]])
    shares = torch.tensor([[0.75, 0.25, 0.0], [1.0, 0.0, 0.0]])
    full, metrics = belief_calibration(log_probs, shares, mask, renormalized=False)
    assert float(full) == pytest.approx(0.75 * np.log(1.5) + np.log(2), abs=1e-6)
    assert [float(part) for part in metrics["calibration"]] == [pytest.approx(float(full)), 2]
    among, _ = belief_calibration(log_probs, shares, mask, renormalized=True)
    assert float(among) == pytest.approx(0.75 * np.log(9 / 8) + 0.25 * np.log(3 / 4) + np.log(3 / 2), abs=1e-6)


def test_shares_of_votes_by_hand() -> None:
    votes, mask = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[True, True, False]])
    torch.testing.assert_close(vote_shares(votes, mask, smoothing=0.5), torch.tensor([[3.5 / 4, 0.5 / 4, 0.0]]))
    torch.testing.assert_close(vote_shares(votes, mask, smoothing=0.0), torch.tensor([[1.0, 0.0, 0.0]]))


def test_distance_by_hand() -> None:
    half, sure, other = np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert jensen_shannon_distance(half, half) == 0.0
    assert jensen_shannon_distance(sure, other) == 1.0
    expected = 0.5 * np.log2(4 / 3) + 0.5 * (0.5 * np.log2(2 / 3) + 0.5 * np.log2(2))
    assert jensen_shannon_distance(sure, half) == pytest.approx(np.sqrt(expected))


def test_beliefs_are_those_of_the_policy_at_the_temperature_at_which_it_answers() -> None:
    """Statements of one token: at a temperature of 1/2 their probabilities are squared."""
    policy, poll = tiny_policy(), Poll((Turn([5, 6], [7]), Turn([5, 6], [8])), (1, 1))
    config = PARAMS.evaluate.model_copy(update={"temperature": 1.0})
    (plain,) = belief_shares(policy, [poll], config)
    (sharp,) = belief_shares(policy, [poll], config.model_copy(update={"temperature": 0.5}))
    np.testing.assert_allclose(sharp, plain**2 / (plain**2).sum(), rtol=1e-5)
    assert abs(sharp - plain).max() > 1e-4


def test_rankings_of_one_prompt_count_as_one_in_an_interval() -> None:
    row, other = ranking(*STATEMENTS[:2]), POLL | {"prompt": [{"role": "user", "content": "three?"}]}
    judged = [(row, POLL, [2.0, 0.5]), (dict(row), POLL, [1.0, 0.5]), (row, other, [0.0, 0.5])]
    minority, (margins, prompts) = contested_margins(judged)
    assert (minority, margins) == (([], []), [1.5, 0.5, -0.5])
    assert prompts[0] == prompts[1] != prompts[2]


def test_margins_of_few_and_of_many_by_hand() -> None:
    """From the best on: the belief of one, none, the belief of six, the belief of three."""
    assert sides([1, 2, 3, 4], [1, None, 6, 3], [4.0, 9.0, 1.0, -1.0]) == ([3.0, 5.0], [2.0])
    assert sides([1, 1], [6, 3], [0.0, 1.0]) == ([], [])
