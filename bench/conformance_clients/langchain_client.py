"""LangChain's classes for OpenAI."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, EMBEDDING, INSTRUCT, method

_QUESTION = "What is the weather in Paris?"
_ONE_CALL: dict[str, Any] = {"parallel_tool_calls": False}


class Forecast(BaseModel):
    """A form for structured output."""

    city: str
    unit: Literal["C", "F"]


def _weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"21 {unit} in {city}"


get_weather = StructuredTool.from_function(_weather, name="get_weather")


def _chat(**options: Any) -> Any:
    return ChatOpenAI(model=CHAT, temperature=0, **options)


@method("chat")
def chat() -> None:
    answer = _chat(max_tokens=8).invoke("Say this is a test.")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["model_name"] == CHAT


@method("chat stream")
def chat_stream() -> None:
    chunks = list(_chat(max_tokens=8, stream_usage=True).stream("Say this is a test."))
    assert "".join(chunk.content for chunk in chunks) == _chat(max_tokens=8).invoke("Say this is a test.").content
    assert any(chunk.usage_metadata for chunk in chunks)


@method("chat async batch")
def chat_batch() -> None:
    answers = asyncio.run(_chat(max_tokens=4).abatch(["a", "b", "c"]))
    assert len(answers) == 3


@method("chain")
def chain() -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "Tell me about {thing}.")])
    assert (prompt | _chat(max_tokens=8)).invoke({"thing": "rain"}).content


@method("structured output")
def structured() -> None:
    for way in ("json_schema", "function_calling"):
        assert isinstance(_chat().with_structured_output(Forecast, method=way).invoke(_QUESTION), Forecast), way


@method("json_mode")
def json_mode() -> None:
    options: Any = {"model_kwargs": {"response_format": {"type": "json_object"}}, "max_tokens": 60}
    asked = [("human", "Grass, in JSON."), ("ai", '{"colour": "green"}'), ("human", "The sky, in JSON.")]
    assert isinstance(json.loads(_chat(**options).invoke(asked).content), dict)


@method("structured output stream")
def structured_stream() -> None:
    assert isinstance(list(_chat().with_structured_output(Forecast).stream(_QUESTION))[-1], Forecast)


@method("tools")
def tools() -> None:
    asked = HumanMessage(_QUESTION)
    called = _chat().bind_tools([get_weather], tool_choice="get_weather", **_ONE_CALL).invoke([asked])
    (call,) = called.tool_calls
    _methods.is_weather(call["args"])
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert _chat(max_tokens=8).bind_tools([get_weather], tool_choice="none").invoke([asked, called, result]).content


@method("tools stream")
def tools_stream() -> None:
    whole: Any = None
    for chunk in _chat().bind_tools([get_weather], tool_choice="any", strict=True, **_ONE_CALL).stream(_QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert [call["name"] for call in whole.tool_calls] == ["get_weather"] * len(whole.tool_calls) != []


@method("logprobs")
def logprobs() -> None:
    answer = _chat(max_tokens=3).bind(logprobs=True, top_logprobs=2).invoke("a")
    assert len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2


@method("completions")
def completions() -> None:
    model = OpenAI(model=INSTRUCT, max_tokens=6, temperature=0)
    assert model.invoke("The sky is")
    assert "".join(model.stream("The sky is")) == model.invoke("The sky is")


@method("embeddings")
def embeddings() -> None:
    """With its option for other tokenizers; without it, texts are sent as tokens of OpenAI's."""
    vectors = OpenAIEmbeddings(model=EMBEDDING, check_embedding_ctx_length=False)
    assert len(vectors.embed_documents(["a sky", "a sea"])) == 2
    assert vectors.embed_query("a sky")


@method("responses")
def responses() -> None:
    model = _chat(use_responses_api=True, max_tokens=8)
    assert model.invoke("Say this is a test.").text
    assert "".join(chunk.text for chunk in model.stream("Say this is a test."))


@method("responses tools")
def responses_tools() -> None:
    asked = HumanMessage(_QUESTION)
    called = (
        _chat(use_responses_api=True).bind_tools([get_weather], tool_choice="get_weather", **_ONE_CALL).invoke([asked])
    )
    (call,) = called.tool_calls
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    model = _chat(use_responses_api=True, max_tokens=8).bind_tools([get_weather], tool_choice="none")
    assert model.invoke([asked, called, result]).text


@method("responses structured output")
def responses_structured() -> None:
    model = _chat(use_responses_api=True).with_structured_output(Forecast)
    assert isinstance(model.invoke(_QUESTION), Forecast)


if __name__ == "__main__":
    _methods.run("langchain-openai")
