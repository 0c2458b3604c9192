"""POST /v1/completions and /v1/chat/completions, with and without streaming."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine import VERSION
from core.engine.api.connections import MODEL_HEADER
from core.engine.api.errors import ApiError, bad_value, missing_parameter
from core.engine.api.models import Model, ModelCatalogue
from core.engine.api.requests import EventStream, json_body, until_disconnected
from core.engine.finetune_format import BadLine, is_missing
from core.engine.serving import chat, sampling
from core.engine.serving.generate import GeneratedChunk, GenerationEnd, count_tokens, generate, stream_chunks
from core.engine.serving.llama import Backend, BaseModel, Pool, too_long, too_much
from core.engine.serving.sampling import Sampling
from core.message import msg

Prompt: TypeAlias = "str | list[int]"
_MAX_PROMPTS = 128
CLAMP_HEADER = "fabula-clamp-max-tokens"
"""Request header: a token limit that does not fit into the context is lowered, not refused."""
_ADMIT_TIMEOUT_S = 0.5  # how long a stream's headers wait for a model to load; they never wait for a slot


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A parsed request.

    Attributes:
        chat: whether to respond in the chat format; otherwise the completion format is used.
        model: the requested model.
        base: its base model.
        prompts: texts or lists of token ids.
        sampling: sampling parameters.
        is_clamped: whether a token limit that does not fit into the context is lowered.
    """

    chat: bool
    model: Model
    base: BaseModel
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    is_clamped: bool

    @property
    def reserved(self) -> int:
        """Tokens of the context that the answer needs: its limit, or 1 if it may be shorter."""
        limit = int(self.sampling.options["n_predict"])
        return 1 if self.is_clamped else max(1, limit)

    @property
    def headers(self) -> dict[str, str]:
        """Response headers: the model's own id, because the body has the name that was asked for."""
        return {MODEL_HEADER: quote(self.model.own_id, safe=":/@+ ")}

    def llama_requests(self) -> list[dict[str, Any]]:
        """Build one llama.cpp request per choice: n for the first prompt, then n for the second, …"""
        whole = {"repeat_last_n": self.base.context}  # penalties apply to the whole text, as at OpenAI
        return [
            {**self.sampling.options, **whole, "prompt": prompt, "seed": self.sampling.seed_of(choice)}
            for prompt in self.prompts
            for choice in range(self.sampling.n)
        ]


