"""What a request for text looks like on the wire: OpenAI's JSON, without the SDK's objects. Its answer:
`response_parser`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.providers.schemas import CompletionRequest, Endpoint, Kind

PATHS: Mapping[Endpoint, str] = {"chat": "/chat/completions", "completion": "/completions"}

# OpenAI's and Azure's API references, and `core.engine.sampling`. Other servers have defaults of their own (Mistral:
# 0.7; Qwen: by its model; vLLM: by the model's files): there every temperature is sent.
_DEFAULT_TEMPERATURE: Mapping[Kind, float] = {"engine": 1.0, "openai": 1.0, "azure": 1.0}


def body_of(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    """The JSON body that asks for `request` at an endpoint of this kind."""
    return _chat(request, kind) if request.endpoint == "chat" else _legacy(request, kind)


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
    """What both endpoints take. Defaults are not sent: several models refuse a parameter with any value."""
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
