"""Tests a provider: checks its capabilities and reports what works and what failed.

Listing models, batches and jobs is free. The four short text requests may cost money, and so may the speech request if
a server answers it with audio: the cost of each is reserved in the spend ledger, within the budgets, before it is sent,
and settled afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from core import message
from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import utcnow
from core.errors import BadRequest, FabulaError, Misconfigured, OverBudget, Refused, ServerError
from core.message import msg, sentences
from core.ownership import reads
from core.pricing import tokens
from core.pricing.price_book import PriceBook, cost_of
from core.pricing.spend import Reservation
from core.providers import Client, Completion, CompletionRequest, ModelInfo
from core.providers.generation import MAX_MODELS
from core.providers.schemas import Endpoint
from core.providers.speech import Speech

Check = Literal["models", "chat", "streaming", "choices", "usage", "completions", "batches", "training", "speech"]
Answer = Literal["yes", "no", "unknown", "untested"]
REFERENCE = "provider-test"
"""Reference for these calls in the spend ledger."""
_CHECKS: tuple[Check, ...] = (
    "models", "chat", "streaming", "choices", "usage", "completions", "batches", "training", "speech",
)  # fmt: skip
_PROMPT = "Say hello."
_MAX_TOKENS = 16  # enough for a greeting; a thinking model stops at this limit, which also counts as a response
_SPEECH = "speech"  # its name in the spend ledger: the request names no model
_SPEECH_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `note`: how the feature is used, or why the check failed, with the server's message."""

    check: Check
    answer: Answer
    note: str = ""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The results of a test.

    Attributes:
        findings: one result for each check, in order.
        models: number of text models offered.
        model: the model that was tested; "" if there is none yet.
        at: time of the test (UTC).
    """

    findings: tuple[Finding, ...]
    models: int
    model: str
    at: datetime

    def answer(self, check: Check) -> Answer:
        """The result of one check."""
        return next((finding.answer for finding in self.findings if finding.check == check), "untested")

    @property
    def usable(self) -> bool:
        """Whether the provider can generate text."""
        return "yes" in (self.answer("chat"), self.answer("completions"))

    @property
    def problem(self) -> str:
        """Why the provider cannot generate text (the first failure); "" if it can."""
        failed = (finding.note for finding in self.findings if finding.answer != "yes" and finding.note)
        return "" if self.usable else next(failed, "")

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON for the ledger."""
        return {
            "findings": [[f.check, f.answer, message.dumps(f.note)] for f in self.findings],
            "models": self.models,
            "model": self.model,
            "at": self.at.isoformat(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any] | None) -> ProbeReport | None:
        """Read a report written by `to_dict`; None if there is none, or another version of Fabula wrote it."""
        try:
            findings = tuple(Finding(c, a, message.loads(note)) for c, a, note in (stored or {})["findings"])
            return cls(findings, int(stored["models"]), str(stored["model"]), datetime.fromisoformat(stored["at"]))  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            return None


@requires("editor")
@reads(model="model")
def probe(
    store: Store,
    actor: Actor,
    client: Client,
    book: PriceBook,
    model: str = "",
    on_progress: Callable[[Check], None] = lambda check: None,
) -> ProbeReport:
    """Test a provider.

    Args:
        model: the model to test; "" chooses the cheapest model with a known price, or else the first one.
        on_progress: called with each check when it begins.

    Raises:
        StorageFull: the cost of a request cannot be saved; no further requests are sent.
    """
    run = _Probe(store, actor, client, book, model, on_progress)
    findings = tuple(run.checks())
    done = {finding.check for finding in findings}
    skipped = tuple(Finding(check, "untested") for check in _CHECKS if check not in done)
    ordered = sorted((*findings, *skipped), key=lambda finding: _CHECKS.index(finding.check))
    return ProbeReport(tuple(ordered), run.models, run.model, utcnow())


