"""What has been learned about the parameters of each model: what it does not take is left out, or called otherwise.

A model that answers 400 to a parameter is asked again without it, at once, and never gets it again in this process. The
table is shared by everything that asks for text: whole answers, streams, requests in bulk and batches.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from core.errors import BadRequest
from core.message import msg
from core.providers.rejected_parameters import ADJUSTABLE
from core.providers.schemas import CompletionRequest, Endpoint, Provider

TOKEN_CAPS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""The two names of the parameter that caps an answer's tokens, each with the other."""
_log = logging.getLogger("fabula.providers")
_lock = threading.Lock()
_learned: dict[_Asked, dict[str, str | None]] = {}  # refused parameter → the name in its place, None: left out


class _Asked(NamedTuple):
    """One model on one of its endpoints."""

    provider: str
    base_url: str
    model: str
    endpoint: Endpoint


def adjusted(provider: Provider, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request for text as its model takes it, as far as that is known."""
    with _lock:
        known = dict(_learned.get(_asked(provider, body), ()))
    if not known:
        return dict(body)
    told: dict[str, Any] = {}
    for name, value in body.items():
        name = known.get(name, name) or ""
        if name:
            told[name] = value
    return told


def learn(provider: Provider, body: Mapping[str, Any], refused: frozenset[str]) -> bool:
    """Remember that a model does not take some parameters of a body that was sent to it; whether any of it is there."""
    asked, found = _asked(provider, body), refused & body.keys() & set(ADJUSTABLE)
    for name in sorted(found):
        with _lock:
            known = _learned.setdefault(asked, {})
            new = name not in known
            known[name] = TOKEN_CAPS.get(name)
            known.pop(TOKEN_CAPS.get(name, ""), None)  # a name is not replaced by one that is replaced by it
        if new:
            _log.info("%s: %s", provider.name, _note(asked.model, name))
    return bool(found)


def notes(provider: Provider, request: CompletionRequest, *, stream: bool = False) -> tuple[str, ...]:
    """What a person should know of a request's parameters that its model does not get, a sentence each."""
    asked = _Asked(provider.id, provider.base_url, request.model, request.endpoint)
    with _lock:
        known = frozenset(_learned.get(asked, ()))
    return tuple(_note(request.model, name) for name in ADJUSTABLE if name in known & set(_wanted(request, stream)))


def forget() -> None:
    """Forget everything, as a new process has."""
    with _lock:
        _learned.clear()


class Negotiation:
    """One request whose parameters may be refused one after another.

    negotiation = Negotiation(provider, body)
    while True:
        try:
            return send(negotiation.body)
        except BadRequest as error:
            if not negotiation.concedes(error):
                raise
    """

    def __init__(self, provider: Provider, body: Mapping[str, Any]) -> None:
        self._provider, self._wanted = provider, body
        self._refused: set[str] = set()
        self.body = adjusted(provider, body)
        """What is sent next."""

    def concedes(self, error: BadRequest) -> bool:
        """Learn from the refusal; whether `body` is another one now, and worth sending.

        Nothing is given in twice, so that a model that takes neither name of the token cap is not asked for ever.
        """
        new = error.refused_parameters - self._refused
        new = frozenset(name for name in new if TOKEN_CAPS.get(name) not in self._refused)
        self._refused |= new
        sent = self.body
        if not learn(self._provider, sent, new):
            return False
        self.body = adjusted(self._provider, self._wanted)
        return self.body != sent


def _asked(provider: Provider, body: Mapping[str, Any]) -> _Asked:
    endpoint: Endpoint = "chat" if "messages" in body else "completion"
    return _Asked(provider.id, provider.base_url, str(body.get("model")), endpoint)


def _wanted(request: CompletionRequest, stream: bool) -> Iterator[str]:
    """The parameters by which a request says something of its own."""
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
            "{model} does not take `{name}`; `{other}` is sent in its place.",
            model=model,
            name=name,
            other=TOKEN_CAPS[name],
        )
    if name == "seed":
        return msg("{model} does not take `seed`; its texts cannot be repeated.", model=model)
    if name == "stop":
        return msg("{model} does not take `stop`; a text ends where the model ends it.", model=model)
    if name == "n":
        return msg("{model} does not take `n`; each text is a request of its own.", model=model)
    if name == "stream_options":
        return msg(
            "{model} does not take `stream_options`; Fabula counts the tokens of a stream when it reports none.",
            model=model,
        )
    return msg("{model} does not take `{name}`; the provider's default is used.", model=model, name=name)
