"""The lists of `cache`, filtered to what this visitor may read. In local mode, that is everything.

Call these functions in the script run or in a callback only, as `current_actor`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from core.datasets.datasets import DatasetSummary
from core.finetuning.job_views import JobView
from core.finetuning.lineage import Family
from core.ownership import HasOwner, may
from core.providers import ModelInfo
from pages.ui import cache
from pages.ui.cache import OfferedModels
from pages.ui.sign_in import current_actor

T = TypeVar("T", bound=HasOwner)
_CHECKPOINT = ":ckpt-step-"  # OpenAI and the engine append this and the step to the model's name


def dataset_list() -> tuple[DatasetSummary, ...]:
    """The data sets that this visitor may read, the newest first."""
    return _readable(cache.dataset_list())


def job_list() -> tuple[JobView, ...]:
    """The jobs that this visitor may read, the newest first, without their results."""
    return _readable(cache.job_list())


def models() -> OfferedModels:
    """The models of all providers, without those of jobs that this visitor may not read."""
    offered = cache.models()
    return OfferedModels(usable(offered.found), offered.problems)


def trainable() -> list[ModelInfo]:
    """Models that this visitor may start a job from."""
    return list(usable(cache.trainable()))


def job_of(model: str) -> JobView | None:
    """The job that produced a model; None if it is not in the ledger, or this visitor may not read it."""
    job = cache.job_of(model)
    return job if job is None or may(current_actor(), "read", job) else None


def shows_rows(job: JobView) -> bool:
    """Whether this visitor may read the data set of a job, or it no longer exists."""
    return all(may(current_actor(), "read", one) for one in cache.dataset_list() if one.id == job.dataset_id)


def family(found: Family) -> Family:
    """A family without the data sets, jobs and models that this visitor may not read."""
    if current_actor().has("admin"):
        return found
    seen = {job.id for job in job_list()} | {one.id for one in dataset_list()}
    nodes = tuple(node for node in found.nodes if node.kind == "base" or node.ref in seen)
    kept = {node.id for node in nodes}
    return Family(nodes, tuple(edge for edge in found.edges if kept.issuperset(edge)))


def _readable(things: tuple[T, ...]) -> tuple[T, ...]:
    actor = current_actor()
    return things if actor.has("admin") else tuple(one for one in things if may(actor, "read", one))


def usable(found: Iterable[ModelInfo]) -> tuple[ModelInfo, ...]:
    """These models without those of jobs that this visitor may not read."""
    actor = current_actor()
    if actor.has("admin"):
        return tuple(found)
    hidden = {(job.provider, job.fine_tuned_model) for job in cache.job_list() if not may(actor, "read", job)}
    return tuple(one for one in found if (one.provider, one.id.split(_CHECKPOINT)[0]) not in hidden)
