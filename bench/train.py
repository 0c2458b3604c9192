"""Compares our trainer with TRL's `SFTTrainer`: same 32 stories, order, LoRA start and schedule; each in its own
process.

    python -m bench.train [--rounds 1] [--stories FILE.csv] [--count 32]

Each round has four interleaved runs: ours and TRL in float32, ours with defaults (`auto`) and TRL with defaults
(bfloat16 autocast, gradient checkpointing). The ratios compare ours with defaults to the *faster* of TRL's two; the
loss gap compares the curves of our trainer with defaults and of TRL in float32.

On rows of 8 to 96 tokens, 16 to a step, our trainer with packing is compared with itself without: `packing_speedup`
with batches as they are, padded to their longest row (as TRL trains without packing); `packing_vs_sorted` with rows of
similar length together, which takes less padding. Needs requirements-bench.txt.
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
from pathlib import Path
from typing import Any

from bench import _peft_model, _smoke
from core import packaged_models

ROOT = Path(__file__).resolve().parents[1]

RUNS = ("ours-auto", "trl-default", "ours-float32", "trl-float32")
PACKING_RUNS = ("packed", "sorted", "padded")
N_SHORT, SHORT_BATCH, SHORT_TOKENS, SHORT_LABELS = 128, 16, (8, 96), 4
N_STORIES, BATCH, EPOCHS, SEED, RATE, RANK, ALPHA = 32, 4, 1, 0, 1e-3, 16, 32.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--stories", type=Path, default=ROOT / "data/samples/ultraman_stories.csv")
    arguments.add_argument("--count", type=int, default=N_STORIES, help="stories; a multiple of the batch size, 4")
    arguments.add_argument("--one", nargs=3, metavar=("RUN", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = _smoke.parse(
        arguments,
        modules=(
            "torch",
            "transformers",
            "core.engine.serving.llama",
            "core.engine.training.trainer.loop",
            "core.engine.formats.weights",
        ),
        optional=("trl", "peft", "datasets"),
    )
    if options.one:
        run, folder, out = options.one
        result = _one(run, Path(folder))
        Path(out).write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), options.stories, options.count)
        results: dict[str, list[dict[str, Any]]] = {run: [] for run in (*RUNS, *PACKING_RUNS)}
        for _ in range(options.rounds):
            for run in results:
                results[run].append(_in_own_process(run, Path(folder)))
    _report(results)


def _one(run: str, folder: Path) -> dict[str, Any]:
    if run in PACKING_RUNS:
        return _short_rows(folder, run)
    return _ours(folder, run) if run.startswith("ours") else _trl(folder, run)


def _prepare(folder: Path, stories: Path, count: int) -> None:
    """Prepare the converted base weights, and the tokenised stories in the order used by both trainers."""
    import torch

    from core.engine.formats import gguf_file, tokens, weights
    from core.engine.serving.llama import BaseModel

    gguf = weights.ensure_gguf(packaged_models.BASE, folder)
    weights.convert(gguf, folder / "weights", print)
    with stories.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    examples = [
        tokens.SegmentedExample(
            ((f"{r['dynasty']},{r['super_power']},{r['story_type']} ->", False), (f" {r['story']}.", True))
        )
        for r in rows
    ]
    encoded = asyncio.run(encode(BaseModel(packaged_models.BASE, gguf, gguf_file.model_card(gguf)), examples))
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(SEED * 1_000_003)).tolist()
    tokens.save(folder / "train.npz", encoded)
    tokens.save(folder / "ordered.npz", [encoded[index] for index in order])


async def encode(base: Any, examples: list[Any]) -> list[Any]:
    """Tokenise examples with the base's own tokenizer."""
    from core.engine.formats import tokens
    from core.engine.serving.llama import Pool

    pool = Pool(os.cpu_count() or 1)

    def encoded() -> list[Any]:
        with pool.tokenizer(base) as tokenize:
            return [tokens.encode(example, tokenize, base.card.bos, base.card.eos) for example in examples]

    try:
        return await asyncio.to_thread(encoded)
    finally:
        await pool.close()


def _in_own_process(run: str, folder: Path) -> dict[str, Any]:
    out = folder / f"{run}.json"
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "bench.train", "--one", run, str(folder), str(out)]
    subprocess.run(command, cwd=ROOT, check=True, env=environ, stdout=2)
    result: dict[str, Any] = json.loads(out.read_text())
    print(f"{run:14} {result['tokens_per_s']:7.1f} tokens/s  {result['peak_gb']:5.2f} GB", flush=True)
    return result


def _ours(folder: Path, run: str) -> dict[str, Any]:
    from core.engine.formats import tokens
    from core.engine.training.job_folder import JobSpec, Journal, read_lines
    from core.engine.training.trainer import device, model
    from core.engine.training.trainer.loop import Loop
    from core.engine.training.trainer.resume import Position

    chosen = device.choose("float32" if run == "ours-float32" else "auto", 0, print)
    tunable = model.load(folder / "weights", chosen, RANK, ALPHA)
    tunable.initialise(SEED)
    work = Path(tempfile.mkdtemp(dir=folder))
    spec = JobSpec("bench", folder, folder, None, folder / "train.npz", None, EPOCHS, BATCH, RATE, SEED, RANK, ALPHA)
    train = tokens.load(spec.train)
    loop = Loop(spec, Journal(work), tunable, train, [])
    started = time.perf_counter()
    loop.run(Position(), lambda: False)
    seconds = time.perf_counter() - started
    losses = [row["training_loss"] for row in read_lines(work / "metrics.jsonl")]
    return _result(train, seconds, losses)


