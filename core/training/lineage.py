"""Where models come from: chains of jobs, what they cost together, and the whole family as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Checkpoint, Dataset, TrainingJob
from core.training.checkpoints import CheckpointView, all_checkpoints
from core.training.job_views import JobView, get, list_jobs

Kind = Literal["base", "dataset", "job", "checkpoint", "model"]
_CHECKPOINT = ":ckpt-step-"  # as OpenAI and the engine name them: behind the name of the model
_LONGEST_LABEL = 40  # characters of a name in the picture
_SHAPES: Mapping[Kind, str] = {
    "base": "box",
    "dataset": "folder",
    "job": "ellipse",
    "checkpoint": "note",
    "model": "box3d",
}


@dataclass(frozen=True, slots=True)
class ChainCost:
    """What a chain cost: the known sum, how many jobs have no known cost, tokens and seconds of training of all.

    None: not known of any.
    """

    known_usd: Decimal
    unknown: int
    tokens: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Node:
    """Something in the picture.

    Attributes:
        id: within the family.
        label: its name, shortened; detail: one more line, or "".
        status: of a job.
        model: `provider/model` to call it by, where it can be called.
        ref: id of the data set or job that it is, or belongs to; of a base, its name.
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
    """Data sets, jobs, checkpoints and models, and which came from which (pairs of node ids)."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    def dot(self, highlighted: str | None = None) -> str:
        """The picture in Graphviz' language, from left to right; the job `highlighted` has a thick line."""
        lines = ["digraph family {", "  rankdir=LR;", '  node [fontname="sans-serif", fontsize=11];']
        for node in self.nodes:
            label = node.label if not node.detail else f"{node.label}\n{node.detail}"
            width = 3 if node.kind == "job" and node.ref == highlighted else 1
            lines.append(
                f"  {_quoted(node.id)} [label={_quoted(label)}, shape={_SHAPES[node.kind]}, penwidth={width}];"
            )
        lines += [f"  {_quoted(one)} -> {_quoted(other)};" for one, other in self.edges]
        return "\n".join([*lines, "}"])


def job_that_made(store: Store, model: str) -> JobView | None:
    """The newest job that made a tuned model, or one of whose checkpoints it is; None: it is not in the ledger."""
    newest, names = TrainingJob.created_at.desc(), (model, model.split(_CHECKPOINT)[0])
    kept = select(Checkpoint.job_id).join(TrainingJob, TrainingJob.id == Checkpoint.job_id)
    with store.reading() as session:
        job_id = session.scalar(
            select(TrainingJob.id).where(TrainingJob.fine_tuned_model.in_(names)).order_by(newest).limit(1)
        ) or session.scalar(kept.where(Checkpoint.model == model).order_by(newest).limit(1))
    return None if job_id is None else get(store, job_id, results=False)


def chain(store: Store, job_id: str) -> tuple[JobView, ...]:
    """The job and those that its model was trained through, the first ancestor first.

    Raises:
        NotFound: there is no such job.
    """
    return chain_of(get(store, job_id), list_jobs(store))


def chain_of(job: JobView, found: Iterable[JobView]) -> tuple[JobView, ...]:
    """The same, from jobs at hand."""
    return _line(job, _Index.of(found))


def chains_of(found: Sequence[JobView]) -> Mapping[str, tuple[JobView, ...]]:
    """The same of all jobs at hand, by id."""
    index = _Index.of(found)
    return {job.id: _line(job, index) for job in found}


def chain_cost(jobs: Sequence[JobView], now: datetime) -> ChainCost:
    """What jobs cost together, those that go on included with what is known of them."""
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
    """Everything that is connected with a job; without one, everything."""
    found = list_jobs(store)
    if job_id is not None:
        kin = _kin(found, job_id)
        found = [job for job in found if job.id in kin]
    with store.reading() as session:
        names = {id_: name for id_, name in session.execute(select(Dataset.id, Dataset.name))}
    kept: dict[str, list[CheckpointView]] = {}
    for one in all_checkpoints(store):
        kept.setdefault(one.job_id, []).append(one)
    drawing = _Drawing(names, kept)
    for job in reversed(found):
        drawing.job(job)
    return Family(tuple(drawing.nodes.values()), tuple(dict.fromkeys(drawing.edges)))


class _Drawing:
    """The family so far; older jobs come first, so that what they made is there when it is trained further."""

    def __init__(self, names: Mapping[str, str], checkpoints: Mapping[str, Sequence[CheckpointView]]) -> None:
        self._names, self._checkpoints = names, checkpoints
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []

    def job(self, job: JobView) -> None:
        me = f"job:{job.id}"
        detail = "" if job.n_examples is None else f"{job.n_examples:,}"
        self._add(me, "job", job.name, detail, job.id, status=job.status)
        start = f"model:{job.provider}/{job.base_model}"
        if start not in self.nodes:
            self._add(start, "base", job.base_model, "", job.base_model, model=f"{job.provider}/{job.base_model}")
        self.edges.append((start, me))
        if job.dataset_id is not None:
            data = f"dataset:{job.dataset_id}"
            self._add(data, "dataset", self._names.get(job.dataset_id, job.dataset_id), "", job.dataset_id)
            self.edges.append((data, me))
        for one in self._checkpoints.get(job.id, ()):
            if one.model == job.fine_tuned_model:
                continue
            point = f"model:{job.provider}/{one.model}"
            self._add(point, "checkpoint", f"{one.step:,}", "", job.id, model=f"{job.provider}/{one.model}")
            self.edges.append((me, point))
        if job.fine_tuned_model is not None:
            made = f"model:{job.provider}/{job.fine_tuned_model}"
            self._add(made, "model", job.fine_tuned_model, "", job.id, model=f"{job.provider}/{job.fine_tuned_model}")
            self.edges.append((me, made))

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
        short = label if len(label) <= _LONGEST_LABEL else f"…{label[1 - _LONGEST_LABEL :]}"
        self.nodes[id_] = Node(id_, kind, short, detail, status, model, ref)


@dataclass(frozen=True, slots=True)
class _Index:
    """Jobs by id, and by (provider, model) that they made."""

    by_id: Mapping[str, JobView]
    made: Mapping[tuple[str, str], JobView]

    @classmethod
    def of(cls, found: Iterable[JobView]) -> _Index:
        jobs = list(found)
        made = {(job.provider, job.fine_tuned_model): job for job in jobs if job.fine_tuned_model is not None}
        return cls({job.id: job for job in jobs}, made)

    def parent(self, job: JobView) -> JobView | None:
        """By the ledger's own line; jobs of earlier versions have none, but name the model that they start from."""
        if job.parent_id is not None:
            return self.by_id.get(job.parent_id)
        return self.made.get((job.provider, job.base_model))


def _line(job: JobView, index: _Index) -> tuple[JobView, ...]:
    line, seen = [job], {job.id}
    while (parent := index.parent(line[0])) is not None and parent.id not in seen:
        line.insert(0, parent)
        seen.add(parent.id)
    return tuple(line)


def _kin(found: Sequence[JobView], job_id: str) -> set[str]:
    """Ids of jobs that descend from the same first job."""
    index = _Index.of(found)
    roots = {job.id: _line(job, index)[0].id for job in found}
    mine = roots.get(job_id)
    return {one for one, root in roots.items() if root == mine}


def _quoted(text: str) -> str:
    """A string of Graphviz' language: nothing in it can end it, or begin markup."""
    plain = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
