"""Jobs on a real Ray cluster of one node, with two processes on gloo (`make raytest`)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("ray", reason="requirements-ray.txt is not installed; `make raytest` installs it")
pytest.importorskip("s3fs", reason="requirements-s3.txt is not installed")
pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

import ray
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from core.engine.training.launcher import LauncherUnavailable
from core.engine.training.ray_cluster import Capacity, RayCluster
from core.engine.training.shared_bucket import SharedBucket
from tests.support.engine_process import TINY, EngineUnderTest, finished, pairs, poll, running, steps, upload
from tests.support.ray_head import FLOAT32, RayHead
from tests.support.s3_server import S3Server


class _Dashboard(BaseHTTPRequestHandler):
    """Answers the first question of Ray's client as a dashboard does, and the others with `answers`."""

    answers: ClassVar[dict[str, tuple[int, str | Callable[[str], str]]]]
    """Status and body (or a function of the path) by the beginning of method and path; the last one counts."""

    def do_GET(self) -> None:
        version = json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""})
        known: dict[str, Any] = {**self.answers, "GET /api/version": (200, version)}
        found = next(name for name in reversed(known) if f"{self.command} {self.path}".startswith(name))
        status, body = known[found]
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write((body if isinstance(body, str) else body(self.path)).encode())

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextmanager
def _dashboard(answers: dict[str, Any]) -> Iterator[RayCluster]:
    handler = type("Handler", (_Dashboard,), {"answers": answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield RayCluster(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_cluster_that_answers_with_an_error_is_asked_again() -> None:
    with _dashboard({"": (502, "Bad Gateway")}) as cluster:
        for ask in (lambda: cluster.find("ftjob-1-1"), lambda: cluster.stop("ftjob-1-1"), cluster.capacity):
            with pytest.raises(LauncherUnavailable, match="saved progress is kept"):
                ask()


@pytest.mark.parametrize(
    ("status", "body", "refuses"),
    [
        (502, "Bad Gateway", False),
        (503, "Service Unavailable", False),
        (504, "Gateway Timeout", False),
        (429, "Too Many Requests", False),
        (500, "No available agent to submit job, please try again later.", False),
        (500, "RuntimeEnvSetupError: no disk space", True),
        (400, "ValueError: entrypoint is not a string", True),
    ],
)
def test_only_a_refusal_of_ray_itself_is_one(status: int, body: str, refuses: bool) -> None:
    """A proxy that has lost its head node says nothing about the job."""
    there = {"GET /api/packages": (200, "{}"), "GET /api/jobs/": (404, "Job ftjob-1-1 does not exist")}
    kind = RuntimeError if refuses else LauncherUnavailable
    with (
        _dashboard({"": (200, "{}"), "POST /api/jobs/": (status, body), **there}) as cluster,
        pytest.raises(kind, match=body.split()[0]),
    ):
        cluster.submit("ftjob-1-1", ["true"])


def test_a_cluster_of_more_than_a_hundred_nodes_is_counted_whole() -> None:
    about = {
        "node_ip": "",
        "is_head_node": False,
        "state": "ALIVE",
        "state_message": None,
        "node_name": "",
        "labels": {},
    }
    about |= {"start_time_ms": None, "end_time_ms": None, "resources_total": {"CPU": 4.0, "GPU": 8.0}}
    nodes = [{"node_id": str(n), **about} for n in range(250)]

    def listed(path: str) -> str:
        limit = int(parse_qs(urlsplit(path).query)["limit"][0])
        counts = dict.fromkeys(("total", "num_after_truncation", "num_filtered"), len(nodes))
        found = {**counts, "result": nodes[:limit], "partial_failure_warning": "", "warnings": []}
        return json.dumps({"result": True, "msg": "", "data": {"result": found}})

    with _dashboard({"": (200, listed)}) as cluster:
        assert cluster.capacity() == Capacity(1000, 2000)


@pytest.fixture(scope="module")
def head(s3: S3Server) -> Iterator[RayHead]:
    """A cluster whose node has credentials of its own for the bucket."""
    started = RayHead(s3.environ())
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


def _start(client: OpenAI, examples: int, n_epochs: int, batch_size: int, length: int = 8) -> FineTuningJob:
    # at a high learning rate, the rounding of sums would grow from step to step until the curves differ
    hyperparameters = {"n_epochs": n_epochs, "batch_size": batch_size, "learning_rate_multiplier": 0.05}
    return client.fine_tuning.jobs.create(
        model=TINY,
        training_file=upload(client, pairs(examples, length)),
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
    return [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)]  # of all pages


def _progress(client: OpenAI, job: FineTuningJob, more: int) -> None:
    """Wait for this many more steps."""
    poll(lambda: client.fine_tuning.jobs.retrieve(job.id).result_files)
    before = len(_curve(client, job))
    poll(lambda: len(_curve(client, job)) >= before + more)


def _local_curve(folder: Path, examples: int, n_epochs: int, batch_size: int, length: int = 8) -> list[list[float]]:
    """The curve of the same job with the local launcher."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FABULA_LAUNCHER")
        with running(folder / "home") as engine:
            client = engine.client(strict=False)
            job = finished(client, _start(client, examples, n_epochs, batch_size, length).id)
            assert job.status == "succeeded"
            return _curve(client, job)


@pytest.mark.parametrize("shard", ["auto", "always"])
def test_two_processes_on_ray_have_the_curve_of_one_on_this_machine(
    shard: str, on_ray: EngineUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (9, 2, 4)  # the last batch of an epoch has one example, so that one process has none
    monkeypatch.setenv("FABULA_RAY_SHARD", shard)
    on_ray.start()
    try:
        client = on_ray.client(strict=False)
        job = finished(client, _start(client, *shape).id)
        assert job.status == "succeeded", job.error
        curve = _curve(client, job)
        is_split = "The base model's layers are split over 2 processes." in _messages(client, job)
        assert is_split == (shard == "always")
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


def test_jobs_of_one_process_train_at_once_as_far_as_processors_allow(
    on_ray: EngineUnderTest, head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABULA_RAY_WORKERS", "1")  # the cluster has two processors
    on_ray.start()
    try:
        client = on_ray.client(strict=False)
        jobs = [_start(client, 400, 50, 1) for _ in range(3)]  # long enough to be running until they are cancelled
        for job in jobs[:2]:
            _progress(client, job, 1)
        assert [client.fine_tuning.jobs.retrieve(job.id).status for job in jobs] == ["running", "running", "queued"]
        before = [len(_curve(client, job)) for job in jobs[:2]]
        poll(lambda: all(len(_curve(client, job)) > n for job, n in zip(jobs, before, strict=False)))
        assert len(head.processes("ray::RayTrainWorker")) == 2
        client.fine_tuning.jobs.cancel(jobs[0].id)
        _progress(client, jobs[2], 1)
        assert client.fine_tuning.jobs.retrieve(jobs[1].id).status in ("running", "succeeded")
        for job in jobs[1:]:
            client.fine_tuning.jobs.cancel(job.id)
        poll(lambda: not head.processes("trainer.on_ray") and not head.processes("ray::RayTrainWorker"))
    finally:
        on_ray.stop()


def test_a_job_in_a_bucket_survives_a_killed_worker_a_killed_engine_and_a_pause(
    on_ray: EngineUnderTest, head: RayHead, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABULA_RAY_STORAGE", f"s3://{bucket}/fabula")
    shared = SharedBucket(f"s3://{bucket}/fabula")
    shape = (20, 50, 1, 150)  # 1000 long steps, because progress arrives seconds late
    on_ray.start()
    try:
        client = on_ray.client(strict=False)
        job = _start(client, *shape)
        _progress(client, job, 10)
        client.fine_tuning.jobs.pause(job.id)
        poll(lambda: any(text.startswith("Paused at step ") for text in _messages(client, job)))
        (paused,) = [text.split()[3] for text in _messages(client, job) if text.startswith("Paused at step ")]
        client.fine_tuning.jobs.resume(job.id)
        _progress(client, job, 10)
        head.kill_processes("ray::RayTrainWorker")
        _progress(client, job, 10)
        on_ray.kill()
        on_ray.start()
        client = on_ray.client(strict=False)
        job = finished(client, job.id)
        assert job.status == "succeeded", job.error
        curve = _curve(client, job)
        assert [row[0] for row in curve] == list(range(1, 1001))
        assert any(text.startswith(f"Resuming from step {paused} ") for text in _messages(client, job))
        messages = _messages(client, job)
        assert len([message for message in messages if message.startswith("New fine-tuned model")]) == 1
        assert any(message.startswith("The trainer ended (") for message in messages)
        checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id, limit=100).data
        assert sorted(checkpoint.step_number for checkpoint in checkpoints) == list(range(20, 1001, 20))
        for model in (job.fine_tuned_model, checkpoints[-1].fine_tuned_model_checkpoint):
            assert client.completions.create(model=model or "", prompt="唐,隐形,1 ->", max_tokens=4).choices
        poll(lambda: not shared.files(f"jobs/{job.id}"))  # deleted; the base is kept
        assert shared._sizes("bases/")
    finally:
        on_ray.stop()
    local = _local_curve(tmp_path / "local", *shape)
    for ours, theirs in zip(curve[:200], local[:200], strict=True):  # later, the rounding of sums has grown
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_job_that_its_bucket_refuses_fails_with_advice_and_goes_on_when_it_is_resumed(
    on_ray: EngineUnderTest, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABULA_RAY_STORAGE", f"s3://{bucket}")
    on_ray.start()
    try:
        client = on_ray.client(strict=False)
        job = _start(client, 8, 50, 1)
        _progress(client, job, 5)
        with s3.refusing():
            job = finished(client, job.id)
        assert job.status == "failed" and job.error is not None
        assert "was refused" in job.error.message and "s3:PutObject" in job.error.message
        client.fine_tuning.jobs.resume(job.id)
        job = finished(client, job.id)
        assert job.status == "succeeded", job.error
        assert [row[0] for row in _curve(client, job)] == list(range(1, 401))
    finally:
        on_ray.stop()
