"""What a person fills in to start a training job."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from core.errors import FabulaError

FileFormat = Literal["completion", "chat"]
_MOST_EPOCHS = 50  # as at OpenAI
_MOST_EXAMPLES_AT_ONCE = 256  # as at OpenAI
_LONGEST_NAME = 200
_LONGEST_SUFFIX = 64  # as at OpenAI
_LONGEST_MARK = 50
_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")


@dataclass(frozen=True, slots=True)
class JobForm:
    """A job to be. None for a hyper-parameter, or the seed, leaves the choice to the provider.

    Attributes:
        dataset_id: the data set to train on: its finished rows.
        name: for people.
        provider: id of the provider that trains.
        base_model: its model to start from; a tuned one is trained further.
        suffix: becomes part of the new model's name.
        learning_rate_multiplier: times the provider's own learning rate.
        file_format: `completion` (prompt and completion) or `chat` (messages).
        separator, stop: end of prompts and of completions; None: what the data has, or the usual (`jsonl.prepare`).
    """

    dataset_id: str
    name: str
    provider: str
    base_model: str
    suffix: str | None = None
    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    seed: int | None = None
    file_format: FileFormat = "completion"
    separator: str | None = None
    stop: str | None = None

    def check(self) -> None:
        """Look for what no provider would take.

        Raises:
            FabulaError: the first thing that is wrong, and what to do about it.
        """
        if not self.name.strip() or len(self.name) > _LONGEST_NAME:
            raise FabulaError("The job needs a name of at most 200 characters.", "Give it one that says what is new.")
        if not self.base_model.strip():
            raise FabulaError("No base model is chosen.", "Choose the model to start from.")
        if self.suffix is not None and not (self.suffix.strip() and len(self.suffix) <= _LONGEST_SUFFIX):
            raise FabulaError("The suffix must have 1 to 64 characters.", "Shorten it, or leave it out.")
        if self.n_epochs is not None and not 1 <= self.n_epochs <= _MOST_EPOCHS:
            raise FabulaError("The number of epochs must be between 1 and 50.", "Three is usual; or leave it to auto.")
        if self.batch_size is not None and not 1 <= self.batch_size <= _MOST_EXAMPLES_AT_ONCE:
            raise FabulaError("The batch size must be between 1 and 256.", "Choose another, or leave it to auto.")
        if self.learning_rate_multiplier is not None and not 0 < self.learning_rate_multiplier <= 100:
            raise FabulaError(
                "The learning rate multiplier must be above 0 and at most 100.", "Choose another, or leave it to auto."
            )
        if self.file_format not in ("completion", "chat"):
            raise FabulaError("The file format must be completion or chat.", "Choose one of the two.")

        if max(len(self.separator or ""), len(self.stop or "")) > _LONGEST_MARK:
            raise FabulaError("The separator and the stop must have at most 50 characters.", "Shorten them.")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those that were chosen."""
        return {name: value for name, value in asdict(self).items() if name in _HYPERPARAMETERS and value is not None}
