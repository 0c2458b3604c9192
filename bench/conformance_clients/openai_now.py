"""Today's official SDK for Python."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, EMBEDDING, INSTRUCT, TRAINED, WEATHER, method

_PROMPT: Any = [{"role": "user", "content": "Say this is a test."}]
_ASK_WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
_TOOL: Any = {"name": "get_weather", "description": "The weather of a city.", "parameters": WEATHER, "strict": True}
_TOOLS: Any = [{"type": "function", "function": _TOOL}]
_FAST: Any = {"n_epochs": 1, "batch_size": 4}

client = OpenAI()
strict = OpenAI(_strict_response_validation=True)


class Forecast(BaseModel):
    """A form for structured output."""

    city: str
    unit: Literal["C", "F"]
    degrees: int


@method("models")
def models() -> None:
    assert {CHAT, INSTRUCT, EMBEDDING, TRAINED} <= {model.id for model in strict.models.list()}
    assert strict.models.retrieve(CHAT).id == CHAT


@method("aliases")
def aliases() -> None:
    raw = client.chat.completions.with_raw_response.create(model=CHAT, messages=_PROMPT, max_tokens=3)
    assert raw.parse().model == CHAT
    assert raw.headers["fabula-model"] not in ("", CHAT)


@method("chat")
def chat() -> None:
    answer = strict.chat.completions.create(model=CHAT, messages=_PROMPT, max_tokens=20, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 20


@method("chat stream")
def chat_stream() -> None:
    options: Any = {"model": CHAT, "messages": _PROMPT, "max_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = list(strict.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage is not None


@method("chat options")
def chat_options() -> None:
    options: Any = {"n": 2, "stop": ["\n"], "seed": 7, "logit_bias": {"5": -100}, "frequency_penalty": 0.5}
    answer = strict.chat.completions.create(model=CHAT, messages=_PROMPT, max_completion_tokens=8, top_p=0.9, **options)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all("\n" not in (choice.message.content or "") for choice in answer.choices)


@method("chat async")
def chat_async() -> None:
    async def ask() -> list[Any]:
        async with AsyncOpenAI() as asynchronous:
            calls = (asynchronous.chat.completions.create(model=CHAT, messages=_PROMPT, max_tokens=5) for _ in range(3))
            return await asyncio.gather(*calls)

    assert all(answer.choices[0].message.content for answer in asyncio.run(ask()))


@method("json_object")
def json_object() -> None:
    asked: Any = [
        {"role": "user", "content": 'The colour of grass, in JSON, such as {"colour": "red"}.'},
        {"role": "assistant", "content": '{"colour": "green"}'},
        {"role": "user", "content": 'The colour of the sky, in JSON, such as {"colour": "red"}.'},
    ]
    options: Any = {"response_format": {"type": "json_object"}, "temperature": 0, "max_tokens": 60}
    answer = strict.chat.completions.create(model=CHAT, messages=asked, **options)
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@method("structured output")
def structured() -> None:
    answer = client.chat.completions.parse(model=CHAT, messages=_ASK_WEATHER, response_format=Forecast, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, Forecast)


@method("structured output stream")
def structured_stream() -> None:
    options: Any = {"messages": _ASK_WEATHER, "response_format": Forecast, "temperature": 0}
    with client.chat.completions.stream(model=CHAT, **options) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Forecast)
    assert {"chunk", "content.delta", "content.done"} <= kinds


@method("tools")
def tools() -> None:
    options: Any = {"model": CHAT, "tools": _TOOLS, "temperature": 0, "parallel_tool_calls": False}
    answer = strict.chat.completions.create(messages=_ASK_WEATHER, tool_choice="required", **options)
    message = answer.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    _methods.is_weather(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees, sunny"}
    messages = [*_ASK_WEATHER, message, result]
    last = strict.chat.completions.create(messages=messages, tool_choice="none", max_tokens=20, **options)
    assert last.choices[0].message.content


@method("tools stream")
def tools_stream() -> None:
    tool = {**_TOOL, "name": "forecast", "parameters": {**WEATHER}}
    choice: Any = {"type": "function", "function": {"name": "forecast"}}
    options: Any = {"messages": _ASK_WEATHER, "tools": [*_TOOLS, {"type": "function", "function": tool}]}
    with client.chat.completions.stream(model=CHAT, tool_choice=choice, temperature=0, **options) as stream:
        kinds = {event.type for event in stream}
        calls = stream.get_final_completion().choices[0].message.tool_calls or []
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert [call.function.name for call in calls] == ["forecast"]
    _methods.is_weather(calls[0].function.arguments)


@method("logprobs")
def logprobs() -> None:
    options: Any = {"logprobs": True, "top_logprobs": 3, "max_tokens": 4}
    answer = strict.chat.completions.create(model=CHAT, messages=_PROMPT, **options)
    assert answer.choices[0].logprobs is not None
    entries = answer.choices[0].logprobs.content or []
    assert [len(entry.top_logprobs) for entry in entries] == [3] * len(entries) != []


@method("completions")
def completions() -> None:
    options: Any = {"prompt": ["Once upon a time", "The sky is"], "max_tokens": 6, "temperature": 0}
    answer = strict.completions.create(model=INSTRUCT, **options)
    assert [choice.index for choice in answer.choices] == [0, 1]
    # the first token has no log-probability, as at OpenAI; the SDK's type does not allow for that
    echoed = client.completions.create(model=INSTRUCT, prompt="The sky is", max_tokens=2, echo=True, logprobs=2)
    assert echoed.choices[0].text.startswith("The sky is")
    assert echoed.choices[0].logprobs is not None


@method("completions stream")
def completions_stream() -> None:
    options: Any = {"model": INSTRUCT, "prompt": "Once upon a time", "max_tokens": 10, "temperature": 0}
    texts = [chunk.choices[0].text for chunk in client.completions.create(stream=True, **options)]
    assert "".join(texts) == client.completions.create(**options).choices[0].text


@method("embeddings")
def embeddings() -> None:
    answer = client.embeddings.create(model=EMBEDDING, input=["The food was delicious", "and the waiter…"])
    assert [row.index for row in answer.data] == [0, 1]
    assert all(isinstance(value, float) for value in answer.data[0].embedding)


@method("responses")
def responses() -> None:
    made = strict.responses.create(model=CHAT, input="Say this is a test.", max_output_tokens=20)
    assert made.output_text
    following = strict.responses.create(
        model=CHAT, input="Again.", previous_response_id=made.id, instructions="Be brief.", max_output_tokens=20
    )
    assert following.previous_response_id == made.id
    assert strict.responses.retrieve(made.id).output_text == made.output_text
    assert len(strict.responses.input_items.list(following.id).data) >= 1
    client.responses.delete(made.id)


@method("responses stream")
def responses_stream() -> None:
    asked: Any = {"model": CHAT, "input": "What is the weather in Paris?", "temperature": 0}
    with client.responses.stream(text_format=Forecast, **asked) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()
    assert events[0].type == "response.created"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text != ""
    assert isinstance(final.output_parsed, Forecast)
    plain = list(strict.responses.create(stream=True, max_output_tokens=20, **asked))
    assert plain[-1].type in ("response.completed", "response.incomplete")


@method("responses structured output")
def responses_structured() -> None:
    answer = client.responses.parse(model=CHAT, input="The weather in Paris?", text_format=Forecast, temperature=0)
    assert isinstance(answer.output_parsed, Forecast)


@method("responses tools")
def responses_tools() -> None:
    options: Any = {"model": CHAT, "tools": [{"type": "function", **_TOOL}], "temperature": 0}
    asked: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = strict.responses.create(input=asked, tool_choice="required", parallel_tool_calls=False, **options)
    (call,) = (item for item in answer.output if item.type == "function_call")
    _methods.is_weather(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    items: Any = [*asked, *answer.output, result]
    last = strict.responses.create(input=items, tool_choice="none", max_output_tokens=20, **options)
    assert last.output_text


@method("files")
def files() -> None:
    path = _methods.training_file()
    with path.open("rb") as content:
        made = strict.files.create(file=content, purpose="fine-tune")
    assert (made.bytes, made.filename) == (path.stat().st_size, "stories.jsonl")
    assert made.id in {file.id for file in strict.files.list(purpose="fine-tune")}
    assert strict.files.retrieve(made.id).id == made.id
    assert strict.files.content(made.id).read() == path.read_bytes()
    assert strict.files.delete(made.id).deleted


@method("uploads")
def uploads() -> None:
    path = _methods.training_file(_methods.conversations(40))
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=path.stat().st_size // 3
    )
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == path.read_bytes()
    begun = client.uploads.create(bytes=10, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    assert client.uploads.cancel(begun.id).status == "cancelled"


def _upload(path: Path) -> str:
    return client.files.create(file=path, purpose="fine-tune").id


@method("fine-tuning")
def fine_tuning() -> None:
    file_id, jobs = _upload(_methods.training_file()), strict.fine_tuning.jobs
    made = jobs.create(
        model=TRAINED,
        training_file=file_id,
        validation_file=file_id,
        suffix="hero",
        seed=3,
        metadata={"purpose": "conformance"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 5}}},
    )
    assert (made.object, made.training_file) == ("fine_tuning.job", file_id)
    assert made.id in {job.id for job in jobs.list(limit=5)}
    job = _methods.ended(lambda: client.fine_tuning.jobs.retrieve(made.id))
    assert job.trained_tokens > 0
    events = list(jobs.list_events(made.id, limit=3))  # follows its pages
    assert events[-1].message == f"Created fine-tuning job: {made.id}"
    assert any(event.type == "metrics" for event in events)
    (first, *_) = jobs.checkpoints.list(made.id).data
    assert first.fine_tuning_job_id == made.id
    for model in (job.fine_tuned_model, first.fine_tuned_model_checkpoint):
        answer = client.chat.completions.create(model=model, messages=_PROMPT, max_tokens=5)
        assert answer.model == model
    assert client.models.delete(job.fine_tuned_model).deleted


@method("fine-tuning cancel and pause")
def fine_tuning_control() -> None:
    jobs, file_id = client.fine_tuning.jobs, _upload(_methods.training_file())
    made = jobs.create(model=TRAINED, training_file=file_id, hyperparameters={"n_epochs": 50, "batch_size": 1})
    _methods.wait_for(lambda: jobs.retrieve(made.id), lambda job: job.status != "validating_files")
    assert _methods.status(jobs.pause(made.id)) == "paused"
    assert jobs.resume(made.id).status in ("queued", "running")
    assert jobs.cancel(made.id).status == "cancelled"


@method("checkpoint permissions")
def checkpoint_permissions() -> None:
    made = client.fine_tuning.jobs.create(
        model=TRAINED, training_file=_upload(_methods.training_file()), hyperparameters=_FAST
    )
    job = _methods.ended(lambda: client.fine_tuning.jobs.retrieve(made.id))
    permissions = client.fine_tuning.checkpoints.permissions
    given = list(permissions.create(job.fine_tuned_model, project_ids=["proj_abc"]))
    assert [permission.project_id for permission in given] == ["proj_abc"]


@method("batches")
def batches() -> None:
    body = {"model": CHAT, "messages": _PROMPT, "max_tokens": 5}
    rows = [{"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
    path = _methods.training_file(rows)
    file_id = client.files.create(file=path, purpose="batch").id
    made = client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"of": "conformance"}
    )
    done = _methods.wait_for(
        lambda: client.batches.retrieve(made.id),
        lambda batch: batch.status in ("completed", "failed", "expired", "cancelled"),
    )
    assert done.status == "completed", done.errors
    assert done.output_file_id is not None
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {"row-0", "row-1", "row-2"}
    assert all(answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers)
    assert made.id in {batch.id for batch in client.batches.list(limit=5)}


@method("batches cancel")
def batches_cancel() -> None:
    body = {"model": INSTRUCT, "prompt": "Once upon a time", "max_tokens": 200}
    rows = [{"custom_id": f"row-{n}", "method": "POST", "url": "/v1/completions", "body": body} for n in range(30)]
    file_id = client.files.create(file=_methods.training_file(rows), purpose="batch").id
    made = client.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h")
    assert client.batches.cancel(made.id).status in ("cancelling", "cancelled")
    _methods.wait_for(lambda: client.batches.retrieve(made.id), lambda batch: batch.status == "cancelled")


@method("cookbook")
def cookbook() -> None:
    """The steps of OpenAI's cookbook: validate, upload, train, decode the results, call the model."""
    path = _methods.training_file()
    examples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for example in examples:
        assert {"role", "content"} >= {key for message in example["messages"] for key in message}
        assert any(message["role"] == "assistant" for message in example["messages"])
    uploaded = client.files.create(file=path, purpose="fine-tune")
    made = client.fine_tuning.jobs.create(training_file=uploaded.id, model=TRAINED, suffix="recipe-ner")
    job = _methods.ended(lambda: client.fine_tuning.jobs.retrieve(made.id))
    content = client.files.content(job.result_files[0])
    results = base64.b64decode(content.text.encode("utf-8")).decode("utf-8")
    assert results.startswith("step,"), results[:80]
    assert "train_loss" in results.splitlines()[0] or "training_loss" in results.splitlines()[0]
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=_PROMPT, temperature=0, max_tokens=50)
    assert answer.choices[0].message.role == "assistant"


@method("errors")
def errors() -> None:
    cases: list[tuple[type[openai.APIStatusError], Any]] = [
        (openai.AuthenticationError, lambda: OpenAI(api_key="wrong", max_retries=0).models.list()),
        (openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-none", messages=_PROMPT)),
        (openai.NotFoundError, lambda: client.fine_tuning.jobs.retrieve("ftjob-none")),
        (openai.BadRequestError, lambda: client.chat.completions.create(model=CHAT, messages=[])),
    ]
    for expected, call in cases:
        try:
            call()
        except expected as exc:
            assert exc.message
            assert exc.code
        else:
            raise AssertionError(f"no {expected.__name__}")


if __name__ == "__main__":
    _methods.run("openai")
