"""The worker's part of before and after: choose the prompts, have both models write side by side, keep every word."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import select

from core.actor import Actor
from core.cost import custom_prices
from core.dataset import datasets
from core.db.store import Store, advisory_lock
from core.db.tables import Comparison, ComparisonAnswer, Story, utcnow
from core.db.tables.story import COMPARISON
from core.errors import FabulaError, ModelNotFound, RateLimited, StorageFull
from core.message import msg, sentences
from core.providers import Client, CompletionRequest, Registry
from core.retrying import RetryPolicy, call_with_retries, transient
from core.settings import Settings
from core.story import stream
from core.training import before_after, job_views, unseen_prompts
from core.training.before_after import ACTIVE, SIDES
from core.training.evaluation_request import endpoint, with_separator
from core.training.job_views import JobView

T = TypeVar("T")

UNFINISHED = select(Comparison.id).where(Comparison.state.in_(ACTIVE)).order_by(Comparison.id)
"""Ids of comparisons that a worker has to take up, oldest first."""

_TEMPERATURE, _TOP_P = 0.4, 0.7  # of stories: at 0 a small model repeats itself, unlikely words cost it the thread
_SEED = 8  # the same answers for the same models
_LOOK_S = 0.5  # how soon a click on Stop ends the writing
_SAVE_S = 0.5  # pages read the words from the database
_RETRIES = RetryPolicy(tries=50, first_pause_s=1.0, longest_pause_s=5.0)  # four minutes: an engine that starts
_NEW_MODEL_S = 120.0  # after its job has ended, a model that the engine does not know may still be on its way
_INTERRUPTED = msg("The worker was interrupted while this was written. Writing it again is billed again.")


class _ComparisonStopped(Exception):
    """The worker stops, or a person has stopped the comparison."""


def carry_out(store: Store, registry: Registry, comparison_id: str, stopping: threading.Event | None = None) -> None:
    """Bring a comparison to its end, from wherever it is. Answers that are complete are not asked for again.

    Raises:
        FabulaError: it cannot go on; the ledger does not say so yet (see `give_up`).
    """
    work = _ComparisonRun(store, registry, comparison_id, stopping or threading.Event())
    try:
        work.run()
    except _ComparisonStopped:
        if work.stopping.is_set():
            return  # the next worker goes on
    work.finish()


def give_up(store: Store, comparison_id: str, error: FabulaError) -> None:
    """Write down that a comparison has failed, and why. What is written stays."""
    with store.session() as session:
        one = session.get(Comparison, comparison_id)
        if one is not None and one.state in ACTIVE:
            before_after.end(session, one, "failed", sentences(error.what, error.next_step))


class _ComparisonRun:
    """One comparison in a worker's hand."""

    def __init__(self, store: Store, registry: Registry, comparison_id: str, stopping: threading.Event) -> None:
        self.stopping = stopping
        self._store, self._registry, self._id = store, registry, comparison_id

    def run(self) -> None:
        """Write every pair that is not complete, one after the other: the two models of a pair at the same time.

        Raises:
            _Stopped: nobody wants it any more.
            FabulaError: no answer can be had.
        """
        job = self._begin()
        client = self._client(job)
        self._choose(job)
        with ThreadPoolExecutor(len(SIDES), thread_name_prefix="comparison") as pool:
            while pair := self._next_pair(client):
                for done in [pool.submit(self._write, job, client, *answer) for answer in pair]:
                    done.result()

    def finish(self) -> None:
        """Sum up the answers."""
        with self._store.session() as session:
            one = session.get_one(Comparison, self._id)
            if one.state == "stopping":
                before_after.end(session, one, "stopped")
            elif one.state in ACTIVE:
                mine = (ComparisonAnswer.comparison_id == one.id, ComparisonAnswer.state == "failed")
                failed = session.scalar(select(ComparisonAnswer.reason).where(*mine).limit(1))
                before_after.end(session, one, "done" if failed is None else "failed", failed)

    def _begin(self) -> JobView:
        with self._store.session() as session:
            one = session.get_one(Comparison, self._id)
            if one.state == "queued":
                one.state = "running"
            job_id = one.job_id
        self._raise_if_stopped()
        return job_views.get(self._store, job_id, results=False)

    def _client(self, job: JobView) -> Client:
        """The job's provider; an engine that starts is waited for."""
        return self._with_retries(lambda: self._registry.get(job.provider))

    def _with_retries(self, call: Callable[[], T], retryable: Callable[[FabulaError], bool] = transient) -> T:
        def attempt() -> T:
            self._raise_if_stopped()
            return call()

        return call_with_retries(attempt, pause=self._pause, note=self._note, policy=_RETRIES, retryable=retryable)

    def _pause(self, seconds: float) -> None:
        """Raises _Stopped as soon as nobody waits any more."""
        while seconds > 0:
            self.stopping.wait(min(_LOOK_S, seconds))
            self._raise_if_stopped()
            seconds -= _LOOK_S

    def _choose(self, job: JobView) -> None:
        """The prompts, and how both models are asked; once."""
        with self._store.reading() as session:
            if session.get_one(Comparison, self._id).source is not None:
                return
        choice = unseen_prompts.choose(self._store, job)
        chat = job.file_format == "chat" and job.dataset_id is not None
        system = datasets.chat_system(self._store, job.dataset_id or "") if chat else ""
        with self._store.session() as session:
            advisory_lock(session, "comparisons")
            one = session.get_one(Comparison, self._id)
            one.source = choice.source
            one.settings = {
                "system": system,
                "temperature": 0.0 if choice.kind == "label" else _TEMPERATURE,
                "top_p": 1.0 if choice.kind == "label" else _TOP_P,
                "max_tokens": choice.max_tokens,
                "seed": _SEED,
            }
            first = before_after.next_position(session, one.id)  # a person may have asked a prompt already
            for position, prompt in enumerate(choice.prompts, first):
                before_after.add_pair(session, one.id, position, prompt.prompt, prompt.expected)

    def _next_pair(self, client: Client) -> list[tuple[int, str]]:
        """Ids and sides of the answers that are missing for the first prompt that has any; none: all are written."""
        self._raise_if_stopped()
        self._note(None)
        open_ = ComparisonAnswer.state.in_(("waiting", "writing"))
        query = select(ComparisonAnswer).where(ComparisonAnswer.comparison_id == self._id, open_)
        with self._store.session() as session:
            found: list[ComparisonAnswer] = []
            for answer in session.scalars(query.order_by(ComparisonAnswer.position, ComparisonAnswer.id)):
                if answer.state == "writing" and _settled(answer, session.get(Story, answer.story_id or ""), client):
                    continue
                if not found or answer.position == found[0].position:
                    found.append(answer)
            return [(answer.id, answer.side) for answer in found]

    def _write(self, job: JobView, client: Client, answer_id: int, side: str) -> None:
        """One answer, to its end; what an endpoint refuses is written down, and the other model goes on."""
        try:
            self._with_retries(
                lambda: self._follow(self._story(job, client, answer_id)),
                lambda error: _retryable(error, client, job, side),
            )
        except StorageFull:
            raise
        except FabulaError as exc:
            self._set(answer_id, state="failed", reason=sentences(exc.what, _next_step(exc, client, side)))
        else:
            self._set(answer_id, state="done")

    def _story(self, job: JobView, client: Client, answer_id: int) -> stream.StoryStream:
        with self._store.reading() as session:
            answer = session.get_one(ComparisonAnswer, answer_id)
            one = session.get_one(Comparison, self._id)
        settings = dict(one.settings or {})
        model = job.base_model if answer.side == "base" else job.fine_tuned_model or ""
        request = CompletionRequest(
            model=model,
            prompt=with_separator(answer.prompt, job.separator),
            system=settings["system"],
            endpoint=endpoint(client, model, job.file_format),
            temperature=settings["temperature"],
            top_p=settings.get("top_p", 1.0),
            max_tokens=settings["max_tokens"],
            stop=(job.stop,) if job.stop else (),
            seed=settings["seed"] if client.provider.kind in ("engine", "openai") else None,
        )
        actor = Actor(id=one.created_by, name=one.created_by, role="editor")
        book = custom_prices.book(self._store, Settings.from_env().home)
        place = stream.StoryPlacement(step=COMPARISON)
        story = stream.start_story(self._store, actor, client, request, book, placement=place, save_s=_SAVE_S)
        self._set(answer_id, state="writing", story_id=story.id)
        return story

    def _follow(self, story: stream.StoryStream) -> None:
        """Until the story ends.

        Raises:
            FabulaError: it ended early.
            _Stopped: nobody wants it any more.
        """
        while not story.done:
            with story.subscribers:
                story.subscribers.wait_for(lambda: story.done, timeout=_LOOK_S)
            try:
                self._raise_if_stopped()
            except _ComparisonStopped:
                story.stop()
                raise
        if story.error is not None:
            raise story.error

    def _raise_if_stopped(self) -> None:
        """Raises _Stopped when nobody wants more answers."""
        with self._store.reading() as session:
            state = session.scalar(select(Comparison.state).where(Comparison.id == self._id))
        if self.stopping.is_set() or state not in ("queued", "running"):
            raise _ComparisonStopped

    def _note(self, reason: str | None) -> None:
        with self._store.session() as session:
            one = session.get_one(Comparison, self._id)
            if one.reason != reason and one.state in ACTIVE:
                one.reason = reason

    def _set(self, answer_id: int, **values: str) -> None:
        with self._store.session() as session:
            answer = session.get_one(ComparisonAnswer, answer_id)
            for name, value in values.items():
                setattr(answer, name, value)


