"""POST /v1/completions and /v1/chat/completions, with and without streaming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine.api.connections import model_header
from core.engine.api.errors import ApiError, bad_value, missing_parameter
from core.engine.api.models import Model, ModelCatalogue
from core.engine.api.requests import EventStream, model_body, until_disconnected
from core.engine.chat_messages import BadLine, ChatMessage, is_missing, with_system_text
from core.engine.serving import chat, echo, prompts, sampling, tool_choice
from core.engine.serving.answers import Answer, AnswerBuilder, usage_of
from core.engine.serving.chat import ChatFormat
from core.engine.serving.generate import GeneratedChunk, GenerationEnd, whole
from core.engine.serving.llama import BaseModel
from core.engine.serving.model_serving import LoadedModel, Serving
from core.engine.serving.parallel import gather, merge, sequential
from core.engine.serving.prompts import Prompt
from core.engine.serving.sampling import Sampling
from core.engine.serving.tool_choice import NO_TOOLS, ToolUse
from core.engine.serving.tool_format import GENERAL, ToolFormat
from core.engine.structured import response_format
from core.message import msg

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
        tools: tools that the model may call, and how it writes calls.
    """

    chat: bool
    model: Model
    base: BaseModel
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    is_clamped: bool
    tools: ToolUse = NO_TOOLS
    calls: ToolFormat = GENERAL

    @property
    def reserved(self) -> int:
        """Tokens of the context that the answer needs: its limit, or 1 if it may be shorter."""
        limit = int(self.sampling.options["n_predict"])
        return 1 if self.is_clamped else max(1, limit)

    @property
    def headers(self) -> dict[str, str]:
        """Response headers: the model's own id, because the body has the name that was asked for."""
        return model_header(self.model.own_id)

    async def check_lengths(self, model: LoadedModel) -> None:
        """Raise ApiError 400 for a prompt that, with its answer, exceeds the context."""
        param = "messages" if self.chat else "prompt"
        await prompts.check_lengths(model.tokenizer, self.prompts, self.reserved, param)

    def streams(self, model: LoadedModel) -> list[AsyncGenerator[GeneratedChunk, None]]:
        """Prepare one generation per choice: n for the first prompt, then n for the second, …"""
        options = {**self.sampling.options, "repeat_last_n": self.base.context}  # penalties apply to the whole text
        return [
            model.stream({**options, "prompt": prompt, "seed": self.sampling.seed_of(choice)})
            if options["n_predict"]
            else echo.no_tokens(model.tokenizer, prompt)
            for prompt in self.prompts
            for choice in range(self.sampling.n)
        ]

    async def beginnings(self, model: LoadedModel) -> list[GeneratedChunk]:
        """What each choice begins with: its prompt with `echo`, otherwise nothing. Raises ApiError."""
        if not self.sampling.echo:
            return []
        return [
            chunk
            for prompt in self.prompts
            for chunk in [await model.beginning(prompt, self.sampling.logprobs)] * self.sampling.n
        ]


