"""What one chunk of a stream says, read from its JSON: the SDK's objects take half of the time that a stream takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.providers.bodies import count, said
from core.providers.stream import Piece


def chat_piece(chunk: Any) -> Piece:
    """One chunk of `/chat/completions`. Raises TypeError or AttributeError where it is no such chunk."""
    choice = _choice(chunk)
    return _piece(chunk, *said(choice.get("delta") or {}, choice.get("finish_reason")))


def legacy_piece(chunk: Any) -> Piece:
    """One chunk of `/completions`. Raises as `chat_piece`."""
    choice = _choice(chunk)
    return _piece(chunk, choice.get("text") or "", choice.get("finish_reason"))


def _choice(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = chunk.get("choices")
    found: Mapping[str, Any] = choices[0] if choices else {}
    return found


def _piece(chunk: Mapping[str, Any], text: Any, finish_reason: Any) -> Piece:
    model = chunk.get("model")
    if not isinstance(text, str) or not isinstance(finish_reason, str | None) or not isinstance(model, str | None):
        raise TypeError("a text and two words")
    usage = chunk.get("usage") or {}
    return Piece(
        text=text,
        finish_reason=finish_reason,
        model=model or None,
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
    )
