"""Foreign records as rows of our tables. A fault of a record becomes a defect of its row, never a crash.

TRL's formats are read as they are (huggingface.co/docs/trl, dataset formats): an answer is a text or a list of
messages; a conversation that holds its prompt is cut before its last message.
"""

from collections.abc import Callable, Iterable, Iterator

from rlhf.data.records import Entry, Record, Unreadable
from rlhf.data.sources.columns import Mapped
from rlhf.data.tables import DEFAULTS, Prompt, Row
from rlhf.data.values import Defects, conversation, label, messages, number, sequence, text, truth, whole_number, word
from rlhf.errors import DataError

FIRST = frozenset({"1", "a", "first", "left", "model_a", "response_a"})
SECOND = frozenset({"2", "b", "second", "right", "model_b", "response_b"})
TIE = frozenset({"0", "tie", "both", "equal", "same", "neither", "tie (bothbad)"})


def table_rows(table: str, records: Iterable[Entry], mapped: Iterable[Mapped], name: str) -> Iterator[Row]:
    """The rows of `table` that the records hold, with `row` (the record's place) and `defects`.

    Raises DataError, which tells `name`, for winners that may mean the opposite.
    """
    read, judgements, winners = READERS[table], list(mapped), set[str]()
    for place, record in enumerate(records):
        if isinstance(record, Unreadable):
            yield record.row(place)
            continue
        for judgement in judgements:
            values, defects = judgement.values(record), Defects()
            if table == "comparisons":
                winners.add(word(values.get("winner")))
            row = read(values, defects)
            for column in ("use_case", "kind", "annotator", "group", "criterion"):
                row[column] = label(values.get(column), column, defects) or DEFAULTS[column]
            yield row | {"row": place, "defects": list(dict.fromkeys(defects))}
    if {"0", "1"} <= winners and "2" not in winners:
        raise DataError(
            f"{name}: the winner is 0 or 1 and never 2. Here 1 is the first answer, 2 the second and 0 a tie, so "
            "a file that counts answers from 0 would be read the wrong way round. Write first, second and tie instead"
        )


def demonstration(values: Record, defects: Defects) -> Row:
    """A prompt with its answer, or a conversation whose last message is the answer."""
    whole = values.get("messages", values.get("response"))
    context, response = _answer(whole, "response", defects)
    return {"prompt": _context(values, context, defects), "response": response}


def comparison(values: Record, defects: Defects) -> Row:
    """Chosen and rejected, or two answers and who won."""
    if "winner" in values:
        first, second, tie = _ordered(values, defects)
    else:
        first, second = values["chosen"], values["rejected"]
        tie = truth(values.get("tie"), "tie", defects) or False
    chosen_context, chosen = _answer(first, "chosen response", defects)
    rejected_context, rejected = _answer(second, "rejected response", defects)
    prompt = _context(values, chosen_context, defects)
    other = _context(values, rejected_context, Defects())
    strength = number(values.get("strength"), "strength", defects)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "tie": tie,
        "strength": DEFAULTS["strength"] if strength is None else strength,
        "rejected_prompt": other if other != prompt else None,
    }


def rating(values: Record, defects: Defects) -> Row:
    """An answer and its place on a scale."""
    return _answered(values, defects) | {
        "rating": whole_number(values["rating"], "rating", defects),
        "scale": whole_number(values["scale"], "scale", defects),
    }


def thumb(values: Record, defects: Defects) -> Row:
    """An answer and a thumb, up or down (TRL's unpaired preferences)."""
    return _answered(values, defects) | {"thumb": truth(values["thumb"], "thumb", defects)}


def ranking(values: Record, defects: Defects) -> Row:
    """Answers and their ranks; ranks that count from 0 are moved to count from 1, a rank that is null stays null."""
    answers = [_answer(entry, "response", defects)[1] for entry in sequence(values["responses"], "responses", defects)]
    ranks = [whole_number(entry, "rank", defects) for entry in sequence(values["ranks"], "ranks", defects)]
    from_zero = min((rank for rank in ranks if rank is not None), default=1) == 0
    return {
        "prompt": messages(values["prompt"], defects),
        "responses": answers,
        "ranks": [rank + from_zero if rank is not None else None for rank in ranks],
    }


def belief(values: Record, defects: Defects) -> Row:
    """What people may believe, in the words in which answers state it, and how many do."""
    return {
        "prompt": messages(values["prompt"], defects),
        "statements": [
            text(entry, "statement", defects) for entry in sequence(values["statements"], "statements", defects)
        ],
        "votes": [whole_number(entry, "votes", defects) for entry in sequence(values["votes"], "votes", defects)],
    }


def prompt(values: Record, defects: Defects) -> Row:
    """A prompt without an answer."""
    return {"prompt": messages(values.get("messages", values.get("prompt")), defects)}


def plain_text(values: Record, defects: Defects) -> Row:
    """A document."""
    return {"text": text(values["text"], "text", defects)}


READERS: dict[str, Callable[[Record, Defects], Row]] = {
    "demonstrations": demonstration,
    "comparisons": comparison,
    "ratings": rating,
    "thumbs": thumb,
    "rankings": ranking,
    "beliefs": belief,
    "prompts": prompt,
    "texts": plain_text,
}


def _answered(values: Record, defects: Defects) -> Row:
    context, response = _answer(values["response"], "response", defects)
    return {"prompt": _context(values, context, defects), "response": response}


def _answer(value: object, name: str, defects: Defects) -> tuple[Prompt, str | None]:
    """What comes before the answer, if `value` is a conversation, and the answer."""
    if (said := conversation(value)) is None:
        return [], text(value, name, defects)
    *context, last = messages(said, defects)
    if last["role"] != "assistant":
        defects.append(f"{name} is not the assistant's")
    return context, last["content"]


def _context(values: Record, context: Prompt, defects: Defects) -> Prompt:
    """The prompt of an answer. A context that opens a conversation holds the prompt; another one goes on from it."""
    if context and context[0]["role"] != "assistant":
        return context
    return messages(values.get("prompt"), defects) + context


def _ordered(values: Record, defects: Defects) -> tuple[object, object, bool]:
    """The winner, the loser, and whether there is neither."""
    winner = word(values["winner"])
    if winner not in FIRST | SECOND | TIE:
        defects.append("winner is not one of first, second, tie")
    first, second = values["first"], values["second"]
    return (second, first, False) if winner in SECOND else (first, second, winner in TIE)
