"""Storage that the engine and a cluster share: the same promises by a folder and by a bucket, and a bucket's faults."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
pytest.importorskip("s3fs", reason="requirements-s3.txt is not installed")

from safetensors.torch import save_file  # noqa: E402

from core import s3_client  # noqa: E402
from core.engine.formats import weights  # noqa: E402
from core.engine.training import attempts, shared_storage  # noqa: E402
from core.engine.training.attempts import Attempt, ProgressMissing, SharedJob, is_newest  # noqa: E402
from core.engine.training.job_context import JobFailed, describe_error  # noqa: E402
from core.engine.training.job_folder import Journal, read_lines  # noqa: E402
from core.engine.training.launcher import LauncherUnavailable  # noqa: E402
from core.engine.training.ray_cluster import Capacity, ClusterJob  # noqa: E402
from core.engine.training.ray_launcher import RayLauncher  # noqa: E402
from core.engine.training.ray_trainer import RayTrainer  # noqa: E402
from core.engine.training.shared_bucket import BLOCK, SharedBucket  # noqa: E402
from core.engine.training.shared_storage import (  # noqa: E402
    SharedFolder,
    SharedStorage,
    StorageRefused,
    StorageUnreachable,
)
from core.engine.training.trainer import failure, node_scratch, on_ray  # noqa: E402
from core.engine.training.trainer.mirror import Mirror, MirroredJournal  # noqa: E402
from tests.support.engine_process import ROOT  # noqa: E402
from tests.support.s3_server import S3Server, failing, reachable  # noqa: E402
from tests.support.shared_job import prepared_job  # noqa: E402
from tests.support.waiting import WAIT_LIMIT_S, until  # noqa: E402


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of a node."""
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> SharedStorage:
    if request.param == "folder":
        (tmp_path / "shared").mkdir()
        return SharedFolder(tmp_path / "shared")
    return attempts.storage_of(f"s3://{request.getfixturevalue('bucket')}/fabula")


@pytest.fixture
def shared(bucket: str) -> SharedBucket:
    return SharedBucket(f"s3://{bucket}/fabula/")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written_last(storage: SharedStorage) -> None:
    assert storage.read("jobs/a/state.json") is None
    for content in (b"first", b"second one", b""):
        storage.write("jobs/a/state.json", content)
        assert storage.read("jobs/a/state.json") == content
    storage.write("jobs/a/header", b"0123456789")
    assert storage.read("jobs/a/header", 4) == b"0123"
    assert storage.files("jobs/a") == ["header", "state.json"]
    assert storage.files("jobs/b") == []


def test_of_several_that_create_a_file_one_succeeds(storage: SharedStorage) -> None:
    storage.write("jobs/a/job.json", b"{}")
    outcomes: list[str] = []

    def create() -> None:
        try:
            storage.create("jobs/a/claimed")
            outcomes.append("created")
        except FileExistsError:
            outcomes.append("exists")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["created", "exists", "exists", "exists"]


def test_deleting_takes_a_folder_and_not_its_neighbour(storage: SharedStorage) -> None:
    for path in ("jobs/a/attempts/1/x", "jobs/a/attempts/11/x", "jobs/ab/x"):
        storage.write(path, b"x")
    storage.delete("jobs/a/attempts/1")
    assert [storage.read(f"jobs/a/attempts/{n}/x") for n in (1, 11)] == [None, b"x"]
    storage.delete("jobs/a")
    storage.delete("jobs/never")
    assert (storage.read("jobs/a/attempts/11/x"), storage.read("jobs/ab/x")) == (None, b"x")


