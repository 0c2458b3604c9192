"""The form that starts a training job: its validation, default values and advice."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from core import packaged_models
from core.engine import job_rules, training_options
from core.engine.job_rules import CONTEXT, TrainingMethod
from core.engine.number_checks import InvalidValue
from core.engine.training_options import Schedule
from core.errors import FabulaError
from core.finetuning.job_views import JobView
from core.message import msg
from core.pricing.prices import price_list, tuned_base
from core.providers import ModelInfo
from core.providers.schemas import TrainingDefaults

FileFormat = Literal["completion", "chat"]
BETA, AUTO_BETA = job_rules.BETA, job_rules.AUTO_BETA
N_EPOCHS, BATCH_SIZE = job_rules.N_EPOCHS, job_rules.BATCH_SIZE
LEARNING_RATE_MULTIPLIER, SEED = job_rules.LEARNING_RATE_MULTIPLIER, job_rules.SEED
MAX_SUFFIX_LENGTH = job_rules.MAX_SUFFIX_LENGTH
SCHEDULES, DEFAULT_OPTIONS = training_options.SCHEDULES, training_options.DEFAULTS
LORA_RANK, LORA_ALPHA = training_options.LORA_RANK, training_options.LORA_ALPHA
WARMUP, EARLY_STOPPING = training_options.WARMUP, training_options.EARLY_STOPPING
OPTIONS, ADAPTER_OPTIONS = training_options.NAMES, training_options.ADAPTER_NAMES
"""Fields of `JobForm` that only the engine's jobs have; those of the adapter, which a tuned model keeps."""
_MAX_NAME_LENGTH = 200
MAX_PROJECT_LENGTH = 64
MAX_MARKER_LENGTH = 50
_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier", *OPTIONS, "beta")
_MAX_VALIDATION_SHARE = 0.9  # some rows must be left to train on
TRACKERS = ("wandb", "trackio")
"""Experiment trackers that a run can also be logged to; see `core.finetuning.trackers`."""
DEFAULT_PROJECT = "fabula"
DEFAULT_VALIDATION_SHARE = 0.10
_MIN_ROWS_TO_SPLIT = 20  # smaller data sets need every row for training
_SMALL_DATASET = 200  # the article advises a higher rate for its second data set of 135 examples

_AUTO_RATE = 1.0  # the provider's own learning rate
_LOWEST_RATE = 0.01  # with a lower rate, a model learns nothing in a few epochs
_COMPLETION_BASES = re.compile(r"davinci-002|babbage-002")  # OpenAI's only base models for the completion format
# Max tokens per training example. OpenAI: guide "Supervised fine-tuning", token limits. Engine: its context size.
_CONTEXT_SIZES = (
    (re.compile(r"gpt-4\.1.*|gpt-4o.*"), 65_536),
    (re.compile(r"gpt-3\.5-turbo.*|gpt-35-turbo.*|davinci-002|babbage-002"), 16_384),
    (re.compile("|".join(map(re.escape, (packaged_models.BASE, *packaged_models.WRITERS)))), CONTEXT),
)


