"""The tables as a data dictionary: one class a table. The text of a check is the reason that quarantine gives.

Columns that are text or numbers are checked column-wise; a check that needs the whole row is a `dataframe_check`.
Missing values are allowed to reach the checks, so that a bad row is named and kept, not a crash.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from rlhf.config.section import CRITERION
from rlhf.data.tables import MAX_ANSWERS, MIN_ANSWERS, Message, of_each_object

SCALES = (5, 7)
ROLES = {"system", "user", "assistant"}
KINDS = ("plain", "few_shot", "user")  # of prompts, in InstructGPT's sense


def Text() -> Any:
    """A text that a check below requires not to be empty."""
    return pa.Field(nullable=True)


def Name() -> Any:
    """A short name; "" where it is not known."""
    return pa.Field(nullable=False)


class Sourced(pa.DataFrameModel):
    """What every table has."""

    id: Series[str] = Name()  # stable hash of the row's content
    source: Series[str] = Name()  # where it came from


class Prompted(Sourced):
    """A table whose rows hold a prompt: a list of messages with a role and a content, the last one the user's."""

    prompt: Series[object]

    @pa.check("prompt", error="prompt is empty")
    def has_messages(cls, prompts: pd.Series) -> pd.Series:
        return of_each_object(len, prompts) > 0

    @pa.check("prompt", error="empty message in prompt")
    def messages_are_filled(cls, prompts: pd.Series) -> pd.Series:
        return of_each_object(_all_filled, prompts).astype(bool)

    @pa.check("prompt", error="a role is none of system, user and assistant")
    def roles_are_known(cls, prompts: pd.Series) -> pd.Series:
        return of_each_object(lambda prompt: {message["role"] for message in prompt} <= ROLES, prompts).astype(bool)

    @pa.check("prompt", error="roles do not alternate")
    def roles_alternate(cls, prompts: pd.Series) -> pd.Series:
        return of_each_object(alternates, prompts).astype(bool)


class Answered(Prompted):
    """A table whose rows hold one answer to the prompt."""

    response: Series[str] = Text()

    @pa.check("response", error="empty response", ignore_na=False)
    def response_is_filled(cls, texts: pd.Series) -> pd.Series:
        return filled(texts)


class Judged(pa.DataFrameModel):
    """A table of judgements."""

    annotator: Series[str] = Name()
    group: Series[str] = Name()  # of people who want and believe alike: gr_dpo, label.group
    criterion: Series[str] = Name()

    @pa.check("criterion", error="criterion is no name: lower-case letters, digits and _, a letter first")
    def criterion_is_a_name(cls, criteria: pd.Series) -> pd.Series:
        return criteria.str.fullmatch(CRITERION).astype(bool)


class Demonstration(Answered):
    """A prompt and the answer that a person wrote."""

    use_case: Series[str] = Name()


class Comparison(Prompted, Judged):
    """Two answers to one prompt, the preferred one as `chosen`; in a tie their order says nothing."""

    chosen: Series[str] = Text()
    rejected: Series[str] = Text()
    tie: Series[pd.BooleanDtype] = pa.Field(coerce=True)
    strength: Series[float] = pa.Field(nullable=True)  # 1.0 is an ordinary preference
    rejected_prompt: Series[object] | None = pa.Field(nullable=True)  # context of `rejected`, if it is another

    @pa.check("chosen", error="empty chosen response", ignore_na=False)
    def chosen_is_filled(cls, texts: pd.Series) -> pd.Series:
        return filled(texts)

    @pa.check("rejected", error="empty rejected response", ignore_na=False)
    def rejected_is_filled(cls, texts: pd.Series) -> pd.Series:
        return filled(texts)

    @pa.check("strength", error="strength is not positive", ignore_na=False)
    def strength_is_positive(cls, strengths: pd.Series) -> pd.Series:
        return strengths.gt(0) & strengths.lt(float("inf"))

    @pa.check("prompt", error="roles do not alternate in chosen")
    def roles_alternate(cls, prompts: pd.Series) -> pd.Series:
        return of_each_object(alternates, prompts).astype(bool)

    @pa.dataframe_check(error="roles do not alternate in rejected", ignore_na=False)
    def rejected_roles_alternate(cls, rows: pd.DataFrame) -> pd.Series:
        return of_each_object(alternates, rows["rejected_prompt"].fillna(rows["prompt"])).astype(bool)

    @pa.check("rejected_prompt", error="chosen and rejected do not share the context", ignore_na=False)
    def context_is_shared(cls, prompts: pd.Series) -> pd.Series:
        return prompts.isna()

    @pa.dataframe_check(error="responses are identical", ignore_na=False)
    def responses_differ(cls, rows: pd.DataFrame) -> pd.Series:
        chosen, rejected = rows["chosen"].str.strip(), rows["rejected"].str.strip()
        return (chosen != rejected) | ~filled(chosen)


class Rating(Answered, Judged):
    """One answer on a scale from 1 to 5 or from 1 to 7, the highest best."""

    rating: Series[pd.Int64Dtype] = pa.Field(coerce=True)
    scale: Series[pd.Int64Dtype] = pa.Field(coerce=True, nullable=True)

    @pa.check("scale", error="scale is neither 5 nor 7", ignore_na=False)
    def scale_is_known(cls, scales: pd.Series) -> pd.Series:
        return scales.isin(SCALES)

    @pa.dataframe_check(error="rating is outside its scale", ignore_na=False)
    def rating_is_on_scale(cls, rows: pd.DataFrame) -> pd.Series:
        below = (rows["rating"] < 1) | (rows["rating"] > rows["scale"])
        return ~below.fillna(False).astype(bool)


