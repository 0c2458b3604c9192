"""Walks the guided tour, step by step: sample stories, a small model trained on them, a story of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from core.actor import Actor
from core.cost import own
from core.dataset import datasets, presets
from core.db.store import Store
from core.db.tables import Tour, utcnow
from core.errors import FabulaError, ModelNotFound, RateLimited, Unavailable
from core.providers import Client, CompletionRequest, Registry
from core.settings import Settings
from core.story import stream
from core.tour import STEPS, UNFINISHED
from core.training import jobs
from core.waits import Waiting

EXAMPLES = 48  # and one epoch of them in batches of 4: 12 steps, a minute or two on two cores
_EPOCHS = 1
_BATCH = 4
_SEED = 7  # of the training
_STORY_SEED = 8  # 7 gave a longer story with a character in it that no font has
_PROVIDER = "engine"
# It knows stories of this kind, asked for in a long sentence; the tour teaches it to write them for three words. From
# the bare base model even 24 steps give the shape of a story and no sense.
_STORYTELLER, _BASE_MODEL = "storyteller", "gemma-3-270m"
_LEARNING_RATE = 0.25  # of the engine's own; at 1.0 the first epoch spoils what the model knows (loss 1.3 to 1.8)
_LONGEST_STORY = 600  # tokens; the longest sample story has 400, and a model this young may not find its end
_LOOK_S = 1.0  # as often as a person may wonder whether anything happens
_LOOKS = 10  # at a job that trains, before the tour's place in the worker is given back
_TEMPERATURE = 0.5  # the storyteller's own: warmer, so small a model loses its thread
_TRIES = 30  # looks, a second each, until the engine is up, or serves what it has just trained


def carry_out(store: Store, registry: Registry, tour_id: str, stopping: threading.Event | None = None) -> float | None:
    """Walk the tour from the step that it is at. Returns early once `stopping`, or when somebody stops the tour.

    Returns:
        Seconds until it is to be taken up again, where it waits for its training job; else None.

    Raises:
        FabulaError: it cannot go on; the ledger does not say so yet (see `give_up`).
    """
    walk = _Walk(store, registry, tour_id, stopping or threading.Event())
    try:
        for step in STEPS[STEPS.index(walk.tour().step) :]:
            if not walk.enter(step) or not getattr(walk, step)():
                return None
    except Waiting as exc:
        return exc.seconds
    walk.write(state="done", finished_at=utcnow())
    return None


def give_up(store: Store, tour_id: str, error: FabulaError) -> None:
    """Write down that a tour has failed, and why."""
    reason = f"{error.what} {error.next_step}".strip()
    _Walk(store, None, tour_id, threading.Event()).write(state="failed", reason=reason, finished_at=utcnow())


class _Walk:
    """One go at a tour. Each step is a method that says whether to go on, and may be repeated after a crash."""

    def __init__(self, store: Store, registry: Registry | None, tour_id: str, stopping: threading.Event) -> None:
        self._store, self._registry, self._id, self._stopping = store, registry, tour_id, stopping

    def tour(self) -> Tour:
        with self._store.reading() as session:
            return session.get_one(Tour, self._id)

    def write(self, **values: Any) -> bool:
        """Set columns; False, and nothing is written, when the tour has ended meanwhile."""
        with self._store.session() as session:
            tour = session.get_one(Tour, self._id)
            if tour.state not in UNFINISHED:
                return False
            for name, value in values.items():
                setattr(tour, name, value)
            return True

    def enter(self, step: str) -> bool:
        return not self._stopping.is_set() and self.write(state="running", step=step)

    def dataset(self) -> bool:
        with self._store.session():  # one transaction: no data set without a tour that knows it
            tour = self.tour()
            return tour.dataset_id is not None or self.write(
                dataset_id=datasets.load_sample(self._store, _actor(tour), presets.get().sample or "", EXAMPLES)
            )

    def training(self) -> bool:
        tour = self.tour()
        if tour.job_id is None:
            knows = self._patiently(self._has_storyteller)
            with self._store.session():
                if knows is None or self.tour().state not in UNFINISHED:
                    return False
                self.write(job_id=jobs.submit(self._store, _actor(tour), self._form(tour, knows)))
        job, looks = self._job(), 0
        while not job.finished:
            if looks >= _LOOKS:
                raise Waiting(_LOOK_S)  # others may go first: training may take long, or wait in line
            if self._stopping.wait(_LOOK_S) or self.tour().state not in UNFINISHED:
                return False
            job, looks = self._job(), looks + 1
        if job.status != "succeeded" or job.fine_tuned_model is None:
            raise FabulaError(job.error or f"The training ended as {job.status}.", job.next_step or "Start a new tour.")
        return True

    def curve(self) -> bool:
        return True

    def cost(self) -> bool:
        return True

    def story(self) -> bool:
        """Write it; the engine may need a moment until it serves the model that it has just trained."""
        job, book = self._job(), own.book(self._store, Settings.from_env().home)

        def write() -> bool:
            return self._keep(stream.write(self._store, _actor(self.tour()), self._engine(), _request(job), book))

        return bool(self._patiently(write))

    def _patiently(self, ask: Callable[[], bool]) -> bool | None:
        """What the engine answers, asked again while it is not ready; None when the tour is being left."""
        for left in range(_TRIES - 1, -1, -1):
            try:
                return ask()
            except (ModelNotFound, Unavailable, RateLimited):
                if not left:
                    raise
            if self._stopping.wait(_LOOK_S):
                break
        return None

    def _engine(self) -> Client:
        assert self._registry is not None
        return self._registry.get(_PROVIDER)

    def _has_storyteller(self) -> bool:
        """An engine whose base is another file than the packaged one has not."""
        return any(model.id == _STORYTELLER for model in self._engine().models())

    def _keep(self, story: stream.StoryStream) -> bool:
        """Follow a story to its end."""
        self.write(story_id=story.id)  # at once: the page can show the words as they come
        for _ in story:
            if self._stopping.is_set() or self.tour().state not in UNFINISHED:
                story.stop()
                return False
        return True

    def _form(self, tour: Tour, knows_stories: bool) -> jobs.JobForm:
        """Named as its data set, which reads the same in every language."""
        dataset = datasets.summary(self._store, tour.dataset_id or "")
        return jobs.JobForm(
            dataset_id=dataset.id,
            name=dataset.name,
            provider=_PROVIDER,
            base_model=_STORYTELLER if knows_stories else _BASE_MODEL,
            suffix="tour",
            n_epochs=_EPOCHS,
            batch_size=_BATCH,
            learning_rate_multiplier=_LEARNING_RATE if knows_stories else None,
            seed=_SEED,
        )

    def _job(self) -> jobs.JobView:
        return jobs.get(self._store, self.tour().job_id or "")


def _actor(tour: Tour) -> Actor:
    return Actor(id=tour.created_by, name=tour.created_by, role="editor")


def _request(job: jobs.JobView) -> CompletionRequest:
    """A story outside the grid, asked for as the training file asked."""
    preset = presets.get()
    return CompletionRequest(
        model=job.fine_tuned_model or "",
        prompt=",".join(preset.outside[0]) + (job.separator or ""),
        endpoint="completion",
        temperature=_TEMPERATURE,
        top_p=float(preset.story.get("top_p", 1.0)),
        max_tokens=_LONGEST_STORY,
        stop=(job.stop,) if job.stop else (),
        seed=_STORY_SEED,
    )