class _Probe:
    """One test."""

    def __init__(
        self,
        store: Store,
        actor: Actor,
        client: Client,
        book: PriceBook,
        model: str,
        on_progress: Callable[[Check], None],
    ) -> None:
        self._store, self._actor, self._client, self._book = store, actor, client, book
        self._on_progress = on_progress
        self.model, self.models = model, 0

    def checks(self) -> Iterator[Finding]:
        """Run the checks one after another; stop early if the connection or the key does not work at all."""
        self._on_progress("models")
        try:
            offered = self._client.models()
        except BadRequest as exc:
            named = "" if self.model else msg("If the address is right, name the models to offer in its settings.")
            yield Finding("models", "no", sentences(exc.what, named))
        except FabulaError as exc:
            yield Finding("models", "no", sentences(exc.what, exc.next_step))
            if isinstance(exc, Misconfigured | Refused | ServerError) or not self.model:
                return
        else:
            yield self._models_found(offered)
        if self.model:
            yield from self._text_checks()
        yield from self._questions()

    def _models_found(self, offered: Sequence[ModelInfo]) -> Finding:
        self.models = len(offered)
        self.model = self.model or _cheapest(self._book, offered)
        if self._client.provider.models:
            return Finding(
                "models", "yes", msg("The models that you listed; the provider's own list is not requested.")
            )
        if not offered:
            return Finding(
                "models", "no", msg("The provider offers no text model. Load one there, or name one in its settings.")
            )
        if len(offered) >= MAX_MODELS:
            return Finding(
                "models",
                "yes",
                msg(
                    "{limit} are offered, the newest first. To use another, name it in the provider's settings.",
                    limit=MAX_MODELS,
                ),
            )
        return Finding("models", "yes")

    def _text_checks(self) -> Iterator[Finding]:
        self._on_progress("chat")
        answer, failure = self._complete("chat")
        yield _finding("chat", failure)
        if isinstance(failure, Refused | OverBudget):
            return
        if answer is not None:
            yield _usage(answer)
            self._on_progress("streaming")
            yield _finding("streaming", self._stream_failure())
            self._on_progress("choices")
            several, failure = self._complete("chat", n=2)
            yield _choices(several, failure)
        self._on_progress("completions")
        legacy, failure = self._complete("completion")
        yield _finding("completions", failure)
        if answer is None and legacy is not None:
            yield _usage(legacy)

    def _complete(self, endpoint: Endpoint, n: int = 1) -> tuple[Completion | None, FabulaError | None]:
        """Send one short request; return the response, or why there is none."""
        request = self._request(endpoint, n)
        try:
            reservation = self._reserve(request)
            answer = reservation.call(lambda: self._client.complete(request, once=True))
        except FabulaError as exc:
            _raise_if_unsaved(exc)
            return None, exc
        usage = (answer.prompt_tokens, answer.completion_tokens)
        reservation.settle(*usage, self._cost(request, *usage, answer.cached_tokens))
        return answer, None

    def _stream_failure(self) -> FabulaError | None:
        request = self._request("chat")
        try:
            reservation = self._reserve(request)
            stream = self._client.stream(request)
            reservation.call(lambda: sum(1 for _ in stream))
        except FabulaError as exc:
            _raise_if_unsaved(exc)
            return exc
        usage = (stream.facts.prompt_tokens, stream.facts.tokens)
        reservation.settle(*usage, self._cost(request, *usage, stream.facts.cached_tokens))
        return None

    def _request(self, endpoint: Endpoint, n: int = 1) -> CompletionRequest:
        return CompletionRequest(self.model, _PROMPT, endpoint=endpoint, max_tokens=_MAX_TOKENS, n=n)

    def _reserve(self, request: CompletionRequest) -> Reservation:
        read = tokens.count([request.prompt], request.model).tokens
        return self._reservation(request.model, self._cost(request, read, request.max_tokens * request.n))

    def _reservation(self, model: str, worst_usd: Decimal | None) -> Reservation:
        provider = self._client.provider.id
        return Reservation(
            self._store, self._actor, "settings", provider=provider, model=model, reference=REFERENCE,
            worst_usd=worst_usd,
        )  # fmt: skip

    def _cost(
        self,
        request: CompletionRequest,
        prompt_tokens: int | None,
        completion_tokens: int | None,
        cached_tokens: int = 0,
    ) -> Decimal | None:
        tokens_used = (prompt_tokens, completion_tokens)
        return cost_of(self._book, self._client.provider.id, request.model, *tokens_used, cached_tokens=cached_tokens)

    def _questions(self) -> Iterator[Finding]:
        self._on_progress("batches")
        yield self._batches()
        self._on_progress("training")
        yield _asked("training", lambda: next(iter(self._client.jobs()), None) is None or True)
        self._on_progress("speech")
        yield _asked("speech", self._offers_speech)

    def _offers_speech(self) -> bool:
        """Ask for speech without a text. A refusal is not recorded; a server that sends audio may bill it."""
        speech = Speech(self._client.provider, timeout=_SPEECH_TIMEOUT_S)
        reservation = self._reservation(_SPEECH, Decimal(0))  # speech is billed by the character, and there is none
        offer = reservation.call(speech.offer)
        if offer == "answered":
            reservation.settle(None, None, None if self._client.provider.capabilities.billed else Decimal(0))
        else:
            reservation.cancel()
        return offer != "none"

    def _batches(self) -> Finding:
        known = self._client.provider.capabilities.batches
        if known is not None:
            return Finding("batches", "yes" if known else "no")
        return _asked("batches", self._client.supports_batches)


def _cheapest(book: PriceBook, offered: Sequence[ModelInfo]) -> str:
    """The model with the lowest known output price; if no price is known, the first model."""
    priced = [
        (price.output_per_mtok, info.id)
        for info in offered
        if (price := book.find(info.provider, info.id)) is not None and price.output_per_mtok is not None
    ]
    return min(priced)[1] if priced else next((info.id for info in offered), "")


def _asked(check: Check, ask: Callable[[], bool]) -> Finding:
    """The result of a request that lists or checks something. A missing path means that the feature is not supported;
    any other error is reported.
    """
    try:
        return Finding(check, "yes" if ask() else "no")
    except Refused as exc:
        return Finding(check, "no", exc.what)
    except BadRequest:
        return Finding(check, "no")
    except FabulaError as exc:
        _raise_if_unsaved(exc)
        return Finding(check, "unknown", exc.what)


def _finding(check: Check, failure: FabulaError | None) -> Finding:
    if failure is None:
        return Finding(check, "yes")
    certain = isinstance(failure, BadRequest | Refused)
    return Finding(check, "no" if certain else "unknown", sentences(failure.what, failure.next_step))


def _usage(answer: Completion) -> Finding:
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return Finding(
            "usage", "no", msg("The provider reports no token counts, so Fabula counts them and costs are approximate.")
        )
    return Finding("usage", "yes")


def _choices(answer: Completion | None, failure: FabulaError | None) -> Finding:
    if answer is not None and len(answer.texts) > 1:
        return Finding("choices", "yes")
    if failure is not None and not isinstance(failure, BadRequest):
        return Finding("choices", "unknown", failure.what)
    return Finding("choices", "no", msg("Each text is a separate request."))


def _raise_if_unsaved(error: FabulaError) -> None:
    """Raise if the ledger cannot be written, because then no further requests may be sent."""
    if isinstance(error, OSError):
        raise error
