"""What the engine deletes, and which trainers it ends, after jobs that no longer train."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core.engine.api.errors import unavailable
from core.engine.api.files import Files
from core.engine.serving.llama import BaseModel
from core.engine.store import EngineStore, Job, Status
from core.engine.training.job_claims import JobClaims
from core.engine.training.job_cleanup import JobCleanup
from core.engine.training.job_context import EngineJobContext
from core.engine.training.job_loop import JobLoop
from core.engine.training.launcher import LauncherUnavailable
from core.engine.training.launchers import LocalLauncher
from core.engine.training.training_runner import TrainingRunner
from core.message import msg
from tests.support.waiting import until


class _Launcher(LocalLauncher):
    """Knows whose trainers were asked to stop and whose files were deleted.

    It cannot delete those of `stuck`, nor end a trainer while it `is_gone`.
    """

    max_jobs = 16

    def __init__(self) -> None:
        self.abandoned: list[str] = []
        self.forgotten: list[tuple[str, str]] = []
        self.stuck = ""
        self.is_gone = False

    def has_room(self, running: int) -> bool:
        return True

    def abandon(self, folder: Path) -> None:
        self.abandoned.append(folder.name)

    def forget(self, folder: Path) -> None:
        if folder.name == self.stuck:
            raise OSError(f"{folder} is not empty")
        self.forgotten.append((threading.current_thread().name, folder.name))

    def end_left_over(self, folder: Path) -> bool:
        if self.is_gone:
            raise LauncherUnavailable(msg("The Ray cluster at {address} does not answer.", address="test"))
        return True

    def newly_forgotten(self) -> list[str]:
        """The jobs whose files were deleted since the last call."""
        found = sorted(job_id for _, job_id in self.forgotten)
        self.forgotten.clear()
        return found


@pytest.fixture
def context(tmp_path: Path) -> EngineJobContext:
    def no_model(_name: str) -> BaseModel:
        raise unavailable("There is no such model.")

    store, models, pool = EngineStore(tmp_path / "engine.db"), SimpleNamespace(base=no_model), SimpleNamespace()
    return EngineJobContext(tmp_path, store, Files(tmp_path, store), models, pool, 1, print)  # type: ignore[arg-type]  # fakes


@pytest.fixture
def launcher() -> _Launcher:
    return _Launcher()


@pytest.fixture
def claims(context: EngineJobContext, launcher: _Launcher) -> JobClaims:
    return JobClaims(context, launcher)


@pytest.fixture
def cleanup(context: EngineJobContext, launcher: _Launcher, claims: JobClaims) -> JobCleanup:
    return JobCleanup(context, launcher, claims)


def _add(context: EngineJobContext, job_id: str, status: Status, started_at: int | None = None) -> None:
    figures: dict[str, Any] = {"examples": 1, "n_epochs": 1, "batch_size": 1, "learning_rate_multiplier": 1.0}
    names: dict[str, Any] = {"model": "tiny", "base": "tiny", "format": "completion", "tuned_id": f"ft:tiny:{job_id}"}
    files: dict[str, Any] = {"training_file": "file-1", "validation_file": None, "metadata": None, "suffix": None}
    (context.home / "jobs" / job_id).mkdir(parents=True)
    context.store.add(
        Job(id=job_id, created_at=0, status=status, seed=1, started_at=started_at, **names, **files, **figures)
    )


@pytest.mark.parametrize(("status", "is_asked"), [("paused", True), ("failed", True), ("succeeded", False)])
def test_after_a_start_the_trainers_of_jobs_that_no_longer_train_are_asked_to_stop(
    status: Status, is_asked: bool, context: EngineJobContext, launcher: _Launcher, cleanup: JobCleanup
) -> None:
    """The engine was killed after it had stored the pause, and before it told a trainer that outlives it."""
    _add(context, "ftjob-1", status, started_at=1)
    assert not cleanup.step()
    assert launcher.abandoned == (["ftjob-1"] if is_asked else [])


def test_one_thread_cleans_up_and_leaves_jobs_alone_that_still_have_a_thread(
    context: EngineJobContext, launcher: _Launcher, claims: JobClaims, cleanup: JobCleanup
) -> None:
    _add(context, "ftjob-1", "running")
    job = claims.take()
    assert job is not None
    context.store.update(Job, "ftjob-1", status="cancelled")
    cleanup.step()
    assert launcher.forgotten == []
    claims.release(job)
    loop = JobLoop(context, launcher)
    loop.start()
    until(lambda: launcher.forgotten, "nothing was cleaned up")
    for _ in range(3):
        loop.wake()
    loop.stop()
    assert set(launcher.forgotten) == {("cleanup", "ftjob-1")}


def test_a_job_that_ends_after_many_newer_ones_is_cleaned_up_as_well(
    context: EngineJobContext, launcher: _Launcher, cleanup: JobCleanup
) -> None:
    _add(context, "ftjob-1", "running")
    newer = [f"ftjob-{number}" for number in range(100, 160)]
    for job_id in newer:
        _add(context, job_id, "succeeded")
    cleanup.step()
    assert launcher.newly_forgotten() == newer
    context.store.update(Job, "ftjob-1", status="cancelled")
    cleanup.step()
    assert launcher.newly_forgotten() == ["ftjob-1"]
    cleanup.step()
    assert launcher.newly_forgotten() == []  # once is enough


def test_a_job_that_can_still_go_on_keeps_its_files(
    context: EngineJobContext, launcher: _Launcher, cleanup: JobCleanup
) -> None:
    for status in get_args(Status):
        _add(context, f"ftjob-{status}", status, started_at=1)
    _add(context, "ftjob-never-started", "failed")  # its files were refused, so it cannot be resumed
    cleanup.step()
    assert launcher.newly_forgotten() == ["ftjob-cancelled", "ftjob-never-started", "ftjob-succeeded"]


def test_what_cannot_be_cleaned_up_is_tried_again_and_keeps_nothing_else_waiting(
    context: EngineJobContext, launcher: _Launcher, cleanup: JobCleanup
) -> None:
    for job_id in ("ftjob-1", "ftjob-2"):
        _add(context, job_id, "succeeded")
    launcher.stuck = "ftjob-2"
    cleanup.step()
    assert launcher.newly_forgotten() == ["ftjob-1"]
    launcher.stuck, launcher.is_gone = "", True
    cleanup.step()
    assert launcher.newly_forgotten() == ["ftjob-2"]
    launcher.is_gone = False
    cleanup.step()
    assert launcher.newly_forgotten() == ["ftjob-2"]  # its trainer could not be ended before
    cleanup.step()
    assert launcher.newly_forgotten() == []


def test_a_folder_that_cannot_be_emptied_keeps_no_job_waiting(
    context: EngineJobContext, launcher: _Launcher, claims: JobClaims, cleanup: JobCleanup
) -> None:
    _add(context, "ftjob-1", "succeeded")
    (context.home / "jobs" / "ftjob-1" / "train.npz").mkdir()  # cannot be unlinked
    _add(context, "ftjob-2", "queued")
    assert not cleanup.step()
    assert TrainingRunner(context, launcher, claims, threading.Event(), threading.Event()).step()
    job = context.store.get(Job, "ftjob-2")
    assert job is not None and job.status == "failed" and "no such model" in (job.error or "")
