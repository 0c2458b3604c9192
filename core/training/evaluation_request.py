"""How one row of an evaluation is asked for, judged, kept and paid."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import tokens
from core.cost.price_book import PriceBook, cost_of
from core.cost.reservation import Reservation
from core.dataset.generation.response_classification import storable
from core.db import rescue_files
from core.db.tables import EvaluationAnswer
from core.errors import BadRequest, FabulaError, ModelNotFound, ProviderError
from core.message import msg
from core.providers import Client, Completion, CompletionRequest
from core.providers.schemas import Endpoint
from core.training import scoring
from core.training.evaluation_context import EvaluationContext
from core.training.evaluation_types import EvaluationView, HeldOutExample

_REFUSED = frozenset({"refusal", "content_filter"})
_BILLED_TRIES = 5  # of one row: as often as a run sends a row that gets no answer; each counts with its worst case


class _GivenUp(FabulaError):
    """A row that was sent so often without an answer that it is left alone."""

    def __init__(self, cause: ProviderError) -> None:
        super().__init__(cause.what, cause.next_step)


@dataclass(frozen=True, slots=True)
class EvaluationRequester:
    """Everything that a row needs to be asked for."""

    context: EvaluationContext
    client: Client
    book: PriceBook
    view: EvaluationView
    endpoint: Endpoint
    max_tokens: int

    def ask(self, example: HeldOutExample) -> bool:
        """Ask for one row and keep what comes; whether it was answered.

        Raises:
            FabulaError: no other row would be answered either.
            Stopped: nobody wants it any more.
        """
        self.context.raise_if_stopped()
        request = self._request(example)
        tries = count(1)

        def one_try() -> tuple[Completion, Reservation]:
            bought = self._reserve(request)
            try:
                return bought.call(lambda: self.client.complete(request, once=True, stop=self.context.halt)), bought
            except ProviderError as exc:
                paid = self.client.provider.kind != "engine"
                if paid and exc.may_be_billed and next(tries) >= _BILLED_TRIES:
                    raise _GivenUp(exc) from exc
                raise

        try:
            answer, bought = self.context.patiently(one_try)
        except ModelNotFound:
            raise
        except (BadRequest, _GivenUp) as exc:
            self._keep(example, None, None, exc.what)
            return False
        choice = answer.texts[0] if answer.texts else None
        if choice is None or choice.error:
            words = choice.error if choice else ""
            reason = words or msg("The provider answered without a text.")
            self._keep(example, None, None, reason, (bought, answer))
            return False
        self._keep(example, choice.text, choice.finish_reason, None, (bought, answer))
        return True

    def _request(self, example: HeldOutExample) -> CompletionRequest:
        settings = self.view.settings
        stop = settings.get("stop")
        return CompletionRequest(
            model=self.view.model,
            prompt=with_separator(example.prompt, settings.get("separator")),
            system=str(settings.get("system") or ""),
            endpoint=self.endpoint,
            temperature=float(settings["temperature"]),
            max_tokens=self.max_tokens,
            stop=(stop,) if stop else (),
            seed=int(settings["seed"]) if self.client.provider.kind in ("engine", "openai") else None,
        )

    def _reserve(self, request: CompletionRequest) -> Reservation:
        """What one try may cost at most, in the spend ledger and against budgets, before it is sent."""
        view = self.view
        read = tokens.count([request.system + request.prompt], view.model).tokens
        worst = cost_of(self.book, view.provider, view.model, read, request.max_tokens)
        return Reservation(
            self.context.store,
            self._actor,
            "training",
            provider=view.provider,
            model=view.model,
            reference=view.id,
            worst_usd=worst,
        )

    def _keep(
        self,
        example: HeldOutExample,
        text: str | None,
        finish_reason: str | None,
        reason: str | None,
        paid: tuple[Reservation, Completion] | None = None,
    ) -> None:
        """Write an answer, or why there is none, and what it took, in one transaction.

        Raises:
            StorageFull: it could not be written. What was paid for is in a rescue file.
        """
        right = None
        if text is not None and self.view.kind == "label":
            expected = _without(example.expected, self.view.settings.get("stop"))
            right = finish_reason not in _REFUSED and scoring.normalize_label(text) == scoring.normalize_label(expected)
        values = {
            "evaluation_id": self.view.id,
            "row_key": example.key,
            "prompt": example.prompt,
            "expected": example.expected,
            "text": None if text is None else storable(text),
            "finish_reason": finish_reason,
            "reason": reason,
            "right": right,
        }
        if paid is None:
            with self.context.store.session() as session:
                _add(session, values)
            return
        bought, answer = paid
        used = (answer.prompt_tokens, answer.completion_tokens)
        cached = answer.cached_tokens
        cost = cost_of(self.book, self.view.provider, self.view.model, *used, cached_tokens=cached)

        def write(session: Session) -> None:
            bought.settle_in(session, *used, cost)
            _add(session, values)

        entry = {"kind": "answer", "values": values, "spend": bought.entry(*used, cost)}
        rescue_files.write_or_rescue(self.context.store, write, entry)

    @property
    def _actor(self) -> Actor:
        return Actor(id=self.view.created_by, name=self.view.created_by, role="editor")


def _add(session: Session, values: dict[str, Any]) -> None:
    """An answer, unless its row has one already."""
    mine = (EvaluationAnswer.evaluation_id == values["evaluation_id"], EvaluationAnswer.row_key == values["row_key"])
    if not session.scalar(select(func.count()).where(*mine)):
        session.add(EvaluationAnswer(**values))


def with_separator(prompt: str, separator: object) -> str:
    """The prompt as the training file ends it: with its separator, once."""
    return prompt + separator if isinstance(separator, str) and not prompt.endswith(separator) else prompt


def endpoint(client: Client, model: str, file_format: object) -> Endpoint:
    """How a model is asked: as it was trained; where it takes both, by the format of the training file."""
    if client.provider.kind == "engine":
        return "chat" if file_format == "chat" else "completion"
    return client.endpoint(model)


def _without(text: str, stop: object) -> str:
    return text.removesuffix(stop) if isinstance(stop, str) and stop else text
