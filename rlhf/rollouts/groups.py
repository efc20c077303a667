"""K answers of one policy to each prompt: what people rank."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from rlhf.batching.encoding import Ids
from rlhf.config.training import SampleConfig
from rlhf.rollouts.sampling import Sample, Sampler


def sample_groups(
    draw: Sampler,
    policy: PreTrainedModel,
    prompts: Sequence[Ids],
    config: SampleConfig,
    *,
    max_tokens: int,
    eos: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Sample]]:
    """`config.answers` answers to each prompt (ids), in the order of `prompts`."""
    answers = draw(
        policy,
        [list(map(int, prompt)) for prompt in prompts for _ in range(config.answers)],
        max_tokens=max_tokens,
        temperature=config.temperature,
        eos=eos,
        seed=seed,
        progress=progress,
    )
    return [answers[first : first + config.answers] for first in range(0, len(answers), config.answers)]
