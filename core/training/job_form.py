"""What a person fills in to start a training job."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from core.engine import job_rules
from core.errors import FabulaError
from core.message import msg

FileFormat = Literal["completion", "chat"]
N_EPOCHS, BATCH_SIZE = job_rules.N_EPOCHS, job_rules.BATCH_SIZE
LEARNING_RATE_MULTIPLIER, SEED = job_rules.LEARNING_RATE_MULTIPLIER, job_rules.SEED
LONGEST_SUFFIX = job_rules.LONGEST_SUFFIX
_LONGEST_NAME = 200
LONGEST_PROJECT = 64
LONGEST_MARK = 50
_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
_MOST_SHARE = 0.9  # something must be left to learn from
TRACKERS = ("wandb", "trackio")
"""Where a run can be logged too; see `core.training.tracker_logging`."""
PROJECT = "fabula"
LR_ADVICE = (0.05, 0.2)
"""Learning rate multipliers that 2023's article, and OpenAI's guide of the time, advise: higher for larger batches."""
DEFAULT_VALIDATION_SHARE = 0.10
_FEWEST_TO_SPLIT = 20  # rows: a tenth of them is two examples; of fewer rows every one is needed to learn from
_SMALL = 200  # examples; the article's second data set, for which it advises a higher rate, had 135


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
        separator, stop: end of prompts and of completions; None: what the data has, or the usual (`jsonl.plan`).
        version_id: the version of the data set to train on, with its validation examples; None: its finished rows.
        validation_share: without a version, keep this share (up to 0.9) of the rows from training: a version is made.
        estimated_usd, estimated_s: what was shown before the button, kept beside what it really took.
        trackers: where the run is logged too, some of `TRACKERS`; `project` is its name there.
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
    version_id: str | None = None
    validation_share: float | None = None
    estimated_usd: Decimal | None = None
    estimated_s: float | None = None
    trackers: tuple[str, ...] = ()
    project: str = PROJECT

    def check(self) -> None:
        """Look for what no provider would take.

        Raises:
            FabulaError: the first thing that is wrong, and what to do about it.
        """
        if not self.name.strip() or len(self.name) > _LONGEST_NAME:
            raise FabulaError(msg("The job needs a name of at most 200 characters."), msg("Give it a shorter name."))
        if not self.base_model.strip():
            raise FabulaError(msg("No base model is chosen."), msg("Choose the model to start from."))
        if (problem := suffix_problem(self.suffix)) is not None:
            raise problem
        self._check_numbers()
        if self.file_format not in ("completion", "chat"):
            raise FabulaError(msg("The file format must be completion or chat."), msg("Choose one of the two."))
        if max(len(self.separator or ""), len(self.stop or "")) > LONGEST_MARK:
            raise FabulaError(msg("The separator and the stop must have at most 50 characters."), msg("Shorten them."))
        if self.validation_share is not None and not 0 <= self.validation_share <= _MOST_SHARE:
            raise FabulaError(msg("The share for validation must be between 0 and 0.9."), msg("10 % is typical."))
        if unknown := set(self.trackers) - set(TRACKERS):
            raise FabulaError(
                msg("There is no tracker {unknown}.", unknown=repr(min(unknown))),
                msg("Choose W&B or Trackio, or none."),
            )
        if self.trackers and not (self.project.strip() and len(self.project) <= LONGEST_PROJECT):
            raise FabulaError(msg("The project must have 1 to 64 characters."), msg("Shorten it."))

    def _check_numbers(self) -> None:
        """Raises FabulaError: a hyper-parameter, or the seed, that no provider would take."""
        if not _between(self.n_epochs, N_EPOCHS):
            raise FabulaError(
                msg("The number of epochs must be between 1 and 50."), msg("Three is typical; or use auto.")
            )
        if not _between(self.batch_size, BATCH_SIZE):
            raise FabulaError(msg("The batch size must be between 1 and 256."), msg("Choose another, or use auto."))
        if not _between(self.learning_rate_multiplier, LEARNING_RATE_MULTIPLIER):
            raise FabulaError(
                msg("The learning rate multiplier must be between 0.0001 and 100."), msg("Choose another, or use auto.")
            )
        if not _between(self.seed, SEED):
            raise FabulaError(msg("The seed must be between 0 and 2,147,483,647."), msg("Choose another, or use auto."))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those that were chosen."""
        return {name: value for name, value in asdict(self).items() if name in _HYPERPARAMETERS and value is not None}


def suffix_problem(suffix: str | None) -> FabulaError | None:
    """Why a suffix cannot be part of a model's name, and what to do; None: it can, or there is none."""
    if suffix is None or job_rules.is_suffix(suffix):
        return None
    if len(suffix) > LONGEST_SUFFIX:
        return FabulaError(msg("The suffix can have at most 64 characters."), msg("Shorten it, or leave it empty."))
    return FabulaError(
        msg("The suffix can only have letters (a–z, A–Z), digits, dots, hyphens and underscores."),
        msg("Write first-try in place of “first try!”, for example, or leave it empty."),
    )


def _between(value: float | None, bounds: tuple[float, float]) -> bool:
    return value is None or bounds[0] <= value <= bounds[1]


def default_validation_share(rows: int) -> float:
    """The share of `rows` that is kept for validation unless the user says otherwise: 0.10, of fewer than 20 none."""
    return DEFAULT_VALIDATION_SHARE if rows >= _FEWEST_TO_SPLIT else 0.0


def rate_advice(n_examples: int | None, training_further: bool, provider: str = "") -> str:
    """One sentence about the learning rate multiplier, for data of this size. Each provider has its own scale."""
    small = training_further and n_examples is not None and n_examples < _SMALL
    if provider == "engine":
        if small:
            return msg(
                "To add a little data to a tuned model, use a higher rate. 1.0 is a good default for the "
                "built-in engine."
            )
        return msg(
            "1.0 is a good default for the built-in engine; use more for small additions, less against overfitting."
        )
    if small:
        return msg("To add a little data to a tuned model, use a higher rate: 0.2 is a good start.")
    return msg(
        "Typical at OpenAI: 0.05 to 0.2. Use more for small additions and large batches, less against overfitting."
    )
