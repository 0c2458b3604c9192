"""The learning rate over a job, and when to stop before its last epoch. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.engine.job_rules import Schedule


def learning_rate(peak: float, step: int, total_steps: int, *, warmup: float, schedule: Schedule) -> float:
    """The learning rate of a step.

    Args:
        peak: the highest one.
        step: from 1 to `total_steps`.
        warmup: share of the steps over which it rises linearly to `peak`.
        schedule: how it falls afterwards: `linear` to 0, `cosine` to 0 (Loshchilov and Hutter 2017,
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
    """Index of the lowest validation loss; the first one of equals."""
    return min(range(len(losses)), key=losses.__getitem__)


def stops_early(losses: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no lower validation loss; None: never."""
    return patience is not None and bool(losses) and len(losses) - 1 - best(losses) >= patience
