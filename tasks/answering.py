"""Who answers in evaluate: SFT, the policy, what it was on the way, the champion. What each says is kept for reuse."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.encoding import Turn, decode, encode_prompts, encode_turns
from rlhf.batching.ragged import Ragged
from rlhf.evaluation.answers import Answers, answer, of_samples, rewards_of, samples_of
from rlhf.evaluation.serving import greedy
from rlhf.manifest import sha256
from rlhf.models.cached import arithmetic, cached
from rlhf.models.loading import load_policy, load_tokenizer, require_fit
from rlhf.pipeline.champion import POLICY
from rlhf.pipeline.stage import Stage
from rlhf.rollouts.engine import sampler
from rlhf.rollouts.rewards import RewardFunction, Rewards
from rlhf.rollouts.sampling import Sample, Sampler

Row = dict[str, Any]
UNHEARD = {"truth", "judge", "judge_pairs", "serving"}  # keys of `evaluate` on which no answer depends
CHAMPION, AGAIN = 1_000_003, 3_000_003  # added to the seed for answers that are drawn with random numbers of their own


@dataclass(frozen=True)
class Speaker:
    """A model that answers, and the tokenizer by which it reads and writes."""

    digest: str  # of the model's files
    tokenizer: PreTrainedTokenizerBase
    ready: Callable[[], tuple[Sampler, PreTrainedModel]]  # loads it, if need be


def in_turn(
    stage: Stage, reference: PreTrainedModel, policy: PreTrainedModel, snapshots: Sequence[Path]
) -> Iterator[tuple[str, str, PreTrainedModel]]:
    """SFT, the policy, and what the policy was on the way, each with its digest, in the same memory: use each before
    the next is taken."""
    aligned = stage.inputs[f"models/policy/{stage.item}"]
    yield "sft", stage.inputs["models/sft"], reference
    yield "policy", aligned, policy
    for file in snapshots:
        load_model(policy, file)
        yield file.stem, f"{aligned} {sha256(file)}", policy


def answer_all(
    stage: Stage,
    draw: Sampler,
    reference: PreTrainedModel,
    models: Iterable[tuple[str, str, PreTrainedModel]],
    rewards: tuple[Rewards, RewardFunction],
    prompts: Sequence[list[int]],
    eos: int,
) -> dict[str, Answers]:
    """Answers of each model, drawn with different random numbers; of SFT they are the same beside every algorithm."""
    config, longest = stage.config.evaluate, stage.config.tokens.response

    def answers_of(name: str, digest: str, model: PreTrainedModel, seed: int) -> Answers:
        settings = {"max_tokens": longest, "eos": eos, "seed": seed}
        path = stage.kept(
            answer,
            policy=digest,
            reference=stage.inputs["models/sft"],
            rewards=rewarded_by(stage),
            arithmetic=arithmetic(model),
            prompts=prompts,
            config=config.model_dump(exclude=UNHEARD),
            decoding=stage.config.decoding.model_dump(),
            **settings,
        )
        progress = partial(stage.progress, label=name)
        compute = partial(answer, draw, model, reference, rewards, prompts, config, progress=progress, **settings)
        return Answers.of(cached(path, compute))

    return {
        name: answers_of(name, digest, model, stage.seed + offset)
        for offset, (name, digest, model) in enumerate(models)
    }


def answer_again(
    stage: Stage, draw: Sampler, sft: PreTrainedModel, prompts: Sequence[list[int]], eos: int
) -> list[Sample]:
    """SFT's answers to the first prompts with other random numbers, which a judge must find as good as its own."""
    config = stage.config.evaluate
    settings: dict[str, Any] = {
        "max_tokens": stage.config.tokens.response,
        "temperature": config.temperature,
        "eos": eos,
        "seed": stage.seed + AGAIN,
    }
    asked = prompts[: config.judge_pairs]
    path = stage.kept(
        answer_again,
        sft=stage.inputs["models/sft"],
        arithmetic=arithmetic(sft),
        prompts=asked,
        batch_size=config.batch_size,
        decoding=stage.config.decoding.model_dump(),
        **settings,
    )
    progress = partial(stage.progress, label="sft again")
    return samples_of(cached(path, lambda: of_samples(draw(sft, asked, progress=progress, **settings))))


