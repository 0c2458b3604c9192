"""The guided tour: the whole way on sample stories, for real, with nothing but what ships with the studio.

Pages start it, stop it and look; the worker walks it (`tour_walk`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store, hold, new_id
from core.db.tables import Tour, utcnow
from core.training import jobs

STEPS = ("dataset", "training", "curve", "cost", "story")
_SENTENCES = {
    "dataset": "Sample stories are being loaded as a data set.",
    "training": "A small model is being trained on the stories, on this machine.",
    "curve": "Training has finished; its curve is being loaded.",
    "cost": "Tokens are being counted to compare the cost elsewhere.",
    "story": "The new model writes a story with a power that no training story has.",
}
_ENDINGS = {
    "done": "The tour is complete. The data set, the curve and the story are yours to keep.",
    "stopped": "The tour was stopped. Everything it made is kept.",
    "failed": "The tour could not continue.",
}
_QUEUED = "The tour starts as soon as the worker is free."
_STORY_S = 20.0  # a story of 500 tokens at the engine's 30 tokens a second, and the change to the new model
UNFINISHED = ("queued", "running")


@dataclass(frozen=True, slots=True)
class TourProgress:
    """Where the newest tour is.

    Attributes:
        state: queued, running, done, stopped or failed.
        step, steps: which step it is at, counting from 1, and how many there are.
        key: name of the step, one of `STEPS`.
        sentence: what is happening, in plain English (a message of the catalogue).
        reason: why it failed.
        eta_s: seconds to the end; None: not known (yet).
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
    story_id: str | None
    created_at: datetime
    finished_at: datetime | None


def start(store: Store, actor: Actor) -> str:
    """Queue a tour and return its id; while one is under way, that is the one."""
    with store.session() as session:
        hold(session, "tours")
        if (under_way := _under_way(session)) is not None:
            return under_way.id
        tour = Tour(id=new_id(), created_by=actor.id)
        session.add(tour)
        return tour.id


def stop(store: Store, actor: Actor) -> None:
    """End the tour that is under way, and its training with it. What it made stays."""
    with store.session() as session:
        tour = _under_way(session)
        if tour is None:
            return
        tour.state, tour.finished_at = "stopped", utcnow()
        if tour.job_id is not None and not jobs.get(store, tour.job_id).finished:
            jobs.request(store, actor, tour.job_id, "cancel")


def progress(store: Store, now: datetime | None = None, *, tour_id: str | None = None) -> TourProgress | None:
    """The tour `tour_id`, or the newest one without an id; None: there is none."""
    query = select(Tour).order_by(Tour.created_at.desc(), Tour.id.desc()).limit(1)
    with store.reading() as session:
        tour = session.scalar(query if tour_id is None else select(Tour).where(Tour.id == tour_id))
    if tour is None:
        return None
    sentence = _QUEUED if tour.state == "queued" else _ENDINGS.get(tour.state, _SENTENCES[tour.step])
    return TourProgress(
        id=tour.id,
        state=tour.state,
        step=STEPS.index(tour.step) + 1,
        steps=len(STEPS),
        key=tour.step,
        sentence=sentence,
        reason=tour.reason,
        eta_s=_eta_s(store, tour, now or utcnow()),
        dataset_id=tour.dataset_id,
        job_id=tour.job_id,
        story_id=tour.story_id,
        created_at=tour.created_at,
        finished_at=tour.finished_at,
    )


def _under_way(session: Session) -> Tour | None:
    return session.scalar(select(Tour).where(Tour.state.in_(UNFINISHED)).order_by(Tour.id).limit(1))


def _eta_s(store: Store, tour: Tour, now: datetime) -> float | None:
    if tour.state not in UNFINISHED:
        return None
    if STEPS.index(tour.step) > STEPS.index("training"):
        return _STORY_S
    if tour.job_id is None:
        return None
    finish = jobs.get(store, tour.job_id).estimated_finish
    return None if finish is None else max(0.0, (finish - now).total_seconds()) + _STORY_S
