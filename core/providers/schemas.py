"""Typed, frozen requests to and results from an endpoint, independent of the SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

from core import logs
from core.address_rules import UNRESTRICTED, AddressRules
from core.providers.capabilities import BY_KIND, Capabilities, Kind

Endpoint = Literal["chat", "completion"]
_USER = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True, slots=True)
class Provider:
    """One OpenAI-compatible endpoint.

    Attributes:
        id: short name used in the ledger and the price book, e.g. `engine`, `openai`.
        kind: family of the endpoint; see `capabilities`.
        name: display name.
        base_url: base URL for the SDK, with `/v1`.
        api_key: bearer token; never shown or logged.
        specific: its capabilities, if they differ from those of its kind.
        certificates: PEM of certificate authorities that are trusted for this endpoint in addition to the system's.
        models: the models that it offers, if its own list should not be queried.
        saved: whether it was added on the settings page and does not come from the environment.
        address_rules: the IP addresses that its address may lead to.
    """

    id: str
    kind: Kind
    name: str
    base_url: str
    api_key: str = field(repr=False)
    specific: Capabilities | None = None
    certificates: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    saved: bool = False
    address_rules: AddressRules = UNRESTRICTED

    def __post_init__(self) -> None:
        logs.register_secret(self.api_key)

    @property
    def capabilities(self) -> Capabilities:
        """The endpoint's capabilities, and how its API differs from OpenAI's."""
        return self.specific or BY_KIND[self.kind]

    @property
    def shown_url(self) -> str:
        """`base_url` for display, without user name and password."""
        return _USER.sub("//", self.base_url)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One text request. `n` > 1 requests several completions of the same prompt.

    Attributes:
        system: for a conversation without a system text of its own.
        messages: a whole conversation, sent instead of `prompt` where the endpoint is chat; `prompt` is then its text.
        response_format: OpenAI's `response_format` as JSON, or "". Chat only.
        tools: OpenAI's `tools` as JSON, or "". Chat only. A call of a tool is then an answer, see `Choice`.
        parallel_tool_calls: None leaves it to the provider.
    """

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
    messages: tuple[Mapping[str, Any], ...] = ()
    response_format: str = ""
    tools: str = ""
    parallel_tool_calls: bool | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion of a prompt.

    Attributes:
        text: the text; for calls of tools that the request offers, `{"tool_calls": [{"name", "arguments"}]}`, with
            `content` for words beside them.
        finish_reason: see `response_parser.normalize_finish_reason`; None if the endpoint gave none or it is
            unreadable.
        error: the endpoint's message about an error that ended the text; "" if there is none.
    """

    text: str
    finish_reason: str | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of one request. Token counts are None if the endpoint reported none.

    Attributes:
        texts: one choice for each requested completion.
        model: the name given by the endpoint, or else the requested model.
        cached_tokens: number of prompt tokens that the endpoint read from its cache.
    """

    texts: tuple[Choice, ...]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Facts about a stream, updated while it is read. None means unknown so far.

    Attributes:
        model: the name given by the endpoint; before the first event, the requested model.
        first_text_s: seconds from sending the request to the first text.
        duration_s: seconds from sending the request to the latest text.
        prompt_tokens, tokens: prompt and completion tokens as reported at the end; None if not reported.
        cached_tokens: number of prompt tokens that the endpoint read from its cache.
        chunks: number of text chunks received.
        tokens_per_s: speed after the first text, in tokens per second; counts chunks while `tokens` is unknown.
        finish_reason: see `response_parser.normalize_finish_reason`; None while streaming and after a broken stream;
            `unknown` if the endpoint ended the stream without giving one.
        started: whether the endpoint has sent the first event; from then on the request is billed.
        has_thinking: whether it has sent thinking, which is billed as output but is not part of the text.
    """

    model: str
    first_text_s: float | None = None
    duration_s: float | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    chunks: int = 0
    tokens_per_s: float | None = None
    finish_reason: str | None = None
    cached_tokens: int = 0
    started: bool = False
    has_thinking: bool = False


@dataclass(frozen=True, slots=True)
class TrainingDefaults:
    """The values that a model's fine-tuning jobs use unless a request sets others (reported by our engine).

    Attributes:
        lora_rank, lora_alpha: rank and alpha of a new adapter; None for a tuned model, which keeps its own.
        learning_rate: learning rate at a multiplier of 1.
    """

    lora_rank: int | None
    lora_alpha: float | None
    learning_rate: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that an endpoint offers.

    Attributes:
        base: the model it was tuned from, or None.
        format: the API format it supports; None if unknown.
        created: creation time, or None.
        job: id of the fine-tuning job that produced it; None if unknown.
        not_trainable: why it cannot be fine-tuned (reported by our engine); None if it can or this is unknown.
        context: context length in tokens, prompt and completion together (reported by our engine); None if unknown.
        parallel: number of requests processed in parallel (reported by our engine); None if unknown.
        training: defaults for a job that starts from it; None if unknown.
        shutdown: the day on which it stops, as the endpoint's list names it; None if it names none.
    """

    id: str
    provider: str
    base: str | None
    format: Literal["chat", "completion", "both"] | None
    created: datetime | None
    job: str | None = None
    not_trainable: str | None = None
    context: int | None = None
    parallel: int | None = None
    training: TrainingDefaults | None = None
    shutdown: date | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether it was fine-tuned from another model, so that training it continues an earlier training."""
        return self.base not in (None, self.id) or self.id.startswith("ft:")


def shutdown_day(value: object) -> date | None:
    """A model's `shutdown_date` in a list of models, documented as `YYYY-MM-DD` or null."""
    try:
        return date.fromisoformat(value[:10]) if isinstance(value, str) else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """How an endpoint serves a model: the API format to use, and `ModelInfo.parallel`."""

    endpoint: Endpoint
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A fine-tuning job to create. Hyperparameters that are None are chosen by the endpoint (`auto`).

    Attributes:
        method: one of `Capabilities.methods`; beta: of DPO.
        lora_rank, lora_alpha, warmup, schedule, early_stopping: see `core.engine.training_options`; only endpoints with
            `Capabilities.training_options` accept them.
        integrations: (tracker, project) pairs that the endpoint itself logs to, if it supports that.
    """

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    warmup: float | None = None
    schedule: str | None = None
    early_stopping: int | None = None
    integrations: tuple[tuple[str, str], ...] = ()
    method: str = "supervised"
    beta: float | None = None


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A fine-tuning job as reported by its endpoint. `status` is the API's value, including ones that the SDK's type
    lacks (`paused`).

    trained_tokens: the number of billed tokens; None if not known (yet) (OpenAI's API reference: "The total number of
        billable tokens processed by this fine-tuning job").

    Reported only by our engine; None for other endpoints: training_s: training time in seconds, without waiting and
        pauses. queue_position: position in the queue while waiting; the job in training is at position 1.
        estimated_start: expected start of its training, while waiting.
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
    """One event of a job. `type` is `message` or `metrics`; `data` is the endpoint's own object."""

    id: str
    at: datetime
    level: str
    message: str
    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteCheckpoint:
    """A checkpoint; `model` is its model id for requests."""

    id: str
    step: int
    model: str
    created_at: datetime | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Health:
    """The engine's health report.

    Attributes:
        version: version of the engine.
        models: ids of the models that it serves.
        training: job id, step and total steps of the job in training, or None.
        queue: number of queued jobs.
        tokens_per_s: last measured generation speed, or None.
    """

    version: str
    models: tuple[str, ...]
    training: Mapping[str, Any] | None
    queue: int
    tokens_per_s: float | None
