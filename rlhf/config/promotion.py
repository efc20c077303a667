"""Section of promotion."""

from typing import Literal

from rlhf.config.section import Positive, Section


class PromotionConfig(Section):
    """What the gate's decision needs besides itself before the champion is changed."""

    approval: Literal["none", "required"]  # required: by a person other than the trainer
    approvers: str | None  # file of OpenSSH's allowed signers, relative to the workspace
    expires_days: Positive  # how long an approval holds
