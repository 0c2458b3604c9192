"""Real fine-tuning jobs on a tiny model, through the official SDK."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from core.engine.formats import gguf_file
from core.engine.training.job_folder import RESULTS_COLUMNS
from core.message import cause_of, restored
from tests.support.engine_process import (
    DEADLINE_S,
    ROOT,
    TINY,
    TOKEN,
    EngineUnderTest,
    chats,
    finished,
    jsonl,
    pairs,
    poll,
    preferences,
    running,
    steps,
    upload,
)
from tests.support.waiting import at_once

LONG = {"n_epochs": 50, "batch_size": 1}  # a job that is still running when it is checked


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("jobs") / "home") as started:
        yield started


@pytest.fixture(scope="module")
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


@pytest.fixture(scope="module")
def tuned(client: OpenAI) -> FineTuningJob:
    """A finished job: 20 pairs, 2 epochs of 5 steps, with a validation file."""
    job = client.fine_tuning.jobs.create(
        model=TINY,
        training_file=upload(client, pairs(20)),
        validation_file=upload(client, pairs(4)),
        suffix="ultraman",
        seed=7,
        metadata={"fabula_intent": "i-1", "who": "测试"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 5}},
        },
    )
    assert (job.status, job.fine_tuned_model, job.trained_tokens) == ("validating_files", None, None)
    return finished(client, job.id)


def start(client: OpenAI, **arguments: Any) -> FineTuningJob:
    given = {"model": TINY, "training_file": arguments.pop("file", None) or upload(client, pairs(8))}
    hyperparameters = arguments.pop("hyperparameters", {"n_epochs": 1})
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    return client.fine_tuning.jobs.create(**{**given, "method": method, **arguments})


def status(client: OpenAI, job: FineTuningJob) -> str:
    return client.with_options().fine_tuning.jobs.with_raw_response.retrieve(job.id).http_response.json()["status"]


def until(client: OpenAI, job: FineTuningJob, wanted: str) -> None:
    poll(lambda: status(client, job) == wanted)


def messages(client: OpenAI, job: FineTuningJob) -> list[str]:
    return [event.message for event in client.fine_tuning.jobs.list_events(job.id)][::-1]


def test_a_job_from_upload_to_model(client: OpenAI, tuned: FineTuningJob) -> None:
    assert tuned.status == "succeeded", tuned.error
    assert tuned.error is None
    assert tuned.fine_tuned_model is not None
    assert tuned.fine_tuned_model.startswith(f"ft:{TINY}:fabula:ultraman:")
    assert (tuned.hyperparameters.n_epochs, tuned.hyperparameters.batch_size) == (2, 4)
    assert (tuned.seed, tuned.metadata) == (7, {"fabula_intent": "i-1", "who": "测试"})
    assert tuned.trained_tokens
    assert tuned.finished_at
    assert tuned.finished_at >= tuned.created_at
    assert tuned.estimated_finish is None


def test_events_tell_the_story_newest_first(client: OpenAI, tuned: FineTuningJob) -> None:
    all_messages = messages(client, tuned)
    order = [
        f"Created fine-tuning job: {tuned.id}",
        f"Validating training file: {tuned.training_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        f"New fine-tuned model created: {tuned.fine_tuned_model}",
        "The job has successfully completed",
    ]
    places = [all_messages.index(message) for message in order]
    assert places == sorted(places)
    metrics = [event for event in client.fine_tuning.jobs.list_events(tuned.id) if event.type == "metrics"]
    data: list[Any] = [event.data for event in metrics][::-1]
    assert [row["step"] for row in data] == list(range(1, 11))
    assert data[-1]["train_loss"] < data[0]["train_loss"]
    assert data[-1]["valid_loss"] > 0
    assert metrics[0].message.startswith("Step 10/10: training loss=")
    page = client.fine_tuning.jobs.list_events(tuned.id, limit=3)
    assert len(page.data) == 3
    assert page.has_more
    assert client.fine_tuning.jobs.list_events(tuned.id, after=page.data[-1].id, limit=1).data[0].id not in {
        event.id for event in page.data
    }


def test_the_results_are_a_csv(client: OpenAI, tuned: FineTuningJob) -> None:
    file = client.files.retrieve(tuned.result_files[0])
    text = client.files.content(file.id).text
    assert (file.purpose, file.bytes) == ("fine-tune-results", len(text.encode()))
    assert text.splitlines()[0] == ",".join(RESULTS_COLUMNS)
    assert steps(text) == list(range(1, 11))
    last = text.splitlines()[-1].split(",")
    assert float(last[RESULTS_COLUMNS.index("validation_loss")]) > 0
    assert int(last[RESULTS_COLUMNS.index("elapsed_examples")]) == 40


def test_checkpoints_are_models(client: OpenAI, tuned: FineTuningJob) -> None:
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(tuned.id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [10, 5]
    assert checkpoints[1].fine_tuned_model_checkpoint == f"{tuned.fine_tuned_model}:ckpt-step-5"
    assert checkpoints[0].metrics.train_loss
    assert checkpoints[0].metrics.valid_mean_token_accuracy is not None
    model = client.models.retrieve(checkpoints[1].fine_tuned_model_checkpoint)
    expected = {"base": TINY, "format": "completion", "job": tuned.id, "step": 5, "not_trainable": None}
    extra = (model.model_extra or {})["fabula"]
    assert extra.pop("context") and extra.pop("parallel")
    assert extra.pop("training").keys() == {"learning_rate", "lora_rank", "lora_alpha"}
    assert extra == expected
    assert model.id not in [listed.id for listed in client.models.list()]


def test_base_tuned_and_checkpoint_serve_at_once(client: OpenAI, tuned: FineTuningJob) -> None:
    assert tuned.fine_tuned_model
    options: Any = {"prompt": "唐,隐形,3 ->", "max_tokens": 12, "temperature": 0}

    def generate(model: str) -> str:
        return client.completions.create(model=model, **options).choices[0].text

    base, end = generate(TINY), generate(tuned.fine_tuned_model)
    assert "英雄" in end
    assert end != base
    generate(f"{tuned.fine_tuned_model}:ckpt-step-5")
    assert (generate(TINY), generate(tuned.fine_tuned_model)) == (base, end)


def test_base_and_tuned_write_side_by_side(client: OpenAI, tuned: FineTuningJob) -> None:
    assert tuned.fine_tuned_model

    client = client.with_options()
    client._strict_response_validation = False  # a streamed piece has no finish_reason, as OpenAI sends it

    def streamed(model: str) -> tuple[float, float]:
        """Times of the first and the last chunk."""
        stream = client.completions.create(model=model, prompt="a", max_tokens=300, seed=3, stream=True)
        times = [time.monotonic() for _ in stream]
        return times[0], times[-1]

    def overlap() -> bool:
        with ThreadPoolExecutor(2) as pool:
            (first, last), (other_first, other_last) = pool.map(streamed, (TINY, tuned.fine_tuned_model))
        return max(first, other_first) < min(last, other_last)

    streamed(tuned.fine_tuned_model)  # both are loaded
    streamed(TINY)
    assert any(overlap() for _ in range(5))  # if they ran one after the other, they would never overlap


def test_jobs_are_listed_by_metadata_and_page(client: OpenAI, tuned: FineTuningJob) -> None:
    other = start(client)
    client.fine_tuning.jobs.cancel(other.id)
    listed = [job.id for job in client.fine_tuning.jobs.list(limit=1)]
    assert listed[0] == other.id
    assert tuned.id in listed
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"fabula_intent": "i-1"})] == [tuned.id]
    assert list(client.fine_tuning.jobs.list(metadata={"fabula_intent": "i-1", "who": "?"})) == []
    without = [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})]
    assert other.id in without
    assert tuned.id not in without


def test_one_intent_makes_one_job_however_often_it_is_posted(client: OpenAI) -> None:
    file = upload(client, pairs(8))

    def post(**metadata: str) -> str:
        return start(client, file=file, metadata=metadata).id

    (made,) = {*at_once(3, lambda: post(fabula_intent="twice")), post(fabula_intent="twice")}
    assert made not in (post(fabula_intent="another"), post(who="twice"))


def test_training_goes_on_from_a_tuned_model_and_from_a_checkpoint(client: OpenAI, tuned: FineTuningJob) -> None:
    assert tuned.fine_tuned_model
    last_loss = _losses(client, tuned)[-1]
    for model in (tuned.fine_tuned_model, f"{tuned.fine_tuned_model}:ckpt-step-10"):
        job = finished(client, start(client, model=model, file=tuned.training_file).id)
        assert job.status == "succeeded", job.error
        assert job.model == model
        assert job.fine_tuned_model
        assert job.fine_tuned_model.startswith(f"ft:{TINY}:fabula::")
        assert _losses(client, job)[0] < last_loss * 1.2  # not from the beginning


def _losses(client: OpenAI, job: FineTuningJob) -> list[float]:
    text = client.files.content(job.result_files[0]).text
    return [float(line.split(",")[3]) for line in text.splitlines()[1:]]


def test_conversations_train_and_serve(client: OpenAI) -> None:
    job = finished(client, start(client, file=upload(client, chats(16)), hyperparameters={"n_epochs": 3}).id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model
    model: Any = client.models.retrieve(job.fine_tuned_model)
    assert model.fabula["format"] == "chat"
    made = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "唐 3"}], max_tokens=8
    )
    assert made.choices[0].message.content is not None


def test_preferences_train_and_serve(client: OpenAI) -> None:
    file = upload(client, preferences(8))
    method: Any = {
        "type": "dpo",
        "dpo": {"hyperparameters": {"n_epochs": 3, "batch_size": 4, "beta": 0.5, "learning_rate_multiplier": 100}},
    }
    job = finished(client, start(client, file=file, method=method, validation_file=upload(client, preferences(2))).id)
    assert job.status == "succeeded", job.error
    told: Any = job.to_dict()["method"]
    assert (told["type"], told["dpo"]["hyperparameters"]["beta"]) == ("dpo", 0.5)
    header, first, *_, last = (line.split(",") for line in client.files.content(job.result_files[0]).text.splitlines())
    margin = header.index("training_reward_margin")
    assert (float(first[margin]), int(last[0])) == (pytest.approx(0, abs=1e-5), 6)
    assert float(last[margin]) > 0
    assert last[header.index("training_token_accuracy")] == ""
    checkpoint: Any = client.fine_tuning.jobs.checkpoints.list(job.id).data[0].to_dict()["metrics"]
    assert checkpoint["valid_reward_accuracy"] is not None
    model: Any = client.models.retrieve(job.fine_tuned_model or "")
    assert model.fabula["format"] == "chat"


@pytest.mark.parametrize(
    ("content", "method", "says"),
    [
        (chats(8), "dpo", "has no preferences: for 'dpo', each line needs 'input'"),
        (pairs(8), "dpo", "has no preferences: for 'dpo', each line needs 'input'"),
        (preferences(8), "supervised", "has preferences; to train on them, set 'method.type' to 'dpo'"),
    ],
)
def test_a_file_for_another_method_is_refused(client: OpenAI, content: bytes, method: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        start(client, file=upload(client, content), method={"type": method})
    assert says in caught.value.message


def test_pause_and_resume_leave_no_hole(client: OpenAI) -> None:
    job = start(client, hyperparameters={**LONG, "n_epochs": 15})
    poll(lambda: client.fine_tuning.jobs.retrieve(job.id).result_files)
    poll(lambda: len(steps(_results(client, job))) >= 3)
    with pytest.raises(openai.APIResponseValidationError):  # `paused` is not in the SDK's own type
        client.fine_tuning.jobs.pause(job.id)
    assert status(client, job) == "paused"
    until(client, job, "paused")
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.with_raw_response.pause(job.id)
    assert caught.value.code == "invalid_job_status"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    ended = finished(client, job.id)
    assert ended.status == "succeeded", ended.error
    assert steps(_results(client, ended)) == list(range(1, 121))
    events = [event for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    assert [_step(event.data) for event in events] == list(range(120, 0, -1))
    assert "The job was paused." in messages(client, job)
    assert "The job was resumed." in messages(client, job)


def test_a_job_behind_another_knows_its_place_and_only_training_counts(client: OpenAI) -> None:
    first = start(client, hyperparameters=LONG)
    second = start(client)
    until(client, first, "running")
    until(client, second, "queued")
    assert _told(client, second)["queue_position"] == 2 and _told(client, first)["queue_position"] is None
    poll(lambda: client.fine_tuning.jobs.retrieve(first.id).estimated_finish is not None)
    starts = _told(client, second)["estimated_start"]
    assert starts is not None and starts >= second.created_at
    poll(lambda: _told(client, first)["training_seconds"] > 0)
    client.fine_tuning.jobs.with_raw_response.pause(first.id)
    until(client, first, "paused")
    done = finished(client, second.id)
    assert done.status == "succeeded" and _told(client, second)["queue_position"] is None
    paused = _told(client, first)["training_seconds"]
    third = finished(client, start(client).id)  # time during which the first job does not train
    assert _told(client, first)["training_seconds"] == paused > 0
    for job in (second, third):
        ended = client.fine_tuning.jobs.retrieve(job.id)
        assert ended.finished_at is not None
        assert 0 < _told(client, ended)["training_seconds"] <= ended.finished_at - ended.created_at + 2  # whole seconds
    client.fine_tuning.jobs.cancel(first.id)


def _told(client: OpenAI, job: FineTuningJob) -> dict[str, Any]:
    """The engine's extra fields."""
    raw = client.fine_tuning.jobs.with_raw_response.retrieve(job.id)  # `paused` is not in the SDK's own type
    more: dict[str, Any] = raw.http_response.json()["fabula"]
    return more


