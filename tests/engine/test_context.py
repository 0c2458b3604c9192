"""The context: the model's own, up to FABULA_ENGINE_CONTEXT, in requests, training files, estimates and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from openai import BadRequestError

from core import setting_fields
from core.engine.bases import suggestions
from core.engine.bases.library import BaseLibrary
from core.engine.job_rules import CONTEXT, CONTEXT_RANGE, CONTEXT_SETTING, context_limit
from core.errors import BadSettings
from tests.support.engine_process import TINY, finished, jsonl, poll, running, upload
from tests.support.tiny_gemma import write_tiny_gemma
from tests.support.tiny_models import TinyModel


@pytest.mark.parametrize(
    ("environ", "tokens"),
    [
        ({}, CONTEXT),
        ({CONTEXT_SETTING: ""}, CONTEXT),
        ({CONTEXT_SETTING: " 32768 "}, 32_768),
        ({CONTEXT_SETTING: "256"}, 256),
    ],
)
def test_the_setting_is_the_limit(environ: dict[str, str], tokens: int) -> None:
    assert context_limit(environ) == tokens


@pytest.mark.parametrize("value", ["32k", "4096.0", "0", "255", "-4096", "1048577", "9" * 40, "４０９６"])
def test_a_setting_that_is_no_number_of_tokens_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=CONTEXT_SETTING):
        context_limit({CONTEXT_SETTING: value})


def test_the_studio_checks_the_setting_as_the_engine_does() -> None:
    assert setting_fields.SettingFields().engine_context == CONTEXT
    for value in (*map(str, CONTEXT_RANGE), "4096"):
        assert setting_fields.checked({CONTEXT_SETTING: value}).engine_context == context_limit(
            {CONTEXT_SETTING: value}
        )
    for value in (str(CONTEXT_RANGE[0] - 1), str(CONTEXT_RANGE[1] + 1), "32k"):
        with pytest.raises(BadSettings, match=CONTEXT_SETTING):
            setting_fields.checked({CONTEXT_SETTING: value})


def test_requests_and_examples_may_be_as_long_as_setting_and_model_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONTEXT_SETTING, "6000")
    long = write_tiny_gemma(tmp_path / "long.gguf", context=8192)
    with running(tmp_path / "home", long) as engine, engine.http() as http:
        client = engine.client(strict=False)
        http.post(
            "/fabula/v1/bases", json={"source": "file", "path": str(TinyModel("qwen3").write(tmp_path / "tiny.gguf"))}
        )
        short = poll(lambda: (one := http.get("/fabula/v1/bases/tiny").json())["state"] == "ready" and one)
        assert (short["context"], short["model_context"]) == (512, 512)  # the model's own
        answer = client.completions.create(model=TINY, prompt=[7] * 5_000, max_tokens=2, temperature=0)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens >= 5_000
        with pytest.raises(BadRequestError) as limited:
            client.completions.create(model=TINY, prompt=[7] * 6_000, max_tokens=2)
        assert "maximum context length is 6000 tokens" in limited.value.message
        assert f"The limit is {CONTEXT_SETTING}; the model itself can read 8192 tokens." in limited.value.message
        with pytest.raises(BadRequestError) as own:
            client.completions.create(model="tiny", prompt=[7] * 600, max_tokens=2)
        assert "maximum context length is 512 tokens" in own.value.message
        assert CONTEXT_SETTING not in own.value.message
        contexts = {one["id"]: one["fabula"]["context"] for one in http.get("/v1/models").json()["data"]}
        assert (contexts[TINY], contexts["tiny"]) == (6000, 512)
        assert contexts["gemma-3-270m"] == 6000  # not opened yet
        training_file = upload(client, jsonl([{"prompt": "a", "completion": " 英雄" * 4_000}] * 10))
        job = finished(client, client.fine_tuning.jobs.create(model=TINY, training_file=training_file).id)
        assert job.error is not None
        assert "An example can have 6000 tokens at most" in (job.error.message or "")
        assert CONTEXT_SETTING in (job.error.message or "")


def test_memory_is_estimated_for_the_context_that_is_served(tmp_path: Path) -> None:
    path = write_tiny_gemma(tmp_path / "long.gguf", context=32_768)
    few, many = (BaseLibrary(tmp_path / value, {CONTEXT_SETTING: value}, 1) for value in ("1024", "16384"))
    try:
        records = [library.add_path(str(path), None, frozenset()) for library in (few, many)]
        assert [one.context for one in records] == [32_768, 32_768]
        shapes = [one.shape(library.context_limit) for one, library in zip(records, (few, many), strict=True)]
        assert [shape.context for shape in shapes] == [1024, 16_384]
    finally:
        few.stop()
        many.stop()
    largest = max(suggestions.every(), key=lambda one: one.shape.context)
    assert largest.serving_bytes(16_384) > largest.serving_bytes(1024)
    assert len(suggestions.fitting(8 << 30, 1 << 20, 8 << 30)) < len(suggestions.fitting(8 << 30, 1024, 8 << 30))
