"""LlamaIndex: its class for servers like OpenAI's, and the one for the Responses API."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, EMBEDDING, INSTRUCT, KEY, URL, method

_PROMPT = [ChatMessage(role="user", content="Say this is a test.")]
_QUESTION = "What is the weather in Paris?"


class Forecast(BaseModel):
    """A form for structured output."""

    city: str
    unit: Literal["C", "F"]


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"21 degrees in {city}"


def _model(**options: Any) -> Any:
    kinds = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
    common = {"model": CHAT, "api_base": URL, "api_key": KEY, "timeout": 600, "temperature": 0}
    return OpenAILike(**{**common, **kinds, **options})


@method("chat")
def chat() -> None:
    assert _model(max_tokens=8).chat(_PROMPT).message.content


@method("chat stream")
def chat_stream() -> None:
    last = list(_model(max_tokens=8).stream_chat(_PROMPT))[-1]
    assert last.message.content == _model(max_tokens=8).chat(_PROMPT).message.content


@method("chat async")
def chat_async() -> None:
    assert asyncio.run(_model(max_tokens=4).achat(_PROMPT)).message.content


@method("completions")
def completions() -> None:
    model = _model(model=INSTRUCT, is_chat_model=False, max_tokens=6)
    assert list(model.stream_complete("The sky is"))[-1].text == model.complete("The sky is").text != ""


@method("structured output")
def structured() -> None:
    answer = _model().as_structured_llm(Forecast).complete(_QUESTION)
    assert isinstance(answer.raw, Forecast)


@method("tools")
def tools() -> None:
    tool = FunctionTool.from_defaults(get_weather)
    options: dict[str, Any] = {"allow_parallel_tool_calls": False}
    answer = _model().chat_with_tools([tool], user_msg=_QUESTION, tool_required=True, **options)
    (call,) = _model().get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather"
    assert set(call.tool_kwargs) == {"city"}
    result = ChatMessage(role="tool", content="21 degrees", additional_kwargs={"tool_call_id": call.tool_id})
    history = [ChatMessage(role="user", content=_QUESTION), answer.message, result]
    assert _model(max_tokens=8).chat(history).message.content


@method("tools stream")
def tools_stream() -> None:
    tool = FunctionTool.from_defaults(get_weather)
    last = list(_model().stream_chat_with_tools([tool], user_msg=_QUESTION, tool_required=True))[-1]
    calls = _model().get_tool_calls_from_response(last)
    assert {call.tool_name for call in calls} == {"get_weather"}


@method("embeddings")
def embeddings() -> None:
    model = OpenAILikeEmbedding(model_name=EMBEDDING, api_base=URL, api_key=KEY)
    assert len(model.get_text_embedding_batch(["a sky", "a sea"])) == 2


@method("responses")
def responses() -> None:
    model = OpenAIResponses(model=CHAT, api_base=URL, api_key=KEY, max_output_tokens=16, temperature=0)
    assert model.chat(_PROMPT).message.content
    assert "".join(part.delta or "" for part in model.stream_chat(_PROMPT))


if __name__ == "__main__":
    _methods.run("llama-index-llms-openai-like")
