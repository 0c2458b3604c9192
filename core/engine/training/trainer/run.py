"""Trains or resumes one job: reads its folder, builds the model, runs the loop, and writes the finished adapter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from core.engine import training_options
from core.engine.formats import gguf_file, hf_folder, tokens, weights
from core.engine.job_rules import training_device
from core.engine.launcher_settings import Shard
from core.engine.training.job_folder import JobSpec, Journal
from core.engine.training.trainer import device, memory, model, resume
from core.engine.training.trainer.loop import Loop
from core.engine.training.trainer.ranks import ALONE, Ranks
from core.engine.training.trainer.sharding import LayerSplit
from core.message import msg


def train(
    spec: JobSpec,
    journal: Journal,
    stop_requested: Callable[[], bool],
    ranks: Ranks = ALONE,
    shard: Shard = "never",
) -> None:
    """Train one job from its saved position; return when it is complete or a stop was requested.

    Args:
        ranks: the job's processes.
        shard: whether the base model's layers are split over them.

    Raises:
        Exception: the job failed; `trainer.failure` has words for it.
    """
    journal.state("starting", now=True)
    position = ranks.from_first(lambda: resume.read_position(journal.folder))
    journal.rewind(position.step)
    folder = spec.base_folder or ranks.from_first(
        lambda: weights.convert(spec.base_gguf, spec.weights_dir, journal.event)
    )
    dtype = spec.dtype if position.dtype == "auto" else position.dtype  # an interrupted job keeps its dtype
    chosen = _choose_device(dtype, spec.threads, journal, ranks)
    position = replace(position, dtype=chosen.dtype_name)
    tunable = _load(folder, chosen, spec, journal, ranks, shard)
    tunable.initialise(spec.seed)
    if spec.start_adapter:
        tunable.load(gguf_file.read_adapter(spec.start_adapter))
    train = tokens.load(spec.train)
    loop = Loop(spec, journal, tunable, train, tokens.load(spec.valid) if spec.valid else [], ranks)
    if memory.plan_activations(tunable, train, loop.objective.texts_per_example, ranks):
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
                train=loop.examples,
                n_epochs=spec.n_epochs,
                total_steps=loop.total_steps,
            )
        )
    position = loop.run(position, stop_requested)
    if ranks.rank > 0:
        return
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


def _choose_device(dtype: str, threads: int, journal: Journal, ranks: Ranks) -> device.Device:
    """This process's device, with the dtype that rank 0 has chosen for all."""
    on = training_device(os.environ)
    shared = ranks.from_first(lambda: device.choose(dtype, threads, journal.event, on).dtype_name)
    own = device.choose(shared, threads, lambda _: None, on)  # rank 0 has told the user
    return replace(own, processes=ranks.local_size)


def _load(
    folder: Path, chosen: device.Device, spec: JobSpec, journal: Journal, ranks: Ranks, shard: Shard
) -> model.TunableModel:
    """The base model on the device, split over the processes or in fewer bits if it does not fit otherwise."""
    plan = memory.plan_weights(hf_folder.read_tensors(folder), chosen, spec.lora_rank, ranks, shard)
    if plan.split:
        journal.event(msg("The base model's layers are split over {count} processes.", count=ranks.size))
    if plan.bits < 16:
        journal.event(msg("Memory is short: the base model's weights are kept in {bits} bits.", bits=plan.bits))
    split = LayerSplit(ranks, chosen.place) if plan.split else None
    return model.load(folder, chosen, spec.lora_rank, spec.lora_alpha, plan.bits, split)
