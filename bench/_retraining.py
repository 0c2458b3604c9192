"""Trains the models of an archived account again, and compares each with the old model, for `bench.move`.

The studio runs in the usual way, with its own worker and engine. The engine has a tiny base with random weights, so a
job takes seconds; jobs are submitted as the page does it (`core.finetuning.jobs.submit`), and the old models answer at
the scripted account.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench._page_server import served
from core.actor import LOCAL
from core.datasets import versions
from core.db.store import Store
from core.evaluation import evaluations
from core.finetuning import job_views, jobs
from core.finetuning.job_form import DEFAULT_VALIDATION_SHARE, JobForm
from core.finetuning.job_views import JobView
from core.migrate.tunes import Tune
from core.parity import from_evaluations
from tests.support.tiny_gemma import write_tiny_gemma

T = TypeVar("T")

_ROOT = Path(__file__).parents[1]
_BASE = "tiny"
_BATCH_SIZE = 32  # about six steps for 200 rows
_MAX_ROWS = 12  # to compare: enough to show that both models answer
_LONGEST_S = 7_200.0
_SAY_EVERY_S = 60.0  # how often progress is printed
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Retrained:
    """What became of the models that have a data set.

    Attributes:
        share: those that a job here has trained again, of all of them.
        compared: how many of these were compared with the old model; outcomes: the verdicts, by kind.
        minutes: from the first job to the last comparison.
    """

    share: float
    compared: int
    outcomes: dict[str, int]
    minutes: float


def retrain(store: Store, home: Path, provider: str, ready: Sequence[Tune], environ: dict[str, str]) -> Retrained:
    """Train each of these models again, then compare it with the old one, which the provider serves."""
    base = write_tiny_gemma(home / "tiny.gguf", context=4096)
    started = time.monotonic()
    models = {"FABULA_ENGINE_MODELS": f"{_BASE}={base}", "FABULA_TRAINER_PRIORITY": "normal"}
    with served(_ROOT / "app.py", **{**environ, **models}):
        job_ids = [jobs.submit(store, LOCAL, _form(store, tune)) for tune in ready]
        ended = _all_of("trained", lambda: [job_views.get(store, one) for one in job_ids], lambda job: job.finished)
        made = [(tune, job) for tune, job in zip(ready, ended, strict=True) if job.fine_tuned_model]
        pairs = [_start(store, provider, tune, job) for tune, job in made]
        asked = [one for pair in pairs for one in pair]
        _all_of("evaluated", lambda: [evaluations.get(store, one) for one in asked], lambda one: not one.active)
    verdicts = [
        from_evaluations.compare_evaluations(store, old, new).verdict for old, new in pairs if _done(store, old, new)
    ]
    return Retrained(
        share=len(made) / len(ready),
        compared=len(verdicts),
        outcomes=dict(Counter(verdict.outcome for verdict in verdicts)),
        minutes=(time.monotonic() - started) / 60,
    )


def _form(store: Store, tune: Tune) -> JobForm:
    """One epoch on the rows that the old model was trained on; without a validation file, some are kept to compare."""
    assert tune.dataset_id is not None and tune.job_id is not None
    version_id = job_views.get(store, tune.job_id).version_id
    kept = version_id is not None and versions.get(store, version_id).n_validation > 0
    return JobForm(
        tune.dataset_id,
        tune.id,
        "engine",
        _BASE,
        n_epochs=1,
        batch_size=_BATCH_SIZE,
        file_format="chat",
        version_id=version_id if kept else None,
        validation_share=None if kept else DEFAULT_VALIDATION_SHARE,
    )


def _start(store: Store, provider: str, tune: Tune, job: JobView) -> tuple[str, str]:
    """Evaluate the old and the new model on the rows kept from training. Returns the ids of both evaluations."""
    old = from_evaluations.start(store, LOCAL, job, provider, tune.model or "", _MAX_ROWS)
    return old, evaluations.start(store, LOCAL, evaluations.form_for(job, limit=_MAX_ROWS))


def _done(store: Store, *ids: str) -> bool:
    return all(evaluations.get(store, one).state == "done" for one in ids)


def _all_of(what: str, look: Callable[[], list[T]], is_over: Callable[[T], bool]) -> list[T]:
    """Wait until everything is over, and return it. Progress is printed.

    Raises:
        RuntimeError: it takes more than two hours.
    """
    started = said = time.monotonic()
    deadline = started + _LONGEST_S
    found = look()
    while missing := sum(not is_over(one) for one in found):
        now = time.monotonic()
        if now > deadline:
            raise RuntimeError(f"{missing} of {len(found)} are not {what} after two hours")
        if now - said >= _SAY_EVERY_S:
            said = now
            print(f"{what}: {len(found) - missing} of {len(found)} after {(now - started) / 60:.0f} min", flush=True)
        time.sleep(_LOOK_S)
        found = look()
    return found
