"""Model lineage: chains of jobs, their total cost, and the family as a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Checkpoint, Dataset, TrainingJob
from core.finetuning.checkpoints import CheckpointView, all_checkpoints
from core.finetuning.job_views import JobView, get, list_jobs

Kind = Literal["base", "dataset", "job", "checkpoint", "model"]
_CHECKPOINT_SUFFIX = ":ckpt-step-"  # OpenAI and the engine append this and the step to the model name
_MAX_LABEL_LENGTH = 40  # in a node of the graph


@dataclass(frozen=True, slots=True)
class ChainCost:
    """The total cost of a chain. A total is None if it is unknown for every job.

    Attributes:
        known_usd: sum of the known costs; unknown: number of jobs with unknown cost.
        tokens, seconds: training totals.
    """

    known_usd: Decimal
    unknown: int
    tokens: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph.

    Attributes:
        id: unique in the graph.
        label: shortened name; detail: a second line, or "".
        status: the status of a job.
        model: `provider/model`, if it can be called.
        ref: id of the data set or job that it belongs to; for a base model, its name.
    """

    id: str
    kind: Kind
    label: str
    detail: str
    status: str | None
    model: str | None
    ref: str


@dataclass(frozen=True, slots=True)
class Family:
    """A graph of data sets, jobs, checkpoints and models. `edges`: (source, target) pairs of node ids."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]


def job_that_made(store: Store, model: str) -> JobView | None:
    """The newest job that produced a tuned model or checkpoint; None if unknown."""
    newest, names = TrainingJob.created_at.desc(), (model, model.split(_CHECKPOINT_SUFFIX)[0])
    by_checkpoint = select(Checkpoint.job_id).join(TrainingJob, TrainingJob.id == Checkpoint.job_id)
    with store.reading() as session:
        job_id = session.scalar(
            select(TrainingJob.id).where(TrainingJob.fine_tuned_model.in_(names)).order_by(newest).limit(1)
        ) or session.scalar(by_checkpoint.where(Checkpoint.model == model).order_by(newest).limit(1))
    return None if job_id is None else get(store, job_id, results=False)


def chain(store: Store, job_id: str) -> tuple[JobView, ...]:
    """The job and its ancestors, first ancestor first.

    Raises:
        NotFound: the job does not exist.
    """
    return chain_of(get(store, job_id), list_jobs(store))


def chain_of(job: JobView, jobs: Iterable[JobView]) -> tuple[JobView, ...]:
    """Like `chain`, for jobs that are already loaded."""
    return _ancestry(job, _Index.of(jobs))


def chains_of(jobs: Sequence[JobView]) -> Mapping[str, tuple[JobView, ...]]:
    """The chain of every given job, by job id."""
    index = _Index.of(jobs)
    return {job.id: _ancestry(job, index) for job in jobs}


def chain_cost(jobs: Sequence[JobView], now: datetime) -> ChainCost:
    """The total cost of jobs; unfinished jobs count with what is known so far."""
    costs = [job.cost_usd for job in jobs]
    tokens = [job.trained_tokens for job in jobs if job.trained_tokens is not None]
    times = [seconds for job in jobs if (seconds := job.training_s(now)) is not None]
    return ChainCost(
        known_usd=sum((cost for cost in costs if cost is not None), Decimal(0)),
        unknown=sum(cost is None for cost in costs),
        tokens=sum(tokens) if tokens else None,
        seconds=sum(times) if times else None,
    )


def family(store: Store, job_id: str | None = None) -> Family:
    """The graph of everything related to a job; without `job_id`, of all jobs."""
    jobs = list_jobs(store)
    if job_id is not None:
        related = _related_ids(jobs, job_id)
        jobs = [job for job in jobs if job.id in related]
    with store.reading() as session:
        names = {id_: name for id_, name in session.execute(select(Dataset.id, Dataset.name))}
    checkpoints: dict[str, list[CheckpointView]] = {}
    for checkpoint in all_checkpoints(store):
        checkpoints.setdefault(checkpoint.job_id, []).append(checkpoint)
    graph = _GraphBuilder(names, checkpoints)
    for job in reversed(jobs):
        graph.job(job)
    return Family(tuple(graph.nodes.values()), tuple(dict.fromkeys(graph.edges)))


class _GraphBuilder:
    """Builds the graph. Older jobs must be added first, so that their models exist when they are trained further."""

    def __init__(self, names: Mapping[str, str], checkpoints: Mapping[str, Sequence[CheckpointView]]) -> None:
        self._names, self._checkpoints = names, checkpoints
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []

    def job(self, job: JobView) -> None:
        job_node = f"job:{job.id}"
        detail = "" if job.n_examples is None else f"{job.n_examples:,}"
        self._add(job_node, "job", job.name, detail, job.id, status=job.status)
        base_node = f"model:{job.provider}/{job.base_model}"
        if base_node not in self.nodes:
            self._add(base_node, "base", job.base_model, "", job.base_model, model=f"{job.provider}/{job.base_model}")
        self.edges.append((base_node, job_node))
        if job.dataset_id is not None:
            dataset_node = f"dataset:{job.dataset_id}"
            self._add(dataset_node, "dataset", self._names.get(job.dataset_id, job.dataset_id), "", job.dataset_id)
            self.edges.append((dataset_node, job_node))
        for checkpoint in self._checkpoints.get(job.id, ()):
            if checkpoint.model == job.fine_tuned_model:
                continue
            checkpoint_node = f"model:{job.provider}/{checkpoint.model}"
            self._add(
                checkpoint_node,
                "checkpoint",
                f"{checkpoint.step:,}",
                "",
                job.id,
                model=f"{job.provider}/{checkpoint.model}",
            )
            self.edges.append((job_node, checkpoint_node))
        if job.fine_tuned_model is not None:
            model_node = f"model:{job.provider}/{job.fine_tuned_model}"
            self._add(
                model_node, "model", job.fine_tuned_model, "", job.id, model=f"{job.provider}/{job.fine_tuned_model}"
            )
            self.edges.append((job_node, model_node))

    def _add(
        self,
        id_: str,
        kind: Kind,
        label: str,
        detail: str,
        ref: str,
        status: str | None = None,
        model: str | None = None,
    ) -> None:
        short_label = label if len(label) <= _MAX_LABEL_LENGTH else f"…{label[1 - _MAX_LABEL_LENGTH :]}"
        self.nodes[id_] = Node(id_, kind, short_label, detail, status, model, ref)


@dataclass(frozen=True, slots=True)
class _Index:
    """Jobs by id, and by the (provider, model) that they produced."""

    by_id: Mapping[str, JobView]
    made: Mapping[tuple[str, str], JobView]

    @classmethod
    def of(cls, all_jobs: Iterable[JobView]) -> _Index:
        job_list = list(all_jobs)
        made = {(job.provider, job.fine_tuned_model): job for job in job_list if job.fine_tuned_model is not None}
        return cls({job.id: job for job in job_list}, made)

    def parent(self, job: JobView) -> JobView | None:
        """The job's parent, found by `parent_id`.

        Jobs from earlier versions have none, so their base model is looked up.
        """
        if job.parent_id is not None:
            return self.by_id.get(job.parent_id)
        return self.made.get((job.provider, job.base_model))


def _ancestry(job: JobView, index: _Index) -> tuple[JobView, ...]:
    path, seen = [job], {job.id}
    while (parent := index.parent(path[0])) is not None and parent.id not in seen:
        path.insert(0, parent)
        seen.add(parent.id)
    return tuple(path)


def _related_ids(jobs: Sequence[JobView], job_id: str) -> set[str]:
    """Ids of the jobs with the same first ancestor."""
    index = _Index.of(jobs)
    roots = {job.id: _ancestry(job, index)[0].id for job in jobs}
    root_id = roots.get(job_id)
    return {id_ for id_, root in roots.items() if root == root_id}
