"""Plain text for pretraining, cut at blank lines into documents."""

import re
from pathlib import Path

from rlhf.config.data import LimitsConfig
from rlhf.data.sources.files import read_text
from rlhf.data.tables import Row
from rlhf.data.values import Defects, text
from rlhf.errors import DataError


def text_rows(path: Path, limits: LimitsConfig) -> list[Row]:
    """One row a document; `row` is its place. Raises DataError for a file that cannot be read or is blank."""
    documents = [
        part.strip("\n") for part in re.split(r"\n(?:[ \t]*\n)+", read_text(path, limits).replace("\r\n", "\n"))
    ]
    rows = list[Row]()
    for place, document in enumerate(documents):
        if document.strip():
            defects = Defects()
            rows.append({"text": text(document, "text", defects), "row": place, "defects": defects})
    if not rows:
        raise DataError(f"{path} holds white space only. Fill it, or remove it from collect.sources in params.yaml")
    return rows
