"""What every section of params.yaml is: frozen and strict; an unknown or missing key is an error."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Marks how much goes through a model at once: it costs memory, and changes no result but by rounding.
AT_ONCE = "at once"
CRITERION = "[a-z][a-z0-9_]*"  # name of what a judgement is by: overall, helpful

HUB_ID = "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,95}(/[a-zA-Z0-9][a-zA-Z0-9_.-]{0,95})?"  # of a model or a data set: owner/name

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
StepRows = Annotated[int, Field(ge=1, le=1_000_000)]  # that one optimizer step learns from, or one iteration
AtOnce = Annotated[int, Field(ge=1, le=1_000_000), AT_ONCE]
Epochs = Annotated[float, Field(gt=0.0, le=10_000.0)]  # passes over the data
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A part of params.yaml. No field has a default: params.yaml is the only place where a value stands."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
