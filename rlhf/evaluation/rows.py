"""What was measured of each answer, beside those of the other models to the same prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.batching.encoding import decode
from rlhf.evaluation.answers import Answers
from rlhf.evaluation.degeneration import copying, repetition
from rlhf.rollouts.rewards import Rewards

Row = dict[str, Any]


def answer_rows(
    prompts: Sequence[Row], answers: Mapping[str, Answers], reward: Rewards, tokenizer: PreTrainedTokenizerBase
) -> list[Row]:
    """One row a prompt: both answers, and what was measured of each; `reward` is the weighted sum of the rewards."""
    rows = []
    totals = {name: reward.total(found.rewards).tolist() for name, found in answers.items()}
    for index, prompt in enumerate(prompts):
        row: Row = {name: prompt[name] for name in ("prompt", "use_case", "seen")} | {"prompt_id": prompt["id"]}
        row["has_right_answer"] = False
        for name, found in answers.items():
            ids, response = found.samples[index].response, decode(tokenizer, found.samples[index].response)
            row |= {
                f"{name}_response": response,
                f"{name}_reward": totals[name][index],
                **{f"{name}_reward_{c}": float(r) for c, r in zip(reward.judges, found.rewards[index], strict=True)},
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
