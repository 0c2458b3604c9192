"""POST /v1/completions and /v1/chat/completions, whole and streamed."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine import VERSION, chat, sampling
from core.engine.errors import ApiError, bad_value
from core.engine.generate import GeneratedChunk, GenerationEnd, count_tokens, generate_whole, stream_chunks
from core.engine.llama import Backend, BaseModel, Pool, too_long
from core.engine.models import Model, ModelCatalogue
from core.engine.requests import json_body, until_disconnected
from core.engine.sampling import Sampling
from core.engine.streaming import EventStream
from core.engine.training_line import BadLine, is_missing
from core.message import msg

Prompt: TypeAlias = "str | list[int]"
_MAX_PROMPTS = 128
_PATIENCE_S = 0.5  # a streamed answer's headers wait so long for a model that is being loaded, and never for a turn


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A request that has been understood.

    Attributes:
        chat: whether the answer is worded as a chat or as a completion.
        model: its id goes into the answer.
    """

    chat: bool
    model: Model
    base: BaseModel
    prompts: tuple[Prompt, ...]
    sampling: Sampling

    def orders(self) -> list[dict[str, Any]]:
        """llama.cpp's request for each choice: n for the first prompt, then n for the second, …"""
        return [
            {**self.sampling.options, "prompt": prompt, "seed": self.sampling.seed_of(choice)}
            for prompt in self.prompts
            for choice in range(self.sampling.n)
        ]


class Inference:
    """The two endpoints. `tokens_per_s` is the speed of the last answer, None before the first."""

    def __init__(self, models: ModelCatalogue, pool: Pool) -> None:
        self._models, self._pool = models, pool
        self.tokens_per_s: float | None = None

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await json_body(request)
        model, base = await self._open(body)
        prompts = _prompts(body)
        _check_vocabulary(prompts, base)
        return await self._answer(request, InferenceRequest(False, model, base, prompts, sampling.of_completion(body)))

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await json_body(request)
        model, base = await self._open(body)
        template = chat.template_for(base.card.architecture)
        if template is None:
            raise ApiError(
                400, msg("The model '{id}' has no chat format here; use /v1/completions.", id=model.id), param="model"
            )
        try:
            messages = chat.parse(body.get("messages"))
        except BadLine as exc:
            raise bad_value("messages", msg("Invalid 'messages': {sentence}", sentence=exc.sentence)) from exc
        text = chat.prompt(messages, template)
        return await self._answer(
            request, InferenceRequest(True, model, base, (text,), sampling.of_chat(body, template.stop))
        )

    async def _open(self, body: dict[str, Any]) -> tuple[Model, BaseModel]:
        if is_missing(body.get("model")):
            message = msg("You must provide a model parameter.")
            raise ApiError(400, message, param="model", code="missing_required_parameter")
        model = self._models.find(body["model"])
        return model, await run_in_threadpool(self._models.base, model.base)

    async def _answer(self, request: Request, work: InferenceRequest) -> Response:
        if not work.sampling.stream:
            return await until_disconnected(request, self._whole(work))
        admitted = asyncio.create_task(self._admit(work))
        try:
            await until_disconnected(request, asyncio.wait({admitted}, timeout=_PATIENCE_S))
            if admitted.done():
                admitted.result()  # a refusal has a status of its own
        except BaseException:
            admitted.cancel()
            raise
        return EventStream(self._stream(work, admitted))

    async def _admit(self, work: InferenceRequest) -> None:
        """Load the model and see that it can take the prompts, without waiting for a turn. Raises ApiError."""
        async with self._pool.lease(work.base, work.model.adapter) as backend:
            for prompt in work.prompts:
                await _check_length(backend, prompt)

    async def _whole(self, work: InferenceRequest) -> Response:
        async with self._pool.lease(work.base, work.model.adapter) as backend:
            answers = await _all([generate_whole(backend, order) for order in work.orders()], work.sampling.together)
        ends = [self._noted(answer.end) for answer in answers]
        shape = _Shape(work)
        choices = [shape.choice(index, answer) for index, answer in enumerate(answers)]
        return JSONResponse({**shape.head(), "choices": choices, "usage": _usage(ends, work.sampling.n)})

    async def _stream(self, work: InferenceRequest, admitted: asyncio.Task[None]) -> AsyncGenerator[bytes, None]:
        """Server-sent events, once the request is `admitted`. An error becomes an event, as at OpenAI."""
        shape = _Shape(work)
        ends: dict[int, GenerationEnd] = {}
        started = False
        async with AsyncExitStack() as stack:
            try:
                await admitted
                backend = await stack.enter_async_context(self._pool.lease(work.base, work.model.adapter))
                streams = [stream_chunks(backend, order) for order in work.orders()]
                merged = _merged(streams) if work.sampling.together and len(streams) > 1 else _in_turn(streams)
                async for index, piece in await stack.enter_async_context(aclosing(merged)):
                    if not started and work.chat:
                        for opened in range(len(work.prompts) * work.sampling.n):
                            yield shape.opening(opened)
                    started = True
                    for event in shape.chunks(index, piece):
                        yield event
                    if piece.end:
                        ends[index] = self._noted(piece.end)
            except ApiError as exc:
                yield _event(exc.body())
                return
        if work.sampling.include_usage:
            yield shape.usage(_usage([ends[index] for index in sorted(ends)], work.sampling.n))
        yield b"data: [DONE]\n\n"

    def _noted(self, end: GenerationEnd | None) -> GenerationEnd:
        assert end is not None
        self.tokens_per_s = end.tokens_per_s or self.tokens_per_s
        return end


