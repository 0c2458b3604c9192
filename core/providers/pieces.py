"""What one event of a stream says, read from its JSON: the SDK's objects take half of the time that a stream takes.

And the two ways in which an endpoint can mistake the kind: a whole answer where a stream was asked for, events where a
whole answer was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import ProviderError
from core.providers.answers import completion_of, ending_of, error_in_answer, parsed, said, text_of, thought
from core.providers.errors import unreadable, words_for
from core.providers.events import BROKEN, decoded, is_events
from core.providers.provider_errors import error_object
from core.providers.shapes import Choice, Completion, Provider
from core.providers.usage import Usage, read_usage

_NO_USAGE = Usage()
_BROKEN_EVENT = "a part of its answer cannot be read."  # after "The provider ended the text with an error: "


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of a stream says; every part may be missing.

    Attributes:
        thought: something was written that is no text.
        error: an error object in place of a piece of the answer.
    """

    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = _NO_USAGE
    thought: bool = False
    error: object | None = None

    @property
    def billed(self) -> bool:
        """Whether something was written, or counted: then it is billed, also beside an error."""
        return bool(self.text) or self.thought or self.usage.billed


def piece_of(event: Any) -> Piece:
    """One event of `/chat/completions` or of `/completions`. What is no JSON object says nothing."""
    if not isinstance(event, Mapping):
        return Piece(error=error_object(event))
    choices, usage, model = event.get("choices"), read_usage(event), event.get("model")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, Mapping):
        choice = {"text": choice}
    if choice.get("index"):
        choice = {}  # another answer to the same prompt
    delta = choice.get("message") if choice.get("delta") is None else choice["delta"]
    text, ending = said(delta, ending_of(choice))
    text = text or text_of(choice.get("text"))
    error = None if text else error_object(event) or error_object({"error": choice.get("error")})
    return Piece(text, ending, model if isinstance(model, str) and model else None, usage, thought(delta), error)


def whole_answer(answer: Any, provider: Provider, model: str) -> Piece:
    """An answer that came whole where a stream was asked for, as its only piece.

    Raises:
        ProviderError: as `completion_of`.
    """
    completion = completion_of(answer, provider, model)
    usage = Usage(completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens)
    first = completion.texts[0] if completion.texts else None
    if first is None:
        return Piece(model=completion.model, usage=usage)
    return Piece(first.text, first.finish_reason, completion.model, usage, error=first.error or None)


def completion_in(body: bytes, provider: Provider, model: str) -> Completion:
    """The answer in the body of a response, be it JSON or events.

    Raises:
        ProviderError, Unreadable: as `completion_of`.
    """
    try:
        if not is_events(body):
            return completion_of(parsed(body), provider, model)
        items = list(decoded(body))
        pieces = [piece_of(item) for item in items if item is not BROKEN]
        return _gathered(pieces, provider, model, broken=len(pieces) < len(items))
    except ValueError as exc:
        if isinstance(exc, ProviderError):
            raise
        raise unreadable(provider) from exc


def _gathered(pieces: list[Piece], provider: Provider, model: str, *, broken: bool) -> Completion:
    text = "".join(piece.text for piece in pieces)
    usage = _NO_USAGE
    for piece in pieces:
        usage = piece.usage.after(usage)
    ending = next((piece.finish_reason for piece in reversed(pieces) if piece.finish_reason), None)
    error = next((piece.error for piece in pieces if piece.error is not None), None)
    named = next((piece.model for piece in pieces if piece.model), model)
    wrote = bool(text) or any(piece.thought for piece in pieces)
    if error is not None and not wrote and not usage.billed:
        raise error_in_answer(error, provider)
    if not wrote and not usage.known and ending is None:
        raise unreadable(provider)
    if wrote:
        usage = usage.beside_text()
    words = words_for(error, provider) if error is not None else _BROKEN_EVENT if broken else ""
    choice = Choice(text, "error" if words else ending, words)
    return Completion((choice,), named, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
