"""Our client and a run against a real engine process with a tiny model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import i18n
from core.actor import LOCAL
from core.datasets import dataset_rows, datasets
from core.datasets.recipe import Column, Recipe
from core.errors import ModelNotFound, NotFound, Refused, Unavailable
from core.generation import executor, run_progress, runs, speed_measurement
from core.message import Message
from core.providers import Client, CompletionRequest, JobRequest, Provider, Registry
from core.settings import Settings
from tests.support import engine_process
from tests.support.engine_process import OVER, TINY, TOKEN, EngineUnderTest, pairs
from tests.support.stores import fresh
from tests.support.waiting import WAIT_LIMIT_S, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with engine_process.running(tmp_path_factory.mktemp("engine") / "home") as running:
        yield running


@pytest.fixture
def client(engine: EngineUnderTest) -> Client:
    return Client(provider(engine))


def provider(engine: EngineUnderTest, key: str = TOKEN) -> Provider:
    return Provider("engine", "engine", "The engine", engine.url, key)


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_whole_and_streamed_answers(client: Client, endpoint: str) -> None:
    request = CompletionRequest(TINY, "唐", endpoint=endpoint, max_tokens=12, seed=1, n=2)  # type: ignore[arg-type]
    answer = client.complete(request)
    assert len(answer.texts) == 2 and answer.model == TINY and answer.prompt_tokens
    stream = client.stream(CompletionRequest(TINY, "唐", endpoint=endpoint, max_tokens=12, seed=1))  # type: ignore[arg-type]
    text = "".join(stream)
    assert stream.facts.finish_reason in ("stop", "length") and stream.facts.tokens and stream.facts.prompt_tokens
    assert text == answer.texts[0].text  # one seed, one text


def test_a_stream_can_be_closed_in_the_middle(client: Client) -> None:
    stream = client.stream(CompletionRequest(TINY, "唐", max_tokens=2000, seed=1))  # unseeded, some end at once
    next(stream)
    stream.close()
    assert list(stream) == [] and stream.facts.finish_reason is None
    assert client.complete(CompletionRequest(TINY, "宋", max_tokens=3, seed=1)).texts


def test_the_speed_of_the_machine_is_measured_with_real_requests(client: Client) -> None:
    assert speed_measurement.base_model(["ft:x:fabula::a", "base", "other"]) == "base"
    found = speed_measurement.measure(LOCAL, client, TINY)
    assert found.model == TINY and found.tokens_per_s > 0
    with pytest.raises(Unavailable):
        speed_measurement.base_model([])


def test_models_health_and_tokens(client: Client) -> None:
    found = {m.id: m for m in client.models()}
    assert found[TINY].provider == "engine" and found[TINY].format == "both"
    assert client.endpoint(TINY) == "chat"
    health = client.health()
    assert TINY in health.models and health.queue == 0 and health.training is None
    assert client.count_tokens(TINY, "唐宋元明清") > 0


def test_errors_of_the_engine_are_told_as_what_they_are(engine: EngineUnderTest, client: Client) -> None:
    with pytest.raises(ModelNotFound):
        client.complete(CompletionRequest("no-such-model", "x"))
    with pytest.raises(Refused):
        Client(provider(engine, "wrong")).models()
    with pytest.raises(NotFound):
        client.job("ftjob-nothing")
    with pytest.raises(NotFound):
        client.file_text("file-nothing")


def test_a_job_from_upload_to_the_tuned_model(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(pairs(8))
    file_id = client.upload(path)
    request = JobRequest(TINY, file_id, suffix="test", seed=1, n_epochs=2, batch_size=4)
    made = client.create_job(request, "intent-1")
    found = client.find_job("intent-1")
    assert found is not None and found.id == made.id and client.find_job("intent-2") is None
    first = until(lambda: client.events(made.id), "the first event")
    job = until(
        lambda: j if (j := client.job(made.id)).status in OVER else None, "the end of the job", 2 * WAIT_LIMIT_S
    )
    assert job.status == "succeeded" and job.fine_tuned_model and job.trained_tokens and job.error is None
    events = client.events(made.id)
    assert [e.id for e in events][: len(first)] == [e.id for e in first]  # oldest first
    assert client.events(made.id, after=events[-1].id) == []
    assert [e.id for e in client.events(made.id, after=events[0].id)] == [e.id for e in events[1:]]
    # logged by the engine, and by its trainer in another process
    messages = [e.message for e in events if e.type == "message"]
    assert all(isinstance(message, Message) for message in messages)
    assert (
        i18n.translator("zh_CN").translated(messages[0]).startswith("已创建微调任务")
        and str.__str__(messages[0]).isascii()
    )
    assert client.file_text(job.result_files[0]).splitlines()[0].startswith("step,elapsed_tokens,elapsed_examples")
    assert [c.step for c in client.checkpoints(made.id)] == [2, 4]
    tuned = next(m for m in client.models() if m.id == job.fine_tuned_model)
    assert (tuned.base, tuned.format, tuned.job) == (TINY, "completion", made.id)
    assert client.endpoint(tuned.id) == "completion"
    assert client.complete(CompletionRequest(tuned.id, "唐,隐形,1 ->", endpoint="completion", max_tokens=5)).texts


def test_a_run_writes_on_the_engine_and_survives_its_death(
    engine: EngineUnderTest, settings: Settings, tmp_path: Path
) -> None:
    store = fresh(settings)
    numbers = Column("number", tuple(str(n) for n in range(12)))
    recipe = Recipe("tiny", (numbers,), "第{number}个故事", model=TINY, max_tokens=60, seed=5)
    registry = Registry([("engine", lambda: provider(engine))])
    run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, recipe))
    thread = threading.Thread(target=executor.execute, args=(store, registry, run_id), daemon=True)
    thread.start()
    until(lambda: run_progress.get(store, run_id).done + run_progress.get(store, run_id).failed >= 2, "the first rows")
    engine.kill()
    engine.start()
    thread.join(2 * WAIT_LIMIT_S)
    progress = run_progress.get(store, run_id)
    assert not thread.is_alive() and progress.state == "done" and progress.pending == 0
    assert progress.cost_usd == 0 and progress.tokens > 0
    # a tiny random model rarely ends by itself: truncated rows are marked and keep their text
    rows = dataset_rows.page(store, progress.dataset_id)
    assert all(r.state == "done" or r.reason == "The text was cut off at 60 tokens." for r in rows)
    assert all(r.text for r in rows if r.finish_reason == "length")
    store.close()
