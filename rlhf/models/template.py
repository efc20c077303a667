"""Whether a chat template of others renders at all. transformers' sandbox keeps it from running code, and lets it run
away: loops within loops, a power of a power, a text that doubles itself. So a process with limits tries it first.

That process is this file run as a program.
"""

import json
import re
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import date
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from rlhf.errors import DataError

SECONDS = 2.0  # of a processor, in which a template renders all of CONVERSATIONS
MEMORY = 4 << 30  # bytes of address space, most of which Python and its libraries take for themselves
RENDERED = 100_000  # characters of one of them
TODAY = date(2026, 1, 1)  # to a template that asks
_DATE = re.compile(r"""strftime_now\s*\(\s*(?P<quote>["'])(?P<format>[^"']*)(?P=quote)\s*\)""")

_QUESTION = {"role": "user", "content": "What is the capital of France? Answer in one word."}
_ANSWER = {"role": "assistant", "content": "Paris."}
# Every template has to take these; many refuse a system's message, or two of one role in a row.
CONVERSATIONS = [[_QUESTION], [_QUESTION, _ANSWER], [*[_QUESTION, _ANSWER] * 20, _QUESTION]]


def freeze_date(tokenizer: PreTrainedTokenizerBase, path: Path | str) -> None:
    """Put TODAY for the date in a chat template that tells it: a prompt must have the same tokens tomorrow.

    Raises DataError for a template that asks for the date in another way than with a format in quotes.
    """
    template = tokenizer.get_chat_template()
    frozen = _DATE.sub(lambda call: repr(TODAY.strftime(call["format"])), template)
    if "strftime_now(" in frozen.replace(" ", ""):
        raise DataError(f"The chat template of {path} asks for the date in no fixed format. Give it one that does not")
    if frozen != template:
        tokenizer.chat_template = frozen


def try_template(tokenizer: PreTrainedTokenizerBase, path: Path | str) -> None:
    """Have a process render conversations by the chat template of a tokenizer, which came from `path`.

    Raises DataError when that fails, or takes more than SECONDS, MEMORY or RENDERED.
    """
    asked = {"template": tokenizer.get_chat_template(), "tokens": tokenizer.special_tokens_map, "seconds": SECONDS}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        broke = done.returncode < 0 or not said
        why = f"it takes more than {SECONDS:g} s, or breaks its process" if broke else said[-1][:200].rstrip(".")
        raise DataError(f"The chat template of {path} does not render a short conversation: {why}. Take another one")


def main() -> None:
    """Render CONVERSATIONS by the template on standard input. What is wrong is the last line on standard error."""
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError):  # a lower one holds already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.setitimer(signal.ITIMER_PROF, asked["seconds"])  # the signal ends the process
    for conversation in CONVERSATIONS:
        opens = conversation[-1]["role"] == "user"
        rendered = render_jinja_template(
            [conversation], chat_template=asked["template"], add_generation_prompt=opens, **asked["tokens"]
        )
        if len(rendered[0][0]) > RENDERED:
            sys.exit(f"it makes more than {RENDERED:,} characters of it")


if __name__ == "__main__":
    main()
