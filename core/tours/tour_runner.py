"""Runs the guided tour, step by step: composed stories, a small model trained on them, texts before and after.

A tour trains on composed stories of one plot, as many as this machine can train on in the time allowed. A base model of
270M parameters learns to tell one plot in four minutes. From hand-written stories with two plots, it learned the
sentences but mixed them up; composed stories still make sense when mixed (`composed_stories`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
from sqlalchemy import func, select

from core import packaged_models
from core.actor import Actor, on_behalf_of, requires
from core.datasets import datasets, presets
from core.datasets.dataset_rows import join_values
from core.datasets.presets import Preset
from core.db.store import Store
from core.db.tables import Tour, utcnow
from core.errors import FabulaError, NotFound
from core.evaluation import before_after
from core.finetuning import job_cost, job_form, job_views, jobs
from core.message import msg, sentences
from core.pricing import tokens
from core.pricing.prices import ENGINE
from core.providers import Registry
from core.providers.retry import RetryLater
from core.tours import composed_stories
from core.tours.tour import UNFINISHED, steps_from

BATCH_SIZE = 4
EPOCHS = 2
# On a slow machine, the tour takes longer instead of using fewer stories than the minimum; more stories than the
# maximum add nothing.
FEWEST_STORIES, MOST_STORIES = 48, 160
HELD_OUT = 3  # combinations that are not trained on: the prompts of the comparison
TRAINING_S = 200.0  # leaves 40 s of four minutes for the start-up and the two stories at the end
USUAL_TOKENS_PER_S = 130.0  # trained tokens; measured on two quiet cores: 130 to 250
_MEASURED_STORIES = 40  # stories whose tokens are counted

_SEED = 7  # for the stories and the training of the first tour; each further tour in this database adds one
_LOOK_S = 1.0  # how often the ledger is read while the tour waits for its job or its comparison
_LOOKS = 10  # reads before the tour releases its slot in the worker


@dataclass(frozen=True, slots=True)
class TourPlan:
    """What a tour composes and trains on.

    Attributes:
        preset: the preset that has the columns and values of the stories.
        stories: number of stories: whole batches.
        training_s: seconds that the training should take, without the start-up.
        seed: seed for drawing the power, its plot and the stories.
    """

    preset: Preset
    stories: int
    training_s: float
    seed: int


def make_plan(store: Store, language: str, seed: int = 0) -> TourPlan:
    """The plan for a page's language (`en`, `zh_CN`), with the first preset that has composed stories.

    The training speed is the median of the last jobs on the same base model, if any.

    Raises:
        NotFound: there is no such preset.
    """
    preset = next((one for one in presets.load(language) if one.composed is not None), None)
    if preset is None:
        raise NotFound(
            msg("There are no training stories for the tour."), msg("Reinstall Fabula: its data folder is incomplete.")
        )
    measured = stories(preset, _MEASURED_STORIES, seed)
    columns = _columns(preset)
    sample = [text for row in measured for text in (join_values((row[name] for name in columns), ","), row["story"])]
    per_story = tokens.count(sample, packaged_models.BASE).tokens / _MEASURED_STORIES
    rates = job_cost.measured_speeds(store, ENGINE, packaged_models.BASE)
    rate = median(rates) if rates else USUAL_TOKENS_PER_S
    affordable = int(rate * TRAINING_S / (per_story * EPOCHS))
    n_stories = max(FEWEST_STORIES, min(MOST_STORIES, affordable - affordable % BATCH_SIZE))
    return TourPlan(preset, n_stories, EPOCHS * n_stories * per_story / rate, seed)


@requires("editor")
def save_dataset(store: Store, actor: Actor, plan: TourPlan) -> str:
    """Create the data set of a plan. Returns its id."""
    frame = pd.DataFrame(stories(plan.preset, plan.stories, plan.seed))
    name = plan.preset.recipe.name
    return datasets.from_frame(store, actor, name, frame, _columns(plan.preset), "story", "sample")


def stories(preset: Preset, n_stories: int, seed: int) -> list[dict[str, str]]:
    """Composed rows with the preset's columns and `story`."""
    values = {column.name: column.values for column in preset.recipe.columns}
    language = preset.composed or ""
    return composed_stories.stories_of_one_plot(language, values, n_stories, held_out=HELD_OUT, seed=seed)


def _columns(preset: Preset) -> list[str]:
    return [column.name for column in preset.recipe.columns]


