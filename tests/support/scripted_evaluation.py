"""Runs evaluations as the worker does, with a scripted model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from core.db.store import Store
from core.errors import FabulaError
from core.evaluation import evaluation_run
from core.providers import Choice, Completion, CompletionRequest, Provider
from tests.support.fakes import FakeRegistry

Say = Callable[[CompletionRequest], Any]


@dataclass
class ScriptedModel:
    """A model that answers with `say` and records its requests."""

    say: Say
    provider: Provider = field(default_factory=lambda: Provider("engine", "engine", "The engine", "http://x/v1", ""))
    asked: list[CompletionRequest] = field(default_factory=list)
    at_a_time: int | None = None

    def complete(self, request: CompletionRequest, *, once: bool = False, stop: object = None) -> Completion:
        assert once  # retries are made by the caller, which bills every attempt
        self.asked.append(request)
        answer = self.say(request)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Completion) else Completion((Choice(answer, "stop"),), request.model, 5, 2)

    def endpoint(self, model: str) -> str:
        return "chat"

    def parallel(self, model: str) -> int | None:
        return self.at_a_time


class InstantEvent(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def right(request: CompletionRequest) -> str:
    return f" {request.prompt.removesuffix(' ->').split('about ')[1].title()}.\nBecause."


def go(store: Store, evaluation_id: str, writer: ScriptedModel, stopping: threading.Event | None = None) -> None:
    """Like the worker."""
    registry: Any = FakeRegistry({writer.provider.id: writer})
    try:
        evaluation_run.carry_out(store, registry, evaluation_id, stopping or InstantEvent())
    except FabulaError as exc:
        evaluation_run.give_up(store, evaluation_id, exc)
