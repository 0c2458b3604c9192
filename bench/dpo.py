"""Compares our DPO with TRL's `DPOTrainer`: same pairs, order, LoRA start and schedule, each in its own process.

    python -m bench.dpo [--rounds 1] [--count 24] [--chars N]

A pair's preferred answer is a story written for the prompt, the rejected one another story. Each round has four
interleaved runs: ours and TRL in float32, ours with defaults (`auto`) and TRL with defaults (bfloat16 autocast,
gradient checkpointing).

The last line is JSON: `max_loss_gap_vs_trl` is the largest difference of the losses of a step in float32, as a share of
TRL's; `tokens_per_s_vs_trl` and `peak_rss_vs_trl` compare ours with defaults to the *faster* of TRL's two (both answers
count), `float32_tokens_per_s_vs_trl` both in float32. Needs requirements-bench.txt.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import _peft_model, _smoke, train
from core import packaged_models

RUNS = ("ours-auto", "trl-default", "ours-float32", "trl-float32")
N_PAIRS, BATCH, SEED, RATE, RANK, ALPHA, BETA = 24, 4, 0, 1e-4, 16, 32.0, 0.1


def main() -> None:
    """Measure, then print a table and one line of JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--stories", type=Path, default=train.ROOT / "data/samples/ultraman_stories.csv")
    arguments.add_argument("--count", type=int, default=N_PAIRS, help="pairs; a multiple of the batch size, 4")
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--chars", type=int, help="length of an answer, if not a whole story")
    arguments.add_argument("--one", nargs=3, metavar=("RUN", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = _smoke.parse(
        arguments,
        modules=("torch", "transformers", "core.engine.serving.llama", "core.engine.training.trainer.loop"),
        optional=("trl", "peft", "datasets"),
    )
    if options.one:
        run, folder, out = options.one
        result = _ours(Path(folder), run) if run.startswith("ours") else _trl(Path(folder), run)
        Path(out).write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), options.stories, options.count, options.chars)
        found: dict[str, list[dict[str, Any]]] = {run: [] for run in RUNS}
        for _ in range(options.rounds):
            for run in RUNS:
                found[run].append(_in_own_process(run, Path(folder)))
    _report(found)


def _report(found: dict[str, list[dict[str, Any]]]) -> None:
    def median(run: str, figure: str) -> float:
        return float(statistics.median(result[figure] for result in found[run]))

    ours, theirs = (found[run][0]["losses"] for run in ("ours-float32", "trl-float32"))
    print(f"\n{'step':>4} {'ours':>9} {'TRL':>9}")
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        print(f"{step:>4} {a:>9.4f} {b:>9.4f}")
    faster = max(("trl-default", "trl-float32"), key=lambda run: median(run, "tokens_per_s"))
    figures = {
        "max_loss_gap_vs_trl": round(max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True)), 4),
        "tokens_per_s_vs_trl": round(median("ours-auto", "tokens_per_s") / median(faster, "tokens_per_s"), 2),
        "peak_rss_vs_trl": round(median("ours-auto", "peak_gb") / median(faster, "peak_gb"), 2),
        "float32_tokens_per_s_vs_trl": round(
            median("ours-float32", "tokens_per_s") / median("trl-float32", "tokens_per_s"), 2
        ),
    }
    print(json.dumps(figures))


