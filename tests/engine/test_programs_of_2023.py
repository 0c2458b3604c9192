"""Programs from 2023, with the `openai` of that time in an environment of its own: the article's commands and code, the
other calls of its API, and result files in base64, which OpenAI's cookbook decodes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core import packaged_models, setting_fields
from core.engine.api.files import BASE64_SETTING, sends_base64
from core.engine.api.legacy import RETIRED
from core.errors import BadSettings
from tests.support.client_environment import NoClient, python_with
from tests.support.engine_process import (
    DEADLINE_S,
    TOKEN,
    EngineUnderTest,
    finished,
    jsonl,
    pairs,
    poll,
    running,
    upload,
)
from tests.support.tiny_gemma import write_tiny_gemma

_BASE = packaged_models.BASE
_DEAD = "curie:ft-bothub-ai:ultraman-2023-04-04-03-03-26"  # the article's model
_RESULTS = "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy"

# The article's commands, split at their spaces as it does; the suffix therefore keeps its quotes.
_CREATE = (
    'openai api fine_tunes.create --training_file data/prepared_data_prepared.jsonl --model curie --suffix "ultraman"'
)
_LIST = "openai api fine_tunes.list"
_RESULTS_OF = "openai api fine_tunes.results -i {id}"
_FURTHER = (
    "openai api fine_tunes.create --training_file data/prepared_data_more_prepared.jsonl "
    f'--model {_DEAD} --suffix "ultraman" --learning_rate_multiplier 0.2'
)

# The article's code, unchanged.
_STORY = f'''
import os
import openai

openai.api_key = os.getenv("OPENAI_API_KEY")

def write_a_story(prompt):
    response = openai.Completion.create(
        model="{_DEAD}",
        prompt=prompt,
        temperature=0.7,
        max_tokens=2000,
        top_p=1,
        stop=["."])
    return response["choices"][0]["text"]

story = write_a_story("宋,发射激光,艰难 ->\\n")
print(story)
'''
_STREAM = f'''
import os
import openai

openai.api_key = os.getenv("OPENAI_API_KEY")

def write_a_story_by_stream(prompt):
    response = openai.Completion.create(
        model="{_DEAD}",
        prompt=prompt,
        temperature=0.7,
        max_tokens=2000,
        stream=True,
        top_p=1,
        stop=["."])
    return response

response = write_a_story_by_stream("汉,冰冻大海,艰难 ->\\n")

for event in response:
    event_text = event['choices'][0]['text']
    print(event_text, end = '')
'''
_OTHER_CALLS = """
import json, sys
import openai

file_id, base = sys.argv[1:]
made = openai.FineTune.create(training_file=file_id, model=base, n_epochs=1, batch_size=4, prompt_loss_weight=0.01,
                              validation_file=file_id)
streamed = [event["message"] for event in openai.FineTune.stream_events(made["id"])]
job = openai.FineTune.retrieve(made["id"])
tuned = job["fine_tuned_model"]
listed = [event["message"] for event in openai.FineTune.list_events(id=job["id"])["data"]]
options = dict(prompt="a", max_tokens=3, temperature=0)
texts = [openai.Completion.create(engine=tuned, **options)["choices"][0]["text"],
         openai.Completion.create(model=tuned, **options)["choices"][0]["text"]]
chunks = [c["model"] for c in openai.Completion.create(engine=tuned, stream=True, **options)]
chat = openai.ChatCompletion.create(engine=base, messages=[{"role": "user", "content": "a"}], max_tokens=3)
waiting = openai.FineTune.create(training_file=file_id, model=base, n_epochs=50)
cancelled = openai.FineTune.cancel(waiting["id"])

def refusal(call):
    try:
        call()
    except openai.error.InvalidRequestError as exc:
        return [str(exc), exc.param, exc.code]

