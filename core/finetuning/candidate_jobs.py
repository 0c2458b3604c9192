"""Starts the jobs of several candidates: each exactly once, all in one transaction.

A kill leaves either none of them or all; the same request again, by a second click or another tab, starts nothing
twice. A job that is refused, for example by a budget, does not stop the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from core.actor import Actor, requires
from core.db.store import Store
from core.errors import FabulaError, StorageFull
from core.finetuning import jobs
from core.finetuning.job_form import JobForm
from core.ownership import reads

_ID_BYTES = 10  # 20 characters, like `new_id`


@dataclass(frozen=True, slots=True)
class Started:
    """What became of one candidate's job: its id, or why it was not started and what to do."""

    form: JobForm
    job_id: str | None
    error: FabulaError | None = None


@requires("editor")
@reads(dataset="dataset_id")
def start(
    store: Store, actor: Actor, dataset_id: str, forms: Sequence[JobForm], request_id: str
) -> tuple[Started, ...]:
    """Create the jobs; the worker runs them, and the engine trains one after another.

    Args:
        dataset_id: the data set of all forms.
        request_id: made when the person is asked to confirm (`new_id`), so that a repeated click is the same request.

    Raises:
        StorageFull: the disk is full; no job was created.
    """
    with store.session():
        return tuple(_start(store, actor, form, _job_id(request_id, form)) for form in forms)


def _start(store: Store, actor: Actor, form: JobForm, job_id: str) -> Started:
    try:
        with store.session() as session, session.begin_nested():  # what a refused job has written is undone
            return Started(form, jobs.submit(store, actor, form, job_id))
    except StorageFull:
        raise
    except FabulaError as exc:
        return Started(form, None, exc)


def _job_id(request_id: str, form: JobForm) -> str:
    """The id that a candidate's job has in this request."""
    return blake2b(f"{request_id} {form.provider}/{form.base_model}".encode(), digest_size=_ID_BYTES).hexdigest()
