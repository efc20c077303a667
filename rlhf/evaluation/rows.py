"""What was measured of each answer, beside those of the other models to the same prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf.batching.encoding import decode
from rlhf.evaluation.answers import Answers
from rlhf.evaluation.degeneration import copying, repetition
from rlhf.rollouts.rewards import Rewards

Row = dict[str, Any]


def answer_rows(
    prompts: Sequence[Row],
    encoded: Sequence[list[int]],
    answers: Mapping[str, Answers],
    reward: Rewards,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Row]:
    """One row a prompt: its kinds, by which the gate slices; both answers, and what was measured of each; `reward` is
    the weighted sum of the rewards.

    encoded: the ids of each prompt.
    """
    rows, lengths = [], thirds([len(ids) for ids in encoded])
    totals = {name: reward.total(found.rewards).tolist() for name, found in answers.items()}
    for index, prompt in enumerate(prompts):
        row: Row = {name: prompt[name] for name in ("prompt", "use_case", "kind", "seen")} | {"prompt_id": prompt["id"]}
        row |= {"turns": turns(prompt["prompt"]), "prompt_length": lengths[index], "has_right_answer": False}
        for name, found in answers.items():
            ids, response = found.samples[index].response, decode(tokenizer, found.samples[index].response)
            row |= {
                f"{name}_response": response,
                f"{name}_reward": totals[name][index],
                **{f"{name}_reward_{c}": float(r) for c, r in zip(reward.functions, found.rewards[index], strict=True)},
                f"{name}_referee": found.referee[index],
                f"{name}_gold": float("nan"),
                f"{name}_correct": float("nan"),
                f"{name}_length": len(ids),
                f"{name}_terminated": found.samples[index].terminated,
                f"{name}_repetition": repetition(ids),
                f"{name}_copying": copying(prompt["prompt"][-1]["content"], response),
                f"{name}_entropy": found.entropy[index],
            }
        rows.append(row | {"kl": answers["policy"].kl[index]})
    return rows


def thirds(lengths: Sequence[int]) -> list[str]:
    """Short, medium or long: in which third of the lengths each lies. Equal lengths are in one, the shorter."""
    low, high = np.quantile(lengths, [1 / 3, 2 / 3])
    return ["short" if length <= low else "medium" if length <= high else "long" for length in lengths]


def turns(prompt: Sequence[Mapping[str, str]]) -> str:
    """Whether an exchange went before the message that is to be answered: one, or several."""
    return "one" if sum(message["role"] == "user" for message in prompt) == 1 else "several"
