"""Suggested settings for retrying a failed job. Pure."""

from __future__ import annotations

from core.finetuning.job_views import JobView

_AUTO_BATCH = 4  # the engine's automatic batch size; other providers choose larger ones
_AUTO_RATE = 1.0  # the provider's own learning rate
_LOWEST_RATE = 0.01  # a lower rate learns nothing in a few epochs


def smaller_batch(job: JobView) -> int | None:
    """Half the batch size, for a job that ran out of memory; None: it was already 1."""
    previous = int(job.hyperparameters.get("batch_size") or _AUTO_BATCH)
    return previous // 2 or None


def lower_rate(job: JobView) -> float:
    """Half the learning rate multiplier, for a job that diverged."""
    previous = float(job.hyperparameters.get("learning_rate_multiplier") or _AUTO_RATE)
    return max(previous / 2, _LOWEST_RATE)
