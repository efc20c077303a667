"""`rlhf chat`: talk to a model of the workspace."""

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from rlhf.cli.console import WorkspaceOption, err, find_workspace, out
from rlhf.cli.policies import NAMES, find_policy, load
from rlhf.errors import ConfigError, DataError, DiskFull
from rlhf.text import printable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _finite(number: float | None) -> float | None:
    """Refuse what is larger than every number."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter("Give a finite number")
    return number


def chat(
    model: Annotated[
        str,
        typer.Argument(help=NAMES),
    ] = "champion",
    prompt: Annotated[str | None, typer.Option(help="Ask this one thing and leave.", show_default=False)] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            callback=_finite,
            help="0: the likeliest words. [default: evaluate.temperature]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="[default: seed of params.yaml]", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends; /new begins a new conversation."""
    from rlhf.config import load_config

    if prompt is None and sys.stdin is None:
        raise ConfigError("There is no standard input to talk by. Ask one thing: --prompt TEXT")
    if sys.stdout is None:
        raise DiskFull("cannot write to standard output: it is closed. Send it elsewhere")
    directory = find_workspace(workspace)
    config = load_config(directory / "params.yaml")
    with err.status(f"Loading {model}"):
        place = find_policy(directory, model)
        tokenizer, policy = load(place)
    talk = Talk(
        policy,
        tokenizer,
        prompt_tokens=config.tokens.prompt,
        response_tokens=config.tokens.response,
        temperature=config.evaluate.temperature if temperature is None else temperature,
        seed=config.seed if seed is None else seed,
    )
    if prompt is not None:
        out.print(Text(printable(talk.answer(prompt))), soft_wrap=True)
        return
    out.print(Text(f"{place}. An empty line ends, /new begins anew.", "dim"), soft_wrap=True)
    _converse(talk)


@dataclass
class Talk:
    """A conversation with one model."""

    policy: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    prompt_tokens: int
    response_tokens: int
    temperature: float
    seed: int
    messages: list[dict[str, str]] = field(default_factory=list)

    def answer(self, text: str) -> str:
        """The model's answer; what was said before counts as far back as fits. Raises DataError for a text that is too
        long or was not UTF-8, which then was never said."""
        from rlhf.batching.encoding import decode, encode_prompt
        from rlhf.rollouts.sampling import sample

        if any("\ud800" <= letter <= "\udfff" for letter in text):  # by which Python stands in for such bytes
            raise DataError("That is not UTF-8. Write it in UTF-8")
        messages = [*self.messages, {"role": "user", "content": text}]
        while len(ids := encode_prompt(self.tokenizer, messages)) > self.prompt_tokens and len(messages) > 2:
            del messages[:2]  # the oldest exchange
        if len(ids) > self.prompt_tokens:
            raise DataError(
                f"That is {len(ids)} tokens; the model was trained on prompts of at most {self.prompt_tokens} "
                "(tokens.prompt in params.yaml). Say it in fewer words"
            )
        (drawn,) = sample(
            self.policy,
            [ids],
            max_tokens=self.response_tokens,
            temperature=self.temperature,
            eos=self.tokenizer.eos_token_id,
            batch_size=1,
            seed=self.seed + len(messages),
        )
        answer = decode(self.tokenizer, drawn.response)
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return answer


def _converse(talk: Talk) -> None:
    while True:
        try:
            text = out.input(Text("you  ", "bold")).strip()
        except EOFError:
            return
        if not text:
            return
        if text == "/new":
            talk.messages.clear()
            continue
        try:
            out.print(Text.assemble(("     ", ""), (printable(talk.answer(text)), "cyan")), soft_wrap=True)
        except DataError as error:
            out.print(Text(str(error), "yellow"), soft_wrap=True)


COMMANDS = (chat,)
