"""Runs the before-and-after comparison of a job in the worker: choose prompts, let both models answer them in parallel,
store every answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import select

from core import shared_files
from core.actor import on_behalf_of
from core.datasets import conversation_rows, datasets
from core.db.store import Store, advisory_lock
from core.db.tables import BeforeAfter, BeforeAfterAnswer, Story, utcnow
from core.db.tables.story import COMPARISON
from core.errors import FabulaError, ModelNotFound, RateLimited, StorageFull
from core.evaluation import before_after, before_after_prompts
from core.evaluation.before_after import ACTIVE, SIDES
from core.evaluation.evaluation_request import endpoint_for, with_separator
from core.finetuning import job_views
from core.finetuning.job_views import JobView
from core.message import msg, sentences
from core.pricing import custom_prices
from core.providers import Client, CompletionRequest, Registry
from core.providers.retry import BACKGROUND, call_with_retries, interruptible_pause, is_transient
from core.settings import Settings
from core.stories.story_record import StoryPlacement
from core.stories.stream import StoryStream, StreamRequest

T = TypeVar("T")

UNFINISHED = select(BeforeAfter.id).where(BeforeAfter.state.in_(ACTIVE)).order_by(BeforeAfter.id)
"""Ids of unfinished comparisons, oldest first."""

_TEMPERATURE, _TOP_P = 0.4, 0.7  # for stories: at 0 a small model repeats itself; unlikely words make it incoherent
_SEED = 8  # fixed, so the same models give the same answers
_POLL_S = 0.5  # latency of a click on Stop
_SAVE_S = 0.5  # how often a running answer is saved; pages read it from the database
_RETRIES = replace(BACKGROUND, tries=50, base_s=1.0, cap_s=5.0)  # four minutes: the engine may still be starting
_NEW_MODEL_S = 120.0  # the engine may serve a new model this long after its job has finished
_INTERRUPTED = msg("The worker stopped while this text was being written. Writing it again is billed again.")


class _Stopped(Exception):
    """The worker is stopping, or the user stopped the comparison."""


def carry_out(store: Store, registry: Registry, before_after_id: str, stopping: threading.Event | None = None) -> None:
    """Run or resume a comparison until it is finished. Complete answers are not requested again.

    Raises:
        FabulaError: it cannot continue. The caller records that with `give_up`.
    """
    before_after_run = _BeforeAfterRun(store, registry, before_after_id, stopping or threading.Event())
    try:
        before_after_run.run()
    except _Stopped:
        if before_after_run.stopping.is_set():
            return  # the next worker continues
    before_after_run.finish()


def give_up(store: Store, before_after_id: str, error: FabulaError) -> None:
    """Mark a comparison as failed, with the reason. Finished answers are kept."""
    with store.session() as session:
        comparison = session.get(BeforeAfter, before_after_id)
        if comparison is not None and comparison.state in ACTIVE:
            before_after.finish(session, comparison, "failed", sentences(error.what, error.next_step))


class _BeforeAfterRun:
    """One comparison that this worker is running."""

    def __init__(self, store: Store, registry: Registry, before_after_id: str, stopping: threading.Event) -> None:
        self.stopping = stopping
        self._store, self._registry, self._id = store, registry, before_after_id

    def run(self) -> None:
        """Generate every incomplete pair, one pair after another; the two models of a pair run in parallel.

        Raises:
            _Stopped: the worker or the user stopped it.
            FabulaError: no answer can be requested, for example because the provider is unreachable.
        """
        job = self._start()
        client = self._client(job)
        self._choose_prompts(job)
        with ThreadPoolExecutor(len(SIDES), thread_name_prefix="before-after") as pool:
            while pair := self._next_pair(client):
                client = self._client(job)  # the provider may have been edited or removed meanwhile
                for future in [pool.submit(self._write_answer, job, client, *answer) for answer in pair]:
                    future.result()

    def finish(self) -> None:
        """Set the final state of the comparison from its answers."""
        with self._store.session() as session:
            comparison = session.get_one(BeforeAfter, self._id)
            if comparison.state == "stopping":
                before_after.finish(session, comparison, "stopped")
            elif comparison.state in ACTIVE:
                is_failed = (BeforeAfterAnswer.before_after_id == comparison.id, BeforeAfterAnswer.state == "failed")
                failed = session.scalar(select(BeforeAfterAnswer.reason).where(*is_failed).limit(1))
                before_after.finish(session, comparison, "done" if failed is None else "failed", failed)

    def _start(self) -> JobView:
        with self._store.session() as session:
            comparison = session.get_one(BeforeAfter, self._id)
            if comparison.state == "queued":
                comparison.state = "running"
            job_id = comparison.job_id
        self._raise_if_stopped()
        return job_views.get(self._store, job_id, results=False)

    def _client(self, job: JobView) -> Client:
        """The client of the job's provider; waits for an engine that is starting."""
        return self._with_retries(lambda: self._registry.get(job.provider))

    def _with_retries(self, call: Callable[[], T], retryable: Callable[[FabulaError], bool] = is_transient) -> T:
        self._raise_if_stopped()
        return call_with_retries(
            call,
            pause=interruptible_pause(self.stopping, self._raise_if_stopped),
            note=lambda error: self._set_reason(error.what if error else None),
            policy=_RETRIES,
            retryable=retryable,
        )

    def _choose_prompts(self, job: JobView) -> None:
        """Choose the prompts and the request settings, unless an earlier worker did."""
        with self._store.reading() as session:
            if session.get_one(BeforeAfter, self._id).source is not None:
                return
        choice = before_after_prompts.choose_prompts(self._store, job)
        chat = job.file_format == "chat" and job.dataset_id is not None
        system = datasets.system_message(self._store, job.dataset_id or "") if chat else ""
        with self._store.session() as session:
            advisory_lock(session, "before_after")
            comparison = session.get_one(BeforeAfter, self._id)
            comparison.source = choice.source
            comparison.settings = {
                "system": system,
                "temperature": 0.0 if choice.kind == "label" else _TEMPERATURE,
                "top_p": 1.0 if choice.kind == "label" else _TOP_P,
                "max_tokens": choice.max_tokens,
                "seed": _SEED,
            }
            first_position = before_after_prompts.next_position(
                session, comparison.id
            )  # the user may have added a prompt already
            for position, prompt in enumerate(choice.prompts, first_position):
                before_after_prompts.add_pair(session, comparison.id, position, prompt.prompt, prompt.expected)

    def _next_pair(self, client: Client) -> list[tuple[int, str]]:
        """Id and side of each missing answer of the first incomplete prompt; empty when every answer is complete."""
        self._raise_if_stopped()
        self._set_reason(None)
        is_unfinished = BeforeAfterAnswer.state.in_(("waiting", "writing"))
        query = select(BeforeAfterAnswer).where(BeforeAfterAnswer.before_after_id == self._id, is_unfinished)
        with self._store.session() as session:
            missing: list[BeforeAfterAnswer] = []
            for answer in session.scalars(query.order_by(BeforeAfterAnswer.position, BeforeAfterAnswer.id)):
                if answer.state == "writing" and _close_interrupted(
                    answer, session.get(Story, answer.story_id or ""), client
                ):
                    continue
                if not missing or answer.position == missing[0].position:
                    missing.append(answer)
            return [(answer.id, answer.side) for answer in missing]

    def _write_answer(self, job: JobView, client: Client, answer_id: int, side: str) -> None:
        """Generate one answer. An error is recorded on the answer; the other model continues."""
        try:
            self._with_retries(
                lambda: self._wait_for_story(self._start_story(job, client, answer_id)),
                lambda error: _retryable(error, client, job, side),
            )
        except StorageFull:
            raise
        except FabulaError as exc:
            self._update_answer(answer_id, state="failed", reason=sentences(exc.what, _next_step(exc, client, side)))
        else:
            self._update_answer(answer_id, state="done")

    def _start_story(self, job: JobView, client: Client, answer_id: int) -> StoryStream:
        with self._store.reading() as session:
            answer = session.get_one(BeforeAfterAnswer, answer_id)
            comparison = session.get_one(BeforeAfter, self._id)
        settings = dict(comparison.settings or {})
        model = job.base_model if answer.side == "base" else job.fine_tuned_model or ""
        request = CompletionRequest(
            model=model,
            prompt=with_separator(conversation_rows.texts(answer.prompt, "")[0], job.separator),
            messages=conversation_rows.messages(answer.prompt),
            system=settings["system"],
            endpoint=endpoint_for(client, model, job.file_format),
            temperature=settings["temperature"],
            top_p=settings.get("top_p", 1.0),
            max_tokens=settings["max_tokens"],
            stop=(job.stop,) if job.stop else (),
            seed=settings["seed"] if client.provider.capabilities.seed else None,
        )
        actor = on_behalf_of(comparison.created_by)
        price_book = custom_prices.book(self._store, shared_files.storage(Settings.from_env()))
        placement = StoryPlacement(step=COMPARISON)
        story = StoryStream(
            actor, StreamRequest(self._store, client, request, price_book, placement=placement, save_s=_SAVE_S)
        )
        self._update_answer(answer_id, state="writing", story_id=story.id)
        return story

    def _wait_for_story(self, story: StoryStream) -> None:
        """Wait until the story is finished.

        Raises:
            FabulaError: it ended early.
            _Stopped: the worker or the user stopped it.
        """
        while not story.done:
            with story.subscribers:
                story.subscribers.wait_for(lambda: story.done, timeout=_POLL_S)
            try:
                self._raise_if_stopped()
            except _Stopped:
                story.stop()
                raise
        if story.error is not None:
            raise story.error

    def _raise_if_stopped(self) -> None:
        """Raise _Stopped if the worker or the user stopped the comparison."""
        with self._store.reading() as session:
            state = session.scalar(select(BeforeAfter.state).where(BeforeAfter.id == self._id))
        if self.stopping.is_set() or state not in ("queued", "running"):
            raise _Stopped

    def _set_reason(self, reason: str | None) -> None:
        with self._store.session() as session:
            comparison = session.get_one(BeforeAfter, self._id)
            if comparison.reason != reason and comparison.state in ACTIVE:
                comparison.reason = reason

    def _update_answer(self, answer_id: int, **values: str) -> None:
        with self._store.session() as session:
            answer = session.get_one(BeforeAfterAnswer, answer_id)
            for name, value in values.items():
                setattr(answer, name, value)


