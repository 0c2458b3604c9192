"""Instructor: typed answers, with its modes for tools and for JSON."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, method

_ASKED: Any = [{"role": "user", "content": "What is the weather in Paris? Answer in JSON."}]


class Forecast(BaseModel):
    """The weather of a city."""

    city: str
    unit: Literal["C", "F"]


class Forecasts(BaseModel):
    """The weather of two days."""

    days: list[Forecast] = Field(max_length=2)


def _answer(mode: instructor.Mode, **options: Any) -> Forecast:
    client = instructor.from_openai(OpenAI(), mode=mode)
    made: Forecast = client.chat.completions.create(
        model=CHAT, messages=_ASKED, response_model=Forecast, temperature=0, max_retries=0, **options
    )
    return made


@method("tools")
def tools() -> None:
    assert _answer(instructor.Mode.TOOLS).unit in ("C", "F")


@method("tools strict")
def tools_strict() -> None:
    assert _answer(instructor.Mode.TOOLS_STRICT).unit in ("C", "F")


@method("json_schema")
def json_schema() -> None:
    assert _answer(instructor.Mode.JSON_SCHEMA).unit in ("C", "F")


@method("responses tools")
def responses_tools() -> None:
    client = instructor.from_openai(OpenAI(), mode=instructor.Mode.RESPONSES_TOOLS)
    made = client.responses.create(model=CHAT, input=_ASKED, response_model=Forecast, max_retries=0)
    assert isinstance(made, Forecast)


@method("async")
def asynchronous() -> None:
    client = instructor.from_openai(AsyncOpenAI(), mode=instructor.Mode.TOOLS)
    made = asyncio.run(
        client.chat.completions.create(model=CHAT, messages=_ASKED, response_model=Forecast, temperature=0)
    )
    assert isinstance(made, Forecast)


@method("partial stream")
def partial() -> None:
    client = instructor.from_openai(OpenAI(), mode=instructor.Mode.TOOLS)
    parts = list(
        client.chat.completions.create_partial(model=CHAT, messages=_ASKED, response_model=Forecast, temperature=0)
    )
    assert parts[-1].unit in ("C", "F")


@method("list")
def several() -> None:
    client = instructor.from_openai(OpenAI(), mode=instructor.Mode.TOOLS)
    made = client.chat.completions.create(
        model=CHAT, messages=_ASKED, response_model=Forecasts, temperature=0, max_retries=0
    )
    assert all(isinstance(one, Forecast) for one in made.days)


if __name__ == "__main__":
    _methods.run("instructor")