class Inference:
    """The two endpoints.

    Attributes:
        tokens_per_s: speed of the most recent generation; None before the first one.
        speeds: the same per base model.
    """

    def __init__(self, models: ModelCatalogue, serving: Serving) -> None:
        self._models, self._serving = models, serving
        self.tokens_per_s: float | None = None
        self.speeds: dict[str, float] = {}

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await model_body(request)
        model, base = await self._resolve_model(body)
        given = tuple(prompt or prompts.of_nothing(base) for prompt in prompts.parse(body.get("prompt")))
        prompts.check_vocabulary(given, base, "prompt")
        options = sampling.of_completion(body)
        parsed = InferenceRequest(False, model, base, given, options, CLAMP_HEADER in request.headers)
        return await self.respond(request, parsed, _answer(parsed))

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        parsed = await self.chat_request(await model_body(request), is_clamped=CLAMP_HEADER in request.headers)
        return await self.respond(request, parsed, _answer(parsed))

    async def chat_request(self, body: dict[str, Any], *, is_clamped: bool = False) -> InferenceRequest:
        """Parse the body of a chat request. Raises ApiError."""
        model, base = await self._resolve_model(body)
        # This runs in a thread: a template is code from the model, and other requests continue while it runs.
        chat_format = await run_in_threadpool(chat.format_for, base.card)
        if chat_format is None:
            raise ApiError(
                400, msg("The model '{id}' has no chat format here; use /v1/completions.", id=model.id), param="model"
            )
        if body.get("messages") is None:
            raise missing_parameter("messages")
        return await run_in_threadpool(_chat_request, body, model, base, chat_format, is_clamped)

    async def _resolve_model(self, body: dict[str, Any]) -> tuple[Model, BaseModel]:
        if is_missing(body.get("model")):
            raise missing_parameter("model")
        model = self._models.find(body["model"])
        return model, await run_in_threadpool(self._models.base, model.base)

    async def respond(self, request: Request, parsed: InferenceRequest, answer: Answer) -> Response:
        """Generate what a request asks for, whole or streamed, in the words of `answer`.

        Raises:
            ApiError: the model cannot be loaded, or the prompt is too long; a stream has not begun by then.
        """
        if not parsed.sampling.stream:
            return await until_disconnected(request, self._respond_json(parsed, answer))
        admitted = asyncio.create_task(self._admit(parsed))
        try:
            await until_disconnected(request, asyncio.wait({admitted}, timeout=_ADMIT_TIMEOUT_S))
            if admitted.done():
                admitted.result()  # raises the refusal, which has its own HTTP status
        except BaseException:
            admitted.cancel()
            raise
        return EventStream(self._stream(parsed, admitted, answer), parsed.headers)

    async def _admit(self, parsed: InferenceRequest) -> None:
        """Load the model and check the length of the prompts, without waiting for a slot. Raises ApiError."""
        async with self._serving.lease(parsed.base, parsed.model.adapter) as model:
            await parsed.check_lengths(model)

    async def _respond_json(self, parsed: InferenceRequest, answer: Answer) -> Response:
        async with self._serving.lease(parsed.base, parsed.model.adapter) as model:
            await parsed.check_lengths(model)  # llama.cpp rounds its context up to a multiple of 256
            starts = await parsed.beginnings(model)
            completions = await gather(
                [whole(stream) for stream in parsed.streams(model)], parsed.sampling.is_concurrent
            )
        if starts:
            completions = [echo.joined(start, rest) for start, rest in zip(starts, completions, strict=True)]
        ends = [self._record_speed(completion.end, parsed.base.name) for completion in completions]
        body = await run_in_threadpool(answer.whole, completions, usage_of(ends, parsed.sampling.n))
        return JSONResponse(body, headers=parsed.headers)

    async def _stream(
        self, parsed: InferenceRequest, admitted: asyncio.Task[None], answer: Answer
    ) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events once the request is admitted. Errors are sent as events, as at OpenAI."""
        ends: dict[int, GenerationEnd] = {}
        started = False
        async with AsyncExitStack() as stack:
            try:
                await admitted
                model = await stack.enter_async_context(self._serving.lease(parsed.base, parsed.model.adapter))
                for index, start in enumerate(await parsed.beginnings(model)):
                    for data in answer.chunks(index, start):
                        yield data
                streams = parsed.streams(model)
                chunks = merge(streams) if parsed.sampling.is_concurrent and len(streams) > 1 else sequential(streams)
                async for index, chunk in await stack.enter_async_context(aclosing(chunks)):
                    for data in [] if started else answer.begin(len(streams)):
                        yield data
                    started = True
                    for data in answer.chunks(index, chunk):
                        yield data
                    if chunk.end:
                        ends[index] = self._record_speed(chunk.end, parsed.base.name)
                usage = usage_of([ends[index] for index in sorted(ends)], parsed.sampling.n)
                for data in await run_in_threadpool(answer.finish, usage):
                    yield data
            except ApiError as exc:
                for data in answer.failed(exc):
                    yield data

    def _record_speed(self, end: GenerationEnd | None, base: str) -> GenerationEnd:
        assert end is not None
        if end.tokens_per_s:
            self.tokens_per_s = self.speeds[base] = end.tokens_per_s
        return end


def _chat_request(
    body: dict[str, Any], model: Model, base: BaseModel, chat_format: ChatFormat, is_clamped: bool
) -> InferenceRequest:
    """Parse a chat request. It runs in a thread, because a template or a large schema may take seconds.

    A tuned model gets the prompts that it was trained on. Others are told the schema of `response_format`, and call one
    tool unless several are wanted, because one that was not trained to end its calls repeats them.
    """
    is_tuned, form = model.adapter is not None, chat_format.tool_format
    tools = tool_choice.parse(body, parallel=is_tuned or form.native)
    try:
        messages: Sequence[ChatMessage] = chat.parse(body.get("messages"))
    except BadLine as exc:
        raise _bad_messages(exc) from exc
    parameters = sampling.of_chat(body, chat_format.stop)
    wanted = body.get("response_format")
    parameters.options.update(tool_choice.grammar_options(tools, form, wanted))
    told = "" if is_tuned else response_format.description(wanted)
    if told and len(told) <= base.context:  # about a quarter of the context, so that the rest has enough
        messages = with_system_text(messages, told)
    try:
        text = chat_format.prompt(messages, tools.tools)
    except BadLine as exc:
        raise _bad_messages(exc) from exc
    return InferenceRequest(True, model, base, (text,), parameters, is_clamped, tools, form)


def _bad_messages(exc: BadLine) -> ApiError:
    param = exc.path or "messages"
    return bad_value(param, msg("Invalid '{param}': {sentence}", param=param, sentence=exc.sentence))


def _answer(parsed: InferenceRequest) -> AnswerBuilder:
    return AnswerBuilder(
        parsed.model.id,
        chat=parsed.chat,
        include_usage=parsed.sampling.include_usage,
        calls=parsed.calls if parsed.tools.tools else None,
        named_tool=parsed.tools.name is not None,
        logprobs=parsed.sampling.logprobs,
    )