print(json.dumps({
    "made": made, "job": job, "streamed": streamed, "listed": listed, "texts": texts, "chunks": chunks, "chat": chat,
    "cancelled": cancelled["status"],
    "engines": [engine["id"] for engine in openai.Engine.list()["data"]],
    "engine": openai.Engine.retrieve(tuned),
    "results": openai.File.download(job["result_files"][0]["id"]).decode(),
    "edit": refusal(lambda: openai.Edit.create(model=base, input="a", instruction="b")),
    "both": refusal(lambda: openai.Completion.create(engine=base, model=tuned, prompt="a")),
    "unknown": refusal(lambda: openai.FineTune.retrieve("ft-none")),
    "missing": refusal(lambda: openai.FineTune.create(training_file="file-none", model=base)),
    "metrics": refusal(lambda: openai.FineTune.create(training_file=file_id, compute_classification_metrics=True)),
    "weight": refusal(lambda: openai.FineTune.create(training_file=file_id, prompt_loss_weight=0.5)),
    "deleted": openai.Model.delete(tuned),
}))
"""


@pytest.fixture(scope="module")
def python_of_2023() -> Path:
    try:
        return python_with("openai==0.27.0")
    except NoClient as exc:
        pytest.skip(f"programs of 2023 are not run: {exc}")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    """An engine with a tiny model under the packaged base's name and room for the article's 2,000 tokens."""
    folder = tmp_path_factory.mktemp("of_2023")
    started = EngineUnderTest(folder / "home", write_tiny_gemma(folder / "tiny.gguf", context=4096))
    started.models = f"{_BASE}={folder / 'tiny.gguf'}"
    started.start()
    yield started
    started.stop()


def _run(python: Path, engine: EngineUnderTest, folder: Path, *arguments: str) -> str:
    """Run a program in that environment; only the address and the key are set."""
    environ = {**os.environ, "OPENAI_API_BASE": engine.url, "OPENAI_API_KEY": TOKEN, "PYTHONIOENCODING": "utf-8"}
    environ["PATH"] = f"{python.parent}{os.pathsep}{environ['PATH']}"
    done = subprocess.run(
        arguments, cwd=folder, env=environ, capture_output=True, encoding="utf-8", timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _article_file(path: Path, dynasties: str) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [
        {"prompt": f"{dynasty},隐形,轻松 ->", "completion": f" \n\n一位{dynasty}朝英雄。."} for dynasty in dynasties
    ]
    path.write_bytes(jsonl(rows))


@pytest.mark.slow
def test_the_articles_commands_and_code_train_and_stream(
    python_of_2023: Path, engine: EngineUnderTest, tmp_path: Path
) -> None:
    def run(*arguments: str) -> str:
        return _run(python_of_2023, engine, tmp_path, *arguments)

    _article_file(tmp_path / "data" / "prepared_data_prepared.jsonl", "唐宋元明清汉魏晋")
    followed = run(*_CREATE.split())
    assert "Job complete! Status: succeeded" in followed
    assert f"OpenAI has retired curie; {_BASE} is trained instead." in followed
    (job,) = json.loads(run(*_LIST.split()))["data"]
    assert (job["object"], job["status"], job["model"]) == ("fine-tune", "succeeded", _BASE)
    assert job["fine_tuned_model"].startswith(f"ft:{_BASE}:fabula:ultraman:")
    assert job["hyperparams"]["n_epochs"] == 8
    assert run(*_RESULTS_OF.format(id=job["id"]).split()).startswith(_RESULTS)

    with engine.http() as http:
        assert http.post("/fabula/v1/aliases", json={"id": _DEAD, "model": job["fine_tuned_model"]}).is_success
    assert run(str(python_of_2023), "-c", _STORY + "print(len(story), type(story))").endswith("<class 'str'>\n")
    assert run(str(python_of_2023), "-c", _STREAM + "print(type(event_text))").endswith("<class 'str'>\n")

    _article_file(tmp_path / "data" / "prepared_data_more_prepared.jsonl", "秦隋")
    assert "Job complete! Status: succeeded" in run(*_FURTHER.split())
    further = json.loads(run(*_LIST.split()))["data"][-1]
    assert (further["model"], further["hyperparams"]["learning_rate_multiplier"]) == (_DEAD, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--stream"], ["-n", "2"], ["--logprobs", "2"]])
def test_the_shell_command_for_completions_repeats_the_prompt(
    python_of_2023: Path, engine: EngineUnderTest, tmp_path: Path, options: list[str]
) -> None:
    command = ["openai", "api", "completions.create", "-m", _BASE, "-p", "宋,飞行,努力 ->", "-M", "3", *options]
    printed = _run(python_of_2023, engine, tmp_path, *command)
    assert printed.count("宋,飞行,努力 ->") == (2 if "-n" in options else 1)


@pytest.mark.slow
def test_the_other_calls_of_2023(python_of_2023: Path, engine: EngineUnderTest, tmp_path: Path) -> None:
    file_id = upload(engine.client(), pairs(4))
    told: dict[str, Any] = json.loads(
        _run(python_of_2023, engine, tmp_path, str(python_of_2023), "-c", _OTHER_CALLS, file_id, _BASE)
    )
    made, job, tuned = told["made"], told["job"], told["job"]["fine_tuned_model"]
    assert (made["status"], made["fine_tuned_model"], made["result_files"]) == ("pending", None, [])
    assert [one["id"] for one in made["training_files"] + made["validation_files"]] == [file_id, file_id]
    assert made["events"][0]["message"] == told["streamed"][0] == f"Created fine-tuning job: {made['id']}"
    assert told["streamed"] == told["listed"] == [event["message"] for event in job["events"]]
    assert told["streamed"][-1] == "The job has successfully completed"
    assert job["status"] == "succeeded"
    assert told["results"].startswith(_RESULTS)
    assert job["result_files"][0]["bytes"] == len(told["results"])
    assert told["texts"][0] == told["texts"][1]
    assert set(told["chunks"]) == {tuned}
    assert told["chat"]["choices"][0]["message"]["role"] == "assistant"
    assert told["cancelled"] == "cancelled"
    assert {_BASE, tuned} <= set(told["engines"])
    assert (told["engine"]["object"], told["engine"]["ready"]) == ("engine", True)
    assert "openai.ChatCompletion.create(model=" in told["edit"][0]
    assert told["both"][1] == "model"
    assert told["unknown"][2] == "fine_tuning_job_not_found"
    assert told["missing"][1:] == ["training_file", "file_not_found"]
    assert told["metrics"][1:] == ["compute_classification_metrics", "unsupported_parameter"]
    assert told["weight"][1:] == ["prompt_loss_weight", "unsupported_parameter"]
    assert told["deleted"]["deleted"] is True


@pytest.mark.parametrize(("method", "path"), RETIRED)
def test_an_endpoint_that_is_gone_tells_the_line_to_write(engine: EngineUnderTest, method: str, path: str) -> None:
    with engine.http() as http:
        error = http.request(method, path.replace("{id:path}", "davinci").replace("{id}", "ftjob-1")).json()["error"]
    assert error["code"] == "endpoint_retired"
    assert f"Write instead: {RETIRED[method, path]}" in error["message"]


def test_an_alias_of_a_retired_base_takes_precedence(engine: EngineUnderTest) -> None:
    file_id = upload(engine.client(), pairs(2))
    with engine.http() as http:
        http.post("/fabula/v1/aliases", json={"id": "ada", "model": _BASE})
        made = http.post("/v1/fine-tunes", json={"training_file": file_id, "model": "ada"}).json()
        assert made["model"] == "ada"
        assert not any("retired" in event["message"] for event in made["events"])
        assert http.post(f"/v1/fine-tunes/{made['id']}/cancel").json()["status"] == "cancelled"
        unknown = http.post("/v1/fine-tunes", json={"training_file": file_id, "model": "gpt-9"}).json()["error"]
        assert unknown["code"] == "model_not_found"
        http.delete("/fabula/v1/aliases/ada")


def test_streamed_events_end_when_the_engine_stops(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine, engine.http() as http:
        client = engine.client(strict=False)
        job = client.fine_tuning.jobs.create(model=_BASE, training_file=upload(client, pairs(4)))
        poll(lambda: http.post(f"/v1/fine_tuning/jobs/{job.id}/pause").status_code == 200)
        with http.stream("GET", f"/v1/fine-tunes/{job.id}/events", params={"stream": "true"}) as streamed:
            lines = streamed.iter_lines()
            assert next(lines).startswith("data: ")
            assert engine.process is not None
            engine.process.terminate()
            rest = list(lines)  # a stream that is cut off is an error here
        assert "data: [DONE]" not in rest
        engine.process.wait(DEADLINE_S)


def test_result_files_are_base64_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyperparameters: Any = {"n_epochs": 1, "batch_size": 4}
    with running(tmp_path / "home") as engine:
        client = engine.client(strict=False)
        made = client.fine_tuning.jobs.create(
            model="tiny-gemma", training_file=upload(client, pairs(4)), hyperparameters=hyperparameters
        )
        (result,) = finished(client, made.id).result_files
        plain = client.files.content(result).read()
        assert plain.decode().startswith(_RESULTS)
        asked = client.files.content(result, extra_query={"encoding": "base64"}).read()
        assert base64.b64decode(asked, validate=True) == plain
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.content(result, extra_query={"encoding": "gzip"})
        assert caught.value.param == "encoding"
        uploaded = client.files.content(made.training_file, extra_query={"encoding": "base64"}).read()
        assert uploaded == pairs(4)  # only result files are encoded
        engine.stop()
        monkeypatch.setenv(BASE64_SETTING, "1")
        engine.start()
        client = engine.client(strict=False)
        encoded = client.files.content(result).read()  # the cookbook's line
        assert base64.b64decode(encoded.decode("utf-8")) == plain
        assert client.files.retrieve(result).bytes == len(encoded)
        assert client.files.content(result, extra_query={"encoding": "text"}).read() == plain


@pytest.mark.parametrize("value", ["", "0", "1", "true", "No", "yes", "off"])
def test_the_studio_reads_the_setting_as_the_engine_does(value: str) -> None:
    assert setting_fields.checked({BASE64_SETTING: value}).results_base64 == sends_base64({BASE64_SETTING: value})


def test_the_studio_names_a_setting_that_is_neither() -> None:
    with pytest.raises(BadSettings, match=BASE64_SETTING):
        setting_fields.checked({BASE64_SETTING: "maybe"})
