"""The learning rate over a job, and when to stop before its last epoch. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.engine.training_options import Schedule


def learning_rate(peak: float, step: int, total_steps: int, *, warmup: float, schedule: Schedule) -> float:
    """The learning rate for a step.

    Args:
        peak: the highest learning rate.
        step: from 1 to `total_steps`.
        warmup: fraction of the steps over which the learning rate rises linearly to `peak`.
        schedule: how the learning rate falls afterwards: `linear` to 0, `cosine` to 0 (Loshchilov and Hutter 2017,
            arXiv:1608.03983, without restarts), or `constant`.
    """
    rising = round(warmup * total_steps)
    if step <= rising:
        return peak * step / rising
    done = (step - 1 - rising) / max(1, total_steps - rising)
    if schedule == "constant":
        return peak
    return peak * (1 - done) if schedule == "linear" else peak * (1 + math.cos(math.pi * done)) / 2


def best(losses: Sequence[float]) -> int:
    """Index of the lowest validation loss; the first one if several are equal. Infinite and NaN are never the best.

    If no loss is a finite number, return the last index, because training itself continued.
    """
    finite = [index for index, loss in enumerate(losses) if math.isfinite(loss)]
    return min(finite, key=losses.__getitem__) if finite else len(losses) - 1


def stops_early(losses: Sequence[float], patience: int | None) -> bool:
    """Whether the validation loss has not improved in the last `patience` epochs; never if `patience` is None."""
    lowest = best(losses) if any(map(math.isfinite, losses)) else 0
    return patience is not None and bool(losses) and len(losses) - 1 - lowest >= patience
