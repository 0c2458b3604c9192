"""Text generation: complete responses and streams, and an endpoint's models."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2
import openai
from openai import HttpxBinaryResponseContent
from openai.types import Model

from core.errors import BadRequest, NotFound, Unreadable
from core.message import msg, restored
from core.providers.chunk_parser import ChunkStream, parse_body
from core.providers.connection import Connection, call_until
from core.providers.errors import not_an_api_answer, translate_errors
from core.providers.parameters import PATHS, Negotiation, request_body
from core.providers.schemas import (
    Completion,
    CompletionRequest,
    Endpoint,
    Health,
    ModelInfo,
    ServedModel,
    TrainingDefaults,
    shutdown_day,
)
from core.providers.stream import TextStream

# OpenAI lists every model of an account; these families do not generate text.
_NOT_TEXT = re.compile(
    r"embedding|whisper|tts|dall-e|moderation|image|audio|realtime|transcribe|sora|search-similarity|computer-use"
)
MAX_MODELS = 500
"""Maximum number of models offered per endpoint, so that a page can list all of them. Users can enter others in its
settings.
"""
_LEGACY = re.compile(r"^(ft:)?(davinci-002|babbage-002|gpt-3\.5-turbo-instruct)")


class Generation(Connection):
    """Calls for text generation and model listing."""

    def complete(
        self, request: CompletionRequest, *, once: bool = False, stop: threading.Event | None = None
    ) -> Completion:
        """Complete `request`. Retries on `RateLimited` and `Unavailable`, unless an attempt may be billed.

        Args:
            request: the text request.
            once: makes a single attempt; the caller retries and records each attempt.
            stop: cancels the request at any time once it is set.

        Raises:
            RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
            Cancelled: it was stopped.
        """
        if stop is not None:
            return call_until(stop, lambda: self._acomplete(request, once=once))
        negotiation = Negotiation(self.provider, request_body(request, self.provider.capabilities))

        def call() -> Completion:
            while True:
                try:
                    return self._once(lambda: self._send(request, negotiation.body))
                except BadRequest as refusal:
                    if not negotiation.adapt_to(refusal):
                        raise

        return self._once(call) if once else self._with_paid_retries(call)

    async def _acomplete(self, request: CompletionRequest, *, once: bool) -> Completion:
        """`complete` on the running event loop."""
        negotiation = Negotiation(self.provider, request_body(request, self.provider.capabilities))

        async def call() -> Completion:
            while True:
                try:
                    with translate_errors(self.provider):
                        path, sdk = PATHS[request.endpoint], self._async_sdk()
                        answer = await sdk.post(path, cast_to=httpx2.Response, body=negotiation.body)
                        return parse_body(answer.content, self.provider, request.model, tools=bool(request.tools))
                except BadRequest as refusal:
                    if not negotiation.adapt_to(refusal):
                        raise

        return await (call() if once else self._with_paid_retries_async(call))

    def stream(self, request: CompletionRequest) -> TextStream:
        """Stream the first completion of `request`. Retries like `complete` until the first event, never after it."""
        extra: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        negotiation = Negotiation(self.provider, {**request_body(request, self.provider.capabilities), **extra})

        async def open_stream() -> ChunkStream:
            while True:
                try:
                    with translate_errors(self.provider):
                        return await self._open_stream(request, negotiation.body)
                except BadRequest as refusal:
                    if not negotiation.adapt_to(refusal):
                        raise

        return TextStream(self.provider, request.model, lambda: self._with_paid_retries_async(open_stream))

    def _send(self, request: CompletionRequest, body: Mapping[str, Any]) -> Completion:
        answer = self._sdk().post(PATHS[request.endpoint], cast_to=httpx2.Response, body=body)
        return parse_body(answer.content, self.provider, request.model, tools=bool(request.tools))

    async def _open_stream(self, request: CompletionRequest, body: Mapping[str, Any]) -> ChunkStream:
        path, kind = PATHS[request.endpoint], openai.AsyncStream[object]
        stream = await self._async_sdk().post(path, body=body, cast_to=object, stream=True, stream_cls=kind)
        return await ChunkStream.open(stream.response, self.provider, request.model, request.prompt)

    def models(self) -> list[ModelInfo]:
        """This endpoint's text models, newest first; at most `MAX_MODELS` unless the server is an engine."""
        if self.provider.models:
            return [self._chosen_model(name) for name in self.provider.models]
        return self._with_retries(lambda: self._text_models(self._sdk().models.list().data))

    def model(self, model_id: str) -> ModelInfo:
        """Look up one model, including those that `models` does not list (such as a checkpoint).

        Raises:
            ModelNotFound: the endpoint does not have this model.
        """
        return self._with_retries(lambda: self._model(self._sdk().models.retrieve(model_id)))

    def endpoint(self, model: str) -> Endpoint:
        """The endpoint to use for `model`; `chat` if the model supports both or its format is unknown."""
        if not self.provider.capabilities.engine_api:
            return "completion" if _LEGACY.match(model) else "chat"
        return _endpoint_of(model, self.models())

    def parallel(self, model: str) -> int | None:
        """The number of requests for `model` that this endpoint processes in parallel; None if it does not report that.

        Raises:
            ModelNotFound: the engine does not have this model.
        """
        return None if self.provider.kind != "engine" else self.model(model).parallel

    async def served(self, model: str) -> ServedModel:
        """Look up how this endpoint serves `model`, without retries, on the running event loop."""
        if not self.provider.capabilities.engine_api:
            return ServedModel(self.endpoint(model))
        with translate_errors(self.provider):
            models = self._text_models((await self._async_sdk().models.list()).data)
        return ServedModel(_endpoint_of(model, models), next((m.parallel for m in models if m.id == model), None))

    def count_tokens(self, model: str, text: str) -> int:
        """Exact number of tokens in `text`, according to the engine's tokenizer.

        Raises:
            NotFound: this endpoint is not an engine.
        """
        answer = self.engine_call("POST", "/fabula/v1/tokenize", {"model": model, "text": text})
        with translate_errors(self.provider):
            return int(answer["tokens"])

    def health(self) -> Health:
        """The engine's health report.

        Raises:
            NotFound: this endpoint is not an engine.
        """
        answer = self.engine_call("GET", "/health")
        with translate_errors(self.provider):
            return Health(
                version=str(answer["version"]),
                models=tuple(str(m) for m in answer.get("models") or ()),
                training=answer.get("training"),
                queue=int(answer.get("queue") or 0),
                tokens_per_s=answer.get("tokens_per_s"),
            )

    def engine_call(
        self, method: Literal["GET", "POST", "DELETE"], path: str, body: Mapping[str, object] | None = None
    ) -> Mapping[str, Any]:
        """Call the engine's own API; its paths start at the root, not under `/v1`.

        Raises:
            NotFound: this endpoint is not an engine.
        """
        url = self._engine_url(path)
        options = {} if body is None else {"body": body}

        def call() -> Mapping[str, Any]:
            sdk = self._sdk()
            answer: object = getattr(sdk, method.lower())(url, cast_to=object, **options)
            if not isinstance(answer, Mapping):
                raise not_an_api_answer(self.provider)
            return answer

        return self._with_retries(call)

    def engine_file(self, path: str) -> bytes:
        """Read a file through the engine's own API. Raises as `engine_call` does."""
        url = self._engine_url(path)
        return self._with_retries(lambda: self._sdk().get(url, cast_to=HttpxBinaryResponseContent).read())

    def _engine_url(self, path: str) -> str:
        if not self.provider.capabilities.engine_api:
            raise NotFound(
                msg("{name} is not a Fabula engine.", name=self.provider.name), msg("Use the engine for this.")
            )
        return self.provider.base_url.removesuffix("/").removesuffix("/v1") + path

    def _text_models(self, models: list[Model]) -> list[ModelInfo]:
        named = [m for m in models if isinstance(m.id, str) and m.id]
        if models and not named:
            raise Unreadable(
                msg("{name} lists models without ids.", name=self.provider.name),
                msg("Name the models to offer in the provider's settings."),
            )
        infos = [self._model(m) for m in named if not _NOT_TEXT.search(m.id) and not _is_alias(m)]
        infos.sort(key=lambda m: m.created or datetime.min.replace(tzinfo=UTC), reverse=True)
        return infos if self.provider.capabilities.engine_api else infos[:MAX_MODELS]

    def _chosen_model(self, name: str) -> ModelInfo:
        """A model entered by the user, without asking the server."""
        return self._model(Model.model_construct(id=name, created=0))

    def _model(self, model: Model) -> ModelInfo:
        engine_fields = (model.model_extra or {}).get("fabula") or {}
        created = model.created if isinstance(model.created, int | float) and model.created > 0 else None
        tuned = model.id.split(":") if model.id.startswith("ft:") else []
        return ModelInfo(
            id=model.id,
            provider=self.provider.id,
            base=engine_fields.get("base") or (tuned[1] if len(tuned) > 1 else None),
            format=engine_fields.get("format") or ("completion" if _LEGACY.match(model.id) else None),
            created=None if created is None else datetime.fromtimestamp(created, UTC),
            job=engine_fields.get("job"),
            not_trainable=_not_trainable(engine_fields),
            context=engine_fields.get("context"),
            parallel=_positive(engine_fields.get("parallel")),
            training=_training_defaults(engine_fields.get("training")),
            shutdown=shutdown_day(model.shutdown_date),
        )


def _is_alias(model: Model) -> bool:
    """Whether an entry of the engine's list is another name of a model that is listed too."""
    return bool(((model.model_extra or {}).get("fabula") or {}).get("alias_of"))


def _not_trainable(engine_fields: Mapping[str, Any]) -> str | None:
    """Why the engine cannot fine-tune a model, as plain text or as a message."""
    reason = engine_fields.get("not_trainable")
    return restored(reason, {"fabula": engine_fields.get("not_trainable_message")}) if isinstance(reason, str) else None


def _training_defaults(reported: object) -> TrainingDefaults | None:
    """The engine's defaults for jobs that train a model; None if the engine does not report them, or not yet."""
    if not isinstance(reported, Mapping):
        return None
    rank, alpha, rate = (reported.get(name) for name in ("lora_rank", "lora_alpha", "learning_rate"))
    if not isinstance(rate, int | float) or not isinstance(alpha, int | float | None):
        return None
    return TrainingDefaults(_positive(rank), alpha, float(rate))


def _endpoint_of(model: str, models: list[ModelInfo]) -> Endpoint:
    known = next((m.format for m in models if m.id == model), None)
    return "completion" if known == "completion" else "chat"


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
