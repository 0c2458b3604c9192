"""What goes to an endpoint and what comes back: typed, frozen, free of the SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from core import logs

Kind = Literal["engine", "openai", "azure", "compatible"]
Endpoint = Literal["chat", "completion"]
_USER = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True, slots=True)
class Provider:
    """One OpenAI-shaped endpoint.

    Attributes:
        id: short name that the ledger and the price book use, e.g. `engine`, `openai`.
        kind: what family of endpoint it is.
        name: for people.
        base_url: the address that the SDK calls, with `/v1`.
        api_key: bearer token; never shown, logged or stored.
    """

    id: str
    kind: Kind
    name: str
    base_url: str
    api_key: str = field(repr=False)

    def __post_init__(self) -> None:
        logs.register_secret(self.api_key)

    @property
    def shown_url(self) -> str:
        """`base_url` for people: without a user name and a password."""
        return _USER.sub("//", self.base_url)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request for text. `n` > 1 asks for several answers to the same prompt."""

    model: str
    prompt: str
    system: str = ""
    endpoint: Endpoint = "chat"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer.

    Attributes:
        finish_reason: see `finish_reasons`; None: the endpoint gave none that can be read.
        error: what the endpoint says of an error that ended the text; "" where it says nothing.
    """

    text: str
    finish_reason: str | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """The answers to one request, and what they took. Token counts are None when the endpoint gave none.

    Attributes:
        model: as the endpoint named it; where it named none, as it was asked for.
        cached_tokens: how many of the prompt's tokens the endpoint says it read from its cache.
    """

    texts: tuple[Choice, ...]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What is known about a stream, growing while it is read. None: not known (yet).

    Attributes:
        model: the model as the endpoint named it (before the first answer: as it was asked for).
        first_text_s: seconds from sending to the first text.
        duration_s: seconds from sending to the newest text.
        prompt_tokens, tokens: as the endpoint counted them, at the end; None if it never did.
        cached_tokens: how many of the prompt's tokens it says it read from its cache.
        pieces: how many pieces of text have come.
        tokens_per_s: rate after the first text; by pieces while `tokens` is not known.
        finish_reason: see `finish_reasons`; None while it runs and when it was cut; `unknown` where the endpoint has
            ended it without saying why.
        begun: the endpoint has sent the first event of an answer: from then on the request is billed.
        thought: it has sent thinking, which is billed as output and is no part of the text.
    """

    model: str
    first_text_s: float | None = None
    duration_s: float | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    pieces: int = 0
    tokens_per_s: float | None = None
    finish_reason: str | None = None
    cached_tokens: int = 0
    begun: bool = False
    thought: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that an endpoint offers.

    Attributes:
        base: the model it was tuned from, or None.
        format: which endpoint it answers on; None: not known.
        created: when, or None.
        job: id of the fine-tuning job that made it, if the endpoint says so.
        not_trainable: why no job can start from it, where the endpoint (our engine) says so.
        context: most tokens of a request, prompt and answer together, where the endpoint (our engine) says so.
    """

    id: str
    provider: str
    base: str | None
    format: Literal["chat", "completion", "both"] | None
    created: datetime | None
    job: str | None = None
    not_trainable: str | None = None
    context: int | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A fine-tuning job to create. None for a hyper-parameter leaves the choice to the endpoint (`auto`).

    `integrations` are (tracker, project) pairs that the endpoint logs to by itself, where it can.
    """

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    integrations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A fine-tuning job as its endpoint tells it. `status` is its own word, beyond the SDK's type too (`paused`).

    Our engine tells more; None from every other endpoint:
        training_s: seconds in which it was trained, without waiting and pauses.
        queue_position: in line, while it waits; the job that trains now is 1.
        estimated_start: when its training should begin, while it waits.
    """

    id: str
    status: str
    model: str
    fine_tuned_model: str | None
    error: str | None
    trained_tokens: int | None
    estimated_finish: datetime | None
    result_files: tuple[str, ...]
    training_file: str
    validation_file: str | None
    created_at: datetime | None
    finished_at: datetime | None
    seed: int | None
    hyperparameters: Mapping[str, Any]
    intent: str | None
    training_s: float | None = None
    queue_position: int | None = None
    estimated_start: datetime | None = None


@dataclass(frozen=True, slots=True)
class RemoteEvent:
    """One event of a job. `type` is `message` or `metrics`; `data` as the endpoint gave it."""

    id: str
    at: datetime
    level: str
    message: str
    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteCheckpoint:
    """A checkpoint, usable as a model under the name `model`."""

    id: str
    step: int
    model: str
    created_at: datetime | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Health:
    """What the engine says about itself.

    Attributes:
        training: job id, step and total steps of the job that trains now, or None.
        queue: how many jobs wait.
        tokens_per_s: last measured speed of writing, or None.
    """

    version: str
    models: tuple[str, ...]
    training: Mapping[str, Any] | None
    queue: int
    tokens_per_s: float | None
