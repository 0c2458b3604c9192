"""Text from a model: whole answers, many at once, or as a stream."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2
import openai
from openai.types import Model

from core.errors import BadRequest, NotFound
from core.message import msg, restored
from core.providers.background_loop import call_until
from core.providers.chunk_parser import completion_in
from core.providers.chunk_stream import ChunkStream
from core.providers.connection import Connection
from core.providers.errors import not_an_api_answer, translated
from core.providers.parameters import Negotiation
from core.providers.request_bodies import PATHS, body_of
from core.providers.schemas import Completion, CompletionRequest, Endpoint, Health, ModelInfo
from core.providers.stream import TextStream

# OpenAI lists every model of an account; these families write no text.
_NOT_TEXT = re.compile(
    r"embedding|whisper|tts|dall-e|moderation|image|audio|realtime|transcribe|sora|search-similarity|computer-use"
)
_LEGACY = re.compile(r"^(ft:)?(davinci-002|babbage-002|gpt-3\.5-turbo-instruct)")


class Generation(Connection):
    """The calls that give text, and the models that give it."""

    def complete(
        self, request: CompletionRequest, *, once: bool = False, stop: threading.Event | None = None
    ) -> Completion:
        """The answers to `request`. Repeats on `RateLimited` and `Unavailable`, unless a try may be billed.

        Args:
            request: what is asked for.
            once: one try; the caller repeats, and books every one of them.
            stop: ends the request in every state as soon as it is set.

        Raises:
            RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
            Cancelled: it was stopped.
        """
        if stop is not None:
            return call_until(stop, lambda: self._acomplete(request, once=once))
        negotiation = Negotiation(self.provider, body_of(request, self.provider.kind))

        def call() -> Completion:
            while True:
                try:
                    return self._once(lambda: self._completed(request, negotiation.body))
                except BadRequest as refusal:
                    if not negotiation.concedes(refusal):
                        raise

        return self._once(call) if once else self._bought(call)

    async def _acomplete(self, request: CompletionRequest, *, once: bool) -> Completion:
        """`complete` on the running event loop."""
        negotiation = Negotiation(self.provider, body_of(request, self.provider.kind))

        async def call() -> Completion:
            while True:
                try:
                    with translated(self.provider):
                        path, sdk = PATHS[request.endpoint], self._async_sdk()
                        answer = await sdk.post(path, cast_to=httpx2.Response, body=negotiation.body)
                        return completion_in(answer.content, self.provider, request.model)
                except BadRequest as refusal:
                    if not negotiation.concedes(refusal):
                        raise

        return await (call() if once else self._abought(call))

    def stream(self, request: CompletionRequest) -> TextStream:
        """The first answer to `request`, as it is written. Repeats as `complete` until its first event, never after."""
        extra: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        negotiation = Negotiation(self.provider, {**body_of(request, self.provider.kind), **extra})

        async def open_stream() -> ChunkStream:
            while True:
                try:
                    with translated(self.provider):
                        return await self._opened(request, negotiation.body)
                except BadRequest as refusal:
                    if not negotiation.concedes(refusal):
                        raise

        return TextStream(self.provider, request.model, lambda: self._abought(open_stream))

    def _completed(self, request: CompletionRequest, body: Mapping[str, Any]) -> Completion:
        answer = self._sdk().post(PATHS[request.endpoint], cast_to=httpx2.Response, body=body)
        return completion_in(answer.content, self.provider, request.model)

    async def _opened(self, request: CompletionRequest, body: Mapping[str, Any]) -> ChunkStream:
        path, kind = PATHS[request.endpoint], openai.AsyncStream[object]
        stream = await self._async_sdk().post(path, body=body, cast_to=object, stream=True, stream_cls=kind)
        return await ChunkStream.begun(stream.response, self.provider, request.model, request.prompt)

    def models(self) -> list[ModelInfo]:
        """The models that write text here, newest first."""

        return self._patiently(lambda: self._listed(self._sdk().models.list().data))

    def model(self, model_id: str) -> ModelInfo:
        """One model, also one that `models` leaves out (a checkpoint).

        Raises:
            ModelNotFound: there is no such model here.
        """
        return self._patiently(lambda: self._model(self._sdk().models.retrieve(model_id)))

    def endpoint(self, model: str) -> Endpoint:
        """Which endpoint `model` answers on; `chat` where it takes both or does not say."""
        if self.provider.kind != "engine":
            return "completion" if _LEGACY.match(model) else "chat"
        return _endpoint_of(model, self.models())

    async def aendpoint(self, model: str) -> Endpoint:
        """`endpoint`, one try, on the running event loop."""
        if self.provider.kind != "engine":
            return self.endpoint(model)
        with translated(self.provider):
            return _endpoint_of(model, self._listed((await self._async_sdk().models.list()).data))

    def count_tokens(self, model: str, text: str) -> int:
        """Exact number of tokens of `text`, by the engine's own tokenizer.

        Raises:
            NotFound: this endpoint does not count tokens.
        """
        answer = self._engine("POST", "/fabula/v1/tokenize", {"model": model, "text": text})
        with translated(self.provider):
            return int(answer["tokens"])

    def health(self) -> Health:
        """What the engine says about itself.

        Raises:
            NotFound: this endpoint is no engine.
        """
        answer = self._engine("GET", "/health", None)
        with translated(self.provider):
            return Health(
                version=str(answer["version"]),
                models=tuple(str(m) for m in answer.get("models") or ()),
                training=answer.get("training"),
                queue=int(answer.get("queue") or 0),
                tokens_per_s=answer.get("tokens_per_s"),
            )

    def _engine(self, method: Literal["GET", "POST"], path: str, body: dict[str, str] | None) -> Mapping[str, Any]:
        """A call outside OpenAI's API; its paths start at the root, not under `/v1`."""
        if self.provider.kind != "engine":
            raise NotFound(
                msg("{name} is not an engine of Fabula.", name=self.provider.name), msg("Use the engine for this.")
            )
        url = self.provider.base_url.removesuffix("/").removesuffix("/v1") + path

        def call() -> Mapping[str, Any]:
            sdk = self._sdk()
            answer = sdk.get(url, cast_to=object) if method == "GET" else sdk.post(url, cast_to=object, body=body)
            if not isinstance(answer, Mapping):
                raise not_an_api_answer(self.provider)
            return answer

        return self._patiently(call)

    def _listed(self, models: list[Model]) -> list[ModelInfo]:
        found = [self._model(m) for m in models if not _NOT_TEXT.search(m.id)]
        return sorted(found, key=lambda m: m.created or datetime.min.replace(tzinfo=UTC), reverse=True)

    def _model(self, model: Model) -> ModelInfo:
        ours = (model.model_extra or {}).get("fabula") or {}
        created = model.created if isinstance(model.created, int | float) and model.created > 0 else None
        tuned = model.id.split(":") if model.id.startswith("ft:") else []
        return ModelInfo(
            id=model.id,
            provider=self.provider.id,
            base=ours.get("base") or (tuned[1] if len(tuned) > 1 else None),
            format=ours.get("format") or ("completion" if _LEGACY.match(model.id) else None),
            created=None if created is None else datetime.fromtimestamp(created, UTC),
            job=ours.get("job"),
            not_trainable=_not_trainable(ours),
            context=ours.get("context"),
        )


def _not_trainable(ours: Mapping[str, Any]) -> str | None:
    """Why the engine trains no job from a model: its English words, or the message that they are."""
    words = ours.get("not_trainable")
    return restored(words, {"fabula": ours.get("not_trainable_message")}) if isinstance(words, str) else None


def _endpoint_of(model: str, among: list[ModelInfo]) -> Endpoint:
    known = next((m.format for m in among if m.id == model), None)
    return "completion" if known == "completion" else "chat"