class Inference:
    """The two endpoints.

    Attributes:
        tokens_per_s: speed of the most recent generation; None before the first one.
        speeds: the same per base model.
    """

    def __init__(self, models: ModelCatalogue, pool: Pool) -> None:
        self._models, self._pool = models, pool
        self.tokens_per_s: float | None = None
        self.speeds: dict[str, float] = {}

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await _body(request)
        model, base = await self._resolve_model(body)
        prompts = tuple(prompt or _empty_prompt(base) for prompt in _prompts(body))
        _check_vocabulary(prompts, base)
        options = sampling.of_completion(body)
        return await self._respond(
            request, InferenceRequest(False, model, base, prompts, options, CLAMP_HEADER in request.headers)
        )

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await _body(request)
        model, base = await self._resolve_model(body)
        # This runs in a thread: a template is code from the model, and other requests continue while it runs.
        chat_format = await run_in_threadpool(chat.format_for, base.card)
        if chat_format is None:
            raise ApiError(
                400, msg("The model '{id}' has no chat format here; use /v1/completions.", id=model.id), param="model"
            )
        if body.get("messages") is None:
            raise missing_parameter("messages")
        try:
            text = await run_in_threadpool(chat_format.prompt, chat.parse(body["messages"]))
        except BadLine as exc:
            param = exc.path or "messages"
            raise bad_value(param, msg("Invalid '{param}': {sentence}", param=param, sentence=exc.sentence)) from exc
        options = sampling.of_chat(body, chat_format.stop)
        return await self._respond(
            request, InferenceRequest(True, model, base, (text,), options, CLAMP_HEADER in request.headers)
        )

    async def _resolve_model(self, body: dict[str, Any]) -> tuple[Model, BaseModel]:
        if is_missing(body.get("model")):
            raise missing_parameter("model")
        model = self._models.find(body["model"])
        return model, await run_in_threadpool(self._models.base, model.base)

    async def _respond(self, request: Request, parsed: InferenceRequest) -> Response:
        if not parsed.sampling.stream:
            return await until_disconnected(request, self._respond_json(parsed))
        admitted = asyncio.create_task(self._admit(parsed))
        try:
            await until_disconnected(request, asyncio.wait({admitted}, timeout=_ADMIT_TIMEOUT_S))
            if admitted.done():
                admitted.result()  # raises the refusal, which has its own HTTP status
        except BaseException:
            admitted.cancel()
            raise
        return EventStream(self._stream(parsed, admitted), parsed.headers)

    async def _admit(self, parsed: InferenceRequest) -> None:
        """Load the model and check the length of the prompts, without waiting for a slot. Raises ApiError."""
        async with self._pool.lease(parsed.base, parsed.model.adapter) as backend:
            await _check_lengths(backend, parsed)

    async def _respond_json(self, parsed: InferenceRequest) -> Response:
        async with self._pool.lease(parsed.base, parsed.model.adapter) as backend:
            await _check_lengths(backend, parsed)  # llama.cpp rounds its context up to a multiple of 256
            completions = await _gather(
                [generate(backend, options) for options in parsed.llama_requests()], parsed.sampling.is_concurrent
            )
        ends = [self._record_speed(completion.end, parsed.base.name) for completion in completions]
        builder = _ResponseBuilder(parsed)
        choices = [builder.choice(index, completion) for index, completion in enumerate(completions)]
        body = {**builder.head(), "choices": choices, "usage": _usage(ends, parsed.sampling.n)}
        return JSONResponse(body, headers=parsed.headers)

    async def _stream(self, parsed: InferenceRequest, admitted: asyncio.Task[None]) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events once the request is admitted. Errors are sent as events, as at OpenAI."""
        builder = _ResponseBuilder(parsed)
        ends: dict[int, GenerationEnd] = {}
        started = False
        async with AsyncExitStack() as stack:
            try:
                await admitted
                backend = await stack.enter_async_context(self._pool.lease(parsed.base, parsed.model.adapter))
                streams = [stream_chunks(backend, options) for options in parsed.llama_requests()]
                chunks = _merge(streams) if parsed.sampling.is_concurrent and len(streams) > 1 else _sequential(streams)
                async for index, chunk in await stack.enter_async_context(aclosing(chunks)):
                    if not started and parsed.chat:
                        for position in range(len(parsed.prompts) * parsed.sampling.n):
                            yield builder.opening(position)
                    started = True
                    for event in builder.chunks(index, chunk):
                        yield event
                    if chunk.end:
                        ends[index] = self._record_speed(chunk.end, parsed.base.name)
            except ApiError as exc:
                yield _event(exc.body())
                return
        if parsed.sampling.include_usage:
            yield builder.usage(_usage([ends[index] for index in sorted(ends)], parsed.sampling.n))
        yield b"data: [DONE]\n\n"

    def _record_speed(self, end: GenerationEnd | None, base: str) -> GenerationEnd:
        assert end is not None
        if end.tokens_per_s:
            self.tokens_per_s = self.speeds[base] = end.tokens_per_s
        return end


class _ResponseBuilder:
    """Builds OpenAI's response JSON for one request."""

    def __init__(self, parsed: InferenceRequest) -> None:
        self._chat = parsed.chat
        self._usage = {"usage": None} if parsed.sampling.include_usage else {}
        code = secrets.token_hex(12)
        self._common = {
            "id": f"chatcmpl-{code}" if parsed.chat else f"cmpl-{code}",
            "created": int(time.time()),
            "model": parsed.model.id,
            "system_fingerprint": f"fabula-{VERSION}",
        }

    def head(self) -> dict[str, Any]:
        return {**self._common, "object": "chat.completion" if self._chat else "text_completion"}

    def choice(self, index: int, chunk: GeneratedChunk) -> dict[str, Any]:
        reason = chunk.end.reason if chunk.end else None
        if not self._chat:
            return {"index": index, "text": chunk.text, "logprobs": None, "finish_reason": reason}
        message = {"role": "assistant", "content": chunk.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def opening(self, index: int) -> bytes:
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None}, None)

    def chunks(self, index: int, chunk: GeneratedChunk) -> list[bytes]:
        """Events for one chunk: its text, if any, and the end as a separate event, as at OpenAI."""
        events = [self._chunk(index, {"content": chunk.text}, None)] if chunk.text else []
        return [*events, self._chunk(index, {}, chunk.end.reason)] if chunk.end else events

    def usage(self, usage: dict[str, int]) -> bytes:
        return _event({**self._common, "object": self._object, "choices": [], "usage": usage})

    @property
    def _object(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None) -> bytes:
        text = {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        choice = {"index": index, **text, "logprobs": None, "finish_reason": reason}
        return _event({**self._common, "object": self._object, "choices": [choice], **self._usage})


async def _body(request: Request) -> dict[str, Any]:
    """The body of a request. In the API of 2023, the model is the engine in the path (`/v1/engines/{engine}/…`)."""
    body, engine = await json_body(request), request.path_params.get("engine")
    if engine is None:
        return body
    if not is_missing(body.get("model")) and body["model"] != engine:
        raise bad_value("model", msg("The path and 'model' name different models. Leave 'model' out."))
    return {**body, "model": engine}


def _usage(ends: Sequence[GenerationEnd], n: int) -> dict[str, int]:
    """Total usage; each prompt is counted once."""
    prompt = sum(end.prompt_tokens for end in ends[::n])
    completion = sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _prompts(body: dict[str, Any]) -> tuple[Prompt, ...]:
    """Parse `prompt`: a text, a list of texts, a list of token ids, or a list of such lists."""
    raw: Any = body.get("prompt")
    if raw is None:
        return ("",)
    if isinstance(raw, str):
        return (raw,)
    if _is_tokens(raw):
        return (raw,)
    is_list = isinstance(raw, list) and 0 < len(raw) <= _MAX_PROMPTS
    if not is_list or not all(isinstance(prompt, str) or _is_tokens(prompt) for prompt in raw):
        raise bad_value(
            "prompt",
            msg(
                "'prompt' must be a string, token ids, or a list of at most {max_prompts} of these.",
                max_prompts=_MAX_PROMPTS,
            ),
        )
    return tuple(raw)


def _empty_prompt(base: BaseModel) -> Prompt:
    """The prompt of a request without one: the start of a text, or for a model without that token the end of the
    previous text, as at OpenAI (`<|endoftext|>`). llama.cpp does not generate from nothing at all.
    """
    return "" if base.card.bos is not None else [base.card.eos]


def _check_vocabulary(prompts: Sequence[Prompt], base: BaseModel) -> None:
    """Raise ApiError 400 for a token id outside the model's vocabulary."""
    highest = max((max(prompt) for prompt in prompts if not isinstance(prompt, str)), default=0)
    if highest >= base.card.vocab_size:
        raise bad_value(
            "prompt",
            msg("'prompt' contains a token id that is not in the model's vocabulary: {highest}.", highest=highest),
        )


async def _check_lengths(backend: Backend, parsed: InferenceRequest) -> None:
    """Raise ApiError 400 for a prompt that, with its answer, exceeds the context."""
    base, limit = backend.base, parsed.reserved
    own = base.card.context_length if base.is_limited else None
    param = "messages" if parsed.chat else "prompt"
    for prompt in parsed.prompts:
        if not isinstance(prompt, str):
            tokens = len(prompt)
        elif len(prompt.encode()) + 2 + limit <= base.context:  # a token has at least one byte; 2: <bos>, leading space
            continue
        else:
            tokens = await count_tokens(backend, prompt) + (base.card.bos is not None)
        if tokens >= base.context:
            raise too_long(base.context, tokens, own, param)
        if tokens + limit > base.context:
            raise too_much(base.context, tokens, limit, own, param)


def _is_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in value)
    )


