"""Limits and automatic values of a fine-tuning job's parameters, the engine's context size, how many requests it
decodes together, and the priority of its trainer. Pure, without dependencies.

The engine enforces the limits; the studio's form checks them before sending. They are OpenAI's (API reference, "Create
fine-tuning job"). The automatic values are the engine's; the studio uses them in estimates and proposals.
Hyperparameters that OpenAI's API does not have are in `core.engine.training_options`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, cast, get_args

TrainingMethod = Literal["supervised", "dpo"]
METHODS: Final[tuple[TrainingMethod, ...]] = get_args(TrainingMethod)
"""Possible values of `method.type`; each has its objective in `core.engine.training.trainer.methods`."""
N_EPOCHS: Final = (1, 50)
BATCH_SIZE: Final = (1, 256)
LEARNING_RATE_MULTIPLIER: Final = (1e-4, 100.0)
BETA: Final = (0.0, 2.0)
"""Range of DPO's beta, above 0: OpenAI's (API reference, "Create fine-tuning job")."""
AUTO_BETA: Final = 0.1
"""The value that `auto` stands for: of Rafailov et al. 2023 (arXiv:2305.18290, section 6), and TRL's default."""
SEED: Final = (0, 2**31 - 1)
MAX_SUFFIX_LENGTH: Final = 64
"""Maximum length of a suffix, in characters."""
CONTEXT: Final = 4_096
"""Maximum tokens of one request or training example unless CONTEXT_SETTING sets another value; a story needs about 600.
"""
CONTEXT_SETTING: Final = "FABULA_ENGINE_CONTEXT"
"""Environment variable: maximum tokens of one request or training example; models with a smaller context keep their
own.
"""
CONTEXT_RANGE: Final = (256, 1 << 20)
TrainerPriority = Literal["idle", "normal"]
TRAINER_PRIORITY: Final[TrainerPriority] = "idle"
TRAINER_PRIORITY_SETTING: Final = "FABULA_TRAINER_PRIORITY"
"""Environment variable: `idle`: training only uses CPU time that no other program needs; `normal`: it competes."""
TrainingDevice = Literal["auto", "cpu", "cuda", "mps"]
TRAINING_DEVICE: Final[TrainingDevice] = "auto"
TRAINING_DEVICE_SETTING: Final = "FABULA_ENGINE_DEVICE"
"""Environment variable: what jobs are computed on; `auto` takes an NVIDIA GPU (`cuda`) or Apple's (`mps`) if PyTorch
can use one, otherwise the CPU.
"""
PARALLEL: Final = 4
"""Requests that one model decodes together; more would compete for the same two cores and only use more memory."""

_MIN_EPOCHS, _MAX_EPOCHS = 3, 8  # 3 is also OpenAI's usual automatic choice (guide "Supervised fine-tuning")
_EXAMPLES_SEEN = 150  # target number of examples seen over all epochs
_BATCH_SIZE = 4
_SMALL_SET = 16  # with fewer examples, larger batches would leave too few steps
_SUFFIX = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_SUFFIX_LENGTH}}}")


def context_limit(environ: Mapping[str, str]) -> int:
    """The maximum tokens of one request or training example, for models whose own context is at least that large.

    Raises:
        ValueError: FABULA_ENGINE_CONTEXT is not a whole number from 256 to 1,048,576.
    """
    raw = environ.get(CONTEXT_SETTING, "").strip()
    if not raw:
        return CONTEXT
    low, high = CONTEXT_RANGE
    if not (raw.isascii() and raw.isdecimal() and low <= int(raw[:9]) <= high):
        raise ValueError(f"{CONTEXT_SETTING}: {raw!r} is not a whole number from {low} to {high}")
    return int(raw)


def trainer_priority(environ: Mapping[str, str]) -> TrainerPriority:
    """The CPU priority of the trainer.

    Raises:
        ValueError: FABULA_TRAINER_PRIORITY is neither `idle` nor `normal`.
    """
    raw = environ.get(TRAINER_PRIORITY_SETTING, "").strip().lower() or TRAINER_PRIORITY
    if raw not in get_args(TrainerPriority):
        raise ValueError(f"{TRAINER_PRIORITY_SETTING}: {raw!r} is neither 'idle' nor 'normal'")
    return cast("TrainerPriority", raw)


def training_device(environ: Mapping[str, str]) -> TrainingDevice:
    """What jobs are computed on.

    Raises:
        ValueError: FABULA_ENGINE_DEVICE is not one of `auto`, `cpu`, `cuda` and `mps`.
    """
    raw = environ.get(TRAINING_DEVICE_SETTING, "").strip().lower() or TRAINING_DEVICE
    if raw not in get_args(TrainingDevice):
        raise ValueError(f"{TRAINING_DEVICE_SETTING}: {raw!r} is not 'auto', 'cpu', 'cuda' or 'mps'")
    return cast("TrainingDevice", raw)


def is_suffix(text: str) -> bool:
    """Whether `text` is a valid suffix of a model name: ASCII letters, digits, dots, hyphens and underscores."""
    return _SUFFIX.fullmatch(text) is not None


class AutoValues(NamedTuple):
    """The values that `auto` stands for in a job."""

    n_epochs: int
    batch_size: int


def automatic(examples: int | None, *, examples_seen: int = _EXAMPLES_SEEN, small_set: int = _SMALL_SET) -> AutoValues:
    """Automatic epochs and batch size: 3 epochs in batches of 4; for few examples, more epochs in batches of 1.

    Args:
        examples: number of training examples; None if unknown.
        examples_seen: number of examples that training should see over all epochs, with a maximum of 8 epochs.
        small_set: below this number of examples, each batch is a single example.
    """
    if examples is None:
        return AutoValues(_MIN_EPOCHS, _BATCH_SIZE)
    n_epochs = min(_MAX_EPOCHS, max(_MIN_EPOCHS, math.ceil(examples_seen / max(1, examples))))
    return AutoValues(n_epochs, 1 if examples < small_set else _BATCH_SIZE)
