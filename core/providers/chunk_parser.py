"""What one event of a stream says, read from its JSON: the SDK's objects take half of the time that a stream takes.

And the two ways in which an endpoint can mistake the kind: a whole answer where a stream was asked for, events where a
whole answer was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

from core.errors import ProviderError
from core.message import msg
from core.providers.errors import unreadable, words_for
from core.providers.events import BROKEN, decoded, is_events
from core.providers.inline_thinking import ThinkingFilter
from core.providers.provider_errors import error_object
from core.providers.response_parser import (
    completion_of,
    ending_of,
    error_in_answer,
    has_thinking,
    parsed,
    text_and_ending,
    text_of,
)
from core.providers.schemas import Choice, Completion, Provider
from core.providers.usage import Usage, read_usage

_NO_USAGE = Usage()
_BROKEN_EVENT = msg("a part of its answer cannot be read.")  # after "The provider ended the text with an error: "


@dataclass(frozen=True, slots=True)
class StreamChunk:
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


@dataclass(slots=True)
class ChunkParser:
    """Reads the events of one stream of `/chat/completions` or of `/completions`, in their order.

    Of several answers to the same prompt, the one that comes first is read. Thinking at the beginning of the text is
    left out, but for our engine, whose models write what they have learned to; also thinking that `prompt` has opened.
    """

    provider: Provider
    prompt: InitVar[str] = ""
    _index: str | None = None
    _texts: list[str] = field(default_factory=list)
    _thinking: ThinkingFilter = field(init=False)

    def __post_init__(self, prompt: str) -> None:
        self._thinking = ThinkingFilter(prompt)

    def read(self, event: Any) -> StreamChunk:
        """One event. What is no JSON object says nothing."""
        if not isinstance(event, Mapping):
            return StreamChunk(error=error_object(event))
        usage, model, choice = read_usage(event), event.get("model"), self._choice(event.get("choices"))
        whole = choice.get("delta") is None
        delta = choice.get("message") if whole else choice["delta"]
        text, ending = text_and_ending(delta, ending_of(choice))
        text = text or text_of(choice.get("text"))
        if whole and delta is not None and text:  # some servers end with the whole message
            text = text.removeprefix("".join(self._texts))
        error = None if text else error_object(event) or error_object({"error": choice.get("error")})
        named = model if isinstance(model, str) and model else None
        return self._filtered(StreamChunk(text, ending, named, usage, has_thinking(delta), error))

    def flush(self) -> str:
        """Text that is held back when the stream ends."""
        return self._thinking.flush()

    def _choice(self, choices: object) -> Mapping[str, Any]:
        """The event's part of the answer that is read."""
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, Mapping):
            return {"text": choice}
        if (index := choice.get("index")) is not None:
            self._index = self._index or str(index)
            if str(index) != self._index:
                return {}
        return choice

    def _filtered(self, piece: StreamChunk) -> StreamChunk:
        if piece.text:
            self._texts.append(piece.text)
        if self.provider.kind == "engine":
            return piece
        text = self._thinking.feed(piece.text)
        if piece.finish_reason is not None:
            text += self._thinking.flush()
        if text == piece.text:
            return piece
        return replace(piece, text=text, thought=piece.thought or self._thinking.thought)


def whole_answer(answer: Any, provider: Provider, model: str) -> StreamChunk:
    """An answer that came whole where a stream was asked for, as its only piece.

    Raises:
        ProviderError: as `completion_of`.
    """
    completion = completion_of(answer, provider, model)
    usage = Usage(completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens)
    first = completion.texts[0] if completion.texts else None
    if first is None:
        return StreamChunk(model=completion.model, usage=usage)
    return StreamChunk(first.text, first.finish_reason, completion.model, usage, error=first.error or None)


def completion_in(body: bytes, provider: Provider, model: str) -> Completion:
    """The answer in the body of a response, be it JSON or events.

    Raises:
        ProviderError, Unreadable: as `completion_of`.
    """
    try:
        if not is_events(body):
            return completion_of(parsed(body), provider, model)
        items = list(decoded(body))
        reader = ChunkParser(provider)
        pieces = [reader.read(item) for item in items if item is not BROKEN]
        broken = len(pieces) < len(items)
        return _gathered([*pieces, StreamChunk(reader.flush())], provider, model, broken=broken)
    except ValueError as exc:
        if isinstance(exc, ProviderError):
            raise
        raise unreadable(provider) from exc


def _gathered(pieces: list[StreamChunk], provider: Provider, model: str, *, broken: bool) -> Completion:
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