@dataclass(frozen=True, slots=True)
class JobForm:
    """The settings of a new job. None for a hyperparameter or the seed leaves the choice to the provider.

    Attributes:
        dataset_id: the data set to train on (its finished rows).
        name: display name.
        provider: id of the provider.
        base_model: the model to start from; a tuned model is trained further.
        suffix: part of the new model's name.
        learning_rate_multiplier: factor on the provider's own learning rate.
        lora_rank, lora_alpha, warmup, schedule, early_stopping: see `core.engine.training_options`; only for providers
            with `Capabilities.training_options`.
        file_format: `completion` (prompt and completion) or `chat` (messages).
        separator, stop: what ends prompts and completions; None means the marks found in the data, or the default
            (`jsonl.plan`).
        version_id: the version of the data set to train on, with its validation examples; None means all finished rows.
        validation_share: without a version, the share (up to 0.9) of rows to hold out; this creates a version.
        estimated_usd, estimated_s: the estimate shown before submitting.
        trackers: trackers that the run is also logged to, from `TRACKERS`; project: its name there.
        method: `dpo` learns which of two answers is preferred, from rows with a rejected answer.
        beta: of DPO, how strongly the new model is held to the one it starts from.
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
    project: str = DEFAULT_PROJECT
    lora_rank: int | None = None
    lora_alpha: float | None = None
    warmup: float | None = None
    schedule: Schedule | None = None
    early_stopping: int | None = None
    method: TrainingMethod = "supervised"
    beta: float | None = None

    def validate(self) -> None:
        """Check for settings that every provider rejects.

        Raises:
            FabulaError: the first problem, and what to do about it.
        """
        if not self.name.strip() or len(self.name) > _MAX_NAME_LENGTH:
            raise FabulaError(msg("The job needs a name of at most 200 characters."), msg("Give it a shorter name."))
        if not self.base_model.strip():
            raise FabulaError(msg("No base model is chosen."), msg("Choose the model to start from."))
        if (problem := suffix_error(self.suffix)) is not None:
            raise problem
        self._validate_numbers()
        self.validate_options(has_validation=bool(self.version_id or self.validation_share))
        if self.file_format not in ("completion", "chat"):
            raise FabulaError(msg("The file format must be completion or chat."), msg("Choose one of the two."))
        if max(len(self.separator or ""), len(self.stop or "")) > MAX_MARKER_LENGTH:
            raise FabulaError(msg("The separator and the stop must have at most 50 characters."), msg("Shorten them."))
        if self.validation_share is not None and not 0 <= self.validation_share <= _MAX_VALIDATION_SHARE:
            raise FabulaError(msg("The share for validation must be between 0 and 0.9."), msg("10 % is typical."))
        if unknown := set(self.trackers) - set(TRACKERS):
            raise FabulaError(
                msg("Unknown tracker {unknown}.", unknown=repr(min(unknown))),
                msg("Choose W&B or Trackio, or none."),
            )
        if self.trackers and not (self.project.strip() and len(self.project) <= MAX_PROJECT_LENGTH):
            raise FabulaError(msg("The project must have 1 to 64 characters."), msg("Shorten it."))

    def _validate_numbers(self) -> None:
        """Raise FabulaError if a hyperparameter or the seed has a value that every provider rejects."""
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
        if self.beta is not None and (not self.beta or not _between(self.beta, BETA)):
            raise FabulaError(msg("Beta must be above 0 and at most 2."), msg("0.1 is typical; or use auto."))
        if not _between(self.seed, SEED):
            raise FabulaError(msg("The seed must be between 0 and 2,147,483,647."), msg("Choose another, or use auto."))

    def validate_options(self, *, has_validation: bool) -> None:
        """Check the hyperparameters of `core.engine.training_options` as the engine does.

        Args:
            has_validation: whether some rows are kept for validation.

        Raises:
            FabulaError: the first problem, and what to do about it.
        """
        if self.early_stopping is not None and not has_validation:
            raise FabulaError(
                msg("Early stopping needs rows for validation, and this job has none."),
                msg("Keep a share of the rows for validation, or turn early stopping off."),
            )
        try:
            training_options.read(self.hyperparameters, has_validation=has_validation)
        except InvalidValue as exc:
            raise FabulaError(exc.message, msg("Choose another value, or use the default.")) from exc

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters that are set."""
        return {name: value for name, value in asdict(self).items() if name in _HYPERPARAMETERS and value is not None}


def suffix_error(suffix: str | None) -> FabulaError | None:
    """The error for an invalid suffix; None if it is valid or empty."""
    if suffix is None or job_rules.is_suffix(suffix):
        return None
    if len(suffix) > MAX_SUFFIX_LENGTH:
        return FabulaError(msg("The suffix can have at most 64 characters."), msg("Shorten it, or leave it empty."))
    return FabulaError(
        msg("The suffix can only have letters (a–z, A–Z), digits, dots, hyphens and underscores."),
        msg("For example, write first-try instead of “first try!”, or leave it empty."),
    )


def _between(value: float | None, bounds: tuple[float, float]) -> bool:
    return value is None or bounds[0] <= value <= bounds[1]


def default_validation_share(rows: int) -> float:
    """The default share of rows for validation: 0.10, or 0 for fewer than 20 rows."""
    return DEFAULT_VALIDATION_SHARE if rows >= _MIN_ROWS_TO_SPLIT else 0.0


def training_defaults(base: ModelInfo) -> TrainingDefaults:
    """The values that a job on this base model uses by default; a small model's values if the model is unknown."""
    if base.training is not None:
        return base.training
    rank, rate = training_options.lora_rank(0), training_options.base_learning_rate(0)
    return TrainingDefaults(None if base.is_tuned else rank, DEFAULT_OPTIONS.lora_alpha, rate)


def learning_rate_advice(
    n_examples: int | None, training_further: bool, provider: str = "", method: str = "supervised"
) -> str:
    """Advice on the learning rate multiplier for data of this size. Each provider has its own scale.

    DPO has another: a high rate there unlearns what the model already writes, also with few pairs.
    """
    if method == "dpo":
        return msg("Keep this automatic at first. A lower rate stays closer to the model that the job starts from.")
    small = training_further and n_examples is not None and n_examples < _SMALL_DATASET
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


def smaller_batch(job: JobView) -> int | None:
    """Half the batch size, for a job that ran out of memory; None if it was already 1."""
    previous = int(job.hyperparameters.get("batch_size") or job_rules.automatic(job.n_examples).batch_size)
    return previous // 2 or None


def lower_rate(job: JobView) -> float:
    """Half the learning rate multiplier, for a job that diverged."""
    previous = float(job.hyperparameters.get("learning_rate_multiplier") or _AUTO_RATE)
    return max(previous / 2, _LOWEST_RATE)


def context_size(model: str) -> int | None:
    """The maximum tokens per training example for this base model; None if unknown."""
    name = tuned_base(model) or model
    return next((size for pattern, size in _CONTEXT_SIZES if pattern.fullmatch(name)), None)


def required_format(provider: str, model: str) -> FileFormat | None:
    """The only format that the provider accepts for this base model; None if it accepts both, or if this is unknown."""
    company = price_list(provider)
    if company == "azure":
        return "chat"
    if company != "openai":
        return None
    return "completion" if _COMPLETION_BASES.fullmatch(tuned_base(model) or model) else "chat"