def _results(client: OpenAI, job: FineTuningJob) -> str:
    return client.files.content(client.fine_tuning.jobs.retrieve(job.id).result_files[0]).text


def _step(data: Any) -> int:
    return int(data["step"])


def test_a_running_job_shows_its_results_and_can_be_cancelled(client: OpenAI, engine: EngineUnderTest) -> None:
    job = start(client, hyperparameters=LONG)
    poll(lambda: client.fine_tuning.jobs.retrieve(job.id).result_files)
    poll(lambda: len(steps(_results(client, job))) >= 1)
    with engine.http() as http:
        training = poll(lambda: (now := http.get("/health").json()["training"])["total_steps"] and now)
    assert (training["job"], training["total_steps"]) == (job.id, 400)
    assert poll(lambda: client.fine_tuning.jobs.retrieve(job.id).estimated_finish)
    waiting = start(client)
    until(client, waiting, "queued")
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert (cancelled.status, cancelled.fine_tuned_model) == ("cancelled", None)
    assert finished(client, waiting.id).status == "succeeded"  # the queue continues
    for call in (client.fine_tuning.jobs.cancel, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError):
            call(job.id)


@pytest.mark.parametrize("when", ["at once", "queued"])
@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_a_job_trains_on_when_its_files_are_gone(client: OpenAI, engine: EngineUnderTest, how: str, when: str) -> None:
    first = start(client, hyperparameters=LONG)
    until(client, first, "running")
    training, validation = upload(client, pairs(4)), upload(client, pairs(2))
    job = start(client, file=training, validation_file=validation, hyperparameters={"n_epochs": 1})
    if when == "queued":
        until(client, job, "queued")
    for file_id in (training, validation):
        if how == "deleted":
            client.files.delete(file_id)
        else:
            _expire(engine, file_id)
    client.fine_tuning.jobs.cancel(first.id)
    ended = finished(client, job.id)
    assert (ended.status, ended.error) == ("succeeded", None)
    assert _results(client, ended).splitlines()[-1].split(",")[6] != ""  # validation loss
    poll(lambda: not {training, validation} & {file.id for file in client.files.list()})
    poll(lambda: not list((engine.home / "jobs" / job.id).glob("*.source")))


