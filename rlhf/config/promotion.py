"""Section of promotion."""

from typing import Literal

from pydantic import model_validator

from rlhf.config.section import Positive, Section


class PromotionConfig(Section):
    """What the gate's decision needs besides itself before the champion is changed."""

    approval: Literal["none", "form", "signed"]  # by another person than the trainer, in Prefect's form or signed
    approvers: str | None  # whose signatures count: a file of OpenSSH's allowed signers, relative to the workspace
    expires_days: Positive  # how long an approval holds

    @model_validator(mode="after")
    def _signers_are_named(self) -> "PromotionConfig":
        if self.approval == "signed" and self.approvers is None:
            raise ValueError("`approval` is signed, so `approvers` has to name the file of allowed signers")
        return self
