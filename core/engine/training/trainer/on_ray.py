"""`python -m core.engine.training.trainer.on_ray ATTEMPT --workers N`: the entry point of a Ray job.

It runs on the cluster and trains the job at ATTEMPT, a folder or s3://…, with one process per worker (`TorchTrainer`).
Ray repeats nothing: if a process dies, this program ends with code 1, and the engine decides what comes next.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from core.engine.launcher_settings import Shard
from core.engine.training import attempts
from core.engine.training.job_folder import JobSpec, Journal, Status
from core.engine.training.shared_bucket import SharedBucket
from core.engine.training.shared_storage import SharedStorage, StorageRefused, StorageUnreachable
from core.engine.training.trainer import device, failure, node_scratch
from core.engine.training.trainer.mirror import Mirror, MirroredJournal
from core.engine.training.trainer.ranks import ALONE, ProcessGroup, Ranks
from core.engine.training.trainer.run import train
from core.message import sentences, to_json

_FAILURE = "failure.json"
# Ray's own memory monitor, and PyTorch's allocators
_NO_MEMORY = re.compile(r"OutOfMemory|out of memory|running low on memory|MemoryError", re.IGNORECASE)
_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset) by peer|socket", re.IGNORECASE)
# Of gloo, if Ray ends this process during an exchange because its driver is gone. If memory is really short, the driver
# is still there and says so.
_TORN_DOWN = "std::bad_alloc"
_LOG_CHARS = 160  # Ray explains in a paragraph what may have happened to a process; the first sentences say what did
_TIMEOUT_S = 1800  # for one step of the slowest process, including the conversion of a base model


def main(arguments: list[str] | None = None) -> int:
    """Train; return 0 if the job is finished, paused or has failed for a reason that is in its journal."""
    parser = argparse.ArgumentParser(prog="python -m core.engine.training.trainer.on_ray")
    parser.add_argument("attempt")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--shard", choices=get_args(Shard), default="auto")
    parser.add_argument("--node-gb", type=int)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args(arguments)
    storage, attempt = attempts.located(options.attempt)
    if not attempts.is_newest(storage, attempt):  # it waited in the cluster, which did not answer when it was stopped
        print("The job was deleted, or a newer attempt has begun.", file=sys.stderr)
        return 1
    try:
        _fit(options, storage.ray_storage(attempt))  # fails here if the package for S3 is missing
    except Exception as exc:  # Ray's errors wrap those of its processes in many ways
        return _explain(storage, attempt, exc)
    return 0


def _fit(options: argparse.Namespace, ray_storage: Mapping[str, Any]) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(log_to_driver=False)
    trainer = TorchTrainer(
        train_rank,
        train_loop_config={name: getattr(options, name) for name in ("attempt", "cpus", "shard", "node_gb")},
        scaling_config=ScalingConfig(
            num_workers=options.workers, use_gpu=options.gpu, resources_per_worker=_resources(options)
        ),
        torch_config=TorchConfig(backend="nccl" if options.gpu else "gloo", timeout_s=_TIMEOUT_S),
        run_config=RunConfig(name="ray", **ray_storage, failure_config=FailureConfig(max_failures=0)),
    )
    trainer.fit()


def _resources(options: argparse.Namespace) -> dict[str, float]:
    return {"CPU": options.cpus, **({"GPU": 1} if options.gpu else {})}


def train_rank(config: Mapping[str, Any]) -> None:
    """One process of the job; Ray calls it in each worker."""
    from torch import distributed

    storage, attempt = attempts.located(config["attempt"])
    ranks: Ranks = ProcessGroup() if distributed.get_world_size() > 1 else ALONE
    try:
        if ranks.rank == 0:
            storage.create(f"{attempt}/{attempts.CLAIM}")
        if isinstance(storage, SharedBucket):
            _train_from_bucket(storage, attempt, config, ranks)
        else:
            folder = Path(config["attempt"])
            spec = replace(JobSpec.read(folder), threads=config["cpus"])
            _train(spec, Journal(folder), _stop_request(storage, attempt), ranks, config["shard"])
    except (FileExistsError, StorageUnreachable):  # this attempt has run before; or the next one may have more luck
        raise
    except Exception as exc:  # of rank 0, the state has the reason, unless it could not begin
        if not _is_lost_peer(exc):
            _tell(storage, attempt, _FAILURE, json.dumps(_failed(exc)).encode())
        raise


def _train(spec: JobSpec, journal: Journal, stop: Callable[[], bool], ranks: Ranks, shard: Shard) -> None:
    """Train; rank 0 alone writes to the job folder, also why it failed."""
    try:
        train(spec, journal if ranks.rank == 0 else SilentJournal(journal.folder), stop, ranks, shard)
    except Exception as exc:
        if ranks.rank == 0 and not _is_lost_peer(exc):  # then the process that is gone knows the reason, or its node
            failure.report(journal, exc)
        raise


def _train_from_bucket(bucket: SharedBucket, attempt: str, config: Mapping[str, Any], ranks: Ranks) -> None:
    """Train in a folder of this node, which `Mirror` uploads."""
    with node_scratch.base_in_use(bucket, attempt, config["node_gb"]):
        folder = node_scratch.stage(bucket, attempt)
        journal = MirroredJournal(folder)
        spec = replace(JobSpec.read(folder), threads=config["cpus"])
        if spec.base_folder is None:
            on_message = journal.event if ranks.rank == 0 else (lambda _: None)
            spec = replace(spec, base_folder=node_scratch.converted(spec.base_gguf, spec.weights_dir, on_message))
        if ranks.rank > 0:
            _train(spec, journal, lambda: False, ranks, config["shard"])  # rank 0 says when to stop
            return
        mirror = Mirror(bucket, attempt, folder)
        with ExitStack() as end:
            end.callback(node_scratch.discard, bucket, attempt)
            mirror.start()
            end.callback(mirror.finish)
            _train(spec, journal, mirror.stop_requested, ranks, config["shard"])


class SilentJournal(Journal):
    """The journal of the processes that write nothing."""

    def event(self, message: str, level: str = "info", **data: Any) -> None:
        """Nothing is written."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def checkpoint(self, row: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def state(self, status: Status, *, now: bool = False, **figures: Any) -> None:
        """Nothing is written."""

    def rewind(self, step: int) -> None:
        """Nothing is written."""

    def sync(self) -> None:
        """Nothing is written."""


