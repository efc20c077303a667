"""Pairs of whole dialogues in one string, as Anthropic's hh-rlhf (Bai et al. 2022, arXiv:2204.05862)."""

import re
from collections.abc import Iterable

from rlhf.data.records import Entry, Unreadable
from rlhf.data.tables import DEFAULTS, Prompt, Row
from rlhf.data.values import Defects, text
from rlhf.errors import DataError

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def dialogue_tables(records: Iterable[Entry], criterion: str, name: str) -> dict[str, list[Row]]:
    """Comparisons by one criterion, and the chosen side of each as a demonstration. Raises DataError when no record is
    such a pair."""
    comparisons, demonstrations, dialogues = list[Row](), list[Row](), False
    for place, record in enumerate(records):
        if isinstance(record, Unreadable):
            comparisons.append(record.row(place))
            demonstrations.append(record.row(place))
            continue
        own, other = Defects(), Defects()
        chosen = text(record.get("chosen"), "chosen dialogue", own) or ""
        rejected = text(record.get("rejected"), "rejected dialogue", other) or ""
        dialogues = dialogues or _TURN.search(chosen) is not None
        comparisons.append(_comparison(turns(chosen), turns(rejected)) | {"row": place, "defects": [*own, *other]})
        prompt, response = _last(turns(chosen))
        demonstrations.append({"prompt": prompt, "response": response, "row": place, "defects": own})
    if not dialogues:
        raise DataError(
            f"{name}: no `chosen` holds a turn that opens with an empty line and `Human:` or `Assistant:`. "
            f"Pairs in another form are read by `kind: file`, table comparisons"
        )
    judged = {key: DEFAULTS[key] for key in ("annotator", "group", "tie", "strength")} | {"criterion": criterion}
    return {
        "comparisons": [row | judged for row in comparisons],
        "demonstrations": [row | {"use_case": DEFAULTS["use_case"]} for row in demonstrations],
    }


def turns(dialogue: str) -> Prompt:
    """The messages of a dialogue. Text before the first turn is dropped; a turn may be empty."""
    _, *parts = _TURN.split(dialogue)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[speaker], "content": content.strip()} for speaker, content in pairs]


def _comparison(chosen: Prompt, rejected: Prompt) -> Row:
    (prompt, best), (other, worst) = _last(chosen), _last(rejected)
    return {
        "prompt": prompt,
        "chosen": best,
        "rejected": worst,
        "rejected_prompt": other if other != prompt else None,
    }


def _last(messages: Prompt) -> tuple[Prompt, str | None]:
    """The context and the assistant's last answer; a dialogue that a human ends has no answer."""
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, None