def _prepare(folder: Path, stories: Path, count: int, chars: int | None) -> None:
    """The converted base weights, and the tokenised pairs in the order used by both trainers."""
    import torch

    from core.engine.formats import gguf_file, tokens, weights
    from core.engine.serving.llama import BaseModel

    gguf = weights.ensure_gguf(packaged_models.BASE, folder)
    weights.convert(gguf, folder / "weights", print)
    with stories.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: count + 1]
    texts = []
    for row, other in pairwise(rows):
        prompt = f"{row['dynasty']},{row['super_power']},{row['story_type']} ->"
        for story in (row["story"], other["story"]):
            texts.append(tokens.SegmentedExample(((prompt, False), (f" {story[:chars]}", True))))
    encoded = asyncio.run(train.encode(BaseModel(packaged_models.BASE, gguf, gguf_file.model_card(gguf)), texts))
    order = torch.randperm(len(encoded) // 2, generator=torch.Generator().manual_seed(SEED * 1_000_003)).tolist()
    tokens.save(folder / "train.npz", encoded)
    tokens.save(folder / "ordered.npz", [encoded[2 * index + side] for index in order for side in (0, 1)])


def _in_own_process(run: str, folder: Path) -> dict[str, Any]:
    out = folder / f"{run}.json"
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "bench.dpo", "--one", run, str(folder), str(out)]
    subprocess.run(command, cwd=train.ROOT, check=True, env=environ, stdout=2)
    result: dict[str, Any] = json.loads(out.read_text())
    print(f"{run:14} {result['tokens_per_s']:7.1f} tokens/s  {result['peak_gb']:5.2f} GB", flush=True)
    return result


def _ours(folder: Path, run: str) -> dict[str, Any]:
    from core.engine.formats import tokens
    from core.engine.training.job_folder import JobSpec, Journal, read_lines
    from core.engine.training.trainer import device, model
    from core.engine.training.trainer.loop import Loop
    from core.engine.training.trainer.resume import Position

    tunable = model.load(folder / "weights", device.choose(run.removeprefix("ours-"), 0, print), RANK, ALPHA)
    tunable.initialise(SEED)
    work, file = Path(tempfile.mkdtemp(dir=folder)), folder / "train.npz"
    spec = JobSpec(
        "bench", folder, folder, None, file, None, 1, BATCH, RATE, SEED, RANK, ALPHA, method="dpo", beta=BETA
    )
    pairs = tokens.load(file)
    loop = Loop(spec, Journal(work), tunable, pairs, [])
    started = time.perf_counter()
    loop.run(Position(), lambda: False)
    seconds = time.perf_counter() - started
    losses = [row["training_loss"] for row in read_lines(work / "metrics.jsonl")]
    return _result(pairs, seconds, losses)


def _trl(folder: Path, run: str) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from core.engine.formats import tokens

    tuned, words = _peft_model.load(folder / "weights", SEED, RANK, ALPHA)
    pairs = tokens.load(folder / "ordered.npz")
    rows = []
    for preferred, rejected in zip(pairs[::2], pairs[1::2], strict=True):
        begin = preferred.trained.index(True)
        rows.append(
            {
                "prompt_ids": list(preferred.tokens[:begin]),
                "chosen_ids": list(preferred.tokens[begin:]),
                "rejected_ids": list(rejected.tokens[begin:]),
            }
        )
    settings = DPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=RATE,
        lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, seed=SEED,
        save_strategy="no", report_to=[], use_cpu=True, max_length=None, beta=BETA, loss_type="sigmoid",
        disable_tqdm=True, **({"bf16": False, "gradient_checkpointing": False} if run == "trl-float32" else {}),
    )  # fmt: skip

    class InOrder(DPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: object) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def _prepare_dataset(self, dataset: Any, *_: object, **__: object) -> Any:
            return dataset  # token ids already

    class Clock(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_train_begin(self, *_: object, **__: object) -> None:
            Clock.started = time.perf_counter()

    trainer = InOrder(
        model=tuned, args=settings, train_dataset=Dataset.from_list(rows), processing_class=words, callbacks=[Clock()]
    )
    trainer.train()
    seconds = time.perf_counter() - Clock.started
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return _result(pairs, seconds, losses)


def _result(pairs: Any, seconds: float, losses: list[float]) -> dict[str, Any]:
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"tokens_per_s": pairs.n_tokens / seconds, "peak_gb": peak_gb, "losses": losses}


if __name__ == "__main__":
    main()
