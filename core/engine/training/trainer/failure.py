"""What a trainer reports when its job fails."""

from __future__ import annotations

import errno
import sys

from core.engine.formats.base_config import UntrainableModel
from core.engine.formats.unusable_model import UnusableModel
from core.engine.job_rules import TRAINING_DEVICE_SETTING
from core.engine.training.job_folder import Journal
from core.engine.training.shared_storage import StorageRefused
from core.engine.training.trainer import device, memory
from core.engine.training.trainer.loop import LossDiverged
from core.message import msg, sentences, to_json, with_cause


def report(journal: Journal, exc: Exception) -> None:
    """Write the failure to the job folder, for the engine, and to the trainer's log."""
    error, next_step = describe(exc)
    message = sentences(error, next_step)
    journal.event(message, level="error")
    journal.state("failed", now=True, error=error, next_step=next_step, message=to_json(message))
    print(f"{type(exc).__name__}: {exc}", file=sys.stderr)


def describe(exc: Exception) -> tuple[str, str]:
    """What happened and what to do next, for the user."""
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        return with_cause(msg("The disk is full."), "storage"), msg(
            "Free some space, then resume the job: it continues from its last checkpoint."
        )
    if isinstance(exc, StorageRefused):
        return with_cause(exc.what, "storage"), exc.next_step
    if isinstance(exc, UntrainableModel):  # the file was replaced after the job was created
        return with_cause(
            msg("The base model can be served here but not trained: {reason}.", reason=exc), "model_not_found"
        ), msg("Use another base model.")
    if isinstance(exc, UnusableModel):  # the adapter was damaged after the job was created
        return with_cause(exc.reason, "model_not_found"), exc.next_step
    if isinstance(exc, LossDiverged):
        return with_cause(msg("Training diverged: {reason}.", reason=exc), "diverged"), msg(
            "Use a smaller learning_rate_multiplier."
        )
    if isinstance(exc, device.DeviceMissing):
        return with_cause(exc.reason, "setup"), msg(
            "Install PyTorch for this device, or set {setting} to cpu. Then restart the engine and resume the job.",
            setting=TRAINING_DEVICE_SETTING,
        )
    if isinstance(exc, memory.DoesNotFit):
        return with_cause(exc.reason, "out_of_memory"), exc.next_step
    if device.is_out_of_memory(exc):
        return with_cause(msg("Out of memory."), "out_of_memory"), msg("Use a smaller batch_size or shorter examples.")
    return msg("Training stopped: {error}.", error=exc), msg("The engine's log has the details.")
