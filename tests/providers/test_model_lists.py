"""Lists of models: how often a provider that fails is asked again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from core.errors import FabulaError
from core.providers import Client, RetryPolicy
from core.providers.model_lists import ModelLists
from core.providers.schemas import Provider
from tests.support.fault_server import Answer, FaultServer, error, html, rate_limit, unauthorized

_ONE_TRY = RetryPolicy(tries=1)
_DAY_S = 86_400.0


class _Studio:
    """Lists of models with a clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lists = ModelLists(lambda: self.now_s)

    def ask(self, provider: Provider) -> list[str] | str:
        """Ids of the models, or the error's sentence."""
        try:
            return [info.id for info in self.lists.of(provider, Client(provider, retry_policy=_ONE_TRY).models)]
        except FabulaError as failure:
            return failure.what

    def asked(self, server: FaultServer, provider: Provider, *moments_s: float) -> int:
        """How many requests reach the server if the lists are read at these moments."""
        before = len(server.requests)
        for self.now_s in moments_s:
            self.ask(provider)
        return len(server.requests) - before


@pytest.mark.parametrize(
    "answer",
    [unauthorized(), error(403, "Country not supported"), error(404, "Not Found"), html(404), error(400, "no")],
    ids=["401", "403", "404", "web page", "400"],
)
def test_a_failure_that_cannot_pass_is_not_asked_for_again(server: FaultServer, answer: Answer) -> None:
    server.enqueue(answer)
    studio, provider = _Studio(), server.provider()
    first = studio.ask(provider)
    assert studio.asked(server, provider, 5.0, 600.0, _DAY_S) == 0
    assert studio.ask(provider) == first and isinstance(first, str)


@pytest.mark.parametrize(
    "change",
    [
        lambda studio, provider: studio.lists.forget(provider.id) or provider,
        lambda studio, provider: studio.lists.forget() or provider,
        lambda studio, provider: replace(provider, api_key="another-key"),
    ],
    ids=["forgotten", "all forgotten", "edited"],
)
def test_a_refused_key_is_tried_again_once_something_has_changed(
    server: FaultServer, change: Callable[[_Studio, Provider], Provider]
) -> None:
    server.enqueue(unauthorized())
    studio, provider = _Studio(), server.provider()
    assert "refused the key" in studio.ask(provider)
    assert studio.ask(change(studio, provider)) == ["writer"]


@pytest.mark.parametrize(
    ("answer", "moments_s", "requests"),
    [
        (error(503, "busy"), (5.0, 11.0, 20.0, 32.0, 50.0), 2),  # after 10 s, then after 20 s
        (error(503, "busy"), (1_000.0, 2_000.0, 3_000.0, 4_000.0, 5_000.0, 6_000.0, 6_299.0, 6_301.0), 7),
        (rate_limit(retry_after="900"), (600.0, 901.0), 1),
    ],
    ids=["growing waits", "at most five minutes", "as long as the server asks"],
)
def test_a_failure_that_may_pass_is_asked_for_less_and_less(
    server: FaultServer, answer: Answer, moments_s: tuple[float, ...], requests: int
) -> None:
    server.enqueue(*[answer] * 20)
    studio, provider = _Studio(), server.provider()
    studio.ask(provider)
    assert studio.asked(server, provider, *moments_s) == requests


def test_a_list_that_arrives_is_read_anew_each_time(server: FaultServer) -> None:
    studio, provider = _Studio(), server.provider()
    assert studio.asked(server, provider, 0.0, 1.0, 2.0) == 3
    server.enqueue(error(503, "busy"))
    studio.ask(provider)
    studio.now_s = 20.0
    assert studio.ask(provider) == ["writer"]
    server.enqueue(error(503, "busy"))
    assert studio.asked(server, provider, 20.0, 31.0) == 2  # the waits start again at the shortest after a success


def test_the_engine_is_asked_at_once_while_it_starts(server: FaultServer) -> None:
    server.enqueue(*[error(503, "starting")] * 3)
    studio, engine = _Studio(), server.provider("engine")
    assert studio.asked(server, engine, 0.0, 1.0, 2.0) == 3
    assert studio.ask(engine) == ["writer"]
