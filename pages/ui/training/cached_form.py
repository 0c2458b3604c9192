"""Cached checks for a new job, shared by all visitors: the account and the training file."""

from __future__ import annotations

import time
from collections.abc import Callable

from core import packaged_models
from core.datasets import datasets
from core.db.tables import utcnow
from core.finetuning import file_checker, job_estimate, preflight
from core.finetuning.file_report import FileCheck
from core.finetuning.job_estimate import JobEstimate
from core.finetuning.job_form import JobForm
from core.finetuning.preflight import Preflight
from core.pricing.prices import ENGINE, tuned_base
from core.providers import ModelInfo
from pages.ui import background, cached
from pages.ui.background import BackgroundTask, shared_task
from pages.ui.cache import shared

_ACCOUNT_S = 300  # permission to train rarely changes


def account(provider: str, model: str) -> Preflight:
    """Whether the account may train this model, and for how long the result can be called.

    Raises:
        FabulaError: the provider is not set up.
    """
    found, checked_at = _account(provider, model)
    if not found.answered and time.monotonic() - checked_at >= background.FAILURE_KEPT_S:
        _account.clear(provider, model)
        found, checked_at = _account(provider, model)
    return found


@shared(ttl=_ACCOUNT_S, max_entries=64)
def _account(provider: str, model: str) -> tuple[Preflight, float]:
    """The state of an account, and when it was checked (`time.monotonic()`)."""
    found = preflight.preflight(cached.store(), cached.quick(provider), cached.prices(), model, utcnow())
    return found, time.monotonic()


def estimate(model: ModelInfo, tokens: int, epochs: int | None, examples: int | None = None) -> JobEstimate:
    """The estimate for training on a file with this many tokens; see `core.finetuning.job_estimate`."""
    engine = cached.status().engine if model.provider == ENGINE else None
    packaged_base = (tuned_base(model.id) or model.id) == packaged_models.BASE  # the rough figure only applies to it
    at_hand = engine is not None and not engine.external and packaged_base
    return job_estimate.estimate(
        cached.store(),
        cached.prices(),
        model.provider,
        model.id,
        tokens=tokens,
        epochs=epochs,
        examples=examples,
        speed=engine.training_speeds.get(tuned_base(model.id) or model.id) if engine is not None else None,
        rough_speed=_rough_speed() if at_hand else None,
    )


@shared(max_entries=1)
def _rough_speed() -> float:
    return job_estimate.measure_rough_speed()


def _file_key(form: JobForm, rows: int) -> tuple[object, ...]:
    """What tells training files apart, except for the state of their rows."""
    marks = (form.file_format, form.separator, form.stop)
    return form.dataset_id, form.version_id, marks, form.provider, form.base_model


@shared_task(
    max_entries=16,
    key=_file_key,
    version=lambda form, rows: datasets.fingerprint(cached.store(), form.dataset_id, form.version_id),
)
def file_check(form: JobForm, rows: int) -> BackgroundTask[FileCheck]:
    """The check of the whole file that this form would send; repeated when a row is added, removed or edited."""
    store = cached.store()

    def look(row_seen: Callable[[], None]) -> FileCheck:
        reported = 0

        def count(lines: int) -> None:
            nonlocal reported
            while reported < min(lines, rows):
                reported += 1
                row_seen()

        return file_checker.check_form(store, form, on_progress=count)

    return BackgroundTask(look, rows)
