"""The guided tour: stories, a small model trained on them, and what it and its base write.

Everything runs on this machine and uses only files included in Fabula.

Pages start, stop, continue and watch it; the worker runs it (`tour_runner`). Where the engine is not installed, they
show a recorded tour instead. `python -m bench.tour --record` writes the recordings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import presets
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Tour, utcnow
from core.errors import FabulaError, NotFound
from core.evaluation import before_after
from core.finetuning import job_views, jobs
from core.message import msg
from core.ownership import edits

STEPS = ("dataset", "training", "story")
_SENTENCES = {
    "dataset": msg("Training stories for this tour are being saved as a data set."),
    "training": msg("A small model is being trained on the stories, on this machine."),
    "story": msg("The base and the new model answer a prompt that is new to both."),
}
_ENDINGS = {
    "done": msg("The tour is complete. The data set, the curve and the stories are yours to keep."),
    "stopped": msg("The tour was stopped. Everything it made is kept."),
    "failed": msg("The tour could not continue."),
}
_QUEUED = msg("The tour starts as soon as the worker is free.")
_STORIES_S = 25.0  # two answers of up to 600 tokens, generated in parallel, and loading the new model
UNFINISHED = ("queued", "running")
ENDED_EARLY = ("stopped", "failed")

RECORDINGS = presets.DATA / "tour_recordings.json"


@dataclass(frozen=True, slots=True)
class TourProgress:
    """The progress of a tour.

    Attributes:
        state: queued, running, done, stopped or failed.
        step, steps: the current step, from 1, and the number of steps.
        key: name of the step, one of `STEPS`.
        sentence: what is happening (a message that pages translate).
        reason: why it failed.
        eta_s: estimated seconds to the end; None if unknown.
        language: language of the page that started it (`en`, `zh_CN`).
    """

    id: str
    state: str
    step: int
    steps: int
    key: str
    sentence: str
    reason: str | None
    eta_s: float | None
    dataset_id: str | None
    job_id: str | None
    language: str
    created_at: datetime
    finished_at: datetime | None


@requires("editor")
def start(store: Store, actor: Actor, language: str) -> str:
    """Queue a tour in a page's language (`en`, `zh_CN`). Returns its id, or that of this person's tour in progress."""
    with store.session() as session:
        advisory_lock(session, "tours")
        if (under_way := _under_way(session, actor)) is not None:
            return under_way.id
        tour = Tour(id=new_id(), language=language, created_by=actor.id)
        session.add(tour)
        return tour.id


@requires("editor")
def stop(store: Store, actor: Actor) -> None:
    """Stop this person's tour in progress, and its training or comparison. What it made is kept."""
    with store.session() as session:
        tour = _under_way(session, actor)
        if tour is None:
            return
        tour.state, tour.finished_at = "stopped", utcnow()
        if tour.job_id is None:
            return
        if not job_views.get(store, tour.job_id, results=False).finished:
            jobs.request(store, actor, tour.job_id, "cancel")
        elif (written := before_after.get(store, tour.job_id)) is not None and written.active:
            before_after.stop(store, actor, tour.job_id)


@requires("editor")
@edits(tour="tour_id")
def resume(store: Store, actor: Actor, tour_id: str) -> str:
    """Continue a tour that was stopped or has failed. Returns its id, or the id of this person's tour in progress, if
    any.

    Its data set is kept. Training resumes where it stopped if the engine supports that, and otherwise starts again.
    Only missing answers are written.

    Raises:
        NotFound: there is no such tour.
        FabulaError: it is still being stopped.
    """
    with store.session() as session:
        advisory_lock(session, "tours")
        if (under_way := _under_way(session, actor)) is not None:
            return under_way.id
        tour = session.get(Tour, tour_id)
        if tour is None:
            raise NotFound(msg("This tour no longer exists."), msg("Start a new one."))
        if tour.state not in ENDED_EARLY:
            return tour.id
        if tour.job_id is not None:
            _resume_job(store, actor, tour, tour.job_id)
        tour.state, tour.reason, tour.finished_at = "queued", None, None
        tour.created_at = utcnow()  # it becomes the newest tour, and its time starts again
        return tour.id