def carry_out(store: Store, registry: Registry, tour_id: str, stopping: threading.Event | None = None) -> float | None:
    """Run the tour from its current step. Returns early once `stopping` is set, or when a user stops the tour.

    Returns:
        Seconds until it resumes, if it waits for its job or its comparison; else None.

    Raises:
        FabulaError: it cannot continue. The caller records that with `give_up`.
    """
    walk = _TourRun(store, tour_id, stopping or threading.Event())
    try:
        for step in steps_from(walk.tour()):
            if not walk.enter(step) or not getattr(walk, step)():
                return None
    except RetryLater as exc:
        return exc.seconds
    walk.write(state="done", finished_at=utcnow())
    return None


def give_up(store: Store, tour_id: str, error: FabulaError) -> None:
    """Mark a tour as failed, with the reason."""
    reason = sentences(error.what, error.next_step)
    _TourRun(store, tour_id, threading.Event()).write(state="failed", reason=reason, finished_at=utcnow())


class _TourRun:
    """One attempt at a tour. Each step is a method that returns whether to continue; it is safe to repeat."""

    def __init__(self, store: Store, tour_id: str, stopping: threading.Event) -> None:
        self._store, self._id, self._stopping = store, tour_id, stopping

    def tour(self) -> Tour:
        with self._store.reading() as session:
            return session.get_one(Tour, self._id)

    def write(self, **values: Any) -> bool:
        """Set columns. Returns False, and writes nothing, if the tour has ended meanwhile."""
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
        """Compose the stories of the tour, in the language of the page."""
        if self.tour().dataset_id is not None:
            return True
        plan = self._plan()
        with self._store.session():  # one transaction: no data set without its tour
            return self.write(dataset_id=save_dataset(self._store, _actor(self.tour()), plan))

    def training(self) -> bool:
        """Train from the base model. The job starts its comparison itself once it has succeeded."""
        if self.tour().job_id is None:
            form = self._form()
            with self._store.session():
                if self.tour().state not in UNFINISHED:
                    return False
                self.write(job_id=jobs.submit(self._store, _actor(self.tour()), form))
        looks = 0
        while not (job := self._job()).finished:
            if not self._wait(looks):
                return False
            looks += 1
        if job.status != "succeeded" or job.fine_tuned_model is None:
            raise FabulaError(
                job.error or msg("The training ended as {status}.", status=job.status),
                job.next_step or msg("Try again."),
            )
        return True

    def story(self) -> bool:
        """Wait until both models have answered the first prompt of the job's comparison; the tour ignores the others.

        Raises:
            FabulaError: the new model wrote nothing.
        """
        job, looks = self._job(), 0
        before_after.start(self._store, _actor(self.tour()), job)  # does nothing if the job already has one
        while (pair := _first_pair(view := before_after.get(self._store, job.id))) is None or not pair.finished:
            if view is None or not view.active:
                reason = (view and view.reason) or msg("The comparison ended before both models had written.")
                raise FabulaError(reason, msg("Continue the tour to write again."))
            if not self._wait(looks):
                return False
            looks += 1
        if pair.tuned.state != "done":
            raise FabulaError(
                pair.tuned.reason or msg("The new model was stopped."), msg("Continue the tour to write again.")
            )
        return self.write(story_id=pair.tuned.story_id)

    def _wait(self, looks: int) -> bool:
        """Wait before reading the ledger again. Returns False if the worker is stopping or the tour has ended.

        Raises:
            RetryLater: the ledger was read `_LOOKS` times; other items may run first.
        """
        if looks >= _LOOKS:
            raise RetryLater(_LOOK_S)
        return not self._stopping.wait(_LOOK_S) and self.tour().state in UNFINISHED

    def _form(self) -> job_form.JobForm:
        """The form of the training job, with the name of its data set, which is the same in every language."""
        tour, plan = self.tour(), self._plan()
        dataset = datasets.summary(self._store, tour.dataset_id or "")
        return job_form.JobForm(
            dataset_id=dataset.id,
            name=dataset.name,
            provider=ENGINE,
            base_model=packaged_models.BASE,
            suffix="tour",
            n_epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            seed=self._seed(),
            estimated_s=plan.training_s + job_cost.STARTUP_S,
        )

    def _job(self) -> job_views.JobView:
        return job_views.get(self._store, self.tour().job_id or "", results=False)

    def _plan(self) -> TourPlan:
        return make_plan(self._store, self.tour().language, self._seed())

    def _seed(self) -> int:
        """The seed. It differs for each tour in this database, so that a repeated tour has different stories."""
        tour = self.tour()
        with self._store.reading() as session:
            earlier = select(func.count()).select_from(Tour).where(Tour.created_at < tour.created_at)
            return _SEED + (session.scalar(earlier) or 0)


def _first_pair(view: before_after.BeforeAfterView | None) -> before_after.AnswerPair | None:
    return view.pairs[0] if view is not None and view.pairs else None


def _actor(tour: Tour) -> Actor:
    return on_behalf_of(tour.created_by)
