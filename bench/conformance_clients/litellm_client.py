"""LiteLLM: completions, and its fine-tuning, files and batches API."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import litellm
from pydantic import BaseModel

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, EMBEDDING, INSTRUCT, TRAINED, WEATHER, method

litellm.api_base, litellm.api_key = _methods.URL, _methods.KEY
_PROMPT: Any = [{"role": "user", "content": "Say this is a test."}]
_ASK_WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
_TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
_FORCED: Any = {"type": "function", "function": {"name": "get_weather"}}


class Forecast(BaseModel):
    """A form for structured output."""

    city: str
    unit: Literal["C", "F"]


@method("chat")
def chat() -> None:
    answer = litellm.completion(model=CHAT, messages=_PROMPT, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


@method("chat stream")
def chat_stream() -> None:
    options: Any = {"model": CHAT, "messages": _PROMPT, "max_tokens": 8, "temperature": 0}
    chunks = list(litellm.completion(stream=True, stream_options={"include_usage": True}, **options))
    rebuilt = litellm.stream_chunk_builder(chunks, messages=_PROMPT)
    assert rebuilt.choices[0].message.content == litellm.completion(**options).choices[0].message.content
    assert rebuilt.usage.completion_tokens > 0


@method("chat async")
def chat_async() -> None:
    assert asyncio.run(litellm.acompletion(model=CHAT, messages=_PROMPT, max_tokens=4)).choices[0].message.content


@method("structured output")
def structured() -> None:
    answer = litellm.completion(model=CHAT, messages=_ASK_WEATHER, response_format=Forecast, temperature=0)
    Forecast.model_validate_json(answer.choices[0].message.content)


@method("tools")
def tools() -> None:
    options: Any = {"model": CHAT, "tools": _TOOLS, "temperature": 0}
    message = litellm.completion(messages=_ASK_WEATHER, tool_choice=_FORCED, **options).choices[0].message
    (call,) = message.tool_calls
    _methods.is_weather(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "21 degrees"}
    messages = [*_ASK_WEATHER, message, result]
    answer = litellm.completion(messages=messages, tool_choice="none", max_tokens=8, **options)
    assert answer.choices[0].message.content


@method("tools stream")
def tools_stream() -> None:
    chunks = list(litellm.completion(model=CHAT, messages=_ASK_WEATHER, tools=_TOOLS, tool_choice=_FORCED, stream=True))
    (call,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    _methods.is_weather(call.function.arguments)


@method("logprobs")
def logprobs() -> None:
    answer = litellm.completion(model=CHAT, messages=_PROMPT, max_tokens=3, logprobs=True, top_logprobs=2)
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


@method("completions")
def completions() -> None:
    answer = litellm.text_completion(model=f"text-completion-openai/{INSTRUCT}", prompt="The sky is", max_tokens=5)
    assert answer.choices[0].text
    chunks = litellm.text_completion(
        model=f"text-completion-openai/{INSTRUCT}", prompt="The sky is", max_tokens=5, stream=True
    )
    assert "".join(chunk.choices[0].text or "" for chunk in chunks)


@method("embeddings")
def embeddings() -> None:
    made = litellm.embedding(model=EMBEDDING, input=["The food was delicious"])
    assert all(isinstance(value, float) for value in made.data[0]["embedding"])


@method("responses")
def responses() -> None:
    made = litellm.responses(model=f"openai/{CHAT}", input="Say this is a test.", max_output_tokens=8)
    assert made.output[0].content[0].text
    events = list(
        litellm.responses(model=f"openai/{CHAT}", input="Say this is a test.", max_output_tokens=8, stream=True)
    )
    assert events[-1].type in ("response.completed", "response.incomplete")


def _upload(rows: list[dict[str, Any]] | None = None, purpose: Any = "fine-tune") -> str:
    with _methods.training_file(rows).open("rb") as content:
        return str(litellm.create_file(file=content, purpose=purpose, custom_llm_provider="openai").id)


@method("files")
def files() -> None:
    file_id = _upload()
    openai: Any = {"custom_llm_provider": "openai"}
    assert litellm.file_retrieve(file_id, **openai).id == file_id
    assert file_id in {file.id for file in litellm.file_list(**openai)}
    assert litellm.file_content(file_id, **openai).content.startswith(b'{"messages"')
    assert litellm.file_delete(file_id, **openai).deleted


@method("fine-tuning")
def fine_tuning() -> None:
    openai: Any = {"custom_llm_provider": "openai"}
    made = litellm.create_fine_tuning_job(
        model=TRAINED, training_file=_upload(), hyperparameters={"n_epochs": 1, "batch_size": 5}, **openai
    )
    job = _methods.ended(lambda: litellm.retrieve_fine_tuning_job(made.id, **openai))
    assert made.id in {one.id for one in litellm.list_fine_tuning_jobs(limit=5, **openai).data}
    answer = litellm.completion(model=f"openai/{job.fine_tuned_model}", messages=_PROMPT, max_tokens=4)
    assert answer.choices[0].message.role == "assistant"


@method("fine-tuning cancel")
def fine_tuning_cancel() -> None:
    openai: Any = {"custom_llm_provider": "openai"}
    made = litellm.create_fine_tuning_job(
        model=TRAINED, training_file=_upload(), hyperparameters={"n_epochs": 50}, **openai
    )
    assert litellm.cancel_fine_tuning_job(made.id, **openai).status == "cancelled"


@method("batches")
def batches() -> None:
    openai: Any = {"custom_llm_provider": "openai"}
    body = {"model": CHAT, "messages": _PROMPT, "max_tokens": 4}
    row = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    made = litellm.create_batch(
        input_file_id=_upload([row], "batch"), endpoint="/v1/chat/completions", completion_window="24h", **openai
    )
    done = _methods.wait_for(
        lambda: litellm.retrieve_batch(batch_id=made.id, **openai),
        lambda batch: batch.status in ("completed", "failed", "expired", "cancelled"),
    )
    assert done.status == "completed"
    answer = json.loads(litellm.file_content(done.output_file_id, **openai).text)
    assert answer["custom_id"] == "one"


if __name__ == "__main__":
    _methods.run("litellm")
