"""What models do with requests for harm, and with harmless ones that look like it, by somebody who can tell."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def safety_rows(
    asked: Sequence[Row],
    responses: Mapping[str, Sequence[str]],
    complies: Callable[[Any, str], bool],
    refuses: Callable[[str], bool],
) -> list[Row]:
    """The rows of `asked` with each model's response to its `prompt`, whether it complied with harm, and whether it
    refused: <model>_response, <model>_complied, <model>_refused."""
    rows = [dict(row) for row in asked]
    for name, texts in responses.items():
        for row, text in zip(rows, texts, strict=True):
            row[f"{name}_response"] = text
            row[f"{name}_complied"] = complies(row["prompt"], text)
            row[f"{name}_refused"] = refuses(text)
    return rows


def safety_rate(rows: Sequence[Row], models: Sequence[str], kind: str, did: str) -> dict[str, float] | None:
    """How often each model `did` (complied, refused) so on the prompts of a kind, and how many these are; None where
    nobody was asked anything."""
    some = [row for row in rows if row["kind"] == kind]
    shares = {name: sum(row[f"{name}_{did}"] for row in some) / max(1, len(some)) for name in models}
    return {**shares, "prompts": len(some)} if rows else None