def _resume_job(store: Store, actor: Actor, tour: Tour, job_id: str) -> None:
    """Resume the training job or its comparison. A job that cannot be resumed is replaced by a new one."""
    job = job_views.get(store, job_id, results=False)
    written = before_after.get(store, job_id)
    if (not job.finished and job.request == "cancel") or (written is not None and written.state == "stopping"):
        raise FabulaError(msg("The tour is still being stopped."), msg("Try again in a few seconds."))
    if not job.finished:
        return
    if job.status == "succeeded":
        if written is not None and not written.active:
            before_after.retry(store, actor, job_id)
    elif jobs.is_allowed(job, "resume"):
        jobs.request(store, actor, job_id, "resume")
    else:
        tour.job_id, tour.step = None, "training"


def step_of(tour: Tour) -> str:
    """The current step of a tour. For a tour of an earlier version whose step no longer exists, the last step."""
    return tour.step if tour.step in STEPS else STEPS[-1]


def steps_from(tour: Tour) -> tuple[str, ...]:
    """The remaining steps, beginning with the current one."""
    return STEPS[STEPS.index(step_of(tour)) :]


def progress(
    store: Store, now: datetime | None = None, *, tour_id: str | None = None, person_id: str | None = None
) -> TourProgress | None:
    """The tour `tour_id`, or the newest one without an id; None if there is none.

    Args:
        person_id: only tours of this person; None means everybody's.
    """
    query = select(Tour).order_by(Tour.created_at.desc(), Tour.id.desc()).limit(1)
    if tour_id is not None:
        query = query.where(Tour.id == tour_id)
    if person_id is not None:
        query = query.where(Tour.created_by == person_id)
    with store.reading() as session:
        tour = session.scalar(query)
    if tour is None:
        return None
    sentence = _QUEUED if tour.state == "queued" else _ENDINGS.get(tour.state, _SENTENCES[step_of(tour)])
    return TourProgress(
        id=tour.id,
        state=tour.state,
        step=STEPS.index(step_of(tour)) + 1,
        steps=len(STEPS),
        key=step_of(tour),
        sentence=sentence,
        reason=tour.reason,
        eta_s=_eta_s(store, tour, now or utcnow()),
        dataset_id=tour.dataset_id,
        job_id=tour.job_id,
        language=tour.language,
        created_at=tour.created_at,
        finished_at=tour.finished_at,
    )


def _under_way(session: Session, actor: Actor) -> Tour | None:
    mine = (Tour.created_by == actor.id, Tour.state.in_(UNFINISHED))
    return session.scalar(select(Tour).where(*mine).order_by(Tour.id).limit(1))


def _eta_s(store: Store, tour: Tour, now: datetime) -> float | None:
    if tour.state not in UNFINISHED:
        return None
    if step_of(tour) == "story":
        return _STORIES_S
    if tour.job_id is None:
        return None
    left = job_views.get(store, tour.job_id, results=False).eta_s(now)
    return None if left is None else left + _STORIES_S


@dataclass(frozen=True, slots=True)
class TourRecording:
    """The recording of one real tour.

    Attributes:
        language: language of the page that started it (`en`, `zh_CN`).
        recorded_on: the day, UTC (ISO 8601).
        minutes: minutes from the start until both texts were complete.
        stories, trained_tokens: number of stories and tokens that the model was trained on.
        base_model, tuned_model: the model that was trained, and the resulting one.
        results_csv: the job's results file.
        prompt: a prompt that neither model had seen.
        before, after: the answers of the base model and the tuned model.
        before_finish, after_finish: `stop`: complete; `length`: stopped at the token limit.
    """

    language: str
    recorded_on: str
    minutes: float
    stories: int
    trained_tokens: int
    base_model: str
    tuned_model: str
    results_csv: str
    prompt: str
    before: str
    before_finish: str | None
    after: str
    after_finish: str | None


def load_recording(language: str, path: Path | None = None) -> TourRecording | None:
    """The recording in a page's language; None if there is none. `path`: a file other than the one that ships."""
    return _recordings(path or RECORDINGS).get(language)


def save_recordings(recordings: Sequence[TourRecording], path: Path | None = None) -> None:
    """Save the recordings. They replace those in the same languages; the others are kept."""
    found = {**_recordings(path or RECORDINGS), **{one.language: one for one in recordings}}
    text = json.dumps([asdict(found[name]) for name in sorted(found)], ensure_ascii=False, indent=1)
    (path or RECORDINGS).write_text(text + "\n", encoding="utf-8")


def _recordings(path: Path) -> Mapping[str, TourRecording]:
    """All recordings by language. The file is small, and is read only if the engine is not installed."""
    if not path.is_file():
        return {}
    return {one["language"]: TourRecording(**one) for one in json.loads(path.read_text(encoding="utf-8"))}