def _settled(answer: ComparisonAnswer, story: Story | None, client: Client) -> bool:
    """Whether an answer that an earlier worker was writing is left as it is: it was complete, or paid for."""
    if story is not None and story.finish_reason is not None:
        answer.state = "done"
        return True
    if client.provider.kind == "engine":
        return False
    answer.state, answer.reason = "failed", _INTERRUPTED
    return True


def _retryable(error: FabulaError, client: Client, job: JobView, side: str) -> bool:
    """An endpoint that starts or is busy, or an engine that does not serve its new model yet.

    At a provider that is paid, only what was certainly not billed.
    """
    if client.provider.kind != "engine":
        return isinstance(error, RateLimited)
    if isinstance(error, ModelNotFound):
        ended = job.finished_at
        return side == "tuned" and ended is not None and (utcnow() - ended).total_seconds() < _NEW_MODEL_S
    return transient(error)


def _next_step(error: FabulaError, client: Client, side: str) -> str:
    """What to do about an answer that failed; for a model that is gone, what brings it back."""
    if not isinstance(error, ModelNotFound) or client.provider.kind != "engine":
        return error.next_step
    if side == "tuned":
        return msg("Duplicate the job to train it again.")
    return msg("Add this base model to FABULA_ENGINE_MODELS and restart Fabula, then write again.")
