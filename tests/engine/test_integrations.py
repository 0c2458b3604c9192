"""`integrations` of a job, and permissions of checkpoints: OpenAI's requests work, and what they do here is said."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from openai import OpenAI

from core import tracker_runs
from core.engine.store import EngineStore, Event, Job
from core.engine.training import tracking
from tests.support.engine_process import TINY, EngineUnderTest, finished, pairs, poll, running, steps, upload

_WANDB: Any = {"type": "wandb", "wandb": {"project": "stories", "name": "first", "entity": "us", "tags": ["a", "b"]}}
# Takes the place of the library: writes each call to a file.
_RECORDER = """
import json, os
from types import SimpleNamespace

Settings = dict

def _write(*call):
    with open(os.environ["WANDB_CALLS"], "a") as file:
        file.write(json.dumps(call) + "\\n")

class _Run:
    offline, url, starting_step = False, "https://wandb.test/us/stories/first", 0
    summary = SimpleNamespace(update=lambda values: _write("summary", values))
    log = staticmethod(lambda values, step: _write("log", step, values))
    finish = staticmethod(lambda: _write("finish"))

def init(**given):
    _write("init", {name: given[name] for name in ("project", "entity", "name", "tags", "id")})
    return _Run()
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls") / "calls.jsonl"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the engine's modules."""
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, calls: Path, library: Path) -> Iterator[EngineUnderTest]:
    """An engine that knows W&B's key, but has no library for it yet."""
    environ = {"PYTHONPATH": str(library), "WANDB_API_KEY": "a key", "WANDB_CALLS": str(calls)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        with running(tmp_path_factory.mktemp("integrations") / "home") as started:
            yield started


def _create(engine: EngineUnderTest, integration: Any) -> str:
    client = engine.client(strict=False)
    return client.fine_tuning.jobs.create(
        model=TINY, training_file=upload(client, pairs(8)), integrations=[integration],
        hyperparameters={"n_epochs": 1, "batch_size": 4},
    ).id  # fmt: skip


def _messages(engine: EngineUnderTest, job_id: str) -> list[tuple[str, str]]:
    return [(event.level, event.message) for event in engine.client().fine_tuning.jobs.list_events(job_id)]


def test_a_job_is_logged_to_wandb_if_that_is_installed(engine: EngineUnderTest, calls: Path, library: Path) -> None:
    if importlib.util.find_spec("wandb") is None:
        without = _create(engine, _WANDB)
        reason = (
            "Weights & Biases is not installed here. Install it with: `pip install wandb`. The job runs without it."
        )
        assert ("warn", reason) in _messages(engine, without)
        assert engine.client(strict=False).fine_tuning.jobs.cancel(without).status == "cancelled"

    (library / "wandb.py").write_text(_RECORDER)
    job = finished(engine.client(strict=False), _create(engine, _WANDB))
    assert (job.status, [one.to_dict() for one in job.integrations or ()]) == ("succeeded", [_WANDB])
    called = [json.loads(line) for line in calls.read_text().splitlines()]
    assert called[0] == ["init", {**_WANDB["wandb"], "id": job.id}]
    logged = [call[1:] for call in called if call[0] == "log"]
    results = engine.client().files.content(str((job.result_files or [""])[0])).text
    assert [step for step, _ in logged] == steps(results)
    assert all(values["training_loss"] > 0 for _, values in logged)
    poll(lambda: "finish" in calls.read_text())  # the job does not wait for its tracker
    summary, end = [json.loads(line) for line in calls.read_text().splitlines()][-2:]
    assert (summary[0], summary[1]["status"], summary[1]["fine_tuned_model"]) == (
        "summary", "succeeded", job.fine_tuned_model,
    )  # fmt: skip
    assert end == ["finish"]
    where = "Logging to Weights & Biases: https://wandb.test/us/stories/first"
    assert ("info", where) in _messages(engine, job.id)


def test_a_tracker_that_fails_does_not_affect_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(tracker_runs, "unavailable", lambda tracker: None)
    monkeypatch.setattr(tracker_runs, "open_run", refuse)
    store = EngineStore(tmp_path / "engine.db")
    job = Job(
        "ftjob-1", 0, "running", TINY, TINY, "both", "ft:a", None, 1, "file-1", None, 1, 1, 1, 1.0, None,
        integrations=json.dumps([_WANDB]),
    )  # fmt: skip
    store.add(job)
    logged = tracking.JobTracking(store, job, tmp_path)
    logged.start()
    logged.stop()
    (event,) = store.select(Event, "job_id = ?", (job.id,))
    problem = "Could not log the job to Weights & Biases: ConnectionError: no network. The job continues."
    assert (event.level, event.message) == ("warn", problem)


@pytest.mark.parametrize(
    ("integrations", "param", "code"),
    [
        ({"type": "wandb"}, "integrations", "invalid_value"),
        (["wandb"], "integrations", "invalid_value"),
        ([_WANDB, _WANDB], "integrations", "invalid_value"),
        ([{"type": "mlflow"}], "integrations[0].type", "unsupported_parameter"),
        ([{"type": "wandb"}], "integrations[0].wandb", "invalid_value"),
        ([{"type": "wandb", "wandb": {}}], "integrations[0].wandb.project", "missing_required_parameter"),
        ([{"type": "wandb", "wandb": {"project": 3}}], "integrations[0].wandb.project", "invalid_value"),
        ([{"type": "wandb", "wandb": {"project": "a", "tags": "b"}}], "integrations[0].wandb.tags", "invalid_value"),
        ([{"type": "wandb", "wandb": {"project": "a", "key": "b"}}], "integrations[0].wandb.key", "unknown_parameter"),
        ([{"type": "wandb", "wandb": {"project": "a"}, "x": 1}], "integrations[0].x", "unknown_parameter"),
    ],
)
def test_integrations_that_are_none(engine: EngineUnderTest, integrations: Any, param: str, code: str) -> None:
    body = {"model": TINY, "training_file": "file-nothing", "integrations": integrations}
    with engine.http() as http:
        answer = http.post("/v1/fine_tuning/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["code"]) == (400, param, code)


def test_permissions_of_checkpoints_have_no_effect_and_say_so(engine: EngineUnderTest) -> None:
    client: OpenAI = engine.client()
    permissions = client.fine_tuning.checkpoints.permissions
    created = permissions.create(TINY, project_ids=["proj_1", "proj_2"])
    assert [one.project_id for one in created.data] == ["proj_1", "proj_2"]
    assert all(one.id.startswith("cp_") and one.object == "checkpoint.permission" for one in created.data)
    assert "no effect" in created.to_dict()["fabula"]["message"]  # type: ignore[index]  # not in OpenAI's type
    assert list(permissions.list(TINY)) == []
    deleted = permissions.delete(created.data[0].id, fine_tuned_model_checkpoint=TINY)
    assert (deleted.id, deleted.deleted) == (created.data[0].id, True)
    with pytest.raises(openai.NotFoundError):
        permissions.list("ft:nothing")
    for projects in ([], "proj_1", [""]):
        with pytest.raises(openai.BadRequestError) as refused:
            permissions.create(TINY, project_ids=projects)  # type: ignore[arg-type]  # hostile types
        assert refused.value.param == "project_ids"
