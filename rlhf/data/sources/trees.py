"""Message trees as OpenAssistant exports them (Köpf et al. 2023, arXiv:2304.07327): nested, or one message a row.

Ranked siblings become a ranking, each assistant message of rank 0 a demonstration, and each prompter message a prompt.
A group in which nobody ranked anything is no judgement; a group ranked in part is one, with a fault. What was deleted
is counted and left out, with all that replies to it.
"""

from collections import defaultdict
from collections.abc import Iterator

import pyarrow as pa

from rlhf.data.records import Entry, Record, Unreadable
from rlhf.data.tables import DEFAULTS, Prompt, Row
from rlhf.data.values import Defects, messages, text, truth, whole_number
from rlhf.data.words import LARGE_TEXT, cleaned
from rlhf.errors import DataError


def tree_tables(entries: list[Entry], name: str) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Tables rankings, demonstrations and prompts, and counts of messages (all, synthetic, deleted, those whose parent
    is not there, and those of an id that another has) and of groups.

    `row` is the place of the tree; a record that was not read stands among the prompts, by its own place.
    Raises DataError when the records are no message trees.
    """
    records = [entry for entry in entries if not isinstance(entry, Unreadable)]
    unread = [entry.row(place) for place, entry in enumerate(entries) if isinstance(entry, Unreadable)]
    tables: dict[str, list[Row]] = {"rankings": [], "demonstrations": [], "prompts": unread}
    counts = {"messages": 0, "synthetic": 0, "deleted": 0, "unranked_groups": 0}
    roots, counts["without_parent"], counts["repeated"] = _roots(records, name)
    for place, root in enumerate(roots):
        for path in _paths(root):
            message = path[-1]
            counts["messages"] += 1
            counts["synthetic"] += _is(message, "synthetic")
            counts["deleted"] += _is(message, "deleted")
            replies = _replies(message)
            if message.get("role") in ("prompter", "user") and not _is(message, "deleted"):
                defects = Defects()
                prompt = _prompt(path, defects)
                at = {"prompt": prompt, "row": place, "defects": defects}
                tables["prompts"].append(at | {"use_case": DEFAULTS["use_case"], "kind": DEFAULTS["kind"]})
                standing = [reply for reply in replies if not _is(reply, "deleted")]
                ranked = not all(_unranked(reply) for reply in standing)
                counts["unranked_groups"] += len(standing) > 1 and not ranked
                if len(standing) > 1 and ranked:
                    tables["rankings"].append(_ranking(standing, at))
                tables["demonstrations"].extend(_demonstrations(replies, at))
    return tables, counts


def _ranking(replies: list[Record], at: Row) -> Row:
    """Siblings are written apart from each other: with the same words they are one answer that was posted twice."""
    defects = list(at["defects"])
    answers = [text(reply.get("text"), "response", defects) for reply in replies]
    words = cleaned(pa.array([answer or "" for answer in answers], LARGE_TEXT)).to_pylist()
    if any(words.count(word) > 1 for word in words if word):
        defects.append("responses are identical")
    ranks = [whole_number(reply.get("rank"), "rank", defects) for reply in replies]
    judged = {"responses": answers, "ranks": [None if rank is None else rank + 1 for rank in ranks]}
    unknown = {key: DEFAULTS[key] for key in ("annotator", "group", "criterion")}
    return at | judged | unknown | {"defects": defects}


def _demonstrations(replies: list[Record], at: Row) -> Iterator[Row]:
    """The reply that people ranked first, when a person wrote it; an only child when nobody had to rank."""
    for reply in replies:
        best = whole_number(reply.get("rank"), "rank", Defects()) == 0 or (len(replies) == 1 and _unranked(reply))
        if best and not _is(reply, "synthetic") and not _is(reply, "deleted"):
            defects = list(at["defects"])
            response = text(reply.get("text"), "response", defects)
            yield at | {"response": response, "use_case": DEFAULTS["use_case"], "defects": defects}


def _prompt(path: tuple[Record, ...], defects: Defects) -> Prompt:
    return messages([{"role": message.get("role"), "content": message.get("text")} for message in path], defects)


def _unranked(message: Record) -> bool:
    """Whether nobody ranked a message, of which a csv says ""."""
    return message.get("rank") in (None, "")


def _is(message: Record, name: str) -> bool:
    """Whether a flag is set, which in a csv is a word."""
    return bool(truth(message.get(name), name, Defects()))


def _paths(root: Record) -> Iterator[tuple[Record, ...]]:
    """The path to every message, parents before replies, replies in their order."""
    waiting: list[tuple[Record, ...]] = [(root,)]
    while waiting:
        path = waiting.pop()
        yield path
        if not _is(path[-1], "deleted"):
            waiting.extend((*path, reply) for reply in reversed(_replies(path[-1])))


def _replies(message: Record) -> list[Record]:
    replies = message.get("replies")
    return [reply for reply in replies if isinstance(reply, dict)] if isinstance(replies, list) else []


def _roots(records: list[Record], name: str) -> tuple[list[Record], int, int]:
    """The first message of every tree, `prompt` of a nested tree or a message that names no parent; how many messages
    name one that is not there; and how many repeat an id, of which the first counts."""
    nested = [record["prompt"] for record in records if isinstance(record.get("prompt"), dict)]
    if nested:
        return nested, 0, 0
    flat = [record for record in records if "text" in record and _named(record.get("message_id"))]
    by_id: dict[object, Record] = {}
    for record in flat:
        by_id.setdefault(record["message_id"], record)
    if not by_id:
        raise DataError(
            f"{name}: no row is a message tree (`prompt` with `replies`) or a message (`message_id`, `parent_id`, "
            "`text`)"
        )
    children: dict[object, list[Record]] = defaultdict(list)
    for record in by_id.values():
        parent = record.get("parent_id")
        children[parent if _named(parent) else None].append(record)
    lost = sum(len(children[parent]) for parent in children.keys() - {None} - by_id.keys())
    if not (roots := _grown(children)):
        raise DataError(f"{name}: every message names a parent, so that no tree begins. Add the first message of each")
    return roots, lost, len(flat) - len(by_id)


def _named(value: object) -> bool:
    """Whether a value is the id of a message; in a csv nobody is ""."""
    return isinstance(value, str | int) and value != ""


def _grown(children: dict[object, list[Record]]) -> list[Record]:
    """Give every message its replies; return those that have no parent."""
    for siblings in children.values():
        for record in siblings:
            record["replies"] = children.get(record["message_id"], [])
    return children.get(None, [])
