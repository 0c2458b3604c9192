"""Starts jobs on a Ray cluster: one Ray job per attempt, which `ray_trainer` watches."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from core.engine import launcher_settings
from core.engine.launcher_settings import Shard
from core.engine.training import attempts
from core.engine.training.attempts import Attempt, HomeFull, ProgressMissing, SharedJob
from core.engine.training.job_context import JobFailed, describe_error
from core.engine.training.launcher import LauncherUnavailable
from core.engine.training.ray_cluster import Capacity, JobsApi, RayCluster
from core.engine.training.ray_trainer import RayTrainer, submission_id
from core.engine.training.shared_storage import SharedStorage, StorageRefused, StorageUnreachable
from core.message import Message, msg, with_cause

_MAX_JOBS = 16  # threads; the cluster's size decides how many of them have a job
_CAPACITY_S = 30.0  # between two questions about its size, also after one without an answer


class RayLauncher:
    """Starts trainers on a cluster.

    Args:
        cluster: the cluster.
        storage: what the engine shares with every node.
        workers: processes per job, each with a GPU if the cluster has any.
        cpus: processors per process.
        shard: whether a base model's layers are split over them.
        node_gb: what copies of base models from a bucket take on a node's disk, at most; None for half of the disk.
    """

    max_jobs = _MAX_JOBS

    def __init__(
        self,
        cluster: JobsApi,
        storage: SharedStorage,
        workers: int = 1,
        cpus: int = 1,
        shard: Shard = "auto",
        node_gb: int | None = None,
    ) -> None:
        self._cluster, self._storage, self._workers, self._cpus = cluster, storage, workers, cpus
        self._shard, self._node_gb = shard, node_gb
        self._capacity: tuple[float, Capacity] | None = None
        self._failed_at = -math.inf

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RayLauncher:
        """The launcher of the settings."""
        return cls(
            RayCluster(launcher_settings.dashboard_address(environ[launcher_settings.LAUNCHER]) or ""),
            attempts.storage_of(environ[launcher_settings.STORAGE].strip()),
            launcher_settings.count(environ, launcher_settings.WORKERS),
            launcher_settings.count(environ, launcher_settings.CPUS),
            launcher_settings.shard(environ),
            launcher_settings.node_gb(environ),
        )

    def at_once(self) -> int:
        """See `Launcher`. A cluster that was not measured yet, or is too small so far, trains one."""
        return 1 if self._capacity is None else min(_MAX_JOBS, max(1, self._fitting(self._capacity[1])))

    def has_room(self, running: int) -> bool:
        """See `Launcher`. A job that is alone starts in any case: a cluster may grow when it is asked for more."""
        if running == 0:
            return True
        if self._failed_just_now():  # a question may take seconds, and others wait for it
            return False
        try:
            capacity = self._measured()
        except LauncherUnavailable:
            self._failed_at = time.monotonic()
            return False
        return running < self._fitting(capacity)

    def launch(self, folder: Path) -> RayTrainer:
        """See `Launcher`."""
        job = SharedJob(self._storage, folder)
        capacity = self._measured()
        self._end_left_over(job)
        try:
            attempt = self._running(job) or job.prepare()
        except ProgressMissing as exc:
            raise JobFailed(
                msg(
                    "The job's progress is not on the shared storage {folder}. Nothing was started. Check that the "
                    "storage is mounted, then resume the job.",
                    folder=self._storage.place,
                ),
                "insufficient_storage",
            ) from exc
        except StorageUnreachable as exc:
            raise LauncherUnavailable(
                msg(
                    "The shared storage does not answer: {error} The job waits; saved progress is kept.",
                    error=exc.args[0],
                )
            ) from exc
        except HomeFull as exc:
            raise describe_error(exc) from exc
        except OSError as exc:
            raise self._storage_failed(exc) from exc
        if not attempt.submitted:
            self._submit(job, attempt, capacity)
        shortage = None if self._fitting(capacity) else self._too_small(capacity)
        return RayTrainer(self._cluster, job, attempt.number, shortage)

    def abandon(self, folder: Path) -> None:
        """See `Launcher`. The cluster is not asked, because it may be gone."""
        job = SharedJob(self._storage, folder)
        attempt = job.current()
        if attempt is None or attempt.ended or attempt.stop_requested:
            return
        if job.is_there(attempt.number):
            job.request_stop(attempt.number)
        job.record(replace(attempt, stop_requested=True))

    def forget(self, folder: Path) -> None:
        """See `Launcher`."""
        job = SharedJob(self._storage, folder)
        attempt = job.current() or Attempt(0, ended=True)  # the first one may have been prepared in part
        if attempt.deleted or not folder.is_dir():
            return
        if not attempt.ended:  # the engine was killed before it ended the attempt
            job.leave_running(attempt.number)
        job.delete()
        job.record(replace(attempt, ended=True, deleted=True))

    def end_left_over(self, folder: Path) -> bool:
        """See `Launcher`."""
        job = SharedJob(self._storage, folder)
        if self._failed_just_now():
            return not job.left_running()
        try:
            self._end_left_over(job)
        except LauncherUnavailable:
            self._failed_at = time.monotonic()
            raise
        return True

    def _end_left_over(self, job: SharedJob) -> None:
        for number in job.left_running():
            self._cluster.stop(submission_id(job, number))
            job.has_ended(number)

    def _failed_just_now(self) -> bool:
        return time.monotonic() - self._failed_at < _CAPACITY_S

    def _running(self, job: SharedJob) -> Attempt | None:
        """The attempt that an engine before this one has started, if it is running or its result is still to be read;
        otherwise None.
        """
        attempt = job.current()
        if attempt is None or attempt.ended:
            return None
        found = self._cluster.find(submission_id(job, attempt.number))
        if found is None:  # never submitted, or the cluster is another one by now
            return None if attempt.submitted else attempt
        status = job.state(attempt.number).get("status")
        # a failure would only be repeated; but if the trainer was to stop anyway, the job has been resumed since
        has_result = status == "succeeded" or (status == "failed" and not attempt.stop_requested)
        return replace(attempt, submitted=True) if has_result or not found.has_ended else None

    def _submit(self, job: SharedJob, attempt: Attempt, capacity: Capacity) -> None:
        command = ["python", "-m", "core.engine.training.trainer.on_ray", shlex.quote(job.location(attempt.number))]
        command += ["--workers", str(self._workers), "--cpus", str(self._cpus), "--shard", self._shard]
        command += [] if self._node_gb is None else ["--node-gb", str(self._node_gb)]
        command += ["--gpu"] if capacity.gpus else []
        try:
            self._cluster.submit(submission_id(job, attempt.number), command)
        except RuntimeError as exc:
            raise JobFailed(
                msg(
                    "The Ray cluster refused the job: {error}. Nothing is lost; resume the job when this is fixed.",
                    error=exc,
                ),
                "training_failed",
            ) from exc
        job.record(replace(attempt, submitted=True))

    def _measured(self) -> Capacity:
        if self._capacity is None or time.monotonic() - self._capacity[0] > _CAPACITY_S:
            self._capacity = time.monotonic(), self._cluster.capacity()
        return self._capacity[1]

    def _fitting(self, capacity: Capacity) -> int:
        """How many jobs fit into the cluster at once. A process with a GPU takes its processors as well."""
        by_cpus = capacity.cpus // (self._workers * self._cpus)
        return min(by_cpus, capacity.gpus // self._workers) if capacity.gpus else by_cpus

    def _too_small(self, capacity: Capacity) -> Message:
        if 0 < capacity.gpus < self._workers:
            return msg(
                "The job needs {needed} GPUs and the Ray cluster has {there}. The job waits for more; add nodes, or "
                "set FABULA_RAY_WORKERS to a smaller number.",
                needed=self._workers,
                there=capacity.gpus,
            )
        return msg(
            "The job needs {needed} processors and the Ray cluster has {there}. The job waits for more; add nodes, or "
            "set FABULA_RAY_WORKERS or FABULA_RAY_CPUS to a smaller number.",
            needed=self._workers * self._cpus,
            there=capacity.cpus,
        )

    def _storage_failed(self, exc: OSError) -> JobFailed:
        if isinstance(exc, StorageRefused):
            return describe_error(exc)
        message = msg(
            "The shared storage {folder} is full or cannot be written: {error}. The job's last checkpoint is kept. "
            "Free some space there, then resume the job.",
            folder=self._storage.place,
            error=exc.strerror or exc,
        )
        return JobFailed(with_cause(message, "storage"), "insufficient_storage")