class _Shape:
    """OpenAI's JSON for one request."""

    def __init__(self, work: InferenceRequest) -> None:
        self._chat = work.chat
        self._usage = {"usage": None} if work.sampling.include_usage else {}
        code = secrets.token_hex(12)
        self._common = {
            "id": f"chatcmpl-{code}" if work.chat else f"cmpl-{code}",
            "created": int(time.time()),
            "model": work.model.id,
            "system_fingerprint": f"fabula-{VERSION}",
        }

    def head(self) -> dict[str, Any]:
        return {**self._common, "object": "chat.completion" if self._chat else "text_completion"}

    def choice(self, index: int, piece: GeneratedChunk) -> dict[str, Any]:
        reason = piece.end.reason if piece.end else None
        if not self._chat:
            return {"index": index, "text": piece.text, "logprobs": None, "finish_reason": reason}
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def opening(self, index: int) -> bytes:
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None}, None)

    def chunks(self, index: int, piece: GeneratedChunk) -> list[bytes]:
        """The events of one piece: its text if there is any, and the end in one of its own, as at OpenAI."""
        events = [self._chunk(index, {"content": piece.text}, None)] if piece.text else []
        return [*events, self._chunk(index, {}, piece.end.reason)] if piece.end else events

    def usage(self, usage: dict[str, int]) -> bytes:
        return _event({**self._common, "object": self._object, "choices": [], "usage": usage})

    @property
    def _object(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None) -> bytes:
        text = {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        choice = {"index": index, **text, "logprobs": None, "finish_reason": reason}
        return _event({**self._common, "object": self._object, "choices": [choice], **self._usage})


def _usage(ends: Sequence[GenerationEnd], n: int) -> dict[str, int]:
    """Each prompt counts once, each answer once."""
    prompt = sum(end.prompt_tokens for end in ends[::n])
    completion = sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _prompts(body: dict[str, Any]) -> tuple[Prompt, ...]:
    """One text, several, one list of token ids, or several."""
    raw: Any = body.get("prompt")
    if raw is None:
        return ("",)
    if isinstance(raw, str):
        return (raw,)
    if _is_tokens(raw):
        return (raw,)
    several = isinstance(raw, list) and 0 < len(raw) <= _MAX_PROMPTS
    if not several or not all(isinstance(prompt, str) or _is_tokens(prompt) for prompt in raw):
        raise bad_value(
            "prompt",
            msg(
                "'prompt' must be text, token ids, or a list of at most {max_prompts} of these.",
                max_prompts=_MAX_PROMPTS,
            ),
        )
    return tuple(raw)


def _check_vocabulary(prompts: Sequence[Prompt], base: BaseModel) -> None:
    """Raise ApiError 400 for a token id that the model does not have."""
    highest = max((max(prompt) for prompt in prompts if not isinstance(prompt, str)), default=0)
    if highest >= base.card.vocab_size:
        raise bad_value(
            "prompt", msg("'prompt' has a token id that the model does not have: {highest}.", highest=highest)
        )


async def _check_length(backend: Backend, prompt: Prompt) -> None:
    """Raise ApiError 400 for a prompt that llama.cpp would refuse when its turn comes."""
    base = backend.base
    if not isinstance(prompt, str):
        tokens = len(prompt)
    elif len(prompt.encode()) + 2 < base.context:  # a token has a byte at least; with <bos> and a leading space
        return
    else:
        tokens = await count_tokens(backend, prompt) + (base.card.bos is not None)
    if tokens >= base.context:
        raise too_long(base.context, tokens)


def _is_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in value)
    )


async def _all(work: Sequence[Coroutine[Any, Any, GeneratedChunk]], together: bool) -> list[GeneratedChunk]:
    """Every answer, or the first error with the others stopped."""
    if not together:
        return await _each(work)
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _each(work: Sequence[Coroutine[Any, Any, GeneratedChunk]]) -> list[GeneratedChunk]:
    """Every answer, one after the other."""
    try:
        return [await each for each in work]
    finally:
        for each in work:
            each.close()  # of those that were never begun


async def _in_turn(
    streams: Sequence[AsyncGenerator[GeneratedChunk, None]],
) -> AsyncGenerator[tuple[int, GeneratedChunk], None]:
    """The pieces of the first generation, then those of the second, …, with the number of each."""
    for index, stream in enumerate(streams):
        async with aclosing(stream) as pieces_of_one:
            async for piece in pieces_of_one:
                yield index, piece


async def _merged(
    streams: Sequence[AsyncGenerator[GeneratedChunk, None]],
) -> AsyncGenerator[tuple[int, GeneratedChunk], None]:
    """Pieces of several generations as they come, with the number of each. Closing it closes them all."""
    queue: asyncio.Queue[tuple[int, GeneratedChunk] | Exception | None] = asyncio.Queue(maxsize=64)

    async def pump(index: int, stream: AsyncGenerator[GeneratedChunk, None]) -> None:
        try:
            async with aclosing(stream) as one:
                async for piece in one:
                    await queue.put((index, piece))
            await queue.put(None)
        except Exception as exc:  # whatever it is, the reader must hear of it, or it waits for ever
            await queue.put(exc)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
