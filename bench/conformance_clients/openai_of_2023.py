"""The official SDK of early 2023 (0.27), whose fine-tuning API no longer exists at OpenAI."""

from __future__ import annotations

import base64
import importlib
from typing import Any

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, EMBEDDING, INSTRUCT, TRAINED, method

openai: Any = importlib.import_module("openai")  # not the version that this project is checked with
openai.api_base, openai.api_key = _methods.URL, _methods.KEY

_PROMPT = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


def _pairs() -> list[dict[str, str]]:
    return [{"prompt": f"hero {n} ->", "completion": f" the hero {n}."} for n in range(8)]


@method("models")
def models() -> None:
    assert {CHAT, TRAINED} <= {model["id"] for model in openai.Model.list()["data"]}
    assert openai.Model.retrieve(CHAT)["id"] == CHAT


@method("engines")
def engines() -> None:
    assert INSTRUCT in {engine["id"] for engine in openai.Engine.list()["data"]}
    assert openai.Engine.retrieve(INSTRUCT)["object"] == "engine"


@method("completions")
def completions() -> None:
    by_model = openai.Completion.create(model=INSTRUCT, **_PROMPT)["choices"][0]["text"]
    by_engine = openai.Completion.create(engine=INSTRUCT, **_PROMPT)["choices"][0]["text"]
    assert by_model == by_engine != ""


@method("completions stream")
def completions_stream() -> None:
    chunks = list(openai.Completion.create(model=INSTRUCT, stream=True, **_PROMPT))
    whole = openai.Completion.create(model=INSTRUCT, **_PROMPT)["choices"][0]["text"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


@method("chat")
def chat() -> None:
    asked = [{"role": "user", "content": "Say this is a test."}]
    answer = openai.ChatCompletion.create(model=CHAT, messages=asked, max_tokens=8)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    chunks = list(openai.ChatCompletion.create(model=CHAT, messages=asked, max_tokens=8, stream=True))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


@method("embeddings")
def embeddings() -> None:
    made = openai.Embedding.create(model=EMBEDDING, input=["The food was delicious"])
    assert all(isinstance(value, float) for value in made["data"][0]["embedding"])


@method("files")
def files() -> None:
    path = _methods.training_file(_pairs())
    with path.open("rb") as content:
        made = openai.File.create(file=content, purpose="fine-tune")
    assert made["id"] in {file["id"] for file in openai.File.list()["data"]}
    assert openai.File.download(made["id"]) == path.read_bytes()
    assert openai.File.delete(made["id"])["deleted"]


@method("fine-tunes")
def fine_tunes() -> None:
    with _methods.training_file(_pairs()).open("rb") as content:
        file_id = openai.File.create(file=content, purpose="fine-tune")["id"]
    made = openai.FineTune.create(training_file=file_id, model=TRAINED, n_epochs=1, batch_size=4, suffix="ultraman")
    messages = [event["message"] for event in openai.FineTune.stream_events(made["id"])]
    assert messages[0] == f"Created fine-tuning job: {made['id']}"
    job = openai.FineTune.retrieve(made["id"])
    assert job["status"] == "succeeded"
    assert made["id"] in {one["id"] for one in openai.FineTune.list()["data"]}
    assert len(openai.FineTune.list_events(id=made["id"])["data"]) == len(messages)
    results = base64.b64decode(openai.File.download(job["result_files"][0]["id"])).decode()
    assert results.startswith("step,elapsed_tokens,elapsed_examples,training_loss"), results[:80]
    assert openai.Completion.create(model=job["fine_tuned_model"], **_PROMPT)["choices"][0]["text"] is not None
    waiting = openai.FineTune.create(training_file=file_id, model=TRAINED, n_epochs=50, batch_size=1)
    assert openai.FineTune.cancel(waiting["id"])["status"] == "cancelled"
    assert openai.Model.delete(job["fine_tuned_model"])["deleted"]


if __name__ == "__main__":
    _methods.run("openai")
