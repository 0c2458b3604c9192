"""Trainers on a cluster, without one: settings, attempts on shared storage, and a cluster that is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from safetensors.torch import save_file  # noqa: E402

from core.engine import launcher_settings  # noqa: E402
from core.engine.event_log import read_state  # noqa: E402
from core.engine.formats import gguf_file, tokens, weights  # noqa: E402
from core.engine.training import launchers, shared_storage  # noqa: E402
from core.engine.training.attempts import Attempt, SharedJob, is_newest  # noqa: E402
from core.engine.training.job_context import JobFailed  # noqa: E402
from core.engine.training.job_folder import Journal, read_lines  # noqa: E402
from core.engine.training.launcher import LauncherUnavailable  # noqa: E402
from core.engine.training.ray_cluster import Capacity, ClusterJob  # noqa: E402
from core.engine.training.ray_launcher import RayLauncher  # noqa: E402
from core.engine.training.ray_trainer import RayTrainer  # noqa: E402
from core.engine.training.shared_storage import SharedFolder  # noqa: E402
from core.engine.training.trainer import on_ray  # noqa: E402
from core.message import msg  # noqa: E402
from tests.support.engine_process import ROOT  # noqa: E402
from tests.support.shared_job import prepared_job  # noqa: E402
from tests.support.tiny_gemma import write_tiny_gemma  # noqa: E402
from tests.support.waiting import WAIT_LIMIT_S  # noqa: E402

# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"FABULA_LAUNCHER": "slurm"}, "FABULA_LAUNCHER: 'slurm'"),
        ({"FABULA_LAUNCHER": "ray://"}, "FABULA_LAUNCHER: 'ray:'"),
        ({"FABULA_LAUNCHER": "ray://head:10001"}, "Ray Client's"),
        ({"FABULA_RAY_STORAGE": ""}, "FABULA_RAY_STORAGE: '' is not an existing folder"),
        ({"FABULA_RAY_STORAGE": "shared"}, "FABULA_RAY_STORAGE: 'shared'"),
        ({"FABULA_RAY_STORAGE": "s3://"}, "must be s3://bucket or"),
        ({"FABULA_RAY_STORAGE": "s3://key:secret@bucket"}, "must be s3://bucket or"),
        ({"FABULA_RAY_STORAGE": "gs://bucket/x"}, "'gs://bucket/x' is not an existing folder"),
        ({"FABULA_RAY_WORKERS": "0"}, "FABULA_RAY_WORKERS: '0'"),
        ({"FABULA_RAY_CPUS": "two"}, "FABULA_RAY_CPUS: 'two'"),
        ({"FABULA_RAY_NODE_GB": "-1"}, "FABULA_RAY_NODE_GB: '-1' is not a whole number from 1 to 1000000"),
        ({"FABULA_RAY_SHARD": "yes"}, "FABULA_RAY_SHARD: 'yes' is none of auto, always, never"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        launcher_settings.check({"FABULA_LAUNCHER": "ray://head", "FABULA_RAY_STORAGE": str(tmp_path), **changes})


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("ray://head-node", "http://head-node:8265"),
        ("ray://10.0.0.1:8266/", "http://10.0.0.1:8266"),
        ("ray://[::1]", "http://[::1]:8265"),
        ("ray://[::1]:9000", "http://[::1]:9000"),
        ("https://ray.example.com/", "https://ray.example.com"),
    ],
)
def test_a_cluster_is_reached_at_its_dashboard(setting: str, address: str) -> None:
    assert launcher_settings.dashboard_address(setting) == address


@pytest.mark.parametrize("setting", ["", "local", " LOCAL "])
def test_trainers_run_on_this_machine_unless_another_launcher_is_set(setting: str) -> None:
    launcher_settings.check({"FABULA_LAUNCHER": setting})
    chosen = launchers.choose({"FABULA_LAUNCHER": setting})
    assert isinstance(chosen, launchers.LocalLauncher)
    assert (chosen.has_room(0), chosen.has_room(1)) == (True, False)


@pytest.mark.skipif(launcher_settings.ray_is_installed(), reason="ray is installed here")
def test_without_ray_the_engine_says_what_to_install(tmp_path: Path) -> None:
    environ = {**os.environ, "FABULA_LAUNCHER": "ray://head", "FABULA_RAY_STORAGE": str(tmp_path)}
    command = [sys.executable, "-m", "core.engine", "--no-auth", "--port", "0", "--home", str(tmp_path / "home")]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=WAIT_LIMIT_S)
    assert ended.returncode == 3
    assert "-m pip install -r requirements-ray.txt" in ended.stderr


# --- attempts ---------------------------------------------------------------------------------------------------------


def _shared(tmp_path: Path) -> SharedJob:
    """A job that has been prepared by the engine and not started yet."""
    (tmp_path / "shared").mkdir()
    return prepared_job(SharedFolder(tmp_path / "shared"), tmp_path)


def _folder(job: SharedJob, number: int) -> Path:
    """The folder of an attempt, on a shared folder."""
    return Path(job.location(number))


def _train(folder: Path, first: int, last: int, saved: int | None = None) -> None:
    """Write what a trainer writes for some steps."""
    journal = Journal(folder)
    for step in range(first, last + 1):
        journal.metrics({"step": step, "training_loss": step + first / 1000})
        journal.event(f"{folder.name}: {step}")
        if step == saved:
            save_file({"a": torch.zeros(1)}, folder / "resume.safetensors", {"step": str(step)})
    journal.state("running", now=True, step=last)


def _curve(home: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["training_loss"]) for row in read_lines(home / "metrics.jsonl")]


def test_an_attempt_has_the_jobs_data_on_the_shared_storage(tmp_path: Path) -> None:
    job = _shared(tmp_path)
    assert job.current() is None
    attempt = job.prepare()
    assert (attempt, job.current()) == (Attempt(1), Attempt(1))
    spec = json.loads((_folder(job, 1) / "job.json").read_text())
    assert spec["seed"] == 7 and spec["valid"] is None
    for name in ("train", "base_gguf", "weights_dir"):
        assert Path(spec[name]).is_relative_to(tmp_path / "shared")
    assert Path(spec["train"]).read_bytes() == b"train.npz"
    assert Path(spec["base_gguf"]).read_bytes() == b"base.gguf"


def test_the_next_attempt_continues_and_what_the_older_one_writes_never_counts(tmp_path: Path) -> None:
    job = _shared(tmp_path)
    job.prepare()
    _train(_folder(job, 1), 1, 5, saved=3)
    job.collect(1)
    assert [step for step, _ in _curve(job.home)] == [1, 2, 3, 4, 5]
    assert is_newest(job.storage, job.folder(1))

    job.prepare()
    assert (job.current(), job.saved_step(2)) == (Attempt(2), 3)
    assert [step for step, _ in _curve(job.home)] == [1, 2, 3]
    assert (is_newest(job.storage, job.folder(1)), is_newest(job.storage, job.folder(2))) == (False, True)
    _train(_folder(job, 1), 6, 9, saved=9)  # its node can be reached again
    _train(_folder(job, 2), 4, 6)
    job.collect(2)
    assert _curve(job.home) == [(1, 1.001), (2, 2.001), (3, 3.001), (4, 4.004), (5, 5.004), (6, 6.004)]
    assert job.saved_step(2) == 3
    messages = [row["message"] for row in read_lines(job.home / "events.jsonl")]
    assert messages == [*(f"1: {step}" for step in range(1, 6)), *(f"2: {step}" for step in range(4, 7))]


def test_a_job_that_was_interrupted_on_this_machine_continues_on_the_cluster(tmp_path: Path) -> None:
    job = _shared(tmp_path)
    _train(job.home, 1, 5, saved=3)
    job.prepare()
    assert job.saved_step(1) == 3
    assert [step for step, _ in _curve(job.home)] == [1, 2, 3] == [step for step, _ in _curve(_folder(job, 1))]


@pytest.mark.parametrize(
    ("known", "there", "expected"),
    [
        (None, "", None),
        (None, "a\nb\n", "a\nb\n"),
        ("a\n", "a\nb\nc", "a\nb\n"),
        ("a\nb", "a\nb\nc\n", "a\nb\nc\n"),  # the engine was killed while it wrote
        ("a\nb\n", "a\nb\n", "a\nb\n"),
        ("a\nb\nc\n", "a\nb\n", "a\nb\n"),  # the storage lost its last block
    ],
)
def test_only_whole_lines_are_copied(tmp_path: Path, known: str | None, there: str, expected: str | None) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text(there)
    if known is not None:
        target.write_text(known)
    SharedFolder(tmp_path).extend("source", target)
    assert (target.read_text() if target.exists() else None) == expected


# --- a cluster that is a dictionary -----------------------------------------------------------------------------------


@dataclass
class _Cluster:
    """Knows the jobs it was given; `gone` is what it says instead of an answer."""

    jobs: dict[str, ClusterJob] = field(default_factory=dict)
    gone: bool = False
    refuses: str = ""
    size: Capacity = field(default_factory=lambda: Capacity(2, 0))
    commands: list[list[str]] = field(default_factory=list)
    stops: int = 0

    def submit(self, submission_id: str, command: list[str]) -> None:
        self._answer()
        if self.refuses:
            raise RuntimeError(self.refuses)
        if submission_id not in self.jobs:
            self.commands.append(command)
            self.jobs[submission_id] = ClusterJob(False, False, "")

    def find(self, submission_id: str) -> ClusterJob | None:
        self._answer()
        return self.jobs.get(submission_id)

    def stop(self, submission_id: str) -> None:
        self.stops += 1
        self._answer()
        if submission_id in self.jobs:
            self.jobs[submission_id] = ClusterJob(True, False, "stopped")

    def capacity(self) -> Capacity:
        self._answer()
        return self.size

    def _answer(self) -> None:
        if self.gone:
            raise LauncherUnavailable(msg("The Ray cluster at {address} does not answer.", address="test"))


@pytest.fixture
def cluster() -> _Cluster:
    return _Cluster()


def _look(trainer: RayTrainer) -> int | None:
    """The code, without the wait between two questions to the cluster."""
    trainer._looked_at = -1e9
    return trainer.code


def test_an_engine_that_was_killed_starts_each_attempt_once(tmp_path: Path, cluster: _Cluster) -> None:
    job = _shared(tmp_path)
    starter = RayLauncher(cluster, SharedFolder(tmp_path / "shared"), workers=2, cpus=3, shard="always", node_gb=50)
    cluster.gone = True
    with pytest.raises(LauncherUnavailable):
        starter.launch(job.home)
    assert job.current() is None
    cluster.gone = False
    job.prepare()  # killed before the cluster was asked
    assert starter.launch(job.home).number == 1
    job.record(Attempt(1))  # killed before the answer was stored
    assert starter.launch(job.home).number == 1
    assert starter.launch(job.home).number == 1  # killed while it ran
    assert list(cluster.jobs) == ["ftjob-1-1"]
    (command,) = cluster.commands
    assert command[4:] == ["--workers", "2", "--cpus", "3", "--shard", "always", "--node-gb", "50"]


@pytest.mark.parametrize(
    ("end", "state", "code", "next_attempt"),
    [
        (None, None, 1, 2),  # the cluster's head has restarted
        (ClusterJob(True, False, "killed"), "running", 1, 2),
        (ClusterJob(True, False, "killed"), "failed", 1, 2),
        (ClusterJob(True, True, ""), "paused", 0, 2),
        (ClusterJob(False, False, ""), "succeeded", 0, 2),
        (ClusterJob(False, False, ""), "running", None, 1),
    ],
)
def test_an_attempt_that_has_ended_is_followed_by_another(
    tmp_path: Path, cluster: _Cluster, end: ClusterJob | None, state: Any, code: int | None, next_attempt: int
) -> None:
    job, starter = _shared(tmp_path), RayLauncher(cluster, SharedFolder(tmp_path / "shared"))
    trainer = starter.launch(job.home)
    if state:
        (_folder(job, 1) / "final.gguf").write_bytes(b"an adapter")
        Journal(_folder(job, 1)).state(state, now=True)
    cluster.jobs = {} if end is None else {"ftjob-1-1": end}
    assert _look(trainer) == code
    trainer.collect()
    trainer.close()
    assert starter.launch(job.home).number == next_attempt


@pytest.mark.parametrize(
    ("state", "stop_requested", "number"),
    [
        ("succeeded", False, 1),
        ("failed", False, 1),  # it would fail again
        ("failed", True, 2),  # the job had failed for another reason, and was resumed
        ("paused", False, 2),
        ("running", False, 2),
    ],
)
def test_an_end_while_no_engine_was_there_is_found_by_the_next_one(
    tmp_path: Path, cluster: _Cluster, state: Any, stop_requested: bool, number: int
) -> None:
    job, starter = _shared(tmp_path), RayLauncher(cluster, SharedFolder(tmp_path / "shared"))
    starter.launch(job.home)
    if stop_requested:
        starter.abandon(job.home)
    (_folder(job, 1) / "final.gguf").write_bytes(b"an adapter")
    Journal(_folder(job, 1)).state(state, now=True, error="Training diverged.")
    cluster.jobs["ftjob-1-1"] = ClusterJob(True, state in ("succeeded", "paused"), "")
    trainer = starter.launch(job.home)
    assert trainer.number == number
    if number == 1:
        assert trainer.code == (0 if state == "succeeded" else 1)
        trainer.collect()
        assert read_state(job.home) == {"status": state, "error": "Training diverged."}


def test_the_cluster_says_why_an_attempt_ended_unless_its_own_log_does(tmp_path: Path, cluster: _Cluster) -> None:
    job = _shared(tmp_path)
    trainer = RayLauncher(cluster, SharedFolder(tmp_path / "shared")).launch(job.home)
    log = "Job entrypoint command failed with exit code -9, last available logs (truncated to 20,000 chars):\nINFO"
    cluster.jobs = {"ftjob-1-1": ClusterJob(True, False, log)}
    assert _look(trainer) == 1
    assert trainer.last_log_line() == "Job entrypoint command failed with exit code -9"
    (_folder(job, 1) / "trainer.log").write_text("The actor is dead.\n\n")
    assert trainer.last_log_line() == "The actor is dead."


def test_while_the_cluster_does_not_answer_the_attempt_counts_as_running(tmp_path: Path, cluster: _Cluster) -> None:
    job = _shared(tmp_path)
    trainer = RayLauncher(cluster, SharedFolder(tmp_path / "shared")).launch(job.home)
    cluster.gone = True
    assert _look(trainer) is None
    assert "does not answer" in str(trainer.trouble)
    _train(_folder(job, 1), 1, 2)
    trainer.collect()
    assert [step for step, _ in _curve(job.home)] == [1, 2]
    cluster.gone = False
    assert (_look(trainer), trainer.trouble) == (None, None)
    cluster.gone = True
    trainer.kill()
    trainer.close()
    assert job.current() == Attempt(1, submitted=True, ended=True)
    assert cluster.stops == 1  # each question takes seconds


def test_a_job_that_the_cluster_refuses_fails_with_its_words(tmp_path: Path, cluster: _Cluster) -> None:
    job = _shared(tmp_path)
    cluster.refuses = "no such runtime environment"
    with pytest.raises(JobFailed, match="no such runtime environment"):
        RayLauncher(cluster, SharedFolder(tmp_path / "shared")).launch(job.home)


def test_storage_that_cannot_be_written_is_named_and_costs_nothing(tmp_path: Path, cluster: _Cluster) -> None:
    job = _shared(tmp_path)
    starter = RayLauncher(cluster, SharedFolder(tmp_path / "shared"))
    starter.launch(job.home).close()
    cluster.jobs = {"ftjob-1-1": ClusterJob(True, False, "killed")}
    _train(_folder(job, 1), 1, 4, saved=4)
    (_folder(job, 2)).write_text("in the way")
    with pytest.raises(JobFailed) as caught:
        starter.launch(job.home)
    assert caught.value.code == "insufficient_storage" and str(tmp_path / "shared") in caught.value.message
    assert job.current() == Attempt(1, submitted=True)
    (_folder(job, 2)).unlink()
    assert starter.launch(job.home).number == 2
    assert job.saved_step(2) == 4


@pytest.mark.parametrize(
    ("size", "workers", "cpus", "jobs"),
    [
        (Capacity(64, 8), 2, 8, 4),  # by GPUs
        (Capacity(64, 8), 3, 1, 2),
        (Capacity(64, 8), 1, 16, 4),  # each process takes a GPU and processors
        (Capacity(16, 0), 2, 4, 2),  # by processors
        (Capacity(2, 0), 2, 4, 1),  # one that does not fit waits in the cluster, which may grow
        (Capacity(2, 4), 8, 1, 1),
    ],
)
def test_as_many_jobs_run_at_once_as_fit(
    tmp_path: Path, cluster: _Cluster, size: Capacity, workers: int, cpus: int, jobs: int
) -> None:
    cluster.size = size
    starter = RayLauncher(cluster, SharedFolder(tmp_path), workers, cpus)
    running = 0
    while starter.has_room(running):
        running += 1
    assert running == jobs


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (Capacity(64, 1), "needs 4 GPUs and the Ray cluster has 1"),
        (Capacity(2, 1), "needs 4 GPUs and the Ray cluster has 1"),
        (Capacity(2, 8), "needs 12 processors and the Ray cluster has 2"),
        (Capacity(2, 0), "needs 12 processors and the Ray cluster has 2"),
    ],
)
def test_a_job_that_is_larger_than_the_cluster_says_so(
    tmp_path: Path, cluster: _Cluster, size: Capacity, words: str
) -> None:
    job = _shared(tmp_path)
    cluster.size = size
    trainer = RayLauncher(cluster, SharedFolder(tmp_path / "shared"), workers=4, cpus=3).launch(job.home)
    assert words in str(trainer.trouble)
    assert (cluster.commands[0][-1] == "--gpu") == bool(size.gpus)


# --- faults of the storage and the cluster ----------------------------------------------------------------------------


def test_two_jobs_that_copy_their_base_at_once_share_one_whole_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, target = tmp_path / "base", tmp_path / "shared" / "bases" / "key" / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    copytree = shutil.copytree

    def overtaken(source: Path, there: Path) -> Any:
        copytree(source, there)
        monkeypatch.setattr(shutil, "copytree", copytree)
        assert shared_storage._copy(base, target) is None  # the other job

    monkeypatch.setattr(shutil, "copytree", overtaken)
    assert shared_storage._copy(base, target) is None
    assert [path.name for path in target.parent.iterdir()] == ["base"]
    assert (target / "model.safetensors").read_bytes() == b"weights"


def test_storage_that_is_not_mounted_does_not_cost_the_progress(tmp_path: Path, cluster: _Cluster) -> None:
    job, starter = _shared(tmp_path), RayLauncher(cluster, SharedFolder(tmp_path / "shared"))
    trainer = starter.launch(job.home)
    _train(_folder(job, 1), 1, 4, saved=4)
    trainer.collect()
    cluster.jobs = {}
    (tmp_path / "shared").rename(tmp_path / "elsewhere")
    (tmp_path / "shared").mkdir()  # the mount point
    with pytest.raises(JobFailed) as caught:
        starter.launch(job.home)
    assert caught.value.code == "insufficient_storage"
    assert [step for step, _ in _curve(job.home)] == [1, 2, 3, 4]
    assert not list((tmp_path / "shared").iterdir())
    (tmp_path / "shared").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "shared")
    assert starter.launch(job.home).number == 2
    assert job.saved_step(2) == 4


def test_the_end_of_an_older_attempt_is_not_that_of_the_next_one(tmp_path: Path) -> None:
    job = _shared(tmp_path)
    job.prepare()
    _train(_folder(job, 1), 1, 2)
    Journal(_folder(job, 1)).state("failed", now=True, error="Out of memory.")
    job.prepare()
    assert [step for step, _ in _curve(job.home)] == []
    assert read_state(job.home) == {}


def test_storage_that_cannot_be_read_for_a_moment_does_not_fail_the_job(tmp_path: Path, cluster: _Cluster) -> None:
    job = _shared(tmp_path)
    trainer = RayLauncher(cluster, SharedFolder(tmp_path / "shared")).launch(job.home)
    state = _folder(job, 1) / "state.json"
    state.mkdir()  # an OSError for everyone, also for root
    assert _look(trainer) is None
    assert str(tmp_path / "shared") in str(trainer.trouble)
    state.rmdir()
    assert (_look(trainer), trainer.trouble) == (None, None)


@pytest.mark.parametrize("gone", [False, True])
def test_an_attempt_that_was_not_stopped_is_asked_to_stop(tmp_path: Path, cluster: _Cluster, gone: bool) -> None:
    """The engine was killed between a pause and its message to the trainer."""
    job, starter = _shared(tmp_path), RayLauncher(cluster, SharedFolder(tmp_path / "shared"))
    starter.abandon(job.home)  # there is none yet
    starter.launch(job.home)
    cluster.gone = gone
    starter.abandon(job.home)
    assert (_folder(job, 1) / "stop").exists()


@pytest.mark.parametrize("engine_was_killed", [False, True])
def test_a_job_that_was_cancelled_while_the_cluster_did_not_answer_is_stopped_later(
    tmp_path: Path, cluster: _Cluster, engine_was_killed: bool
) -> None:
    job, starter = _shared(tmp_path), RayLauncher(cluster, SharedFolder(tmp_path / "shared"))
    trainer = starter.launch(job.home)
    cluster.gone = True
    if not engine_was_killed:
        trainer.kill()
        trainer.close()
    starter.forget(job.home)
    with pytest.raises(LauncherUnavailable):
        starter.end_left_over(job.home)
    starter.end_left_over(job.home)  # the cluster is not asked again at once
    assert not cluster.jobs["ftjob-1-1"].has_ended
    cluster.gone = False
    RayLauncher(cluster, SharedFolder(tmp_path / "shared")).end_left_over(job.home)
    assert cluster.jobs["ftjob-1-1"].has_ended
    cluster.gone = True
    starter.end_left_over(job.home)  # there is nothing left to ask


def test_an_attempt_that_could_not_be_ended_is_ended_before_the_next_one(tmp_path: Path, cluster: _Cluster) -> None:
    job, starter = _shared(tmp_path), RayLauncher(cluster, SharedFolder(tmp_path / "shared"))
    trainer = starter.launch(job.home)
    cluster.gone = True
    trainer.kill()
    trainer.close()
    cluster.gone = False
    assert starter.launch(job.home).number == 2
    assert [cluster.jobs[name].has_ended for name in ("ftjob-1-1", "ftjob-1-2")] == [True, False]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_copies_that_a_killed_engine_left_are_deleted_and_those_under_way_are_kept(tmp_path: Path, kind: str) -> None:
    base, bases = tmp_path / "base.gguf", tmp_path / "shared" / "bases" / "key"
    base.write_bytes(b"weights")
    names = ("base.gguf.1.part", "base.gguf.2.part", "other.gguf.1.part")
    for name in names:
        path = bases / name / "model.safetensors" if kind == "folder" else bases / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"wei")
    two_days_ago = time.time() - 48 * 3600
    for path in (bases / names[0], *(bases / names[0]).glob("*"), bases / names[1], bases / names[2]):
        os.utime(path, (two_days_ago, two_days_ago))
    if kind == "file":
        (bases / names[1]).write_bytes(b"weig")  # for a folder, one of its files is new
    SharedFolder(tmp_path / "shared").put(base, "bases/key/base.gguf")
    assert sorted(path.name for path in bases.iterdir()) == ["base.gguf", *names[1:]]


def test_a_trainer_whose_job_was_deleted_stops(tmp_path: Path) -> None:
    job = _shared(tmp_path)
    job.prepare()
    job.delete()
    assert not is_newest(job.storage, job.folder(1))


# --- several processes ------------------------------------------------------------------------------------------------


def _texts(n: int) -> list[tokens.Encoded]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(8, 30, n)
    return [
        tokens.Encoded((2, *map(int, generator.integers(10, 200, length))), (False,) * 5 + (True,) * (length - 4))
        for length in lengths
    ]


def test_two_processes_have_the_curve_and_the_model_of_one(tmp_path: Path) -> None:
    base = write_tiny_gemma(tmp_path / "tiny.gguf")
    weights.convert(base, tmp_path / "weights", lambda _: None)
    folders = {}
    for method, rate in (("supervised", 5e-3), ("dpo", 1e-2)):
        for size in (1, 2):
            folder = folders[method, size] = tmp_path / f"{method}-{size}"
            folder.mkdir()
            tokens.save(folder / "train.npz", _texts(14))
            tokens.save(folder / "valid.npz", _texts(6))
            spec = {
                "job_id": "ftjob-test", "base_gguf": str(base), "weights_dir": str(tmp_path / "weights"),
                "start_adapter": None, "train": str(folder / "train.npz"), "valid": str(folder / "valid.npz"),
                "n_epochs": 2, "batch_size": 3, "learning_rate": rate, "seed": 7, "dtype": "float32", "threads": 1,
                "method": method,
            }  # fmt: skip
            (folder / "job.json").write_text(json.dumps(spec))
    processes = []
    for size in (1, 2):
        jobs = [str(folder) for (_, ranks), folder in folders.items() if ranks == size]
        for rank in range(size):
            command = ["tests.support.rank", str(rank), str(size), str(tmp_path / f"store-{size}"), *jobs]
            processes.append(subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT))
    assert [process.wait(WAIT_LIMIT_S) for process in processes] == [0, 0, 0]
    for method in ("supervised", "dpo"):
        alone, together = (list(read_lines(folders[method, size] / "metrics.jsonl")) for size in (1, 2))
        assert len(alone) == len(together) >= 6
        for name in ("training_loss", "validation_loss", "elapsed_tokens", "elapsed_examples"):
            one, two = ([row[name] for row in rows if row[name] is not None] for rows in (alone, together))
            assert two == pytest.approx(one, abs=1e-4), (method, name)
        models = [gguf_file.read_adapter(folders[method, size] / "final.gguf").layers for size in (1, 2)]
        assert all(np.allclose(models[0][name][1], models[1][name][1], atol=1e-4) for name in models[0])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("gloo/transport/tcp/pair.cc:537: Connection reset by peer"), True),
        (MemoryError("std::bad_alloc"), True),  # the process is being ended
        (MemoryError(), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes"), False),
        (ValueError("shapes differ"), False),
    ],
)
def test_the_end_of_another_process_is_no_failure_of_the_job(error: Exception, expected: bool) -> None:
    assert on_ray._is_lost_peer(error) is expected