class Thumb(Answered, Judged):
    """One answer, thumb up (True) or down."""

    thumb: Series[pd.BooleanDtype] = pa.Field(coerce=True)


class Ranking(Prompted, Judged):
    """K answers to one prompt and the rank of each: 1 is best, equal ranks are a tie, only the order counts."""

    responses: Series[object] = pa.Field(nullable=True)
    ranks: Series[object] = pa.Field(nullable=True)

    @pa.check("responses", error=f"not {MIN_ANSWERS} to {MAX_ANSWERS} responses", ignore_na=False)
    def responses_are_few(cls, answers: pd.Series) -> pd.Series:
        return answers.map(lambda texts: MIN_ANSWERS <= len(items(texts)) <= MAX_ANSWERS).astype(bool)

    @pa.check("responses", error="empty response", ignore_na=False)
    def responses_are_filled(cls, answers: pd.Series) -> pd.Series:
        return answers.map(lambda texts: all(map(_filled, items(texts)))).astype(bool)

    @pa.check("responses", error="responses are identical", ignore_na=False)
    def responses_differ(cls, answers: pd.Series) -> pd.Series:
        return answers.map(_differ).astype(bool)

    @pa.check("ranks", error="rank is missing", ignore_na=False)
    def ranks_are_given(cls, ranks: pd.Series) -> pd.Series:
        return ranks.map(lambda values: not any(rank != rank for rank in items(values))).astype(bool)  # NaN

    @pa.check("ranks", error="rank is below 1")
    def ranks_are_positive(cls, ranks: pd.Series) -> pd.Series:
        return ranks.map(lambda values: not any(rank < 1 for rank in items(values))).astype(bool)

    @pa.dataframe_check(error="not one rank for each response", ignore_na=False)
    def every_response_has_a_rank(cls, rows: pd.DataFrame) -> pd.Series:
        return rows["responses"].map(lambda v: len(items(v))) == rows["ranks"].map(lambda v: len(items(v)))


class Belief(Prompted):
    """How many people of a group hold each of several beliefs, which answers to the prompt may state."""

    statements: Series[object] = pa.Field(nullable=True)
    votes: Series[object] = pa.Field(nullable=True)
    group: Series[str] = Name()

    @pa.check("statements", error="fewer than 2 statements", ignore_na=False)
    def statements_are_several(cls, statements: pd.Series) -> pd.Series:
        return statements.map(lambda texts: len(items(texts)) > 1).astype(bool)

    @pa.check("statements", error="empty statement", ignore_na=False)
    def statements_are_filled(cls, statements: pd.Series) -> pd.Series:
        return statements.map(lambda texts: all(map(_filled, items(texts)))).astype(bool)

    @pa.check("statements", error="a statement is part of another", ignore_na=False)
    def statements_can_be_told_apart(cls, statements: pd.Series) -> pd.Series:
        return statements.map(_told_apart).astype(bool)

    @pa.check("votes", error="votes are not counts, or all 0", ignore_na=False)
    def somebody_voted(cls, votes: pd.Series) -> pd.Series:
        return votes.map(lambda counts: all(n >= 0 for n in items(counts)) and sum(items(counts)) > 0).astype(bool)

    @pa.dataframe_check(error="not one count of votes for each statement", ignore_na=False)
    def every_statement_has_votes(cls, rows: pd.DataFrame) -> pd.Series:
        return rows["statements"].map(lambda v: len(items(v))) == rows["votes"].map(lambda v: len(items(v)))


class Prompt(Prompted):
    """A prompt without an answer, for sampling."""

    use_case: Series[str] = Name()
    kind: Series[str] = pa.Field(nullable=True)

    @pa.check("kind", error=f"kind is not one of {', '.join(KINDS)}", ignore_na=False)
    def kind_is_known(cls, kinds: pd.Series) -> pd.Series:
        return kinds.isin(KINDS)


class PlainText(Sourced):
    """A document for pretraining."""

    text: Series[str] = Text()

    @pa.check("text", error="empty text", ignore_na=False)
    def text_is_filled(cls, texts: pd.Series) -> pd.Series:
        return filled(texts)


def alternates(prompt: Sequence[Message]) -> bool:
    """Whether an answer may follow: an optional system message, then user and assistant in turn, the user last."""
    roles = [message["role"] for message in prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]


def filled(texts: pd.Series) -> pd.Series:
    """Whether each text holds more than white space; a missing one does not."""
    return texts.fillna("").str.strip() != ""


def items(values: Any) -> Sequence[Any]:
    """A list column's cell; a missing one is empty. A missing rank within it is NaN, a missing text None."""
    return [] if values is None else values


def _filled(text: str | None) -> bool:
    return text is not None and text.strip() != ""


def _all_filled(prompt: Sequence[Message]) -> bool:
    return all(_filled(message["content"]) for message in prompt)


def _differ(texts: Any) -> bool:
    answers = [text.strip() for text in items(texts) if _filled(text)]
    return len(set(answers)) == len(answers)


def _told_apart(texts: Any) -> bool:
    statements = [text for text in items(texts) if _filled(text)]
    return not any(one in other for one, other in permutations(statements, 2))