def _expire(engine: EngineUnderTest, file_id: str) -> None:
    """Let the shortest expiry time of a file, one hour, pass."""
    with closing(sqlite3.connect(engine.home / "engine.db", timeout=DEADLINE_S)) as connection, connection:
        connection.execute("UPDATE files SET expires_at = 1 WHERE id = ?", (file_id,))


def test_lines_beyond_the_context_fail_the_job_by_number_and_length(client: OpenAI) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "光" * 600}]
    ended = finished(client, start(client, file=upload(client, jsonl(rows))).id)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == "invalid_training_file"
    # <bos>, the prompt, 600 characters, <eos>
    assert "An example can have 512 tokens at most. Line 2 has 603 tokens." in ended.error.message
    assert cause_of(restored(ended.error.message, ended.error.model_extra)) == "too_long"


def test_the_ten_lines_of_the_documentation_work(
    engine: EngineUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    lines = text.split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) == 10
    for documented, here in (
        ("http://127.0.0.1:8010/v1", engine.url),
        ("choose-a-long-random-text", TOKEN),
        ("gemma-3-270m", TINY),
        ("max_tokens=600", "max_tokens=200"),  # the tiny model's context has 512
    ):
        assert documented in lines
        lines = lines.replace(documented, here)
    (tmp_path / "stories.jsonl").write_bytes(pairs(16))
    monkeypatch.chdir(tmp_path)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda _seconds: sleep(0.2))  # the documented code polls every few seconds
    exec(lines, {"OpenAI": OpenAI, "time": time})
    printed = capsys.readouterr().out
    assert "succeeded The job has successfully completed" in printed
    assert printed.splitlines()[-1]  # the story


