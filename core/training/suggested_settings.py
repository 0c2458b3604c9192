"""The settings of a failed job with the fix applied: what the next try is proposed with. Pure."""

from __future__ import annotations

from core.training.job_views import JobView

_AUTO_BATCH = 4  # of the engine; providers with more memory choose more, so half of this is less anywhere
_AUTO_RATE = 1.0  # the multiplier that stands for a provider's own learning rate
_LOWEST_RATE = 0.01  # a lower one learns nothing in a few epochs


def smaller_batch(job: JobView) -> int | None:
    """The batch size for a job that ran out of memory: half of what it had; None: it had one example at a time."""
    had = int(job.hyperparameters.get("batch_size") or _AUTO_BATCH)
    return had // 2 or None


def lower_rate(job: JobView) -> float:
    """The learning rate multiplier for a job that diverged: half of what it had."""
    had = float(job.hyperparameters.get("learning_rate_multiplier") or _AUTO_RATE)
    return max(had / 2, _LOWEST_RATE)
