"""Sections of the data stages: collect, validate, screen, label."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config.section import CRITERION, HUB_ID, Count, Section, Share

Table = Literal["demonstrations", "comparisons", "ratings", "thumbs", "rankings", "beliefs", "prompts", "texts"]

Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]  # a branch or a tag moves; a commit does not

Criterion = Annotated[str, Field(pattern=f"^{CRITERION}$")]

# Our column: the file's name of it, a path such as instances.0.output, a template such as "{instruction}\n\n{input}",
# or a number that stands for itself. `winner`, `rating` and `thumb` may be a list of columns, one an annotator.
Columns = dict[str, str | int | list[str]]


class WorldSource(Section):
    """Everything that the simulated world of section `world` gives."""

    kind: Literal["world"]


class FileSource(Section):
    """Rows of one local jsonl, json, csv or parquet file (the text formats may be gzipped)."""

    kind: Literal["file"]
    path: str
    table: Table
    columns: Columns  # a column that is left out is taken as it is, or by TRL's name for it


class HubData(Section):
    """A data set of the Hugging Face hub at a pinned commit, or on this machine."""

    path: str  # a hub id; without a revision, a local file or a directory that datasets saved
    revision: Commit | None  # null: `path` is on this machine
    split: str | None  # of a hub id, or of a directory that holds several; else null

    @model_validator(mode="after")
    def _names_a_split(self) -> "HubData":
        if self.revision and not re.fullmatch(r"\w+(\.\w+)*", self.split or ""):
            raise ValueError("a hub data set needs `split`, the name of one whole split such as `train`")
        if self.revision and not re.fullmatch(HUB_ID, self.path):
            raise ValueError(
                "`path` must be a hub id such as owner/name when `revision` is set; for a local path, set "
                "`revision: null`"
            )
        return self


class HubSource(HubData):
    """Rows of a data set that `datasets` reads."""

    kind: Literal["hub"]
    table: Table
    columns: Columns


class DialoguesSource(HubData):
    """Pairs of whole dialogues, as Anthropic's hh-rlhf: turns open with "\\n\\nHuman:" and "\\n\\nAssistant:"."""

    kind: Literal["dialogues"]
    criterion: Criterion  # by which they were compared: helpful, harmless; overall where nobody said


class TreesSource(HubData):
    """Message trees as OpenAssistant exports them: ranked siblings become rankings, the best path demonstrations."""

    kind: Literal["trees"]


class TextSource(Section):
    """Plain text for pretraining, cut at blank lines into documents."""

    kind: Literal["text"]
    path: str


Source = Annotated[
    WorldSource | FileSource | HubSource | DialoguesSource | TreesSource | TextSource, Field(discriminator="kind")
]


class LimitsConfig(Section):
    """How much a source may hold, so that no file fills the memory."""

    row: Count  # bytes of a record; a longer one is quarantined
    source: Count  # bytes of all records, expanded; a source that holds more is refused


class CollectConfig(Section):
    """Where the feedback comes from."""

    limits: LimitsConfig
    sources: list[Source] = Field(min_length=1)


class SplitShares(Section):
    """Shares of prompts, by the hash of how a conversation opens, so that a new row never moves an old one."""

    train: Share
    validation: Share
    test: Share

    @model_validator(mode="after")
    def _sum_to_one(self) -> "SplitShares":
        if abs(self.train + self.validation + self.test - 1.0) > 1e-9:
            raise ValueError("the shares must sum to 1")
        return self


class ScreenConfig(Section):
    """When an annotator or a source raises an alarm (rlhf/data/screening.py)."""

    alpha: float = Field(gt=0.0, lt=0.5)  # chance that honest people raise any
    on_alarm: Literal["warn", "fail"]  # warn: the gate stops what is trained on it; fail: nothing is trained
    judgements: Count  # looked at, at most: those of as many prompts
    support: int = Field(ge=5)  # judgements below which nothing is tested
    following: float = Field(ge=0.0, lt=1.0)  # of the others, as a share of how far they follow one another
    margin: Share  # by which a share may differ from the others'
    copied: Share  # of what two people both judged, said alike
    repeated: Share  # of somebody's judgements that repeat an earlier one


class ValidateConfig(Section):
    """How much of a table may be bad, whose judgements do not count, and how prompts are split."""

    max_quarantined: Share  # of any one table; above it the stage fails
    max_characters: int = Field(ge=1)  # of a prompt or a response; longer rows are quarantined
    revoked: list[Annotated[str, Field(min_length=1)]]  # annotators whose judgements leave before anything else
    splits: SplitShares


class LabelConfig(Section):
    """How samples become judgements."""

    judge: Literal["world", "none"]  # "none": only the feedback that was collected
    group: str | None  # whose judgements and beliefs alone are learned from; null: everybody's
    referee: float = Field(gt=0.0, lt=1.0)  # share of the train prompts whose judgements the referee alone learns from
