"""Builds the JSON body of a text request in OpenAI's format. The response is read by `response_parser`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.providers.schemas import CompletionRequest, Endpoint, Kind

PATHS: Mapping[Endpoint, str] = {"chat": "/chat/completions", "completion": "/completions"}

# From OpenAI's and Azure's API references and `core.engine.serving.sampling`. Other servers have different defaults
# (Mistral: 0.7; Qwen: per model; vLLM: from the model's files), so the temperature is always sent to them.
_DEFAULT_TEMPERATURE: Mapping[Kind, float] = {"engine": 1.0, "openai": 1.0, "azure": 1.0}


def request_body(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    """The JSON body of `request` for an endpoint of this kind."""
    return _chat(request, kind) if request.endpoint == "chat" else _legacy(request, kind)


def _chat(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    messages = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": request.prompt})
    # OpenAI's newer models accept only the newer name; compatible servers know the older one
    limit_name = "max_completion_tokens" if kind == "openai" else "max_tokens"
    return {"messages": messages, limit_name: request.max_tokens, **_common(request, kind)}


def _legacy(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    """The legacy endpoint has no system message, so it is put before the prompt."""
    prompt = f"{request.system}\n\n{request.prompt}" if request.system else request.prompt
    return {"prompt": prompt, "max_tokens": request.max_tokens, **_common(request, kind)}


def _common(request: CompletionRequest, kind: Kind) -> dict[str, Any]:
    """Parameters of both endpoints. Defaults are not sent, because some models reject a parameter with any value."""
    body: dict[str, Any] = {"model": request.model}
    if request.temperature != _DEFAULT_TEMPERATURE.get(kind):
        body["temperature"] = request.temperature
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    if request.n > 1:
        body["n"] = request.n
    return body