def answer_probes(
    stage: Stage, policy: PreTrainedModel, prompts: Sequence[list[int]], *, max_tokens: int, eos: int
) -> list[list[int]]:
    """The policy's greedy answers, which whoever serves it must give, too."""
    settings = {"max_tokens": max_tokens, "eos": eos}
    digest = stage.inputs[f"models/policy/{stage.item}"]
    path = stage.kept(greedy, policy=digest, arithmetic=arithmetic(policy), prompts=prompts, **settings)
    kept = cached(path, lambda: Ragged.of(greedy(policy, prompts, **settings)).arrays("answers"))
    return [ids.tolist() for ids in Ragged.named(kept, "answers")]


def rewarded_by(stage: Stage) -> list[str]:
    """The digests of the models that score answers, in the order of their scores."""
    names = (*(f"reward/{criterion}" for criterion in stage.config.reward.criteria), "referee")
    return [stage.inputs[f"models/{name}"] for name in names]


def as_cut(turn: Turn, whole: bool) -> Turn:
    """An answer that was encoded as a whole one; without the end-of-turn token where it is not, but never empty."""
    return turn if whole or len(turn.response) == 1 else Turn(turn.prompt, turn.response[:-1])


def champion_of(stage: Stage, champion: Path, draw: Sampler, conversations: Sequence[Any]) -> Speaker:
    """The champion, whose files lie in a directory. It is loaded once, where one of its answers is not kept. Raises
    DataError then, where it has no positions for the conversations, whose tokens its own tokenizer counts.

    `draw` samples for it, too, where it is of SFT's architecture: two engines may not fit on a GPU.
    """
    config, sft, tokenizer = stage.config, stage.input("models/sft"), load_tokenizer(champion)

    @cache
    def ready() -> tuple[Sampler, PreTrainedModel]:
        model, longest = load_policy(champion), int(encode_prompts(tokenizer, conversations).lengths.max())
        if not getattr(model.config.get_text_config(), "rope_parameters", None):  # rotary positions go on and on
            require_fit(model, tokenizer, champion, prompt=longest, response=config.tokens.response)
        same = (champion / "config.json").read_bytes() == (sft / "config.json").read_bytes()
        if same and longest <= config.tokens.prompt:
            return draw, model
        tokens = config.tokens.model_copy(update={"prompt": longest})
        return sampler(config.decoding, champion, tokens, config.evaluate.batch_size), model

    return Speaker(stage.params[POLICY], tokenizer, ready)


def answer_as_champion(
    stage: Stage,
    champion: Speaker,
    reference: PreTrainedModel,
    rewards: tuple[Rewards, RewardFunction],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Row],
) -> Answers:
    """Answers of the champion, drawn as it reads and writes, and measured as texts of ours: it may descend from another
    base model. Its KL from SFT and its entropy are not measured."""
    own, config, tokens = champion.tokenizer, stage.config.evaluate, stage.config.tokens
    path = stage.kept(
        answer_as_champion,
        champion=champion.digest,
        tokenizer=stage.inputs["models/sft"],
        rewards=rewarded_by(stage),
        arithmetic=arithmetic(reference),
        prompts=[prompt["prompt"] for prompt in prompts],
        config=config.model_dump(exclude=UNHEARD),
        tokens=tokens.model_dump(),
        decoding=stage.config.decoding.model_dump(),
        seed=stage.seed,
    )

    def compute() -> dict[str, Any]:
        draw, model = champion.ready()
        samples = draw(
            model,
            [ids.tolist() for ids in encode_prompts(own, (prompt["prompt"] for prompt in prompts))],
            max_tokens=tokens.response,
            temperature=config.temperature,
            eos=own.eos_token_id,
            seed=stage.seed + CHAMPION,
            progress=partial(stage.progress, label="champion"),
        )
        texts = [
            {"prompt": p["prompt"], "response": decode(own, s.response)} for p, s in zip(prompts, samples, strict=True)
        ]
        ended = [sample.terminated for sample in samples]
        turns = [as_cut(turn, whole) for turn, whole in zip(encode_turns(tokenizer, texts), ended, strict=True)]
        ours = [Sample(list(turn.response), whole) for turn, whole in zip(turns, ended, strict=True)]
        found = rewards_of(turns, rewards, config.batch_size, reference.device)
        return of_samples(ours) | found | {name: torch.full((len(ours),), torch.nan) for name in ("kl", "entropy")}

    return Answers.of(cached(path, compute))
