"""An endpoint's answer, read from its JSON: texts, why they ended, usage; or the error that it is.

Whoever has answered with a text or with usage wants to be paid. So the reader takes every shape in which a text is
known to come, and raises only where there is nothing that could be kept:

- `message.content` as a string, or as a list of parts, of which those of text are joined and those of thinking left
  out (Mistral: `{"type": "thinking"}`, `{"type": "text"}`; Responses API: `output_text`);
- no `model`: it is the one that was asked for; an ending that is no string is unknown;
- a whole answer where a stream was asked for, and events where a whole answer was (see `events`);
- Anthropic's `content`, the Responses API's `output`, Gemini's `candidates` and Ollama's `message` in place of
  `choices`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.errors import ProviderError
from core.providers.errors import from_status, unreadable, words_for
from core.providers.finish_reasons import normalized
from core.providers.inline_thinking import without_thinking
from core.providers.provider_errors import error_object, inner_status
from core.providers.schemas import Choice, Completion, Provider
from core.providers.usage import read_usage

_DEEPEST = 100  # levels of JSON; real answers have ten
_TEXT_PARTS = frozenset({"", "text", "output_text", "message", "assistant"})
_CONTENT = ("content", "parts", "text")  # `parts`: Gemini's own API
_REFUSAL = "refusal"
_WRAPPERS = ("data", "result", "response", "body")
_WITHOUT_CHOICES = ("message", "content", "output", "output_text", "response", "generated_text", "text")
_ENDINGS = ("finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "native_finish_reason")
_THINKING = ("reasoning_content", "reasoning", "thinking", "tool_calls")


def completion_of(answer: Any, provider: Provider, model: str) -> Completion:
    """The answer in an endpoint's JSON.

    Args:
        model: what was asked for; the answer's where it names none.

    Raises:
        ProviderError: it is an error and nothing else; by its own code, in its own words.
        Unreadable: it has neither a text, nor usage, nor an error.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict):
        raise unreadable(provider)
    answer = _unwrapped(answer)
    choices = _choices(answer)
    texts = tuple(_choice(choice, provider) for choice in choices)
    usage = read_usage(answer)
    wrote = any(choice.text for choice in texts)
    thinking = any(has_thinking(choice.get("message")) for choice in choices if isinstance(choice, dict))
    if wrote or thinking:
        usage = usage.beside_text()
    if not wrote:
        texts = _without_text(answer, texts, provider, billed=thinking or usage.billed)
    if provider.kind != "engine":  # our own models write what they have learned to
        texts = tuple(replace(choice, text=without_thinking(choice.text)) for choice in texts)
    named = answer.get("model")
    return Completion(
        texts=texts,
        model=named if isinstance(named, str) and named else model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def parsed(raw: bytes) -> Any:
    """The JSON in an answer. Bytes that are no UTF-8 cost a character, not the answer; what follows is left out.

    Raises:
        ValueError: it is no JSON, or nested so deeply that its readers, which follow it down, would fail.
    """
    try:
        found = _parsed(raw)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if raw.count(b"[") + raw.count(b"{") > _DEEPEST and _deeper(found, _DEEPEST):
        raise ValueError("nested too deeply")
    return found


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        text = raw.decode("utf-8-sig", "replace").lstrip()
    return json.JSONDecoder(strict=False).raw_decode(text)[0]


def _deeper(found: object, levels: int) -> bool:
    """Whether JSON has more than so many levels of objects and lists."""
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return bool(inner) and (levels == 0 or any(_deeper(one, levels - 1) for one in inner))


def text_of(content: object) -> str:
    """The text of a message's content: a string, a part, or a list of them. Thinking is no part of the text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(text_of, content))
    if not isinstance(content, dict):
        return ""
    if str(content.get("type") or "").lower() not in _TEXT_PARTS or content.get("thought") is True:
        return ""
    for name in ("text", "content", "parts", "value"):
        if found := text_of(content.get(name)):
            return found
    return ""


def text_and_ending(message: object, finish_reason: object) -> tuple[str, str | None]:
    """Text and ending of a message, or of a piece of one: a refusal is the text, and the reason for the ending."""
    ending = normalized(finish_reason)
    if not isinstance(message, dict):
        return text_of(message), ending
    content = next((message[name] for name in _CONTENT if message.get(name) is not None), None)
    refusal = message.get(_REFUSAL) or _refusal_part(content)
    if isinstance(refusal, str) and refusal:
        return text_of(content) or refusal, _REFUSAL
    return text_of(content), ending


def ending_of(choice: Mapping[str, Any]) -> object:
    """Why a choice ended, as the endpoint says it."""
    return next((choice[name] for name in _ENDINGS if choice.get(name) not in (None, "")), None)


def _unwrapped(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer itself, where a gateway has put it into an object of its own: `{"code": 0, "data": {…}}`."""
    if "choices" in answer or "usage" in answer:
        return answer
    for name in _WRAPPERS:
        if isinstance(inner := answer.get(name), dict) and _choices(inner):
            return inner
    return answer


def _choices(answer: Mapping[str, Any]) -> list[Any]:
    """The choices of an answer; of an API without choices, the one that it gives."""
    for name in ("choices", "candidates"):
        found = answer.get(name)
        if isinstance(found, dict):
            return [found]
        if isinstance(found, list):
            return found
    output = answer.get("output")
    if isinstance(output, dict):  # of DashScope's and Bedrock's own APIs; the latter has the ending beside it
        return [{"finish_reason": ending_of(answer), **found} for found in _choices(output) if isinstance(found, dict)]
    if error_object(answer) is not None:
        return []
    for name in _WITHOUT_CHOICES:
        message = answer.get(name)
        if text_of(message) and (name != "message" or isinstance(message, dict)):
            whole = message if isinstance(message, dict) else {"content": message}
            ending = ending_of(answer) or answer.get("incomplete_details") or answer.get("status")  # Responses API
            return [{"message": whole, **({} if ending is None else {"finish_reason": ending})}]
    return []


def _choice(choice: Any, provider: Provider) -> Choice:
    if not isinstance(choice, dict):
        return Choice(text_of(choice), None)
    message = choice.get("message") or choice.get("delta") or choice.get("content")
    text, ending = text_and_ending(message, ending_of(choice))
    error = error_object({"error": choice["error"]}) if choice.get("error") else None
    return Choice(
        text=text or text_of(choice.get("text") or ""),
        finish_reason=ending if error is None else "error",
        error="" if error is None else words_for(error, provider),
    )


def _without_text(
    answer: Mapping[str, Any], texts: tuple[Choice, ...], provider: Provider, *, billed: bool
) -> tuple[Choice, ...]:
    """What an answer without a text gives, when it is billed.

    Raises:
        ProviderError: it is not; it is an error, or nothing.
    """
    error = error_object(answer) or _error_of_choice(answer)
    if error is not None and not billed:
        raise error_in_answer(error, provider)
    if error is not None:
        return (Choice("", "error", words_for(error, provider)),)
    if not texts and not billed and not isinstance(answer.get("choices"), list):
        raise unreadable(provider)
    return texts


def error_in_answer(error: object, provider: Provider) -> ProviderError:
    """The error that an error object under HTTP 200 stands for."""
    return from_status(inner_status(error), error, {}, provider, "/chat/completions")


def _error_of_choice(answer: Mapping[str, Any]) -> object | None:
    """An error in place of the first choice's text (OpenRouter)."""
    choices = _choices(answer)
    choice = choices[0] if choices else None
    return error_object({"error": choice.get("error")}) if isinstance(choice, dict) else None


def _refusal_part(content: object) -> str:
    if not isinstance(content, list):
        return ""
    return "".join(
        part[_REFUSAL]
        for part in content
        if isinstance(part, dict) and part.get("type") == _REFUSAL and isinstance(part.get(_REFUSAL), str)
    )


def has_thinking(message: object) -> bool:
    """Whether a message, or a piece of one, has something written that is no text: it is billed all the same."""
    if not isinstance(message, dict):
        return False
    if any(map(message.get, _THINKING)):
        return True
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in ("thinking", "reasoning") for part in content
    )
