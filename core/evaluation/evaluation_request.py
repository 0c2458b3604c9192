"""Sends an evaluation's requests in the worker: keeps its state in the database, retries, and stores the answer, score
and cost of each row.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, Literal, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor, on_behalf_of
from core.datasets import conversation_rows
from core.datasets.conversation_rows import AskedConversation
from core.datasets.quality.measure import REFUSED
from core.db import leases, rescue_files
from core.db.store import Store
from core.db.tables import Evaluation, EvaluationAnswer, Spend, utcnow
from core.errors import BadRequest, FabulaError, ModelNotFound, ProviderError, StorageFull
from core.evaluation import evaluations, few_shot, scoring
from core.evaluation.evaluations import ACTIVE, EvaluationView
from core.evaluation.holdout import HeldOutExample
from core.message import msg, sentences
from core.pricing import tokens
from core.pricing.price_book import PriceBook, cost_of
from core.pricing.spend import Reservation
from core.processes import DRAIN_S
from core.providers import Client, Completion, CompletionRequest
from core.providers.retry import call_with_retries, interruptible_pause
from core.providers.schemas import Endpoint
from core.sanitize import storable

T = TypeVar("T")

_STRUCTURED = ("response_format", "json_schema")  # in the error of a model without structured output
MAX_BILLED_ATTEMPTS = 5
"""Per row; each attempt without an answer counts with its worst-case cost."""

RowResult = Literal["answered", "failed", "unanswered"]
"""`failed`: the provider refused the row; `unanswered`: it was sent `MAX_BILLED_ATTEMPTS` times without an answer."""


_LONGEST_REQUEST = timedelta(minutes=11)  # a read times out after 10
_TAKEOVER_POLL_S = 0.5


class EvaluationStopped(Exception):
    """The worker stops, a person stopped the evaluation, or another worker has taken it over."""


@dataclass(slots=True)
class EvaluationContext:
    """One evaluation that a worker runs.

    Only one executor may send its requests: the newest one that began. An earlier one, which was taken for dead, sends
    nothing more, and its requests in flight are waited for, so that no row is paid twice.

    Attributes:
        claimant: the id of this executor (see `core.db.leases`).
        superseded: set once another executor has taken over.
    """

    store: Store
    id: str
    stopping: threading.Event
    claimant: str
    superseded: threading.Event = field(default_factory=threading.Event)
    halt: threading.Event = field(default_factory=threading.Event)
    """Cancels the requests in flight when set."""
    cancelling: threading.Timer | None = None
    """Sets `halt` when a stopping worker has waited long enough."""

    @property
    def view(self) -> EvaluationView:
        return evaluations.get(self.store, self.id)

    def begin(self) -> bool:
        """Mark the evaluation as running, and take it over from an earlier executor. False if there is nothing to do.

        Raises:
            EvaluationStopped: the worker or the evaluation was stopped, while an earlier executor was waited for.
        """
        with self.store.session() as session:
            evaluation = session.get(Evaluation, self.id, with_for_update=True)
            if evaluation is None or evaluation.state not in ACTIVE:
                return False
            if evaluation.state == "queued":
                evaluation.state = "running"
            # While an executor waits, the column also names the last one that sent requests, so that whoever comes next
            # waits for it, too, even if this executor is killed meanwhile.
            earlier = (evaluation.claimed_by or "").split()[-1:]
            evaluation.claimed_by = " ".join([self.claimant, *earlier])
        while earlier and self._has_requests_in_flight(earlier[0]):
            self.raise_if_stopped()
            self.stopping.wait(_TAKEOVER_POLL_S)
        with self.store.session() as session:
            self.check_claim(session)
            session.get_one(Evaluation, self.id).claimed_by = self.claimant
        return True

    def _has_requests_in_flight(self, claimant: str) -> bool:
        """Whether an executor is alive and may still get answers. It can send nothing more."""
        unsettled = (Spend.prompt_tokens.is_(None), Spend.completion_tokens.is_(None))
        recent = Spend.created_at > utcnow() - _LONGEST_REQUEST
        query = select(Spend.id).where(Spend.reference == self.id, recent, *unsettled).limit(1)
        with self.store.reading() as session:
            return not leases.dead_claimants(session, [claimant]) and session.scalar(query) is not None

    def last_reason(self) -> str:
        query = select(EvaluationAnswer.reason).where(
            EvaluationAnswer.evaluation_id == self.id, EvaluationAnswer.reason.is_not(None)
        )
        with self.store.reading() as session:
            return session.scalar(query.order_by(EvaluationAnswer.id.desc()).limit(1)) or ""

    def raise_if_stopped(self) -> None:
        """Raise EvaluationStopped if the worker or the evaluation was stopped, or another executor has taken over."""
        if self.stopping.is_set():
            raise EvaluationStopped
        with self.store.reading() as session:
            self._check(session, lock=False)

    def owns(self, claimed_by: str | None) -> bool:
        """Whether this executor is the newest one, from the column `claimed_by`."""
        return (claimed_by or "").split()[:1] == [self.claimant]

    def check_claim(self, session: Session) -> None:
        """Like `raise_if_stopped`; no other executor can take over before the end of this transaction."""
        self._check(session, lock=True)

    def _check(self, session: Session, *, lock: bool) -> None:
        query = select(Evaluation.state, Evaluation.claimed_by).where(Evaluation.id == self.id)
        found = session.execute(query.with_for_update(read=True) if lock else query).first()
        is_owner = found is not None and self.owns(found.claimed_by)
        if found is not None and not is_owner:
            self.superseded.set()
        if found is None or found.state != "running" or not is_owner:
            raise EvaluationStopped

    def raise_and_cancel_requests(self) -> None:
        """Like `raise_if_stopped`, but cancels the requests in flight before raising.

        When the worker stops, they get some time to be answered: `drained` must be called afterwards.
        """
        try:
            self.raise_if_stopped()
        except EvaluationStopped:
            if self.stopping.is_set():
                self.cancelling = threading.Timer(DRAIN_S, self.halt.set)
                self.cancelling.daemon = True
                self.cancelling.start()
            else:
                self.halt.set()
            raise

    def drained(self) -> None:
        """No request is in flight any more."""
        if self.cancelling is not None:
            self.cancelling.cancel()

    def with_retries(self, call: Callable[[], T]) -> T:
        """Run `call`, retrying with increasing pauses while the provider is unavailable.

        The reason is shown with the evaluation.

        Raises:
            EvaluationStopped: see `raise_if_stopped`.
            FabulaError: from the last attempt. If the provider asks for a pause of more than two minutes, there is no
                further attempt, because other evaluations are queued.
        """
        self.raise_if_stopped()
        return call_with_retries(
            call,
            pause=interruptible_pause(self.stopping, self.raise_if_stopped),
            note=self._note,
        )

    def _note(self, error: FabulaError | None) -> None:
        """Show why the next attempt waits; None: an answer has arrived, which a full disk must not lose."""
        with suppress(*(() if error else (StorageFull,))):
            self.set_reason(error.what if error else None)

    def set_reason(self, reason: str | None) -> None:
        with self.store.session() as session:
            session.get_one(Evaluation, self.id).reason = reason


@dataclass(frozen=True, slots=True)
class _Answered:
    """A response, its entry in the spend ledger, and the seconds that it took."""

    reservation: Reservation
    completion: Completion
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluationRequester:
    """Sends the rows of one evaluation to its model and saves the answers.

    Attributes:
        connect: returns the client with the provider's current settings; called for each request, so that none is sent
            with the key of a provider that was removed or edited meanwhile.
    """

    context: EvaluationContext
    connect: Callable[[], Client]
    book: PriceBook
    view: EvaluationView
    endpoint: Endpoint
    max_tokens: int
    unstructured: threading.Event = field(default_factory=threading.Event)
    """Set when the model has rejected the response format: the next requests are sent without it."""

    def ask(self, example: HeldOutExample) -> RowResult:
        """Send one row and save the answer or the error.

        Raises:
            FabulaError: all other rows would fail too.
            EvaluationStopped: the evaluation was stopped.
        """
        self.context.raise_if_stopped()
        attempts = count(1)

        def attempt() -> _Answered:
            client = self.connect()
            request = self._request(example, client)
            with self.context.store.session() as session:
                self.context.check_claim(session)
                reservation = self._reserve(request)
            started = time.monotonic()
            try:
                answer = reservation.call(lambda: client.complete(request, once=True, stop=self.context.halt))
                return _Answered(reservation, answer, time.monotonic() - started)
            except BadRequest as exc:
                if request.response_format and any(name in sentences(exc.what, exc.next_step) for name in _STRUCTURED):
                    self.unstructured.set()
                    return attempt()
                raise
            except ProviderError as exc:
                billed = client.provider.capabilities.billed
                if billed and exc.may_be_billed and next(attempts) >= MAX_BILLED_ATTEMPTS:
                    raise _TooManyAttempts(exc) from exc
                raise

        try:
            answered = self.context.with_retries(attempt)
        except ModelNotFound:
            raise
        except (BadRequest, _TooManyAttempts) as exc:
            self._save_answer(example, None, None, exc.what)
            return "failed" if isinstance(exc, BadRequest) else "unanswered"
        texts = answered.completion.texts
        choice = texts[0] if texts else None
        if choice is None or choice.error:
            reason_text = choice.error if choice else ""
            reason = reason_text or msg("The provider answered without a text.")
            self._save_answer(example, None, None, reason, answered)
            return "failed"
        self._save_answer(example, choice.text, choice.finish_reason, None, answered)
        return "answered"

    def _request(self, example: HeldOutExample, client: Client) -> CompletionRequest:
        settings = self.view.settings
        system, stop = str(settings.get("system") or ""), settings.get("stop")
        temperature = float(settings["temperature"])
        seed = int(settings["seed"]) if client.provider.capabilities.seed else None
        if self.view.shots is not None:
            return few_shot.request(
                self.view.model, system, settings["examples"], example.prompt, self.endpoint,
                temperature=temperature, max_tokens=self.max_tokens, seed=seed,
            )  # fmt: skip
        asked = conversation_rows.asked(example.prompt) if settings.get("conversations") else AskedConversation(())
        return CompletionRequest(
            model=self.view.model,
            prompt=with_separator(self._shown(example), settings.get("separator")),
            system=system,
            endpoint=self.endpoint,
            temperature=temperature,
            max_tokens=self.max_tokens,
            stop=(stop,) if stop else (),
            seed=seed,
            response_format=self._response_format(),
            messages=asked.messages,
            tools=asked.tools,
            parallel_tool_calls=asked.parallel_tool_calls,
        )

    def _shown(self, example: HeldOutExample) -> str:
        """A row's prompt as text; the row of a conversation has JSON."""
        if not self.view.settings.get("conversations"):
            return example.prompt
        return conversation_rows.texts(example.prompt, "")[0]

    def _response_format(self) -> str:
        return "" if self.unstructured.is_set() else str(self.view.settings.get("response_format") or "")

    def _reserve(self, request: CompletionRequest) -> Reservation:
        """Reserve the worst-case cost of one attempt in the spend ledger, within the budgets."""
        view = self.view
        prompt_tokens = tokens.count([request.system + request.prompt], view.model).tokens
        worst_case_usd = cost_of(self.book, view.provider, view.model, prompt_tokens, request.max_tokens)
        return Reservation(
            self.context.store,
            self._actor,
            "training",
            provider=view.provider,
            model=view.model,
            reference=view.id,
            worst_usd=worst_case_usd,
        )

    def _save_answer(
        self,
        example: HeldOutExample,
        text: str | None,
        finish_reason: str | None,
        reason: str | None,
        answered: _Answered | None = None,
    ) -> None:
        """Save an answer, or why there is none, and its cost in one transaction.

        Raises:
            StorageFull: the database can't be written. A paid answer is in a rescue file.
        """
        values: dict[str, Any] = {
            "evaluation_id": self.view.id,
            "row_key": example.key,
            "prompt": self._shown(example),
            "expected": example.expected,
            "text": None if text is None else storable(text),
            "finish_reason": finish_reason,
            "reason": reason,
            "correct": self._is_correct(example, text, finish_reason),
        }
        if answered is None:
            with self.context.store.session() as session:
                _add(session, values)
            return
        reservation, answer = answered.reservation, answered.completion
        usage = (answer.prompt_tokens, answer.completion_tokens)
        values |= {"seconds": answered.seconds, "prompt_tokens": usage[0], "completion_tokens": usage[1]}
        cached = answer.cached_tokens
        cost = cost_of(self.book, self.view.provider, self.view.model, *usage, cached_tokens=cached)

        def write(session: Session) -> None:
            reservation.settle_in(session, *usage, cost)
            _add(session, values)

        entry = {"kind": "answer", "values": values, "spend": reservation.rescue_entry(*usage, cost)}
        rescue_files.write_or_rescue(self.context.store, write, entry)

    def _is_correct(self, example: HeldOutExample, text: str | None, finish_reason: str | None) -> bool | None:
        """Whether the answer is the expected label; None if it is not a label, or there is no answer."""
        if text is None or self.view.kind != "label":
            return None
        expected = scoring.remove_stop(example.expected, self.view.settings.get("stop"))
        return finish_reason not in REFUSED and scoring.normalize_label(text) == scoring.normalize_label(expected)

    @property
    def _actor(self) -> Actor:
        return on_behalf_of(self.view.created_by)


def with_separator(prompt: str, separator: object) -> str:
    """The prompt as in the training file, ending with the separator."""
    return prompt + separator if isinstance(separator, str) and not prompt.endswith(separator) else prompt


def endpoint_for(client: Client, model: str, file_format: object) -> Endpoint:
    """The endpoint for a model; on the engine, which supports both, the one that matches the training file."""
    if client.provider.capabilities.engine_api:
        return "chat" if file_format == "chat" else "completion"
    return client.endpoint(model)


class _TooManyAttempts(FabulaError):
    """A row was sent `MAX_BILLED_ATTEMPTS` times without an answer."""

    def __init__(self, cause: ProviderError) -> None:
        super().__init__(cause.what, cause.next_step)


def _add(session: Session, values: dict[str, Any]) -> None:
    """Add an answer unless the row already has one."""
    same_row = (
        EvaluationAnswer.evaluation_id == values["evaluation_id"],
        EvaluationAnswer.row_key == values["row_key"],
    )
    if not session.scalar(select(func.count()).where(*same_row)):
        session.add(EvaluationAnswer(**values))