def _stop_request(storage: SharedStorage, attempt: str) -> Callable[[], bool]:
    """True once the engine has asked for a stop, or has begun a newer attempt."""
    asked = Path(storage.location(attempt)) / attempts.STOP
    return lambda: asked.exists() or not attempts.is_newest(storage, attempt)


def _is_lost_peer(exc: Exception) -> bool:
    """Whether an error only says that another process has gone."""
    from torch import distributed

    if isinstance(exc, MemoryError) and str(exc) == _TORN_DOWN:
        return True
    if device.is_out_of_memory(exc):
        return False
    return isinstance(exc, distributed.DistError) or (
        isinstance(exc, RuntimeError) and _LOST_PEER.search(str(exc)) is not None
    )


def _failed(exc: Exception) -> dict[str, Any]:
    error, next_step = failure.describe(exc)
    return {"error": error, "next_step": next_step, "message": to_json(sentences(error, next_step))}


def _explain(storage: SharedStorage, attempt: str, exc: Exception) -> int:
    """Say why the attempt has ended, in its state if the job cannot go on and otherwise in its log."""
    text = f"{type(exc).__name__}: {exc}"
    print(text, file=sys.stderr)
    try:
        _write_end(storage, attempt, exc, text)
    except StorageRefused as refused:  # then only Ray can tell the engine
        print(f"{attempts.FAILED}{json.dumps(_failed(refused))}", file=sys.stderr)
    except OSError as unwritten:
        print(f"{type(unwritten).__name__}: {unwritten}", file=sys.stderr)
    return 1


def _write_end(storage: SharedStorage, attempt: str, exc: Exception, text: str) -> None:
    state = attempts.read_state(storage, attempt)
    if state.get("status") != "failed":
        reported = storage.read(f"{attempt}/{_FAILURE}")
        reason = json.loads(reported) if reported else None
        if reason is None and isinstance(exc, StorageRefused):
            reason = _failed(exc)
        if reason is None and _NO_MEMORY.search(text):
            reason = _failed(MemoryError(text))
        if reason is not None:
            end = {**state, "status": "failed", **reason}
            _tell(storage, attempt, "state.json", json.dumps(end).encode())
    _tell(storage, attempt, attempts.LOG, f"{_last_words(text)}\n".encode())


def _tell(storage: SharedStorage, attempt: str, name: str, content: bytes) -> None:
    """Write a file for the engine, unless the job was deleted: the engine would not delete it again."""
    if attempts.is_newest(storage, attempt) is not None:
        storage.write(f"{attempt}/{name}", content)


def _last_words(text: str) -> str:
    """The beginning of the line of an error that names its cause: the last one that is neither indented nor empty."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    return (lines[-1] if lines else text)[:_LOG_CHARS]


if __name__ == "__main__":
    sys.exit(main())
