"""The error for a model file or folder that cannot be used, with the reason and the next step."""

from __future__ import annotations

from core.message import sentences


class UnusableModel(ValueError):
    """A model that the engine cannot use.

    Attributes:
        code: short machine-readable reason, for example `cut_file`.
        reason: what is wrong, for the user.
        next_step: what to do.
    """

    def __init__(self, code: str, reason: str, next_step: str) -> None:
        super().__init__(sentences(reason, next_step))
        self.code, self.reason, self.next_step = code, reason, next_step

    @property
    def message(self) -> str:
        """The reason followed by the next step."""
        return sentences(self.reason, self.next_step)