async def _gather(
    coroutines: Sequence[Coroutine[Any, Any, GeneratedChunk]], concurrently: bool
) -> list[GeneratedChunk]:
    """Run all completions and return their results; the first error cancels the others."""
    if not concurrently:
        return await _one_by_one(coroutines)
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _one_by_one(coroutines: Sequence[Coroutine[Any, Any, GeneratedChunk]]) -> list[GeneratedChunk]:
    """Run all completions one after another."""
    try:
        return [await coroutine for coroutine in coroutines]
    finally:
        for coroutine in coroutines:
            coroutine.close()  # close those that were never started


async def _sequential(
    streams: Sequence[AsyncGenerator[GeneratedChunk, None]],
) -> AsyncGenerator[tuple[int, GeneratedChunk], None]:
    """Yield (index, chunk) for the first generation, then for the second, …"""
    for index, stream in enumerate(streams):
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield index, chunk


async def _merge(
    streams: Sequence[AsyncGenerator[GeneratedChunk, None]],
) -> AsyncGenerator[tuple[int, GeneratedChunk], None]:
    """Yield (index, chunk) from several parallel generations as the chunks arrive. Closing it closes all of them."""
    queue: asyncio.Queue[tuple[int, GeneratedChunk] | Exception | None] = asyncio.Queue(maxsize=64)

    async def pump(index: int, stream: AsyncGenerator[GeneratedChunk, None]) -> None:
        try:
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    await queue.put((index, chunk))
            await queue.put(None)
        except Exception as exc:  # pass every error to the reader, which would otherwise wait indefinitely
            await queue.put(exc)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        n_running = len(tasks)
        while n_running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                n_running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
