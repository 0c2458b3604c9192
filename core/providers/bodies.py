"""What a request for text looks like on the wire, and its answer: OpenAI's JSON, without the SDK's objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.providers.errors import nonsense
from core.providers.shapes import Choice, Completion, CompletionRequest, Endpoint, Kind, Provider

PATHS: Mapping[Endpoint, str] = {"chat": "/chat/completions", "completion": "/completions"}

# OpenAI's and Azure's API references, and `core.engine.sampling`. Other servers have defaults of their own (Mistral:
# 0.7; Qwen: by its model; vLLM: by the model's files): there every temperature is sent.
_DEFAULT_TEMPERATURE: Mapping[Kind, float] = {"engine": 1.0, "openai": 1.0, "azure": 1.0}


def body_of(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    """The JSON body that asks for `request` at an endpoint of this kind."""
    return _chat(request, kind) if request.endpoint == "chat" else _legacy(request, kind)


def completion_of(answer: Any, endpoint: Endpoint, provider: Provider) -> Completion:
    """The answer in an endpoint's JSON.

    Raises:
        Unavailable: it is other JSON than OpenAI's.
    """
    try:
        usage = answer.get("usage") or {}
        read = _chat_choice if endpoint == "chat" else _legacy_choice
        model = answer["model"]
        if not isinstance(model, str):
            raise nonsense(provider)
        return Completion(
            texts=tuple(read(choice) for choice in answer.get("choices") or ()),
            model=model,
            prompt_tokens=count(usage.get("prompt_tokens")),
            completion_tokens=count(usage.get("completion_tokens")),
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise nonsense(provider) from exc


def _chat(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    messages = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": request.prompt})
    # OpenAI's newer models take only the newer name; servers that follow OpenAI know the older one
    cap = "max_completion_tokens" if kind == "openai" else "max_tokens"
    return {"messages": messages, cap: request.max_tokens, **_common(request, kind)}


def _legacy(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    """The older endpoint has no system text: it stands in front of the prompt."""
    prompt = f"{request.system}\n\n{request.prompt}" if request.system else request.prompt
    return {"prompt": prompt, "max_tokens": request.max_tokens, **_common(request, kind)}


def _common(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    """What both endpoints take. Defaults are not sent: several models refuse a parameter whatever its value."""
    given: dict[str, Any] = {"model": request.model}
    if request.temperature != _DEFAULT_TEMPERATURE.get(kind):
        given["temperature"] = request.temperature
    if request.top_p != 1.0:
        given["top_p"] = request.top_p
    if request.stop:
        given["stop"] = list(request.stop)
    if request.seed is not None:
        given["seed"] = request.seed
    if request.n > 1:
        given["n"] = request.n
    return given


def _chat_choice(choice: Mapping[str, Any]) -> Choice:
    return _choice(*said(choice["message"], choice.get("finish_reason")))


def said(message: Mapping[str, Any], finish_reason: object) -> tuple[object, object]:
    """Text and end of a chat message, or of a piece of one: a refusal is the text, and the reason for the end."""
    refusal = message.get("refusal")
    return message.get("content") or refusal or "", "refusal" if refusal else finish_reason


def _legacy_choice(choice: Mapping[str, Any]) -> Choice:
    return _choice(choice.get("text") or "", choice.get("finish_reason"))


def _choice(text: object, finish_reason: object) -> Choice:
    if not isinstance(text, str) or not isinstance(finish_reason, str | None):
        raise TypeError("a text and a word")
    return Choice(text, finish_reason)


def count(tokens: object) -> int | None:
    """A number of tokens; what is none, or below zero, is unknown."""
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0 else None
