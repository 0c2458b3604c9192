"""Finds out what is using a provider, to check before it is removed."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from core.db.store import Store
from core.db.tables import Batch, Dataset, Evaluation, Run, TrainingJob
from core.evaluation import evaluations
from core.finetuning import job_views
from core.generation import run_progress
from core.generation.batch import batch_store


@dataclass(frozen=True, slots=True)
class ProviderUse:
    """Unfinished work that needs a provider.

    Attributes:
        runs: names of the data sets with unfinished runs.
        training_jobs: names of the training jobs.
        evaluations: number of evaluations.
        batches: number of batches that the provider may have.
    """

    runs: tuple[str, ...]
    training_jobs: tuple[str, ...]
    evaluations: int
    batches: int

    @property
    def any(self) -> bool:
        """Whether anything uses the provider."""
        return bool(self.runs or self.training_jobs or self.evaluations or self.batches)


def of(store: Store, provider_id: str) -> ProviderUse:
    """Find a provider's unfinished runs, training jobs, evaluations and batches."""
    active_runs = (
        select(Dataset.name)
        .join(Run, Run.dataset_id == Dataset.id)
        .where(Run.provider == provider_id, Run.state.in_(run_progress.ACTIVE))
        .order_by(Run.id)
    )
    active_jobs = (
        select(TrainingJob.name)
        .where(TrainingJob.provider == provider_id, TrainingJob.status.not_in(job_views.FINISHED))
        .order_by(TrainingJob.id)
    )
    evaluating = select(func.count()).where(
        Evaluation.provider == provider_id, Evaluation.state.in_(evaluations.ACTIVE)
    )
    submitted = select(func.count()).select_from(Batch).join(Run, Run.id == Batch.run_id)
    batches = submitted.where(Run.provider == provider_id, Batch.state.not_in(("preparing", *batch_store.OVER)))
    with store.reading() as session:
        return ProviderUse(
            runs=tuple(session.scalars(active_runs)),
            training_jobs=tuple(session.scalars(active_jobs)),
            evaluations=session.scalar(evaluating) or 0,
            batches=session.scalar(batches) or 0,
        )