def _close_interrupted(answer: BeforeAfterAnswer, story: Story | None, client: Client) -> bool:
    """Close an answer that an earlier worker was generating, if it must not be requested again because it is complete
    or was paid for. Returns whether it was closed.
    """
    if story is not None and story.finish_reason is not None:
        answer.state = "done"
        return True
    if not client.provider.capabilities.billed:
        return False
    answer.state, answer.reason = "failed", _INTERRUPTED
    return True


def _retryable(error: FabulaError, client: Client, job: JobView, side: str) -> bool:
    """Whether the request may be repeated: the endpoint is starting or busy, or does not serve the new model yet.

    With a paid provider, this is limited to errors that are certainly not billed.
    """
    if client.provider.capabilities.billed:
        return isinstance(error, RateLimited)
    if isinstance(error, ModelNotFound):
        ended = job.finished_at
        return side == "tuned" and ended is not None and (utcnow() - ended).total_seconds() < _NEW_MODEL_S
    return is_transient(error)


def _next_step(error: FabulaError, client: Client, side: str) -> str:
    """The next step for a failed answer; for a missing model, how to restore it."""
    if not isinstance(error, ModelNotFound) or not client.provider.capabilities.engine_api:
        return error.next_step
    if side == "tuned":
        return msg("Duplicate the job to train it again.")
    return msg("Add this base model again under Settings → Base models, then write again.")
