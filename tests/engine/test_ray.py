"""Jobs on a real Ray cluster of one node, with two processes on gloo (`make raytest`)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="requirements-ray.txt is not installed; `make raytest` installs it")
pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

import ray
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from core.engine.training.launcher import LauncherUnavailable
from core.engine.training.ray_cluster import RayCluster
from tests.support.engine_process import TINY, EngineUnderTest, finished, pairs, poll, running, steps, upload
from tests.support.ray_head import FLOAT32, RayHead


class _Broken(BaseHTTPRequestHandler):
    """A dashboard whose proxy answers for it, except to the first question of Ray's client."""

    def do_GET(self) -> None:
        is_version = self.path.startswith("/api/version")
        body = json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}).encode()
        self.send_response(200 if is_version else 502)
        self.end_headers()
        self.wfile.write(body if is_version else b"Bad Gateway")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


def test_a_cluster_that_answers_with_an_error_is_asked_again() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster = RayCluster(f"http://127.0.0.1:{server.server_port}")
        for ask in (lambda: cluster.find("ftjob-1-1"), lambda: cluster.stop("ftjob-1-1"), cluster.capacity):
            with pytest.raises(LauncherUnavailable, match="saved progress is kept"):
                ask()
        server.shutdown()


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    started = RayHead()
    started.start()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def on_ray(head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineUnderTest:
    """An engine that trains each job with two processes of the cluster; not started yet."""
    (tmp_path / "shared").mkdir()
    for name, value in {
        "FABULA_LAUNCHER": head.address, "FABULA_RAY_STORAGE": str(tmp_path / "shared"), "FABULA_RAY_WORKERS": "2",
        **FLOAT32,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return EngineUnderTest(tmp_path / "home")


def _start(client: OpenAI, examples: int, n_epochs: int, batch_size: int) -> FineTuningJob:
    # at a high learning rate, the rounding of sums would grow from step to step until the curves differ
    hyperparameters = {"n_epochs": n_epochs, "batch_size": batch_size, "learning_rate_multiplier": 0.05}
    return client.fine_tuning.jobs.create(
        model=TINY,
        training_file=upload(client, pairs(examples)),
        validation_file=upload(client, pairs(3)),
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[arg-type]  # a plain dict
    )


def _curve(client: OpenAI, job: FineTuningJob) -> list[list[float]]:
    """Step, tokens, examples, training loss and, if measured, validation loss of each step."""
    (result,) = client.fine_tuning.jobs.retrieve(job.id).result_files
    rows = [row.split(",") for row in client.files.content(result).text.splitlines()[1:]]
    return [[float(cell) for cell in (*row[:4], row[6]) if cell] for row in rows]


def _messages(client: OpenAI, job: FineTuningJob) -> list[str]:
    return [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1000).data]


def _progress(client: OpenAI, job: FineTuningJob, more: int) -> None:
    """Wait for this many more steps."""
    poll(lambda: client.fine_tuning.jobs.retrieve(job.id).result_files)
    before = len(_curve(client, job))
    poll(lambda: len(_curve(client, job)) >= before + more)


def _local_curve(folder: Path, examples: int, n_epochs: int, batch_size: int) -> list[list[float]]:
    """The curve of the same job with the local launcher."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FABULA_LAUNCHER")
        with running(folder / "home") as engine:
            client = engine.client(strict=False)
            job = finished(client, _start(client, examples, n_epochs, batch_size).id)
            assert job.status == "succeeded"
            return _curve(client, job)


def test_two_processes_on_ray_have_the_curve_of_one_on_this_machine(on_ray: EngineUnderTest, tmp_path: Path) -> None:
    shape = (9, 2, 4)  # the last batch of an epoch has one example, so that one process has none
    on_ray.start()
    try:
        client = on_ray.client(strict=False)
        job = finished(client, _start(client, *shape).id)
        assert job.status == "succeeded", job.error
        curve = _curve(client, job)
        assert job.fine_tuned_model in [model.id for model in client.models.list()]
        answer = client.completions.create(model=job.fine_tuned_model or "", prompt="唐,隐形,1 ->", max_tokens=4)
        assert answer.choices
    finally:
        on_ray.stop()
    local = _local_curve(tmp_path / "local", *shape)
    assert len(curve) == len(local) == 6
    for ours, theirs in zip(curve, local, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_whatever_is_killed_the_curve_has_no_hole_and_no_step_twice_and_there_is_one_model(
    on_ray: EngineUnderTest, head: RayHead, tmp_path: Path
) -> None:
    shape = (8, 50, 2)  # 200 steps

    def restart_engine() -> None:
        on_ray.kill()
        on_ray.start()

    def restart_head() -> None:
        head.kill()
        head.start()

    kills: dict[str, Callable[[], None]] = {
        "worker": lambda: head.kill_processes("ray::RayTrainWorker"),
        "driver": lambda: head.kill_processes("-m core.engine.training.trainer.on_ray"),
        "engine": restart_engine,
        "head": restart_head,
    }
    on_ray.start()
    try:
        client = on_ray.client(strict=False)
        job = _start(client, *shape)
        for kill in kills.values():
            _progress(client, job, 10)
            kill()
            client = on_ray.client(strict=False)
        job = finished(client, job.id)
        assert job.status == "succeeded", job.error
        curve = _curve(client, job)
        (result,) = job.result_files
        assert steps(client.files.content(result).text) == list(range(1, 201))
        messages = _messages(client, job)
        reported = [message for message in messages if message.startswith("Step ")]
        assert len(reported) == len(set(reported)) == 200
        assert len([message for message in messages if message.startswith("New fine-tuned model")]) == 1
        assert [model.id for model in client.models.list() if model.id == job.fine_tuned_model] == [
            job.fine_tuned_model
        ]
    finally:
        on_ray.stop()
    local = _local_curve(tmp_path / "local", *shape)
    for ours, theirs in zip(curve, local, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_paused_job_continues_from_its_step_and_a_cancelled_one_leaves_the_cluster(
    on_ray: EngineUnderTest, head: RayHead, tmp_path: Path
) -> None:
    on_ray.start()
    try:
        client = on_ray.client(strict=False)
        job = _start(client, 8, 50, 1)
        _progress(client, job, 5)
        client.fine_tuning.jobs.pause(job.id)
        poll(lambda: not head.processes("trainer.on_ray"))
        paused = len(_curve(client, job))
        client.fine_tuning.jobs.resume(job.id)
        poll(lambda: len(_curve(client, job)) > paused)
        assert [row[0] for row in _curve(client, job)][:paused] == list(range(1, paused + 1))
        assert any(message.startswith(f"Resuming from step {paused} ") for message in _messages(client, job))
        client.fine_tuning.jobs.cancel(job.id)
        poll(lambda: not head.processes("trainer.on_ray") and not head.processes("ray::RayTrainWorker"))
        assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    finally:
        on_ray.stop()
