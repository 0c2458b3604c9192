"""`python -m core.engine.trainer JOBDIR [ENGINE_PID]`: carry out one job, from wherever it stopped.

SIGTERM, or the death of the engine that started it, makes it save and leave, within one small batch. A kill -9 costs
the steps since the last save. Two trainers never work in one folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from core.engine import adapters, tokens, weights
from core.engine.base_config import UntrainableModel
from core.engine.trainer import model, precision, resume
from core.engine.trainer.job import JobSpec, Journal
from core.engine.trainer.loop import Loop, LossDiverged
from core.engine.trainer.resume import Position
from core.message import msg, sentences, to_json


def main(folder: Path, engine_pid: int) -> int:
    """Train; 0 when finished or paused, 1 when the job failed (state.json says why)."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an orphan of a killed engine may still be saving: wait for it
        asked = _StopRequest(engine_pid)
        if asked():  # the engine died while we waited: its successor has a trainer of its own
            return 0
        journal = Journal(folder)
        try:
            _train(JobSpec.read(folder), journal, asked)
        except Exception as exc:  # the engine shows state.json, whatever went wrong
            message, next_step = _in_words(exc)
            said = sentences(message, next_step)
            journal.event(said, level="error")
            journal.state("failed", now=True, error=message, next_step=next_step, said=to_json(said))
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
            return 1
    return 0


def _train(spec: JobSpec, journal: Journal, asked: _StopRequest) -> None:
    journal.state("starting", now=True)
    torch.set_num_threads(spec.threads or os.cpu_count() or 1)
    position = resume.read_position(journal.folder)
    journal.rewind(position.step)
    weights.convert(spec.base_gguf, spec.weights_dir, journal.event)
    position = _with_dtype(spec, position, journal, precision.choose)
    tunable = model.load(spec.weights_dir, getattr(torch, position.dtype), spec.lora_rank, spec.lora_alpha)
    tunable.initialise(spec.seed)
    if spec.start_adapter:
        tunable.load(adapters.read(spec.start_adapter))
    train = tokens.load(spec.train)
    loop = Loop(spec, journal, tunable, train, tokens.load(spec.valid) if spec.valid else [])
    if position.step:
        resume.load(journal.folder, position.step, loop.named, loop.optimizer)
        journal.event(
            msg("Resuming from step {step} of {total_steps}.", step=position.step, total_steps=loop.total_steps)
        )
    else:
        journal.event(
            msg(
                "Training started. Examples: {train}, epochs: {n_epochs}, steps: {total_steps}.",
                train=len(train),
                n_epochs=spec.n_epochs,
                total_steps=loop.total_steps,
            )
        )
    position = loop.run(position, asked)
    if position.step < loop.total_steps:
        journal.event(
            msg(
                "Paused at step {step} of {total_steps}; nothing is lost.",
                step=position.step,
                total_steps=loop.total_steps,
            )
        )
        journal.state("paused", now=True, **loop.figures(position))
        return
    last = journal.folder / "checkpoints" / f"step-{position.step}.gguf"
    beside = journal.folder / "final.gguf.part"
    shutil.copyfile(last, beside)
    os.replace(beside, journal.folder / "final.gguf")
    journal.state("succeeded", now=True, **loop.figures(position))


def _with_dtype(
    spec: JobSpec, position: Position, journal: Journal, choose: Callable[[], tuple[object, float]]
) -> Position:
    """The number format of the whole job: as ordered, as before the interruption, or as measured now."""
    if position.dtype != "auto":
        return position
    if spec.dtype != "auto":
        return replace(position, dtype=spec.dtype)
    dtype, gain = choose()
    name = str(dtype).removeprefix("torch.")
    journal.event(
        msg(
            "Computing in {name}: bfloat16 multiplies {gain} times as fast as float32 on this processor.",
            name=name,
            gain=f"{gain:.1f}",
        )
    )
    return replace(position, dtype=name)


def _in_words(exc: Exception) -> tuple[str, str]:
    """What happened and what to do, for people."""
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        return msg("The disk is full."), msg(
            "Free some space, then resume the job: it continues from its last checkpoint."
        )
    if isinstance(exc, UntrainableModel):  # the file was another one when the job was created
        return msg("The base model can be served here, not trained: {exc}.", exc=exc), msg("Use another base model.")
    if isinstance(exc, LossDiverged):
        return msg("Training diverged: {exc}.", exc=exc), msg("Use a smaller learning_rate_multiplier.")
    if isinstance(exc, MemoryError):
        return msg("The memory is full."), msg("Use a smaller batch_size or shorter examples.")
    return msg("Training stopped: {exc}.", exc=exc), msg("The engine's log has the details.")


class _StopRequest:
    """True once SIGTERM arrived or the parent died."""

    def __init__(self, engine_pid: int) -> None:
        self._parent = engine_pid
        self._asked = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked or os.getppid() != self._parent


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else os.getppid()))
