"""Pydantic AI: agents on the chat API and on the Responses API."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, Embedder, NativeOutput, RunContext, Tool, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.tools import ToolDefinition

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, EMBEDDING, method

_QUESTION = "What is the weather in Paris?"


class Forecast(BaseModel):
    """The weather of a city."""

    city: str
    unit: Literal["C", "F"]


def get_weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"21 {unit} in {city}"


def _agent(model: type[Any], output: Any = str, tools: tuple[Any, ...] = (), **settings: Any) -> Any:
    options: Any = {"temperature": 0.0, "parallel_tool_calls": False, **settings}
    return Agent(model(CHAT), output_type=output, tools=tools, model_settings=options, retries=0)


def _outputs(model: type[Any]) -> None:
    for output in (ToolOutput(Forecast), NativeOutput(Forecast)):
        assert isinstance(_agent(model, output).run_sync(_QUESTION).output, Forecast), type(output).__name__


def _stream(model: type[Any]) -> None:
    async def read() -> str:
        async with _agent(model, max_tokens=16).run_stream("Say this is a test.") as result:
            return "".join([text async for text in result.stream_text(delta=True)])

    assert asyncio.run(read())


async def _only_first(context: RunContext[None], definition: ToolDefinition) -> ToolDefinition | None:
    """Offer a tool for the first answer only; a base model would call it again and again."""
    return definition if context.run_step == 1 else None


def _tools(model: type[Any]) -> None:
    """The model calls the tool, gets its result, and fills in the form."""
    result = _agent(model, ToolOutput(Forecast), (Tool(get_weather, prepare=_only_first),)).run_sync(_QUESTION)
    assert isinstance(result.output, Forecast)
    assert result.usage.requests == 2


@method("chat")
def chat() -> None:
    result = _agent(OpenAIChatModel, max_tokens=8).run_sync("Say this is a test.")
    assert result.output
    again = _agent(OpenAIChatModel, max_tokens=8).run_sync("Again.", message_history=result.all_messages())
    assert again.usage.output_tokens > 0


@method("chat stream")
def chat_stream() -> None:
    _stream(OpenAIChatModel)


@method("structured output")
def structured() -> None:
    _outputs(OpenAIChatModel)


@method("tools")
def tools() -> None:
    _tools(OpenAIChatModel)


@method("responses")
def responses() -> None:
    result = _agent(OpenAIResponsesModel, max_tokens=16).run_sync("Say this is a test.")
    assert result.output
    again = _agent(OpenAIResponsesModel, max_tokens=16, openai_previous_response_id="auto")
    assert again.run_sync("Again.", message_history=result.all_messages()).output


@method("responses stream")
def responses_stream() -> None:
    _stream(OpenAIResponsesModel)


@method("responses structured output")
def responses_structured() -> None:
    _outputs(OpenAIResponsesModel)


@method("responses tools")
def responses_tools() -> None:
    _tools(OpenAIResponsesModel)


@method("embeddings")
def embeddings() -> None:
    result = Embedder(f"openai:{EMBEDDING}").embed_documents_sync(["a sky", "a sea"])
    assert len(result.embeddings) == 2


if __name__ == "__main__":
    _methods.run("pydantic-ai-slim")
