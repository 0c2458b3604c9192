"""Builds the JSON body of a text request in OpenAI's format, without the parameters that its model rejects.

When a model rejects a parameter with a 400, the request is repeated immediately without it, and this process does not
send the parameter to that model again. The table is shared by completions, streams, parallel requests and batches.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from core.errors import BadRequest
from core.message import msg
from core.providers.capabilities import Capabilities
from core.providers.rejected_parameters import ADJUSTABLE
from core.providers.schemas import CompletionRequest, Endpoint, Provider

TOKEN_CAPS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""The two names of the token limit parameter, each mapped to the other."""
_SYSTEM_ROLES = ("system", "developer")
_log = logging.getLogger("fabula.providers")
_lock = threading.Lock()
_learned: dict[_ModelEndpoint, dict[str, str | None]] = {}  # rejected parameter → its replacement; None: omitted

PATHS: Mapping[Endpoint, str] = {"chat": "/chat/completions", "completion": "/completions"}


class _ModelEndpoint(NamedTuple):
    """One model on one of its endpoints."""

    provider: str
    base_url: str
    model: str
    endpoint: Endpoint


def adjust_body(provider: Provider, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request body without the parameters that its model is known to reject."""
    known = _known(provider, _model_endpoint(provider, body))
    if not known:
        return dict(body)
    result: dict[str, Any] = {}
    for name, value in body.items():
        name = known.get(name, name) or ""
        if name:
            result[name] = value
    return result


def learn(provider: Provider, body: Mapping[str, Any], refused: frozenset[str]) -> bool:
    """Remember the rejected parameters of a body that was sent; return whether the body contains any of them."""
    key, rejected = _model_endpoint(provider, body), refused & body.keys() & set(ADJUSTABLE)
    for name in sorted(rejected):
        with _lock:
            known = _learned.setdefault(key, {})
            new = name not in known
            known[name] = TOKEN_CAPS.get(name)
            known.pop(TOKEN_CAPS.get(name, ""), None)  # the replacement must not be replaced in turn
        if new:
            _log.info("%s: %s", provider.name, _note(key.model, name))
    return bool(rejected)


def notes(provider: Provider, request: CompletionRequest, *, stream: bool = False) -> tuple[str, ...]:
    """Return one sentence for each parameter of the request that its model does not support."""
    key = _ModelEndpoint(provider.id, provider.base_url, request.model, request.endpoint)
    known = _known(provider, key).keys() & set(_wanted(request, stream))
    return tuple(_note(request.model, name) for name in ADJUSTABLE if name in known)


def _known(provider: Provider, key: _ModelEndpoint) -> dict[str, str | None]:
    """Parameters that all models of the endpoint or this one reject, with their replacements."""
    known = {name: TOKEN_CAPS.get(name) for name in provider.capabilities.rejects}
    with _lock:
        return known | _learned.get(key, {})


def forget() -> None:
    """Clear the table; for tests."""
    with _lock:
        _learned.clear()


class Negotiation:
    """Repeats one request without the parameters that the model rejects. Usage:

    negotiation = Negotiation(provider, body)
    while True:
        try:
            return send(negotiation.body)
        except BadRequest as error:
            if not negotiation.adapt_to(error):
                raise
    """

    def __init__(self, provider: Provider, body: Mapping[str, Any]) -> None:
        self._provider, self._wanted = provider, body
        self._refused: set[str] = set()
        self.body = adjust_body(provider, body)
        """The body to send next."""

    def adapt_to(self, error: BadRequest) -> bool:
        """Learn from a rejection; return whether `body` has changed and should be sent again.

        Each parameter is adapted only once, so that the loop ends even if a model rejects both names of the token
        limit.
        """
        new = error.refused_parameters - self._refused
        new = frozenset(name for name in new if TOKEN_CAPS.get(name) not in self._refused)
        self._refused |= new
        sent = self.body
        if not learn(self._provider, sent, new):
            return False
        self.body = adjust_body(self._provider, self._wanted)
        return self.body != sent


def _model_endpoint(provider: Provider, body: Mapping[str, Any]) -> _ModelEndpoint:
    endpoint: Endpoint = "chat" if "messages" in body else "completion"
    return _ModelEndpoint(provider.id, provider.base_url, str(body.get("model")), endpoint)


def _wanted(request: CompletionRequest, stream: bool) -> Iterator[str]:
    """The request's parameters that differ from their defaults."""
    yield from ("temperature", *TOKEN_CAPS)
    if request.top_p != 1.0:
        yield "top_p"
    if request.seed is not None:
        yield "seed"
    if request.stop:
        yield "stop"
    if request.n > 1:
        yield "n"
    if stream:
        yield "stream_options"


def _note(model: str, name: str) -> str:
    if name in TOKEN_CAPS:
        return msg(
            "{model} does not accept `{name}`; `{other}` is sent instead.",
            model=model,
            name=name,
            other=TOKEN_CAPS[name],
        )
    if name == "seed":
        return msg("{model} does not accept `seed`; its texts can't be reproduced.", model=model)
    if name == "stop":
        return msg("{model} does not accept `stop`; the model decides where a text ends.", model=model)
    if name == "n":
        return msg("{model} does not accept `n`; each text is a separate request.", model=model)
    if name == "stream_options":
        return msg(
            "{model} does not accept `stream_options`; Fabula counts the tokens of a stream that reports none.",
            model=model,
        )
    return msg("{model} does not accept `{name}`; the provider's default is used.", model=model, name=name)


def request_body(request: CompletionRequest, capabilities: Capabilities) -> dict[str, Any]:
    """Build the JSON body of `request` for an endpoint with these capabilities."""
    return _chat(request, capabilities) if request.endpoint == "chat" else _legacy(request, capabilities)


def _chat(request: CompletionRequest, capabilities: Capabilities) -> dict[str, Any]:
    messages: list[Mapping[str, Any]] = [*(request.messages or [{"role": "user", "content": request.prompt}])]
    if request.system and not any(one.get("role") in _SYSTEM_ROLES for one in messages):
        messages.insert(0, {"role": "system", "content": request.system})
    body = {"messages": messages, capabilities.token_limit: request.max_tokens, **_common(request, capabilities)}
    if request.response_format:
        body["response_format"] = json.loads(request.response_format)
    if request.tools:
        body["tools"] = json.loads(request.tools)
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    return body


def _legacy(request: CompletionRequest, capabilities: Capabilities) -> dict[str, Any]:
    """Build the body for the legacy endpoint. It does not accept a system message, so that text is put before the
    prompt.
    """
    prompt = f"{request.system}\n\n{request.prompt}" if request.system else request.prompt
    return {"prompt": prompt, "max_tokens": request.max_tokens, **_common(request, capabilities)}


def _common(request: CompletionRequest, capabilities: Capabilities) -> dict[str, Any]:
    """Parameters common to both endpoints. Defaults are not sent, because some models reject a parameter regardless of
    its value.
    """
    body: dict[str, Any] = {"model": request.model}
    if request.temperature != capabilities.default_temperature:
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
