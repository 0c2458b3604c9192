"""How one row of an evaluation is asked for, judged, kept and paid."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from core.actor import Actor
from core.cost import budget, spend, tokens
from core.cost.book import PriceBook, cost_of
from core.dataset.writing.outcomes import storable
from core.db.tables import Answer
from core.errors import BadRequest, ModelNotFound, Unreadable
from core.providers import Client, Completion, CompletionRequest
from core.providers.shapes import Endpoint
from core.training import judging
from core.training.evaluation_shapes import EvaluationView, Example
from core.training.evaluation_work import Work

_REFUSED = frozenset({"refusal", "content_filter"})


@dataclass(frozen=True, slots=True)
class Asking:
    """Everything that a row needs to be asked for."""

    work: Work
    client: Client
    book: PriceBook
    view: EvaluationView
    endpoint: Endpoint
    max_tokens: int

    def ask(self, example: Example) -> bool:
        """Ask for one row and keep what comes; whether it was answered.

        Raises:
            FabulaError: no other row would be answered either.
            Stopped: nobody wants it any more.
        """
        self.work.heed()
        request = self._request(example)
        try:
            answer = self.work.patiently(lambda: self._buy(request))
        except (BadRequest, Unreadable) as exc:
            if isinstance(exc, ModelNotFound):
                raise
            self._keep(example, None, None, exc.what)
            return False
        choice = answer.texts[0] if answer.texts else None
        if choice is None or choice.error:
            words = choice.error if choice else ""
            self._keep(example, None, None, words or "The provider answered without a text.")
            return False
        self._keep(example, choice.text, choice.finish_reason, None)
        return True

    def _request(self, example: Example) -> CompletionRequest:
        settings = self.view.settings
        stop = settings.get("stop")
        return CompletionRequest(
            model=self.view.model,
            prompt=example.prompt + _missing(example.prompt, settings.get("separator")),
            system=str(settings.get("system") or ""),
            endpoint=self.endpoint,
            temperature=float(settings["temperature"]),
            max_tokens=self.max_tokens,
            stop=(stop,) if stop else (),
            seed=int(settings["seed"]) if self.client.provider.kind in ("engine", "openai") else None,
        )

    def _reserve(self, request: CompletionRequest) -> int:
        """What the answer may cost at most, in the spend ledger and against budgets, before it is sent."""
        view = self.view
        read = tokens.count([request.system + request.prompt], view.model).tokens
        worst = cost_of(self.book, view.provider, view.model, read, request.max_tokens)
        with self.work.store.session() as session:
            budget.check(session, self._actor, worst, view.id)
            return spend.record(
                session,
                self._actor,
                "training",
                provider=view.provider,
                model=view.model,
                reference=view.id,
                cost_usd=worst,
                estimated_usd=worst,
            )

    def _buy(self, request: CompletionRequest) -> Completion:
        """One request, with a reservation of its own: another try is another purchase, if this one may be billed."""
        spend_id = self._reserve(request)
        try:
            answer = self.client.complete(request)
        except BaseException as exc:
            with self.work.store.session() as session:
                spend.failed(session, spend_id, exc)
            raise
        cost = cost_of(
            self.book,
            self.view.provider,
            self.view.model,
            answer.prompt_tokens,
            answer.completion_tokens,
            cached_tokens=answer.cached_tokens,
        )
        with self.work.store.session() as session:
            spend.settle(
                session,
                spend_id,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                cost_usd=cost,
            )
        return answer

    def _keep(self, example: Example, text: str | None, finish_reason: str | None, reason: str | None) -> None:
        right = None
        if text is not None and self.view.kind == "label":
            expected = _without(example.expected, self.view.settings.get("stop"))
            right = finish_reason not in _REFUSED and judging.plain_label(text) == judging.plain_label(expected)
        with self.work.store.session() as session:
            there = select(func.count()).where(Answer.evaluation_id == self.view.id, Answer.row_key == example.key)
            if not session.scalar(there):
                session.add(
                    Answer(
                        evaluation_id=self.view.id,
                        row_key=example.key,
                        prompt=example.prompt,
                        expected=example.expected,
                        text=None if text is None else storable(text),
                        finish_reason=finish_reason,
                        reason=reason,
                        right=right,
                    )
                )

    @property
    def _actor(self) -> Actor:
        return Actor(id=self.view.created_by, name=self.view.created_by, role="editor")


def _missing(prompt: str, separator: object) -> str:
    """The separator, where the prompt does not end with it already."""
    return separator if isinstance(separator, str) and not prompt.endswith(separator) else ""


def _without(text: str, stop: object) -> str:
    return text.removesuffix(stop) if isinstance(stop, str) and stop else text