@pytest.mark.parametrize("size", [0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_a_growing_file_arrives_line_by_line_whatever_its_size(
    storage: SharedStorage, tmp_path: Path, size: int
) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    line = b"0123456789abcde\n"
    source.write_bytes((line * (size // len(line) + 1))[:size])
    storage.start(source, "jobs/a/metrics.jsonl")
    seen: list[bytes] = []
    storage.extend("jobs/a/metrics.jsonl", copy, seen.append)
    complete = size - size % len(line)
    assert (copy.read_bytes() if copy.exists() else b"") == source.read_bytes()[:complete] == b"".join(seen)
    storage.extend("jobs/a/metrics.jsonl", copy)
    assert (copy.stat().st_size if copy.exists() else 0) == complete


def test_a_base_is_copied_once_and_a_half_copied_one_is_completed(storage: SharedStorage, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "sub").mkdir(parents=True)
    (base / "config.json").write_bytes(b"{}")
    (base / "sub" / "weights").write_bytes(b"weights")
    storage.put(base, "bases/key/base")
    assert storage.read("bases/key/base/sub/weights") == b"weights"
    storage.put(base, "bases/key/base")
    if isinstance(storage, SharedBucket):
        storage.write("bases/key/base/sub/weights", b"wei")  # of another tool; S3 keeps no half-uploaded object
        storage.put(base, "bases/key/base")
        assert storage.read("bases/key/base/sub/weights") == b"weights"


# --- attempts ---------------------------------------------------------------------------------------------------------


class _Trainer:
    """What a trainer of an attempt writes, and how it gets to the storage."""

    def __init__(self, job: SharedJob, number: int) -> None:
        self._job, self._number = job, number
        self._mirror: Mirror | None = None
        if isinstance(job.storage, SharedBucket):
            self.folder = node_scratch.stage(job.storage, job.folder(number))
            self._mirror = Mirror(job.storage, job.folder(number), self.folder)
            self.journal: Journal = MirroredJournal(self.folder)
        else:
            self.folder = Path(job.location(number))
            self.journal = Journal(self.folder)

    def train(self, first: int, last: int, saved: int | None = None) -> None:
        for step in range(first, last + 1):
            self.journal.metrics({"step": step, "training_loss": step + self._number / 1000})
            self.journal.event(f"{self._number}: {step}")
            if step == saved:
                adapter = self.folder / "checkpoints" / f"step-{step}.gguf"
                adapter.write_bytes(f"adapter {self._number}".encode())
                self.journal.checkpoint({"step": step, "path": str(adapter), "metrics": {}})
                save_file({"a": torch.zeros(1)}, self.folder / "resume.safetensors", {"step": str(step)})
        self.journal.state("running", now=True, step=last)
        self.upload()

    def succeed(self) -> None:
        (self.folder / "final.gguf").write_bytes(f"final {self._number}".encode())
        self.journal.state("succeeded", now=True)
        self.upload()

    def upload(self) -> None:
        if self._mirror is not None:
            self._mirror._upload()


def _curve(home: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["training_loss"]) for row in read_lines(home / "metrics.jsonl")]


def test_the_next_attempt_continues_and_what_the_older_one_writes_never_counts(
    storage: SharedStorage, tmp_path: Path
) -> None:
    job = prepared_job(storage, tmp_path)
    job.prepare()
    first = _Trainer(job, 1)
    first.train(1, 5, saved=3)
    job.collect(1)
    assert [step for step, _ in _curve(job.home)] == [1, 2, 3, 4, 5]
    first.train(6, 7)  # and the engine does not look before the next attempt

    job.prepare()
    assert (job.current(), job.saved_step(2)) == (Attempt(2), 3)
    assert (is_newest(storage, job.folder(1)), is_newest(storage, job.folder(2))) == (False, True)
    first.train(8, 9, saved=9)  # its node can be reached again
    second = _Trainer(job, 2)
    second.train(4, 6)
    job.collect(2)
    assert _curve(job.home) == [(1, 1.001), (2, 2.001), (3, 3.001), (4, 4.002), (5, 5.002), (6, 6.002)]
    assert job.saved_step(2) == 3
    messages = [row["message"] for row in read_lines(job.home / "events.jsonl")]
    assert messages == [*(f"1: {step}" for step in range(1, 8)), *(f"2: {step}" for step in range(4, 7))]
    (checkpoint,) = read_lines(job.home / "checkpoints.jsonl")
    assert (job.home / checkpoint["path"]).read_bytes() == b"adapter 1"
    second.succeed()
    job.collect(2)
    assert (job.home / "final.gguf").read_bytes() == b"final 2"
    assert json.loads((job.home / "state.json").read_text())["status"] == "succeeded"


def test_a_job_that_was_interrupted_on_this_machine_continues_on_the_cluster(
    storage: SharedStorage, tmp_path: Path
) -> None:
    job = prepared_job(storage, tmp_path)
    journal = Journal(job.home)
    for step in (1, 2, 3):
        journal.metrics({"step": step, "training_loss": step})
    save_file({"a": torch.zeros(1)}, job.home / "resume.safetensors", {"step": "2"})
    with (job.home / "events.jsonl").open("w") as events:
        events.write('{"message": "whole"}\n{"mess')  # killed while it wrote
    job.prepare()
    trainer = _Trainer(job, 1)
    assert [row["step"] for row in read_lines(trainer.folder / "metrics.jsonl")] == [1, 2]
    assert (trainer.folder / "resume.safetensors").exists()
    trainer.train(3, 4)
    job.collect(1)
    assert [step for step, _ in _curve(job.home)] == [1, 2, 3, 4]
    assert [row["message"] for row in read_lines(job.home / "events.jsonl")] == ["whole", "1: 3", "1: 4"]


def test_progress_that_is_gone_is_not_started_again(storage: SharedStorage, tmp_path: Path) -> None:
    job = prepared_job(storage, tmp_path)
    job.prepare()
    _Trainer(job, 1).train(1, 4, saved=4)
    job.delete()
    with pytest.raises(ProgressMissing):
        job.prepare()
    assert is_newest(storage, job.folder(1)) is None


# --- what is uploaded -------------------------------------------------------------------------------------------------


def test_a_saved_state_never_lacks_its_curve_whenever_the_upload_is_cut_off(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepared_job(shared, tmp_path)
    job.prepare()
    trainer = _Trainer(job, 1)
    written: list[str] = []

    def cut_off_after(limit: int) -> None:
        count = 0

        def counted(store: Callable[..., None]) -> Callable[..., None]:
            def do(*arguments: Any) -> None:
                nonlocal count
                if count == limit:
                    raise StorageUnreachable("cut off")
                count += 1
                written.append(str(arguments[-1] if isinstance(arguments[-1], str) else arguments[0]))
                store(*arguments)

            return do

        for name in ("write", "replace"):
            monkeypatch.setattr(shared, name, counted(getattr(SharedBucket, name).__get__(shared)))

    for limit in range(7):
        cut_off_after(limit)
        step = limit + 1
        with suppress(StorageUnreachable):
            trainer.train(step, step, saved=step)
        monkeypatch.undo()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
        copy = tmp_path / f"copy-{limit}"
        copy.mkdir()
        shared.extend(f"{job.folder(1)}/metrics.jsonl", copy / "metrics.jsonl")
        shared.extend(f"{job.folder(1)}/checkpoints.jsonl", copy / "checkpoints.jsonl")
        steps = [row["step"] for row in read_lines(copy / "metrics.jsonl")]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= job.saved_step(1)
        adapters = shared.files(f"{job.folder(1)}/checkpoints")
        assert {Path(row["path"]).name for row in read_lines(copy / "checkpoints.jsonl")} <= set(adapters)
    trainer.upload()
    assert job.saved_step(1) == 7


def test_training_goes_on_while_the_bucket_is_out_of_reach_and_ends_when_all_is_uploaded(
    s3: S3Server, shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.engine.training.trainer.mirror._UPLOAD_S", 0.01)
    monkeypatch.setattr("core.engine.training.trainer.node_scratch._PAUSE_S", 0.01)
    job = prepared_job(shared, tmp_path)
    job.prepare()
    folder = node_scratch.stage(shared, job.folder(1))
    mirror = Mirror(shared, job.folder(1), folder)
    journal = MirroredJournal(folder)
    asked = threading.Event()

    def unreachable(*_: object) -> None:
        asked.set()
        raise StorageUnreachable("gone")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "write", "replace"):
            patch.setattr(SharedBucket, name, unreachable)
        mirror.start()
        for step in range(1, 4):
            journal.metrics({"step": step, "training_loss": 1.0})
            assert not mirror.stop_requested()
        (folder / "final.gguf").write_bytes(b"final")
        journal.state("succeeded", now=True)
        assert asked.wait(WAIT_LIMIT_S)
        finishing = threading.Thread(target=mirror.finish)
        finishing.start()
        asked.clear()
        assert asked.wait(WAIT_LIMIT_S) and finishing.is_alive()
    finishing.join(WAIT_LIMIT_S)
    assert not finishing.is_alive()
    job.collect(1)
    assert [step for step, _ in _curve(job.home)] == [1, 2, 3]
    assert job.state(1)["status"] == "succeeded"


@pytest.mark.parametrize("how", ["stop", "newer", "deleted"])
def test_a_trainer_is_asked_to_stop_through_the_bucket(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("core.engine.training.trainer.mirror._UPLOAD_S", 0.01)
    job = prepared_job(shared, tmp_path)
    job.prepare()
    folder = node_scratch.stage(shared, job.folder(1))
    mirror = Mirror(shared, job.folder(1), folder)
    mirror.start()
    journal = MirroredJournal(folder)
    journal.metrics({"step": 1, "training_loss": 1.0})
    until(lambda: shared.read(f"{job.folder(1)}/metrics.jsonl/000000"), "nothing was uploaded")
    assert not mirror.stop_requested()
    if how == "stop":
        job.request_stop(1)
    elif how == "newer":
        job.prepare()
    else:
        job.delete()
    until(mirror.stop_requested, "the trainer was not told")
    journal.metrics({"step": 2, "training_loss": 1.0})
    mirror.finish()
    uploaded = (shared.read(f"{job.folder(1)}/metrics.jsonl/000000") or b"").count(b"\n")
    assert uploaded == {"stop": 2, "newer": 1, "deleted": 0}[how]
    if how == "deleted":
        assert not shared._sizes("jobs/")


# --- a bucket that refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", StorageRefused, "was refused (AccessDenied)"),
        (403, "QuotaExceeded", StorageRefused, "is full (QuotaExceeded)"),
        (507, "XMinioStorageFull", StorageRefused, "is full (XMinioStorageFull)"),
        (404, "NoSuchBucket", StorageRefused, "does not exist"),
        (503, "SlowDown", StorageUnreachable, "can't be reached (SlowDown)"),
        (500, "InternalError", StorageUnreachable, "can't be reached (InternalError)"),
    ],
)
def test_a_fault_says_whether_waiting_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, code: str, kind: type[OSError], words: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with failing(status, code) as address:
        reachable(monkeypatch, address)
        shared = SharedBucket("s3://a-bucket/fabula")
        for use in (
            lambda: shared.read("x"),
            lambda: shared.write("x", b""),
            lambda: shared.create("x"),
            lambda: shared.put(tmp_path / "file", "x"),
            lambda: shared.files("x"),
            lambda: shared.extend("x", tmp_path / "copy"),
        ):
            with pytest.raises(kind) as caught:
                use()
            assert words in str(caught.value)


def test_without_credentials_or_a_server_the_reason_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: SharedBucket
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(StorageUnreachable, match="can't be reached"):
        SharedBucket(shared.place).read("x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageRefused, match="no credentials"):
        SharedBucket(shared.place).write("x", b"")


def test_a_server_without_conditional_writes_is_refused(shared: SharedBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    client = s3_client.connect(10, 2)
    real = client.pipe_file
    client.pipe_file = lambda path, data, mode="overwrite": real(path, data)  # ignores the condition
    monkeypatch.setattr(s3_client, "connect", lambda *_: client)
    with pytest.raises(StorageRefused, match="conditional writes"):
        SharedBucket(shared.place).create("claimed")


class _Cluster:
    """Knows one job at a time."""

    def __init__(self) -> None:
        self.job: ClusterJob | None = None

    def submit(self, submission_id: str, command: list[str]) -> None:
        self.command, self.job = command, ClusterJob(False, False, "")

    def find(self, submission_id: str) -> ClusterJob | None:
        return self.job

    def stop(self, submission_id: str) -> None:
        self.job = ClusterJob(True, False, "stopped")

    def capacity(self) -> Capacity:
        return Capacity(2, 0)


def _now(trainer: RayTrainer) -> int | None:
    """The code, without the waits between two looks."""
    trainer._looked_at = trainer._read_at = -1e9
    return trainer.code


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", "s3:PutObject"),
        (403, "QuotaExceeded", "Free some space there"),
        (503, "SlowDown", "The job waits"),
    ],
)
def test_a_job_fails_with_advice_or_waits_and_can_go_on(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: str
) -> None:
    job, cluster = prepared_job(shared, tmp_path), _Cluster()
    with failing(status, code) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(LauncherUnavailable if status == 503 else JobFailed) as caught:
            RayLauncher(cluster, SharedBucket(shared.place)).launch(job.home)
        assert expected in str(caught.value)
    assert RayLauncher(cluster, SharedBucket(shared.place)).launch(job.home).number == 1
    assert cluster.command[3] == f"{shared.place}/jobs/ftjob-1/attempts/1"
    spec = json.loads(shared.read("jobs/ftjob-1/attempts/1/job.json") or b"")
    assert "secret" not in json.dumps(spec).lower()


@pytest.mark.parametrize("full", ["job_folder.Journal.rewind", "shared_storage.append", "attempts.SharedJob.record"])
def test_if_the_disk_of_the_engine_is_full_the_job_does_not_blame_the_storage(
    storage: SharedStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    job, launcher = prepared_job(storage, tmp_path), RayLauncher(_Cluster(), storage)
    job.prepare()
    _Trainer(job, 1).train(1, 2)
    job.record(Attempt(1, ended=True))

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"core.engine.training.{full}", no_space)
        patch.setattr("core.engine.training.shared_bucket.append", shared_storage.append)
        with pytest.raises(JobFailed, match="in its home folder") as caught:
            launcher.launch(job.home)
    assert caught.value.code == "insufficient_storage" and storage.place not in caught.value.message
    assert launcher.launch(job.home).number == 2


def test_an_end_counts_once_everything_was_read(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, cluster = prepared_job(shared, tmp_path), _Cluster()
    trainer = RayLauncher(cluster, shared).launch(job.home)
    written = _Trainer(job, 1)
    written.train(1, 2)
    written.succeed()

    def gone(*_: object) -> None:
        raise StorageUnreachable("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedBucket, "extend", gone)
        assert _now(trainer) is None and "gone" in str(trainer.trouble)
    assert _now(trainer) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedBucket, "read", gone)
        trainer.collect()  # there is nothing more to read
    assert [step for step, _ in _curve(job.home)] == [1, 2]
    assert (job.home / "final.gguf").read_bytes() == b"final 1"


def test_an_engine_that_is_refused_fails_the_job_once_the_trainer_has_ended(
    shared: SharedBucket, tmp_path: Path
) -> None:
    job, cluster = prepared_job(shared, tmp_path), _Cluster()
    trainer = RayLauncher(cluster, shared).launch(job.home)

    def refused(*_: object) -> None:
        raise StorageRefused("Access was refused.", "Check the credentials.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedBucket, "read", refused)
        assert _now(trainer) is None and "Access was refused" in str(trainer.trouble)
        cluster.job = ClusterJob(True, False, "Job entrypoint command failed")
        assert _now(trainer) == 1
        with pytest.raises(StorageRefused) as caught:
            trainer.collect()
    error = describe_error(caught.value)
    assert error.code == "insufficient_storage" and "Check the credentials" in error.message


def test_a_trainer_that_cannot_write_to_the_bucket_tells_the_engine_through_ray(
    shared: SharedBucket, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, cluster = prepared_job(shared, tmp_path), _Cluster()
    trainer = RayLauncher(cluster, shared).launch(job.home)
    with failing(403, "AccessDenied") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", address)  # of the node
        assert on_ray._explain(SharedBucket(shared.place), job.folder(1), RuntimeError("TrainingFailedError")) == 1
    log = capsys.readouterr().err
    cluster.job = ClusterJob(
        True, False, f"Job entrypoint command failed with exit code 1, last available logs:\n{log}"
    )
    assert _now(trainer) == 1
    trainer.collect()
    state = json.loads((job.home / "state.json").read_text())
    assert state["status"] == "failed" and "AccessDenied" in state["error"] and "s3:PutObject" in state["next_step"]


@pytest.mark.parametrize(
    ("text", "reported", "status"),
    [
        ("ray.exceptions.OutOfMemoryError: the node ran out", None, "failed"),
        ("The actor is dead", {"error": "diverged", "next_step": "", "message": "diverged"}, "failed"),
        ("The actor is dead", None, "running"),
    ],
)
def test_the_driver_says_why_an_attempt_has_ended(
    storage: SharedStorage, tmp_path: Path, text: str, reported: dict[str, str] | None, status: str
) -> None:
    job = prepared_job(storage, tmp_path)
    job.prepare()
    _Trainer(job, 1).train(1, 2)
    if reported is not None:
        storage.write(f"{job.folder(1)}/failure.json", json.dumps(reported).encode())
    assert on_ray._explain(storage, job.folder(1), RuntimeError(text)) == 1
    assert job.state(1)["status"] == status
    assert job.last_log_line(1) == f"RuntimeError: {text}"


def _all_files(storage: SharedStorage, folder: str) -> list[str]:
    if isinstance(storage, SharedBucket):
        return sorted(storage._sizes(folder))
    assert isinstance(storage, SharedFolder)
    return sorted(str(path.relative_to(storage.root)) for path in (storage.root / folder).rglob("*"))


def test_attempts_of_a_deleted_job_leave_nothing_on_the_storage(storage: SharedStorage, tmp_path: Path) -> None:
    job = prepared_job(storage, tmp_path)
    job.prepare()
    job.delete()  # while the cluster did not answer
    assert on_ray._explain(storage, job.folder(1), RuntimeError("The actor is dead")) == 1
    on_ray._tell(storage, job.folder(1), "failure.json", b"{}")
    assert on_ray.main([job.location(1)]) == 1  # it had waited in the cluster
    assert _all_files(storage, "jobs") == []


def test_an_attempt_that_was_overtaken_before_it_started_does_not_train(
    storage: SharedStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_fit", lambda *_: pytest.fail("it trains"))
    job = prepared_job(storage, tmp_path)
    job.prepare()
    job.prepare()
    before = _all_files(storage, "jobs")
    assert on_ray.main([job.location(1)]) == 1
    assert _all_files(storage, "jobs") == before


def test_a_folder_that_a_trainer_writes_to_while_it_is_deleted_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    shared, cluster = SharedFolder(tmp_path / "shared"), _Cluster()
    job = prepared_job(shared, tmp_path)
    launcher = RayLauncher(cluster, shared)
    launcher.launch(job.home)
    rmtree = shutil.rmtree

    def overtaken(path: Path, *arguments: Any, **options: Any) -> None:
        rmtree(path, *arguments, **options)
        shared.write(f"{job.folder(1)}/metrics.jsonl", b"{}")

    with pytest.MonkeyPatch.context() as patch, suppress(OSError):
        patch.setattr(shutil, "rmtree", overtaken)
        launcher.forget(job.home)
    launcher.forget(job.home)
    assert _all_files(shared, "jobs") == []


def test_cancelling_deletes_the_prefix_once(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, cluster = prepared_job(shared, tmp_path), _Cluster()
    launcher = RayLauncher(cluster, shared)
    launcher.launch(job.home)
    shared.write("jobs/ftjob-12/kept", b"x")
    launcher.forget(job.home)
    assert set(shared._sizes("jobs/")) == {"jobs/ftjob-12/kept"}
    assert shared.read("bases/base-123/base.gguf") == b"base.gguf"
    monkeypatch.setattr(SharedBucket, "delete", lambda *_: pytest.fail("deleted again"))
    launcher.forget(job.home)


# --- a node -----------------------------------------------------------------------------------------------------------


def test_processes_of_a_node_share_one_download_and_jobs_share_the_base(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepared_job(shared, tmp_path)
    job.prepare()
    downloads: list[str] = []
    get = SharedBucket._get

    def counted(self: SharedBucket, path: str, target: Path, size: int) -> None:
        if not target.exists():
            downloads.append(path)
        get(self, path, target, size)

    monkeypatch.setattr(SharedBucket, "_get", counted)
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(node_scratch.stage(shared, job.folder(1)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (folder,) = set(folders)
    assert sorted(downloads) == ["bases/base-123/base.gguf", "jobs/ftjob-1/train.npz"]
    spec = json.loads((folder / "job.json").read_text())
    assert Path(spec["train"]).read_bytes() == b"train.npz" and Path(spec["base_gguf"]).read_bytes() == b"base.gguf"
    node_scratch.discard(shared, job.folder(1))
    job.prepare()
    node_scratch.stage(shared, job.folder(2))
    assert sorted(downloads) == ["bases/base-123/base.gguf", *["jobs/ftjob-1/train.npz"] * 2]
    assert Path(spec["base_gguf"]).exists() and not folder.exists()


def test_a_full_disk_of_a_node_fails_the_job_with_advice(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepared_job(shared, tmp_path)
    job.prepare()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared._file_client, "get_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        node_scratch.stage(shared, job.folder(1))
    assert "disk is full" in failure.describe(caught.value)[0]


def test_a_scratch_folder_of_another_user_is_not_used(shared: SharedBucket, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "node" / f"fabula-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="only its owner"):
        node_scratch.stage(shared, "jobs/ftjob-1/attempts/1")


def test_what_killed_attempts_left_on_a_node_is_deleted_a_day_later(shared: SharedBucket, tmp_path: Path) -> None:
    job = prepared_job(shared, tmp_path)
    for _ in range(3):
        job.prepare()
    killed, running = (node_scratch.stage(shared, job.folder(number)) for number in (1, 2))
    two_days_ago = time.time() - 48 * 3600
    os.utime(killed, (two_days_ago, two_days_ago))
    newest = node_scratch.stage(shared, job.folder(3))
    assert [folder.exists() for folder in (killed, running, newest)] == [False, True, True]
    assert list(newest.parents[3].glob("bases/*/base.gguf"))


def _write_base(shared: SharedBucket, key: str, size: int) -> str:
    """A job whose base has this size; the path of its attempt."""
    base, attempt = f"bases/{key}/base.gguf", f"jobs/ftjob-{key}/attempts/1"
    shared.write(base, bytes(size))
    spec = {"base_gguf": shared.location(base), "weights_dir": shared.location(f"weights/{key}")}
    shared.write(f"{attempt}/job.json", json.dumps(spec).encode())
    return attempt


def _bases_on_node(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "node").glob("*/*/bases/*")}


def _use(shared: SharedBucket, attempt: str, limit_gb: float) -> None:
    """Train a job: its base is downloaded and converted to twice the size."""
    with node_scratch.base_in_use(shared, attempt, limit_gb):
        spec = json.loads((node_scratch.stage(shared, attempt) / "job.json").read_text())
        folder = Path(spec["weights_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_bytes(bytes(2 * Path(spec["base_gguf"]).stat().st_size))


_GB = 1e-9  # limits in bytes


def test_of_a_nodes_copies_of_bases_those_that_were_used_last_are_kept(shared: SharedBucket, tmp_path: Path) -> None:
    jobs = {key: _write_base(shared, key, 100) for key in "abcd"}
    for key in "abac":
        _use(shared, jobs[key], 900 * _GB)
    assert _bases_on_node(tmp_path) == {"a", "b", "c"}  # 900 bytes with their weights
    _use(shared, jobs["d"], 900 * _GB)
    assert _bases_on_node(tmp_path) == {"a", "c", "d"}
    other = SharedBucket(f"{shared.place}-of-another-engine")
    _use(other, _write_base(other, "e", 100), 400 * _GB)
    assert _bases_on_node(tmp_path) == {"e"}  # one limit for all storages
    assert not list((tmp_path / "node").glob("*/*/weights/[a-d]"))


def test_a_base_makes_room_before_it_is_downloaded(shared: SharedBucket, tmp_path: Path) -> None:
    small, large = _write_base(shared, "small", 10), _write_base(shared, "large", 80)
    _use(shared, small, 100 * _GB)
    with node_scratch.base_in_use(shared, large, 100 * _GB):
        assert _bases_on_node(tmp_path) == set()
        node_scratch.stage(shared, large)
    with node_scratch.base_in_use(shared, large, 100 * _GB):  # nothing is to be downloaded any more
        assert _bases_on_node(tmp_path) == {"large"}


def test_without_a_limit_the_copies_take_half_of_the_disk(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=800, free=700))
    for key in "ab":
        with node_scratch.base_in_use(shared, attempt := _write_base(shared, key, 250), None):
            node_scratch.stage(shared, attempt)
    assert _bases_on_node(tmp_path) == {"b"}


_HOLD = """
import sys
from core.engine.training.shared_bucket import SharedBucket
from core.engine.training.trainer import node_scratch
with node_scratch.base_in_use(SharedBucket(sys.argv[1]), sys.argv[2], 1e-9):
    node_scratch.stage(SharedBucket(sys.argv[1]), sys.argv[2])
    print("staged", flush=True)
    sys.stdin.read()
"""


def test_a_base_that_another_process_uses_is_not_deleted_before_that_has_ended(
    shared: SharedBucket, tmp_path: Path
) -> None:
    used, other = _write_base(shared, "used", 100), _write_base(shared, "other", 100)
    environ = {**os.environ, "TMPDIR": str(tmp_path / "node")}
    command = [sys.executable, "-c", _HOLD, shared.place, used]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"staged\n"
        _use(shared, other, 1 * _GB)
        assert _bases_on_node(tmp_path) == {"used"}
        process.kill()
    _use(shared, other, 300 * _GB)
    assert _bases_on_node(tmp_path) == {"other"}


def test_what_a_killed_process_has_half_downloaded_or_converted_is_deleted(
    shared: SharedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = _write_base(shared, "base", 100)
    with node_scratch.base_in_use(shared, attempt, None):
        folder = node_scratch.stage(shared, attempt)
    root = folder.parents[3]
    (root / "bases" / "base" / "base.gguf.1.part").write_bytes(b"half")
    (root / "weights" / f"{weights.UNFINISHED}1").mkdir(parents=True)
    node_scratch.discard(shared, attempt)
    spec = json.loads((node_scratch.stage(shared, attempt) / "job.json").read_text())
    monkeypatch.setattr(weights, "convert", lambda _gguf, folder, _: folder)
    converted = node_scratch.converted(Path(spec["base_gguf"]), Path(spec["weights_dir"]), lambda _: None)
    assert converted == root / "weights" / "base"
    assert [path.name for path in (root / "bases" / "base").iterdir()] == ["base.gguf"]
    assert not list((root / "weights").glob(f"{weights.UNFINISHED}*"))