def _short_rows(folder: Path, run: str) -> dict[str, Any]:
    """Random rows whose last tokens are trained, as labels are; most are short, a few are long."""
    from dataclasses import replace
    from unittest import mock

    import numpy as np

    from core.engine.formats.tokens import Encoded
    from core.engine.training.trainer import device, model
    from core.engine.training.trainer.objective import Supervised

    random = np.random.default_rng(SEED)
    low, high = SHORT_TOKENS
    lengths = np.clip(random.lognormal(np.log(3 * low), 0.6, N_SHORT).astype(int), low, high).tolist()
    rows = [
        Encoded(
            tuple(random.integers(1000, 200_000, length).tolist()),
            (False,) * (length - SHORT_LABELS) + (True,) * SHORT_LABELS,
        )
        for length in lengths
    ]
    tunable = model.load(folder / "weights", device.choose("auto", 0, print), RANK, ALPHA)
    tunable = replace(tunable, packs=run == "packed")
    tunable.initialise(SEED)
    if run == "padded":  # one micro-batch, as it is
        mock.patch.object(model, "micro_batches", lambda batch, **_: [[[*texts] for texts in batch]]).start()
    objective = Supervised(tunable)
    losses: list[float] = []
    started = time.perf_counter()
    for at in range(-SHORT_BATCH, N_SHORT, SHORT_BATCH):
        if at == 0:  # the first pass reads the weights from disk
            started, losses = time.perf_counter(), []
        tally = objective.tally()
        objective.run_pass(rows[max(at, 0) : max(at, 0) + SHORT_BATCH], tally, lambda: False, learn=True)
        losses.append(tally.score().loss)
    return _result(rows, time.perf_counter() - started, losses)


def _trl(folder: Path, run: str) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from core.engine.formats import tokens

    tuned, words = _peft_model.load(folder / "weights", SEED, RANK, ALPHA)
    train = tokens.load(folder / "ordered.npz")
    rows = Dataset.from_list(
        [{"input_ids": list(e.tokens), "completion_mask": [int(t) for t in e.trained]} for e in train]
    )
    plain = run == "trl-float32"
    settings = SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=BATCH, num_train_epochs=EPOCHS, learning_rate=RATE,
        lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, seed=SEED,
        save_strategy="no", report_to=[], use_cpu=True, max_length=None, completion_only_loss=True, disable_tqdm=True,
        **({"bf16": False, "gradient_checkpointing": False} if plain else {}),
    )  # fmt: skip

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: object) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Clock(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_train_begin(self, *_: object, **__: object) -> None:
            Clock.started = time.perf_counter()

    trainer = InOrder(model=tuned, args=settings, train_dataset=rows, processing_class=words, callbacks=[Clock()])
    trainer.train()
    seconds = time.perf_counter() - Clock.started
    return _result(train, seconds, [row["loss"] for row in trainer.state.log_history if "loss" in row])


def _result(train: Any, seconds: float, losses: list[float]) -> dict[str, Any]:
    n_tokens = EPOCHS * sum(len(example.tokens) for example in train)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"tokens_per_s": n_tokens / seconds, "peak_gb": peak_gb, "losses": losses}


def _report(results: dict[str, list[dict[str, Any]]]) -> None:
    def median(run: str, figure: str) -> float:
        return float(statistics.median(result[figure] for result in results[run]))

    print(f"\n{'':14}  tokens/s   peak GB   first loss   last loss")
    for run in (*RUNS, *PACKING_RUNS):
        losses = results[run][0]["losses"]
        speed, memory = median(run, "tokens_per_s"), median(run, "peak_gb")
        print(f"{run:14} {speed:9.1f} {memory:9.2f} {losses[0]:12.4f} {losses[-1]:11.4f}")
    rival = max(("trl-default", "trl-float32"), key=lambda run: median(run, "tokens_per_s"))
    ours, theirs = results["ours-auto"][0]["losses"], results["trl-float32"][0]["losses"]
    print(
        json.dumps(
            {
                "tokens_per_s_vs_trl": round(median("ours-auto", "tokens_per_s") / median(rival, "tokens_per_s"), 3),
                "peak_rss_vs_trl": round(median("ours-auto", "peak_gb") / median(rival, "peak_gb"), 3),
                "max_loss_gap_vs_trl": round(max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True)), 4),
                "float32_tokens_per_s_vs_trl_float32": round(
                    median("ours-float32", "tokens_per_s") / median("trl-float32", "tokens_per_s"), 3
                ),
                "packing_speedup": round(median("packed", "tokens_per_s") / median("padded", "tokens_per_s"), 2),
                "packing_vs_sorted": round(median("packed", "tokens_per_s") / median("sorted", "tokens_per_s"), 2),
                "rival": rival,
            }
        )
    )


if __name__ == "__main__":
    main()
