"""Hyperparameters that OpenAI's API does not have: limits, defaults by model size, checks. Pure.

The engine checks requests with `read`, and the studio's form calls the same function before it sends a request.

Defaults by model size, with their sources:

- Learning rate (`base_learning_rate`): 1e-3 is measured on the packaged base (docs/benchmarks.md). How it decreases
  with the width: "LoRA Without Regret" (Schulman et al., Thinking Machines Lab, 2025) fits (2000 / width) ** 0.781 for
  Llama, and a far smaller exponent for Qwen; the more cautious one is used for all models.
- Learning rate of DPO (`DPO_RATE`): a hundredth of that. On the packaged writer, one step at a tenth moves the reward
  margin of other pairs by 0.7 and their loss far above log 2; at a fiftieth, by 0.2. The paper's own rate is as low:
  1e-6, for all weights (Rafailov et al. 2023, arXiv:2305.18290, appendix B).
- Alpha: 32 for every rank and size. With the scale alpha / rank and a constant alpha, the best learning rate hardly
  depends on the rank (same report, which uses 32). At rank 16 this is the usual alpha = 2 × rank (Unsloth's guide to
  LoRA hyperparameters, torchtune's recipes).
- Rank (`lora_rank`): 16, the value with which the packaged base was measured; Unsloth's guide starts from 16 or 32.
  With adapters on all linear layers the rank hardly changes the result: the QLoRA paper (Dettmers et al., 2023,
  arXiv:2305.14314, appendix A) tried 8 to 256. What matters is that the adapter has enough capacity for the data ("LoRA
  Without Regret"), and at the same rank a larger model's adapter has more parameters. From 3 billion parameters upwards
  the rank is 8. This is our own rule to keep the adapter and its optimizer state small; it has not been measured. Such
  an adapter still has more parameters than the packaged base's at rank 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

from core.engine.number_checks import InvalidValue, real_number, whole_number
from core.message import Message, msg

Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: Final[tuple[Schedule, ...]] = get_args(Schedule)
LORA_RANK: Final = (1, 256)
LORA_ALPHA: Final = (1.0, 1024.0)
WARMUP: Final = (0.0, 0.5)
"""Range of the warm-up, as a fraction of the steps."""
EARLY_STOPPING: Final = (1, 20)
"""Range of the patience, in epochs without a lower validation loss."""

_RANK, _RANK_OF_LARGE = 16, 8
_LARGE = 3_000_000_000  # parameters
_MEASURED_RATE, _MEASURED_WIDTH = 1e-3, 640  # measured on gemma-3-270m, see docs/benchmarks.md
_WIDTH_EXPONENT = 0.78
DPO_RATE: Final = 0.01
"""Learning rate of DPO as a share of the supervised one, at the same multiplier."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Hyperparameters that OpenAI's API does not have, with the engine's values unless a request sets others.

    Attributes:
        lora_rank: rank of the adapter; None chooses it by model size (`lora_rank`).
        lora_alpha: the adapter's scale is alpha / rank.
        warmup: fraction of the steps over which the learning rate rises.
        schedule: how the learning rate falls afterwards.
        early_stopping: stop after this many epochs without a lower validation loss and keep the epoch with the lowest
            one; None: train to the end and keep the last epoch.
    """

    lora_rank: int | None = None
    lora_alpha: float = 32.0
    warmup: float = 0.0
    schedule: Schedule = "linear"
    early_stopping: int | None = None


NAMES: Final = tuple(field.name for field in fields(TrainingOptions))
"""Names of these hyperparameters in requests."""
ADAPTER_NAMES: Final = ("lora_rank", "lora_alpha")
"""Hyperparameters of the adapter: a job that continues training a tuned model keeps its adapter's values."""
DEFAULTS: Final = TrainingOptions()


def read(values: Mapping[str, object], *, has_validation: bool) -> TrainingOptions:
    """Read the options from `values`, which uses the names from requests; missing and null options get their defaults.

    Args:
        has_validation: whether there are validation examples, which early stopping needs.

    Raises:
        InvalidValue: a value is not allowed.
    """
    alpha = real_number(values, "lora_alpha", *LORA_ALPHA)
    warmup = real_number(values, "warmup", *WARMUP)
    early_stopping = whole_number(values, "early_stopping", *EARLY_STOPPING)
    if early_stopping is not None and not has_validation:
        raise InvalidValue("early_stopping", msg("'early_stopping' needs a 'validation_file'."))
    return TrainingOptions(
        lora_rank=whole_number(values, "lora_rank", *LORA_RANK),
        lora_alpha=DEFAULTS.lora_alpha if alpha is None else alpha,
        warmup=DEFAULTS.warmup if warmup is None else warmup,
        schedule=_schedule(values.get("schedule")),
        early_stopping=early_stopping,
    )


def _schedule(asked: object) -> Schedule:
    if asked is None:
        return DEFAULTS.schedule
    for schedule in SCHEDULES:
        if schedule == asked:
            return schedule
    message = msg("'schedule' must be one of {schedules}.", schedules=", ".join(SCHEDULES))
    raise InvalidValue("schedule", message)


def lora_rank(parameters: int) -> int:
    """The default rank for a model with this many parameters."""
    return _RANK_OF_LARGE if parameters >= _LARGE else _RANK


def base_learning_rate(width: int) -> float:
    """The learning rate for a multiplier of 1.0 and a model with hidden size `width` (0 if unknown)."""
    return _MEASURED_RATE * (_MEASURED_WIDTH / width) ** _WIDTH_EXPONENT if width > 0 else _MEASURED_RATE


def stopped_early(step: int, epochs: int) -> Message:
    """The event for a job that ended early after this many epochs without a lower validation loss."""
    return msg(
        "Stopped early at step {step}. Epochs without a lower validation loss: {epochs}.", step=step, epochs=epochs
    )


def best_checkpoint(step: int) -> Message:
    """The event for a job whose model is not its last checkpoint."""
    return msg("The model is the checkpoint of step {step}, with the lowest validation loss.", step=step)
