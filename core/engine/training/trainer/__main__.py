"""`python -m core.engine.training.trainer JOBDIR [ENGINE_PID]`runs or resumes one job.

On SIGTERM, or when the engine that started it dies, the process saves its state and exits within one micro-batch. A
kill -9 loses the steps since the last save. A lock ensures one trainer per folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

from core.engine import training_options
from core.engine.formats import gguf_file, hf_folder, tokens, weights
from core.engine.formats.base_config import UntrainableModel
from core.engine.job_rules import TRAINING_DEVICE_SETTING, training_device
from core.engine.training.job_folder import JobSpec, Journal
from core.engine.training.trainer import device, memory, model, resume
from core.engine.training.trainer.loop import Loop, LossDiverged
from core.message import msg, sentences, to_json, with_cause


def main(folder: Path, engine_pid: int) -> int:
    """Train; return 0 if finished or paused, 1 if the job failed (state.json has the reason)."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # wait, because the trainer of a killed engine may still be saving
        stop_requested = _StopRequest(engine_pid)
        if stop_requested():  # the engine has died in the meantime; its successor starts its own trainer
            return 0
        journal = Journal(folder)
        try:
            _train(JobSpec.read(folder), journal, stop_requested)
        except Exception as exc:  # any error is reported through state.json
            error, next_step = _describe(exc)
            message = sentences(error, next_step)
            journal.event(message, level="error")
            journal.state("failed", now=True, error=error, next_step=next_step, message=to_json(message))
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
            return 1
    return 0


def _train(spec: JobSpec, journal: Journal, stop_requested: _StopRequest) -> None:
    journal.state("starting", now=True)
    position = resume.read_position(journal.folder)
    journal.rewind(position.step)
    folder = spec.base_folder or weights.convert(spec.base_gguf, spec.weights_dir, journal.event)
    dtype = spec.dtype if position.dtype == "auto" else position.dtype  # an interrupted job keeps its dtype
    chosen = device.choose(dtype, spec.threads, journal.event, training_device(os.environ))
    position = replace(position, dtype=chosen.dtype_name)
    tunable = _load(folder, chosen, spec, journal)
    tunable.initialise(spec.seed)
    if spec.start_adapter:
        tunable.load(gguf_file.read_adapter(spec.start_adapter))
    train = tokens.load(spec.train)
    loop = Loop(spec, journal, tunable, train, tokens.load(spec.valid) if spec.valid else [])
    if memory.plan_activations(tunable, train, loop.objective.texts_per_example):
        journal.event(msg("Memory is short: activations are computed twice instead of being kept. Training is slower."))
    if position.step:
        resume.load(journal.folder, position.step, loop.parameters, loop.optimizer)
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
    position = loop.run(position, stop_requested)
    stopped_early = loop.stopped_early()
    if position.step < loop.total_steps and not stopped_early:
        journal.event(
            msg(
                "Paused at step {step} of {total_steps}; nothing is lost.",
                step=position.step,
                total_steps=loop.total_steps,
            )
        )
        journal.state("paused", now=True, **loop.figures(position))
        return
    chosen_step = loop.final_step(position.step)
    if stopped_early and position.step < loop.total_steps:
        journal.event(training_options.stopped_early(position.step, spec.early_stopping or 0))
    if chosen_step != position.step:
        journal.event(training_options.best_checkpoint(chosen_step))
    checkpoint = journal.folder / "checkpoints" / f"step-{chosen_step}.gguf"
    partial = journal.folder / "final.gguf.part"
    shutil.copyfile(checkpoint, partial)
    os.replace(partial, journal.folder / "final.gguf")
    journal.state("succeeded", now=True, **loop.figures(position))


def _load(folder: Path, chosen: device.Device, spec: JobSpec, journal: Journal) -> model.TunableModel:
    """The base model on the device, in fewer bits if it does not fit otherwise."""
    bits = memory.frozen_bits(hf_folder.read_tensors(folder), chosen)
    if bits < 16:
        journal.event(msg("Memory is short: the base model's weights are kept in {bits} bits.", bits=bits))
    return model.load(folder, chosen, spec.lora_rank, spec.lora_alpha, bits)


def _describe(exc: Exception) -> tuple[str, str]:
    """What happened and what to do next, for the user."""
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        return with_cause(msg("The disk is full."), "storage"), msg(
            "Free some space, then resume the job: it continues from its last checkpoint."
        )
    if isinstance(exc, UntrainableModel):  # the file was replaced after the job was created
        return with_cause(
            msg("The base model can be served here but not trained: {reason}.", reason=exc), "model_not_found"
        ), msg("Use another base model.")
    if isinstance(exc, LossDiverged):
        return with_cause(msg("Training diverged: {reason}.", reason=exc), "diverged"), msg(
            "Use a smaller learning_rate_multiplier."
        )
    if isinstance(exc, device.DeviceMissing):
        return with_cause(exc.reason, "setup"), msg(
            "Install PyTorch for this device, or set {setting} to cpu. Then restart the engine and resume the job.",
            setting=TRAINING_DEVICE_SETTING,
        )
    if isinstance(exc, memory.DoesNotFit):
        return with_cause(exc.reason, "out_of_memory"), exc.next_step
    if device.is_out_of_memory(exc):
        return with_cause(msg("Out of memory."), "out_of_memory"), msg("Use a smaller batch_size or shorter examples.")
    return msg("Training stopped: {error}.", error=exc), msg("The engine's log has the details.")


class _StopRequest:
    """Returns True once SIGTERM has been received or the parent has died."""

    def __init__(self, engine_pid: int) -> None:
        self._parent = engine_pid
        self._requested = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._requested = True

    def __call__(self) -> bool:
        return self._requested or os.getppid() != self._parent


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else os.getppid()))