def test_a_tuned_model_can_be_deleted_and_its_job_stays(client: OpenAI, engine: EngineUnderTest) -> None:
    job = finished(client, start(client).id)
    assert job.fine_tuned_model
    adapters = set((engine.home / "adapters").iterdir())
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=job.fine_tuned_model, prompt="a")
    assert len(set((engine.home / "adapters").iterdir())) == len(adapters) - 1
    assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == job.fine_tuned_model


def test_a_finished_job_keeps_only_small_files(engine: EngineUnderTest, tuned: FineTuningJob) -> None:
    folder = engine.home / "jobs" / tuned.id
    poll(lambda: not list(folder.glob("*.safetensors")) and not list(folder.glob("*.npz")))
    assert json.loads((folder / "job.json").read_text())["seed"] == 7
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 100_000


def test_a_job_that_starts_from_a_damaged_adapter_fails_with_the_reason(
    engine: EngineUnderTest, client: OpenAI
) -> None:
    folder, name = engine.home / "adapters", f"ft:{TINY}:fabula::damaged"
    folder.mkdir(exist_ok=True)
    gguf_file.write_adapter(folder / "damaged.gguf", gguf_file.Adapter("gemma3", 8.0, {}))
    with closing(sqlite3.connect(engine.home / "engine.db")) as database, database:
        columns = "id, created_at, base, adapter, format"
        values = (name, 1, TINY, "adapters/damaged.gguf", "completion")
        database.execute(f"INSERT INTO models ({columns}) VALUES (?, ?, ?, ?, ?)", values)
    job = finished(client, client.fine_tuning.jobs.create(model=name, training_file=upload(client, pairs(4))).id)
    assert (job.status, job.error and job.error.code) == ("failed", "damaged_adapter")
    assert job.error and "not a LoRA adapter" in job.error.message
